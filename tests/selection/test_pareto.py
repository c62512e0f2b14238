"""Fronts, hypervolumes and knees against brute force, closed forms and Optuna's best trials."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import optuna
import pytest

from lightning_complexity.selection import hypervolume, knee, pareto_front
from lightning_complexity.studies.sweeping.storage import quiet_optuna

Points = np.ndarray[Any, np.dtype[np.float64]]


def small_grid(seed: int, objectives: int) -> Points:
    """Few different values, so that ties and copies occur."""
    return np.random.default_rng(seed).integers(0, 4, size=(12, objectives)).astype(float)


def brute_force_front(losses: Points) -> set[int]:
    def dominated(row: int) -> bool:
        return any((other <= losses[row]).all() and (other < losses[row]).any() for other in losses)

    return {row for row in range(len(losses)) if not dominated(row)}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("signs", [(1,), (1, 1), (1, -1), (-1, -1), (1, -1, 1)])
def test_the_front_is_what_no_other_point_dominates(seed: int, signs: tuple[int, ...]) -> None:
    points = small_grid(seed, len(signs))
    front = pareto_front(points, ["minimize" if sign > 0 else "maximize" for sign in signs])
    assert set(front.rows) == brute_force_front(points * signs)
    assert len(set(front.rows)) == len(front.rows)
    np.testing.assert_array_equal(front.points, points[list(front.rows)])
    first = front.points[:, 0] * signs[0]
    assert (np.diff(first) >= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_that_of_optunas_best_trials(seed: int) -> None:
    points = small_grid(seed, 2)
    with quiet_optuna():
        study = optuna.create_study(directions=["minimize", "maximize"])
        study.add_trials([optuna.trial.create_trial(values=row) for row in points.tolist()])
        best = {trial.number for trial in study.best_trials}
    assert set(pareto_front(points, ["minimize", "maximize"]).rows) == best


def test_ties_are_off_the_front_and_copies_on_it() -> None:
    assert pareto_front([[1, 5], [1, 4], [2, 4], [1, 4]]).rows == (1, 3)


def test_one_point_and_none() -> None:
    assert pareto_front([[3.0, 4.0]]).rows == (0,)
    assert len(pareto_front([])) == 0
    assert len(pareto_front(np.zeros((0, 2)), ["minimize", "maximize"])) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_left_out_and_counted(value: float) -> None:
    points = [[value, 0.0], [1.0, 1.0], [0.0, value]]
    front = pareto_front(points)
    assert (front.rows, front.left_out) == ((1,), (0, 2))
    with pytest.raises(ValueError, match="row 0"):
        pareto_front(points, not_finite="refuse")


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="'minimize' or 'maximize', got 'min'"):
        pareto_front([[1, 2]], ["min", "maximize"])
    with pytest.raises(ValueError, match="one for each of 2 objectives, got 1"):
        pareto_front([[1, 2]], ["minimize"])
    with pytest.raises(ValueError, match=r"shape \(points, objectives\), got \(2,\)"):
        pareto_front([1, 2])
    with pytest.raises(ValueError, match="as many numbers in each row"):
        pareto_front([[1, 2], [1]])
    with pytest.raises(TypeError, match="points must be numbers"):
        pareto_front([["a", "b"]])
    with pytest.raises(TypeError, match="directions must be 'minimize', 'maximize' or a sequence of these, got None"):
        pareto_front([[1, 2]], None)
    with pytest.raises(ValueError, match="'leave_out' or 'refuse', got 'drop'"):
        pareto_front([[1, 2]], not_finite="drop")


def sum_of_rectangles(losses: Points, reference: Points) -> float:
    """In two dimensions: from left to right, each point adds what is below the last."""
    volume, height = 0.0, reference[1]
    for x, y in sorted(losses.tolist()):
        if y < height and x <= reference[0]:
            volume += (reference[0] - x) * (height - y)
            height = y
    return volume


def inclusion_and_exclusion(losses: Points, reference: Points) -> float:
    """The union of boxes; the common part of some boxes is the box of their largest entries."""
    volume = 0.0
    for count in range(1, len(losses) + 1):
        for some in itertools.combinations(losses, count):
            edges = np.clip(reference - np.max(some, axis=0), 0, None)
            volume -= (-1) ** count * edges.prod()
    return volume


@pytest.mark.parametrize("seed", range(10))
def test_hypervolume_of_two_objectives_is_a_sum_of_rectangles(seed: int) -> None:
    points = np.random.default_rng(seed).random((15, 2))
    reference = np.array([0.8, 0.9])  # some points are beyond it
    expected = sum_of_rectangles(points[points[:, 1] <= reference[1]], reference)
    assert hypervolume(points, reference) == pytest.approx(expected, rel=1e-12)
    mirrored = hypervolume(points * [1, -1], reference * [1, -1], ["minimize", "maximize"])
    assert mirrored == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("objectives", [3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_of_more_objectives_by_inclusion_and_exclusion(seed: int, objectives: int) -> None:
    points = np.random.default_rng(seed).random((6, objectives))
    reference = np.full(objectives, 0.9)
    expected = inclusion_and_exclusion(points, reference)
    assert hypervolume(points, reference) == pytest.approx(expected, rel=1e-10)


def test_what_adds_nothing_to_the_hypervolume() -> None:
    points = [[1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [1.0, 2.0], [9.0, 0.0], [np.nan, 0.0], [0.0, -np.inf]]
    assert hypervolume(points, [3.0, 3.0]) == 3.0
    assert hypervolume([[3.0, 3.0]], [3.0, 3.0]) == 0.0
    assert hypervolume([[4.0, 1.0]], [3.0, 3.0]) == 0.0
    assert hypervolume([], [3.0, 3.0]) == 0.0


def test_a_reference_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="must have 2 numbers, as points have, got 3"):
        hypervolume([[1.0, 2.0]], [3.0, 3.0, 3.0])
    with pytest.raises(ValueError, match="reference must be finite"):
        hypervolume([[1.0, 2.0]], [3.0, np.inf])
    with pytest.raises(ValueError, match="one number for each objective"):
        hypervolume([[1.0, 2.0]], 3.0)


def test_the_knee_is_the_corner() -> None:
    corner = [[0.0, 1.0], [0.1, 0.2], [0.2, 0.15], [1.0, 0.0], [0.5, 0.9]]
    assert knee(corner) == 1
    assert knee((np.array(corner) * [1e6, 1e-3] + [7, 9]).tolist()) == 1, "units do not count"
    assert knee((np.array(corner) * [-1, 1]).tolist(), ["maximize", "minimize"]) == 1


@pytest.mark.parametrize("seed", range(10))
def test_the_knee_is_farthest_from_the_chord(seed: int) -> None:
    x = np.sort(np.random.default_rng(seed).random(9))
    points = np.column_stack([3 * x, 5 / (0.1 + x)])
    (x0, y0), (x1, y1) = (0.0, 1.0), (1.0, 0.0)
    scaled = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    cross = (x1 - x0) * (scaled[:, 1] - y0) - (y1 - y0) * (scaled[:, 0] - x0)
    assert knee(points) == int(np.argmin(cross))


def test_a_curve_with_a_known_knee() -> None:
    # Of x + 1 / x between 1/4 and 4, scaled evenly, the tangent is parallel to the chord at 1.
    x = np.array([0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0])
    assert knee(np.column_stack([x, 1 / x])) == 3


@pytest.mark.parametrize(
    "points",
    [
        [],
        [[0.0, 1.0]],
        [[0.0, 1.0], [1.0, 0.0]],
        [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]],
        [[0.0, 1.0], [0.1, 0.9], [0.3, 0.7], [1.0, 0.0]],
        [[0.0, 1.0], [0.6, 0.6], [1.0, 0.0]],
        [[0.0, 1.0], [1.0, 0.0], [0.1, np.nan]],
    ],
    ids=["none", "one", "two", "copies of two", "on the chord", "bent outwards", "one not finite"],
)
def test_fronts_without_a_knee(points: list[list[float]]) -> None:
    assert knee(points) is None


def test_a_knee_of_huge_numbers() -> None:
    assert knee([[-1.7e308, 1.7e308], [-1.6e308, -1.6e308], [1.7e308, -1.7e308]]) == 1


def test_of_two_knees_the_one_with_the_better_first_objective() -> None:
    assert knee([[1.0, 0.0], [0.2, 0.3], [0.3, 0.2], [0.0, 1.0]]) == 1


def test_a_knee_of_three_objectives_is_refused() -> None:
    with pytest.raises(ValueError, match="two objectives, got 3"):
        knee([[1.0, 2.0, 3.0]])
