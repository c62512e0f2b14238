"""The rule of one standard error."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_complexity.selection import simplest_within_one_standard_error as simplest


def test_by_hand() -> None:
    choice = simplest([0.30, 0.22, 0.20, 0.21], [10, 20, 40, 30], standard_errors=[0.0, 0.0, 0.025, 0.0])
    assert (choice.chosen.row, choice.best.row, choice.within) == (1, 2, (1, 2, 3))
    assert choice.bound == pytest.approx(0.225)


def test_repeats_give_the_standard_error() -> None:
    # Mean 2 and standard deviation 1 of three: the error is 1 / sqrt(3).
    choice = simplest([[1.0, 2.0, 3.0], [2.5, 2.6], [2.6, 2.6]], [30, 20, 10])
    assert choice.standard_error == pytest.approx(1 / np.sqrt(3))
    assert (choice.best.row, choice.chosen.row) == (0, 1)


@pytest.mark.parametrize("seed", range(10))
def test_the_rule_as_loops(seed: int) -> None:
    generator = np.random.default_rng(seed)
    repeats, costs = generator.random((8, 4)), generator.integers(1, 5, size=8).astype(float)
    means = [sum(row) / 4 for row in repeats]
    best = min(range(8), key=lambda m: means[m])
    deviation = (sum((value - means[best]) ** 2 for value in repeats[best]) / 3) ** 0.5
    within = [m for m in range(8) if means[m] <= means[best] + deviation / 2]
    expected = min(within, key=lambda m: (costs[m], means[m]))
    choice = simplest(repeats, costs)
    assert (choice.best.row, choice.chosen.row, list(choice.within)) == (best, expected, within)
    mirrored = simplest(1 - repeats, costs, direction="maximize")
    assert (mirrored.best.row, mirrored.chosen.row) == (best, expected)
    assert mirrored.bound == pytest.approx(1 - choice.bound)


def test_a_score_at_the_bound_is_within_it_despite_rounding() -> None:
    choice = simplest([0.8, 0.7], [2, 1], standard_errors=[0.1, 0.1], direction="maximize")
    assert 0.8 - 0.1 > 0.7, "the case is one of rounding"
    assert choice.chosen.row == 1


def test_no_standard_error_leaves_the_best() -> None:
    assert simplest([0.2, 0.1, 0.1 + 1e-9], [1, 9, 2], standard_errors=[0, 0, 0]).chosen.row == 1


def test_ties_go_to_the_cheaper_then_the_better_then_the_first() -> None:
    same = simplest([0.1, 0.1, 0.1], [9, 2, 2], standard_errors=[1.0, 0.5, 0.7])
    assert (same.best.row, same.standard_error, same.chosen.row) == (1, 0.5, 1)
    cost = simplest([0.11, 0.105, 0.10], [2, 2, 9], standard_errors=[0.05] * 3)
    assert cost.chosen.row == 1


def test_models_that_are_not_finite_are_left_out_and_counted() -> None:
    nan, inf = float("nan"), float("inf")
    choice = simplest([nan, 0.1, 0.2, -inf], [1, 2, nan, 1], standard_errors=[0.1, 0.1, 0.1, nan])
    assert (choice.chosen.row, choice.left_out, choice.compared) == (1, (0, 2, 3), 1)
    assert choice.sentence.endswith("Left out as not finite: 3.")
    repeats = simplest([[0.0, nan], [0.1, 0.2]], [1, 2])
    assert (repeats.chosen.row, repeats.left_out) == (1, (0,))


def test_repeats_that_overflow_are_not_finite() -> None:
    choice = simplest([[1e308, 1e308], [0.1, 0.3]], [1, 2])
    assert (choice.chosen.row, choice.left_out) == (1, (0,))
    with pytest.raises(ValueError, match="not negative, got inf"):
        simplest([[1e300, -1e300], [0.1, 0.3]], [1, 2])


def test_the_sentence_says_which_and_why() -> None:
    names = ["small", "large"]
    choice = simplest([0.12, 0.11], [1500, 90000], standard_errors=[0.02, 0.015], names=names, cost="parameters")
    assert choice.sentence == (
        "small is chosen: with parameters 1,500 it is the simplest of 2 of 2 models whose error is within one standard "
        "error of the best (0.11 + 0.015 = 0.125); its error is 0.12, and the best, large, has parameters 90,000."
    )
    best = simplest([0.88, 0.97], [1, 2], standard_errors=[0.02, 0.015], direction="maximize", score="accuracy")
    assert best.sentence == (
        "row 1 is chosen: its accuracy of 0.97 is the best of 2, and no model with less cost than 2 is within one "
        "standard error of it (0.97 - 0.015 = 0.955)."
    )


def test_what_cannot_be_decided_is_refused() -> None:
    with pytest.raises(ValueError, match="give the repeats of each"):
        simplest([0.1, 0.2], [1, 2])
    with pytest.raises(ValueError, match="or repeats for every model, got both"):
        simplest([[0.1, 0.2], 0.3], [1, 2])
    with pytest.raises(TypeError, match="scores must be a sequence with an entry for each model, got None"):
        simplest(None, [1, 2])
    with pytest.raises(TypeError, match="costs must be a sequence with an entry for each model, got 3"):
        simplest([0.1], 3, standard_errors=[0])
    with pytest.raises(ValueError, match="computed from repeats"):
        simplest([[0.1, 0.2]], [1], standard_errors=[0.1])
    with pytest.raises(ValueError, match="row 0, must be a number that is not negative, got nan: repeat it"):
        simplest([[0.1], [0.2, 0.3]], [1, 2])
    with pytest.raises(ValueError, match="not negative, got -1"):
        simplest([0.1], [1], standard_errors=[-1])
    with pytest.raises(ValueError, match="costs must be one for each of 2 models, got 1"):
        simplest([0.1, 0.2], [1], standard_errors=[0, 0])
    with pytest.raises(ValueError, match="standard_errors must be one for each of 2 models, got 1"):
        simplest([0.1, 0.2], [1, 2], standard_errors=[0])
    with pytest.raises(ValueError, match="got none of 1"):
        simplest([float("nan")], [1], standard_errors=[0])
    with pytest.raises(TypeError, match="costs must be numbers"):
        simplest([0.1], ["small"], standard_errors=[0])
    with pytest.raises(ValueError, match="got 'lower'"):
        simplest([0.1], [1], standard_errors=[0], direction="lower")
