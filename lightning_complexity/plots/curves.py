"""Curves of measured complexity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning_complexity.recording.record import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3


def figure_class() -> type[Figure]:
    """Matplotlib's figure, which belongs to no window.

    Raises:
        ImportError: Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install lightning-complexity[plot]") from error
    return Figure


def _default_keys(histories: Mapping[str, list[Measurement]]) -> list[str]:
    keys = {key: None for history in histories.values() for m in history for key in m.values}
    return [
        key for key in keys if key.startswith("complexity/") and key.count("/") == 1 and key != "complexity/overhead"
    ]


def plot_histories(histories: Mapping[str, list[Measurement]], names: list[str] | None = None) -> Figure:
    """Draw one panel for each quantity and one line for each run.

    Args:
        histories: Measurements by name of the run.
        names: Metrics' names or full log keys; default every metric.

    Returns:
        A figure that belongs to no window; ``figure.savefig(path)`` writes it.

    Raises:
        ImportError: Without matplotlib.
        ValueError: If there is nothing to draw.
    """
    make_figure = figure_class()
    measured = {key for history in histories.values() for m in history for key in m.values}
    keys = _default_keys(histories) if names is None else [n if n in measured else f"complexity/{n}" for n in names]
    missing = [key for key in keys if key not in measured]
    if missing or not keys:
        raise ValueError(f"nothing was measured as {missing[0]!r}." if missing else "nothing was measured yet.")
    rows = -(-len(keys) // _COLUMNS)
    columns = min(_COLUMNS, len(keys))
    figure = make_figure(figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    for index, key in enumerate(keys):
        axes = figure.add_subplot(rows, columns, index + 1)
        for run, history in histories.items():
            points = [(m.step, m.values[key]) for m in history if key in m.values]
            axes.plot(*zip(*points, strict=True), label=run, marker="." if len(points) < 20 else None)
        axes.set_title(key.removeprefix("complexity/"), fontsize=10)
        axes.set_xlabel("completed optimizer steps", fontsize=8)
        axes.tick_params(labelsize=8)
        if index == 0 and any(histories):
            axes.legend(fontsize=8)
    return figure
