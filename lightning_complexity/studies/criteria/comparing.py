"""Compare networks at matched points: at the end, at equal steps, at equal training loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, get_args

from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.studies.criteria.experiments import Expectation
from lightning_complexity.studies.criteria.verdicts import Pair, Verdict, judge
from lightning_complexity.studies.training.runs import Moment, Result
from lightning_complexity.studies.training.settings import Moments, Stop

Point = Literal["end", "equal steps", "equal loss"]
POINTS: tuple[Point, ...] = get_args(Point)
Results = Mapping[tuple[str, int], Result]
"""By condition and seed."""
Direction = Literal["higher", "lower", "none"]
_SAME_LOSS = math.log(1.5)


@dataclass(frozen=True)
class Quantity:
    """What is compared of two networks.

    Attributes:
        name: Of a measure, or of what is known of the training.
        read: Its value at a moment; ``None`` where there is none.
        direction: Whether a more complex network has a ``"higher"`` or ``"lower"`` value; ``"none"`` where that is not
            said, and it is judged as if it were higher.
        is_logarithm: Whether the value is a logarithm.
        points: Where it is compared.
    """

    name: str
    read: Callable[[Moment], float | None]
    direction: Direction = "higher"
    is_logarithm: bool = False
    points: tuple[Point, ...] = POINTS


def quantity_of(metric: ComplexityMetric) -> Quantity:
    """A measure as something to compare."""
    name, increases = metric.name, metric.increases_with_complexity
    direction: Direction = "none" if increases is None else ("higher" if increases else "lower")
    return Quantity(name, lambda moment: moment.measures.get(name), direction, metric.is_logarithm)


TRAINING = (
    Quantity("training_steps", lambda moment: moment.step, points=("end", "equal loss")),
    Quantity("training_seconds", lambda moment: moment.seconds),
    Quantity("test_error", lambda m: None if m.test.accuracy is None else 1 - m.test.accuracy),
    Quantity("generalization_gap", lambda moment: moment.generalization_gap),
)
"""What is known of every training, beside its measures."""


@dataclass(frozen=True)
class Row:
    """What a measure does at one point.

    Attributes:
        measure: The name of the quantity.
        point: Where networks are compared.
        direction: As that of the quantity.
        verdict: Over all seeds.
        steps_lower: Mean optimizer steps of the networks that are expected to be less complex, at this point.
        steps_higher: Those of the others.
    """

    measure: str
    point: Point
    direction: Direction
    verdict: Verdict
    steps_lower: float
    steps_higher: float


def why_excluded(result: Result, stop: Stop) -> str | None:
    """Why a network cannot be compared, by its own last judgement; ``None`` if it can.

    Args:
        result: Of the network.
        stop: The criterion that all have to reach.
    """
    end = result.end
    if end.train.loss is not None and stop.is_reached(end.train.loss, end.train.accuracy):
        return None
    loss = "unknown" if end.train.loss is None else f"{end.train.loss:.3g}"
    error = "" if end.train.accuracy is None else f" and {100 * (1 - end.train.accuracy):.1f} % training error"
    return f"{result.ended} after {end.step:,} steps, at training loss {loss}{error}"


def matched_moments(first: Result, second: Result, point: Point, moments: Moments) -> list[tuple[Moment, Moment]]:
    """Moments of two networks that can be compared.

    Args:
        first: A network that reached the criterion.
        second: Another.
        point: At the end, that is at the criterion; after equal numbers of steps, none of them 0; or when each first
            had a training loss, where they overshot it by less than a factor of 1.5 from each other.
        moments: When they were measured.
    """
    if point == "end":
        return [(first.end, second.end)]
    names = [f"step {step}" for step in moments.steps] if point == "equal steps" else []
    names += [f"loss {loss:g}" for loss in moments.losses] if point == "equal loss" else []
    both = [(first.moment(name), second.moment(name)) for name in names]
    found = [(a, b) for a, b in both if a is not None and b is not None]
    return found if point == "equal steps" else [(a, b) for a, b in found if _have_same_loss(a, b)]


def _have_same_loss(first: Moment, second: Moment) -> bool:
    one, other = first.train.loss, second.train.loss
    return one is not None and other is not None and min(one, other) > 0 and abs(math.log(one / other)) < _SAME_LOSS


def compare(
    results: Results,
    expectations: Sequence[Expectation],
    quantities: Iterable[Quantity],
    moments: Moments,
    *,
    every_group: bool = False,
) -> list[Row]:
    """Judge each quantity at each point.

    At equal steps and at equal loss a pair of networks has several moments. Of a seed the mean over all its pairs and
    moments counts.

    Args:
        results: Networks that reached the criterion.
        expectations: Which of two conditions is expected to be less complex.
        quantities: What is compared; those without a value in any network are left out.
        moments: When networks were measured.
        every_group: See :func:`~lightning_complexity.studies.criteria.verdicts.judge`.
    """
    rows = []
    matched = {point: _matched(results, expectations, point, moments) for point in POINTS}
    for quantity in quantities:
        if all(quantity.read(result.end) is None for result in results.values()):
            continue
        for point in quantity.points:
            pairs = [
                pair
                for expectation, seed, both in matched[point]
                for pair in _pairs(quantity, expectation.group, seed, both)
            ]
            verdict = judge(pairs, is_logarithm=quantity.is_logarithm, every_group=every_group)
            steps = [[m.step for *_, both in matched[point] for m in (pair[side] for pair in both)] for side in (0, 1)]
            means = [fmean(side) if side else math.nan for side in steps]
            rows.append(Row(quantity.name, point, quantity.direction, verdict, *means))
    return rows


def _matched(
    results: Results, expectations: Sequence[Expectation], point: Point, moments: Moments
) -> list[tuple[Expectation, int, list[tuple[Moment, Moment]]]]:
    found = []
    for expectation in expectations:
        for seed in sorted({seed for name, seed in results if name == expectation.lower}):
            first, second = results.get((expectation.lower, seed)), results.get((expectation.higher, seed))
            if first is not None and second is not None:
                found.append((expectation, seed, matched_moments(first, second, point, moments)))
    return found


def _pairs(quantity: Quantity, group: str, seed: int, both: Sequence[tuple[Moment, Moment]]) -> list[Pair]:
    """A pair for each moment; :func:`judge` takes the mean over those of a seed."""
    found = []
    for first, second in both:
        lower, higher = quantity.read(first), quantity.read(second)
        if lower is not None and higher is not None:
            found.append(Pair(seed, group, *((higher, lower) if quantity.direction == "lower" else (lower, higher))))
    return found
