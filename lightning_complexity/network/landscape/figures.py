"""Pictures of the loss around the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures of the loss need matplotlib: pip install lightning-complexity[plot]") from error
    return Figure


def draw_walks(losses: Tensor, loss_at_start: Tensor, burn_in: int) -> Figure:
    """The loss along random walks.

    Args:
        losses: After each step, shape ``(chains, steps)``.
        loss_at_start: 0-d.
        burn_in: How many steps do not count.

    Raises:
        ImportError: Without matplotlib.
    """
    figure = _figure_class()(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, chain in enumerate(losses.cpu()):
        axes.plot(range(1, len(chain) + 1), chain, linewidth=1, label=f"walk {number + 1}")
    axes.axhline(loss_at_start.item(), color="black", linestyle="--", linewidth=1, label="loss at the start")
    if burn_in:
        axes.axvspan(0, burn_in, color="0.9", zorder=0)
    axes.set_xlabel("steps; those on grey do not count" if burn_in else "steps")
    axes.set_ylabel("loss")
    axes.legend(fontsize=8)
    return figure


def draw_slices(positions: Tensor, losses: Tensor) -> Figure:
    """The loss along several directions.

    Args:
        positions: Along each, shape ``(points,)``.
        losses: Shape ``(directions, points)``.

    Raises:
        ImportError: Without matplotlib.
    """
    figure = _figure_class()(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, along in enumerate(losses.cpu()):
        axes.plot(positions.cpu(), along, marker=".", label=f"direction {number + 1}")
    axes.set_xlabel("distance, in norms of each filter")
    axes.set_ylabel("loss")
    axes.legend(fontsize=8)
    return figure


def draw_plane(positions: Tensor, losses: Tensor) -> Figure:
    """Contours of the loss in a plane.

    Args:
        positions: Along both directions, shape ``(points,)``.
        losses: Shape ``(points, points)``, the first direction down.

    Raises:
        ImportError: Without matplotlib.
    """
    figure = _figure_class()(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot()
    along = positions.cpu().numpy()
    drawn = axes.contourf(along, along, losses.T.cpu().numpy(), levels=20, cmap="viridis")
    axes.plot(0, 0, marker="x", color="white")
    axes.set_xlabel("first direction, in norms of each filter")
    axes.set_ylabel("second direction")
    axes.set_aspect("equal")
    figure.colorbar(drawn, ax=axes, label="loss")
    return figure


def draw_way(positions: Tensor, losses: Tensor) -> Figure:
    """The loss on the straight way between two networks, and the chord.

    Args:
        positions: From 0 to 1, shape ``(points,)``.
        losses: There.

    Raises:
        ImportError: Without matplotlib.
    """
    figure = _figure_class()(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(positions.cpu(), losses.cpu(), marker=".")
    axes.plot([0, 1], [losses[0].item(), losses[-1].item()], linestyle="--", color="0.5")
    axes.set_xlabel("from the other network, at 0, to the present one")
    axes.set_ylabel("loss")
    return figure
