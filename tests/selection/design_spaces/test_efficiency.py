"""The best of some random networks: identities of order statistics, and enumeration of small tables."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from lightning_complexity.selection.design_spaces.efficiency import (
    best_against_best,
    chance_of_the_larger_search,
    expected_evaluations,
    search_efficiency,
)

ERRORS = [0.5, 0.1, 0.3, 0.3, 0.9, 0.2]  # with a tie


def moments(minima: list[float], chances: list[float]) -> tuple[float, float]:
    mean = sum(m * p for m, p in zip(minima, chances, strict=True))
    return mean, sum(p * (m - mean) ** 2 for m, p in zip(minima, chances, strict=True)) ** 0.5


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_without_replacement_as_all_subsets(k: int) -> None:
    minima = [min(chosen) for chosen in itertools.combinations(ERRORS, k)]
    (row,) = search_efficiency(ERRORS, [k], replace=False).to_dict("records")
    assert (row["mean"], row["sd"]) == pytest.approx((np.mean(minima), np.std(minima)), abs=1e-12)
    for share, name in ((0.025, "q2.5"), (0.5, "q50"), (0.975, "q97.5")):
        assert row[name] == np.quantile(minima, share, method="inverted_cdf")


@pytest.mark.parametrize("k", [1, 2, 4])
def test_with_replacement_and_weights_as_all_sequences(k: int) -> None:
    weights = np.array([1, 4, 0, 2, 1, 2]) / 10
    rows = list(itertools.product(range(6), repeat=k))
    expected = moments([min(ERRORS[i] for i in r) for r in rows], [float(np.prod(weights[list(r)])) for r in rows])
    (row,) = search_efficiency(ERRORS, [k], weights=weights).to_dict("records")
    assert (row["mean"], row["sd"]) == pytest.approx(expected, abs=1e-12)


def test_the_mean_of_the_least_of_uniform_numbers() -> None:
    # The least of k of 1..N without replacement has mean (N + 1) / (k + 1) and variance k (N+1) (N-k) / (k+1)^2 (k+2).
    n = 3969
    found = search_efficiency(np.arange(1, n + 1), [1, 10, 361, n], replace=False)
    for k, mean, sd in found[["draws", "mean", "sd"]].to_numpy():
        assert mean == pytest.approx((n + 1) / (k + 1), rel=1e-9)
        assert sd**2 == pytest.approx(k * (n + 1) * (n - k) / ((k + 1) ** 2 * (k + 2)), rel=1e-6, abs=1e-6)


def test_draws_are_powers_of_two_unless_given() -> None:
    assert search_efficiency(ERRORS)["draws"].tolist() == [1, 2, 4]
    assert search_efficiency(range(8))["draws"].tolist() == [1, 2, 4, 8]


def test_best_against_best_as_all_subsets() -> None:
    first, second = [1, 2, 2, 5], [2, 3, 0, 7, 2]
    pairs = list(itertools.product(itertools.combinations(first, 2), itertools.combinations(second, 3)))
    signs = np.array([np.sign(min(b) - min(a)) for a, b in pairs])
    expected = [(signs > 0).mean(), (signs == 0).mean(), (signs < 0).mean()]
    assert list(best_against_best(first, second, 2, 3, replace=False)) == pytest.approx(expected, abs=1e-12)


def test_best_against_best_of_weighted_draws_as_all_sequences() -> None:
    first, second, mass = [1, 2, 3], [2, 3], [0.2, 0.3, 0.5]
    expected = np.zeros(3)
    for a in itertools.product(range(3), repeat=2):
        for b in itertools.product(range(2), repeat=2):
            one, other = min(first[i] for i in a), min(second[i] for i in b)
            expected[1 - int(np.sign(other - one))] += np.prod([mass[i] for i in a]) / 4
    found = best_against_best(first, second, 2, 2, weights=(mass, None))
    assert list(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1000, 100), (3, 8)])
def test_without_ties_the_larger_search_wins_by_its_size(m: int, n: int) -> None:
    assert chance_of_the_larger_search(m, n) == m / (m + n)
    # A continuous distribution is the limit of many different errors.
    errors = np.arange(200_000)
    contest = best_against_best(errors, errors, m, n)
    assert contest.wins + contest.ties / 2 == pytest.approx(m / (m + n), abs=1e-3)


def test_disjoint_sets_of_a_table_as_all_of_them() -> None:
    wins = total = 0
    for first in itertools.combinations(range(7), 3):
        for second in itertools.combinations(set(range(7)) - set(first), 2):
            wins, total = wins + (min(first) < min(second)), total + 1
    assert Fraction(wins, total) == Fraction(3, 5) == Fraction(chance_of_the_larger_search(3, 2)).limit_denominator(99)


def test_first_of_the_top_as_all_orders() -> None:
    for total, top in ((6, 1), (6, 2), (5, 5)):
        firsts = [min(chosen) + 1 for chosen in itertools.combinations(range(total), top)]
        assert len(firsts) == comb(total, top)
        assert expected_evaluations(total, top) == pytest.approx(np.mean(firsts))
    assert expected_evaluations(3969, 10) == pytest.approx(360.909, abs=1e-3)
    assert expected_evaluations(3969) == 1985


def test_what_is_not_possible_is_refused() -> None:
    with pytest.raises(ValueError, match="draws without replacement must be at most the 6 networks, got 7"):
        search_efficiency(ERRORS, [7], replace=False)
    with pytest.raises(ValueError, match="weights need replace=True"):
        search_efficiency(ERRORS, weights=np.ones(6), replace=False)
    with pytest.raises(ValueError, match="weights need replace=True"):
        best_against_best(ERRORS, ERRORS, 1, 1, weights=(None, np.ones(6)), replace=False)
    with pytest.raises(ValueError, match=r"draws must be positive whole numbers, got 1.5"):
        search_efficiency(ERRORS, [1.5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="top must be at most the 5 networks, got 6"):
        expected_evaluations(5, 6)
    with pytest.raises(ValueError, match="m must be positive whole numbers, got 0"):
        chance_of_the_larger_search(0, 1)
