"""Pictures of linear regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_complexity.network.regions.planes import decision_boundary, rectangle_around
from lightning_complexity.network.regions.restrictions import regions_around_samples
from lightning_complexity.network.snapshot import Snapshot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures of regions need matplotlib: pip install lightning-complexity[plot]") from error
    return Figure


def draw_regions(snapshot: Snapshot, margin: float) -> Figure:
    """The linear regions in the plane through the first three samples, coloured by their affine map.

    Similar colours are similar slopes: their two strongest directions of change set hue and lightness. The
    thick line is where the decision changes, the points are the samples.

    Args:
        snapshot: With at least three samples.
        margin: How far the picture reaches beyond them.

    Raises:
        ImportError: Without matplotlib.
    """
    figure_class = _figure_class()
    from matplotlib.collections import LineCollection, PolyCollection

    regions = regions_around_samples(snapshot, margin)
    coordinates, corners = rectangle_around(snapshot.float_inputs[:3].detach(), margin)[2:]
    figure = figure_class(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot()
    colors = _colors(regions.parts.slopes.cpu().flatten(1).numpy())
    axes.add_collection(PolyCollection(regions.cells, facecolors=colors, edgecolors=colors, linewidths=0.3))
    axes.add_collection(LineCollection(list(decision_boundary(regions)), colors="black", linewidths=2))
    across, up = coordinates.cpu().numpy().T
    axes.scatter(across, up, s=60, c="white", edgecolors="black", zorder=3)
    for number, (x, y) in enumerate(coordinates.tolist()):
        axes.annotate(str(number), (x, y), textcoords="offset points", xytext=(6, 6))
    axes.set_xlim(corners[:, 0].min(), corners[:, 0].max())
    axes.set_ylim(corners[:, 1].min(), corners[:, 1].max())
    axes.set_aspect("equal")
    axes.set_title(f"{regions.num_linear_regions} linear regions; black: where the decision changes", fontsize=10)
    return figure


def _colors(slopes: np.ndarray) -> np.ndarray:
    """RGB of each cell from the ranks of its slopes' principal components."""
    from matplotlib.colors import hsv_to_rgb

    centered = slopes - slopes.mean(0)
    components = centered @ np.linalg.svd(centered, full_matrices=False)[2][:2].T
    components = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    # Ranks of rounded values, so that equal maps have equal colours.
    scale = np.abs(components).max() or 1.0
    ranks = [np.unique(np.round(c / scale, 8), return_inverse=True)[1] for c in components.T]
    hue, lightness = (r / max(r.max(), 1) for r in ranks)
    return np.asarray(hsv_to_rgb(np.stack([0.85 * hue, np.full_like(hue, 0.45), 0.65 + 0.35 * lightness], 1)))
