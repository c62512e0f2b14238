"""Pictures of an experiment."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.plots.curves import figure_class
from lightning_complexity.studies.criteria.comparing import Results
from lightning_complexity.studies.criteria.experiments import Experiment
from lightning_complexity.studies.training.runs import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4
# Names of the published curves, by the measures whose squares they are.
PUBLISHED = {
    "log_frobenius_product_over_margin": "l2 norm",
    "log_l1_path_norm_over_margin": "l1-path norm",
    "log_l2_path_norm_over_margin": "l2-path norm",
    "log_spectral_product_over_margin": "spectral norm",
}


def picture_of_levels(experiment: Experiment, results: Results, metrics: Sequence[ComplexityMetric]) -> Figure:
    """Test error, gap, steps and each measure at the end, over the experiment's axis; bars span the seeds."""
    values: list[tuple[str, Callable[[Result], float | None]]] = [
        ("test error", _test_error),
        ("generalization gap", lambda r: r.end.generalization_gap),
        ("steps to the criterion", lambda r: float(r.end.step)),
    ]
    values += [(metric.name, _at_end(metric.name)) for metric in metrics]
    rows = -(-len(values) // _COLUMNS)
    figure = figure_class()(figsize=(3.6 * _COLUMNS, 2.8 * rows), layout="constrained")
    for index, (title, value) in enumerate(values):
        axes = figure.add_subplot(rows, _COLUMNS, index + 1)
        _draw_levels(axes, experiment, results, value)
        axes.set_title(title, fontsize=9)
        if index == 0 and len(_series(experiment)) > 1:
            axes.legend(fontsize=8)
    return figure


def _series(experiment: Experiment) -> list[str]:
    return list(dict.fromkeys(condition.series for condition in experiment.conditions))


def _draw_levels(axes: Axes, experiment: Experiment, results: Results, value: Callable[[Result], float | None]) -> None:
    for series in _series(experiment):
        points = []
        for condition in (c for c in experiment.conditions if c.series == series):
            found = [value(result) for (name, _), result in results.items() if name == condition.name]
            numbers = [number for number in found if number is not None and math.isfinite(number)]
            if numbers:
                points.append((condition.level, *mean_and_range(numbers)))
        if points:
            levels, means, below, above = zip(*points, strict=True)
            axes.errorbar(levels, means, yerr=[below, above], marker=".", capsize=2, label=series)
    positive = [condition.level for condition in experiment.conditions]
    if experiment.name == "optimizers":
        axes.set_xticks(positive, [condition.name for condition in experiment.conditions], rotation=45, fontsize=7)
    elif min(positive) > 0 and max(positive) > 8 * min(positive):
        axes.set_xscale("log")
    axes.set_xlabel(experiment.axis, fontsize=8)
    axes.tick_params(labelsize=7)


def mean_and_range(numbers: list[float]) -> tuple[float, float, float]:
    """The mean, and how far the smallest and the largest number are from it; never below 0, as rounding may have it."""
    mean = fmean(numbers)
    return mean, max(mean - min(numbers), 0.0), max(max(numbers) - mean, 0.0)


def picture_of_gap(results: Results) -> Figure:
    """Generalization gap against number of weights and against Jacobian norm, a point for each network."""
    figure = figure_class()(figsize=(9, 3.6), layout="constrained")
    shown_against = (("parameter_count", "number of weights"), ("jacobian_norm", "Jacobian norm"))
    for index, (name, label) in enumerate(shown_against):
        axes = figure.add_subplot(1, 2, index + 1)
        points = [(r.end.measures.get(name), r.end.generalization_gap) for r in results.values()]
        shown = [(x, y) for x, y in points if x is not None and y is not None and x > 0]
        if shown:
            axes.plot(*zip(*shown, strict=True), "o", markersize=4, alpha=0.7)
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("generalization gap")
    return figure


def published_curves(path: Path) -> dict[str, Any]:
    """Curves read off published figures, by figure and series.

    Args:
        path: A JSON file with ``{"figures": {name: {"series": {name: {"x": [...], "y": [...]}}}}}``.

    Raises:
        ValueError: If it has no figure of hidden units.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())["figures"]
        return {name: found[name]["series"] for name in ("hidden_units_error", "hidden_units_measures")}
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not hold the published curves over hidden units: {error}.") from error


def beside_published(experiment: Experiment, results: Results, path: Path) -> tuple[list[dict[str, Any]], Figure]:
    """Our curves over hidden units and the published ones, in a table and a picture.

    Measures are squared, divided by the squared margin, and then scaled so that over the widths that both have, and all
    of which reached the criterion, the least is 0 and the largest is 1, as those of the paper are.

    Args:
        experiment: That of width.
        results: Networks that reached the criterion.
        path: See :func:`published_curves`.
    """
    published = published_curves(path)
    curves = {"test error": (published["hidden_units_error"]["test"], _means(experiment, results, _test_error))}
    for name, title in PUBLISHED.items():
        ours = _means(experiment, results, _at_end(name))
        curves[title] = published["hidden_units_measures"][title], ours
    rows: list[dict[str, Any]] = []
    figure = figure_class()(figsize=(3.6 * 3, 5.6), layout="constrained")
    for index, (title, (theirs, ours)) in enumerate(curves.items()):
        theirs_at = dict(zip(theirs["x"], theirs["y"], strict=True))
        if title != "test error":
            theirs_at, ours = _scaled(theirs_at, ours)
        axes = figure.add_subplot(2, 3, index + 1)
        axes.plot(list(theirs_at), list(theirs_at.values()), "o--", label="published")
        axes.plot(list(ours), list(ours.values()), "x-", label="here")
        axes.set_xscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("hidden units", fontsize=8)
        axes.legend(fontsize=7)
        rows += [
            {"curve": title, "hidden units": width, "published": theirs_at.get(width), "here": ours.get(width)}
            for width in sorted({*theirs_at, *ours})
        ]
    return rows, figure


def _at_end(name: str) -> Callable[[Result], float | None]:
    """Read a measure of the network as it ended."""
    return lambda result: result.end.measures.get(name)


def _test_error(result: Result) -> float | None:
    return None if result.end.test.accuracy is None else 1 - result.end.test.accuracy


def _means(experiment: Experiment, results: Results, value: Callable[[Result], float | None]) -> dict[float, float]:
    found = {}
    for condition in experiment.conditions:
        numbers = [value(result) for (name, _), result in results.items() if name == condition.name]
        known = [number for number in numbers if number is not None and math.isfinite(number)]
        if known:
            found[condition.level] = fmean(known)
    return found


def _scaled(theirs: dict[float, float], ours: dict[float, float]) -> tuple[dict[float, float], dict[float, float]]:
    """Both curves from 0 to 1 over the widths that both have; ours are logarithms of square roots."""
    common = [width for width in theirs if width in ours]
    if len(common) < 2:
        return theirs, {}
    top = max(2 * ours[width] for width in common)
    squares = {width: math.exp(2 * value - top) for width, value in ours.items()}
    return _to_unit(theirs, common), _to_unit(squares, common)


def _to_unit(curve: dict[float, float], over: list[float]) -> dict[float, float]:
    low, high = min(curve[x] for x in over), max(curve[x] for x in over)
    return {x: (y - low) / ((high - low) or 1.0) for x, y in curve.items()}
