"""The picture of a choice between models."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from lightning_complexity.plots.curves import figure_class
from lightning_complexity.selection.pareto import Floats, knee, pareto_front
from lightning_complexity.selection.simplest import Choice
from lightning_complexity.selection.sources import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAGNITUDES = 30.0
"""Costs that differ by more, as a factor, are drawn on a logarithmic axis."""


def picture_of_front(points: Points, choice: Choice | None = None) -> Figure:
    """Draw models by cost and score, their front as the steps below which nothing was found, its knee, and the choice.

    With a choice, the axes are its cost and score, the band is what is within one standard error of the best, and its
    sentence is the title. Without, they are the second and the first objective. The front and its knee are those of
    the two objectives that are drawn. Bars are standard errors, where they are known.

    Args:
        points: The models.
        choice: What :meth:`Points.simplest` chose among them.

    Returns:
        A matplotlib figure, which belongs to no window.

    Raises:
        ImportError: Without matplotlib.
        ValueError: If there are fewer than two objectives, or the choice is of others.

    Example:
        >>> import pandas as pd
        >>> from lightning_complexity.selection import read_points
        >>> frame = pd.DataFrame({"error": [0.2, 0.1], "size": [10, 90], "spread": 0.01})
        >>> points = read_points(
        ...     frame, {"error": "minimize", "size": "minimize"}, standard_errors={"error": "spread"}
        ... )
        >>> picture_of_front(points, points.simplest()).axes[0].get_xlabel()
        'size'
    """
    objectives = list(points.directions)
    if choice is None and len(objectives) < 2:
        raise ValueError(f"a picture needs two objectives, got {objectives}.")
    score, cost = (objectives[0], objectives[1]) if choice is None else (choice.score, choice.cost)
    if missing := [name for name in (score, cost) if name not in objectives]:
        raise ValueError(f"choice must be among {objectives}, it is by {missing[0]!r}.")
    figure = figure_class()(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    x, y = (points.values[name].to_numpy(float) for name in (cost, score))
    spread = points.standard_errors[score].to_numpy(float)
    bars = np.where(np.isfinite(spread), spread, 0.0)
    axes.errorbar(
        x,
        y,
        yerr=bars if bars.any() else None,
        fmt="o",
        color="0.6",
        markersize=4,
        elinewidth=0.8,
        label="models",
        zorder=1,
    )
    _draw_front(axes, np.column_stack([x, y]), [points.directions[cost], points.directions[score]])
    if choice is not None:
        _draw_choice(axes, choice)
        axes.set_title(plain(textwrap.fill(choice.sentence, 90)), fontsize=8, loc="left")
    if x.min() > 0 and x.max() > _MAGNITUDES * x.min():
        _make_logarithmic(axes)
    axes.set_xlabel(plain(cost))
    axes.set_ylabel(plain(score))
    axes.legend(fontsize=8)
    return figure


def _make_logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_front(axes: Axes, points: Floats, directions: list[str]) -> None:
    front = pareto_front(points, directions)
    axes.step(
        front.points[:, 0], front.points[:, 1], where="post", color="tab:blue", marker="o", markersize=4, label="front"
    )
    row = knee(points, directions)
    if row is not None:
        axes.plot(*points[row], "D", color="none", markeredgecolor="tab:blue", markersize=10, label="knee")


def _draw_choice(axes: Axes, choice: Choice) -> None:
    low, high = sorted((choice.best.score, choice.bound))
    axes.axhspan(low, high, color="tab:orange", alpha=0.2, label="one standard error of the best")
    axes.plot(choice.best.cost, choice.best.score, "s", color="tab:orange", label=plain(f"best: {choice.best.name}"))
    axes.plot(
        choice.chosen.cost,
        choice.chosen.score,
        "*",
        color="tab:red",
        markersize=14,
        label=plain(f"chosen: {choice.chosen.name}"),
    )


def plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
