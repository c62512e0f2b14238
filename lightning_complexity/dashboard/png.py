"""The main figures of the page, for papers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_complexity.dashboard.measured import Measure, gaps_of
from lightning_complexity.dashboard.runs import Group, Run, by_seed, grouped
from lightning_complexity.plots.curves import default_panels, figure_class, plot_histories

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARES = np.linspace(0, 1, 61)
_IN_LEGEND, _IN_CURVES = 10, 8


def write_pictures(runs: Sequence[Run], page: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write trajectories of every measure, the front of every score and cost, and curves of up to eight runs.

    Args:
        runs: What was read.
        page: Of :func:`~lightning_complexity.dashboard.payload.page_data`, with the fronts.
        folder: Is created; files are ``trajectories-<measure>.png``, ``front-<score>-<cost>.png``, ``curves.png``.

    Returns:
        The files.

    Raises:
        ImportError: Without matplotlib.
    """
    figure_class()  # says what is missing before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    measures = [Measure(**row) for row in page["measures"].values()]
    gaps = gaps_of(page["measures"])
    figures: dict[str, Figure] = {}
    for measure in measures:
        if gaps and measure.role == "complexity" and not _is_steady(runs, measure.key):
            figures[f"trajectories-{measure.label}"] = picture_of_trajectories(runs, measure, gaps[0])
    for front in page["fronts"]:
        costs = {model["means"].get(front["cost"]) for model in page["models"]}
        if len(costs) > 1:
            name = f"front-{front['score'].removeprefix('probe/')}-{front['cost'].removeprefix('complexity/')}"
            figures[name] = picture_of_choice(page["models"], front)
    if len(runs) <= _IN_CURVES and default_panels(key for run in runs for key in run.keys):
        figures["curves"] = plot_histories({run.name: run.history for run in runs})
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '-', name)[:100]}.png")
        figure.savefig(paths[-1], dpi=200)
    return paths


def _is_steady(runs: Iterable[Run], key: str) -> bool:
    return all(len(set(run.series(key)[1])) < 2 for run in runs)


def picture_of_trajectories(runs: Sequence[Run], measure: Measure, gap: str) -> Figure:
    """Runs in the plane of a measure and the gap: hollow start, filled end, medians over seeds as thick lines.

    Args:
        runs: What was read.
        measure: On the horizontal axis, which is logarithmic unless it is a logarithm or reaches 0 or below.
        gap: Log key of the vertical axis.
    """
    figure = figure_class()(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    joined = [_joined(run, measure.key, gap) for run in runs]
    groups = grouped(list(runs))
    for number, group in enumerate(groups):
        own = [runs[place] for place in group.runs]
        seeds = [[group.runs.index(place) for place in places] for places in by_seed(runs, group)]
        lines = [joined[place] for place in group.runs]
        has_median = (
            len(own) > 1
            and all(_ends_in_a_number(run, key) for run in own for key in (measure.key, gap))
            and all(len(line[0]) for line in lines)
        )
        _draw_runs(axes, lines, own, number, name=None if has_median else _plain(group.name))
        if has_median:
            _draw_median(axes, group, lines, seeds, number)
    values = [value for points in joined for value in points[1]]
    if values and min(values) > 0 and not measure.is_log:
        axes.set_xscale("log")
    word = "natural logarithm: " if measure.is_log else ""
    axes.set_xlabel(_plain(f"{word}{measure.label}"))
    axes.set_ylabel(_plain(gap.removeprefix("probe/")))
    if 1 < len(groups) <= _IN_LEGEND:
        axes.legend(fontsize=8)
    return figure


def _ends_in_a_number(run: Run, key: str) -> bool:
    last = run.last(key)
    return last is not None and math.isfinite(last)


def _draw_runs(axes: Axes, lines: list[Any], runs: list[Run], number: int, *, name: str | None) -> None:
    color, several = f"C{number % 10}", len(runs) > 1
    for line, run in zip(lines, runs, strict=True):
        steps, x, y = line
        if len(steps):
            axes.plot(x, y, color=color, linewidth=0.8, alpha=0.4 if several else 0.9)
            axes.plot(x[0], y[0], "o", color=color, markerfacecolor="none", markersize=5, alpha=0.6)
            axes.plot(x[-1], y[-1], "o", color=color, markersize=5, alpha=0.5 if several else 1.0, label=name)
            name = None  # once a group
            if run.fitted_step is not None and (later := np.flatnonzero(steps >= run.fitted_step)).size:
                axes.plot(x[later[0]], y[later[0]], "x", color=color, markersize=6)


def _draw_median(axes: Axes, group: Group, lines: list[Any], seeds: list[list[int]], number: int) -> None:
    x, y = (np.median([_at_shares(line[0], line[axis]) for line in lines], axis=0) for axis in (1, 2))
    axes.plot(x, y, color=f"C{number % 10}", linewidth=2.2)
    bars: Any = {"capsize": 2, "label": _plain(group.name)}
    if len(seeds) > 1:
        ends = np.array([np.mean([(lines[row][1][-1], lines[row][2][-1]) for row in rows], axis=0) for rows in seeds])
        bars["xerr"], bars["yerr"] = ends.std(axis=0, ddof=1) / np.sqrt(len(seeds))
    axes.errorbar(x[-1], y[-1], fmt="o", color=f"C{number % 10}", markersize=7, **bars)


def _joined(run: Run, first: str, second: str) -> tuple[Any, Any, Any]:
    """Steps and finite values of two keys, at the moments of the one that was measured less often."""
    series = []
    for key in (first, second):
        steps, values = map(np.asarray, run.series(key))
        finite = np.isfinite(values)
        series.append((steps[finite], values[finite]))
    if not all(len(steps) for steps, _ in series):
        return np.array([]), np.array([]), np.array([])
    base = min(series, key=lambda one: len(one[0]))[0]
    base = base[base >= max(steps[0] for steps, _ in series)]
    x, y = (values[np.searchsorted(steps, base, side="right") - 1] for steps, values in series)
    return base, x, y


def _at_shares(steps: Any, values: Any) -> Any:
    at = steps[0] + _SHARES * (steps[-1] - steps[0])
    return values[np.searchsorted(steps, at, side="right") - 1]


def picture_of_choice(models: Sequence[Mapping[str, Any]], front: Mapping[str, Any]) -> Figure:
    """Models by cost and score, with the front, the band of one standard error and the model that is chosen.

    Args:
        models: Of the page's data.
        front: One of the page's data.
    """
    figure = figure_class()(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    score, cost = front["score"], front["cost"]
    rows = [row for row, model in enumerate(models) if _number(model, cost) and _number(model, score)]
    x, y = (np.array([models[row]["means"][key] for row in rows], dtype=float) for key in (cost, score))
    xerr, yerr = (np.array([models[row]["errors"].get(key, 0.0) for row in rows]) for key in (cost, score))
    axes.errorbar(x, y, xerr=xerr, yerr=yerr, fmt="o", color="C0", ecolor="0.6", capsize=2, markersize=6)
    stairs = sorted(
        (models[row]["means"][cost], models[row]["means"][score]) for row in front["front"] if row in set(rows)
    )
    if front["directions"][1] == "maximize":
        stairs.reverse()
    if stairs:
        axes.step(*zip(*stairs, strict=True), where="post", color="0.4", linestyle=":", label="Pareto front")
    if front.get("bound") is not None:
        axes.axhspan(front["bound"], models[front["best"]]["means"][score], color="0.85", zorder=0)
        chosen = models[front["chosen"]]
        axes.plot(
            chosen["means"][cost], chosen["means"][score], "*", color="C1", markersize=16, label="the one to pick"
        )
    if len(x) and x.min() > 0 and x.max() > 30 * x.min():
        axes.set_xscale("log")
    axes.set_xlabel(_plain(cost.removeprefix("complexity/")))
    axes.set_ylabel(_plain(score.removeprefix("probe/")))
    axes.legend(fontsize=8)
    return figure


def _number(model: Mapping[str, Any], key: str) -> bool:
    return model["means"].get(key) is not None


def _plain(text: str) -> str:
    """Without what matplotlib would take for a formula, and not longer than an axis."""
    text = text.replace("$", r"\$")
    return text if len(text) <= 70 else f"{text[:34]}...{text[-34:]}"
