"""Curves behind a value, such as the density of a spectrum or the loss along a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Curve(NamedTuple):
    """Heights over a grid.

    Attributes:
        x: The grid, shape ``(n,)``, in ascending order.
        y: The heights, shape ``(n,)``; those that are not finite are gaps.
        x_label: What the grid is.
        y_label: What the heights are.
        log_y: Whether the heights are drawn on a logarithmic axis, as those of a density that spans magnitudes.
    """

    x: Tensor
    y: Tensor
    x_label: str = ""
    y_label: str = ""
    log_y: bool = False


def draw_curve(x: Tensor, y: Tensor, x_label: str = "", y_label: str = "", log_y: bool = False) -> Figure:
    """A picture of a :class:`Curve`.

    Raises:
        ImportError: Without matplotlib.

    Example:
        >>> import torch
        >>> figure = draw_curve(*Curve(torch.linspace(-1, 1, 5), torch.ones(5), "eigenvalue", "density"))
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures of curves need matplotlib: pip install lightning-complexity[plot]") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x.detach().cpu().numpy(), y.detach().cpu().numpy())
    axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if log_y else "linear")
    axes.grid(alpha=0.3)
    return figure
