"""Distances, their test and their intervals: against scipy, enumeration and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from lightning_complexity.selection.design_spaces.distances import Difference, difference, ks_distance
from lightning_complexity.selection.design_spaces.distributions import (
    Bins,
    error_distribution,
    normalizing_weights,
)


def test_the_distance_and_its_place_are_scipys(generator: np.random.Generator) -> None:
    for ties in (False, True):
        for _ in range(30):
            first, second = generator.normal(size=40), generator.normal(0.3, 1.4, size=57)
            if ties:
                first, second = first.round(1), second.round(1)
            distance, at = ks_distance(error_distribution(first), error_distribution(second))
            reference = stats.ks_2samp(first, second)
            assert distance == pytest.approx(reference.statistic, abs=1e-12)
            gap = (first <= at).mean() - (second <= at).mean()
            assert abs(gap) == pytest.approx(distance, abs=1e-12)


def test_the_distance_of_weighted_errors_as_of_repeated_ones(generator: np.random.Generator) -> None:
    first, second = generator.normal(size=20), generator.normal(size=25)
    times = generator.integers(1, 5, size=20)
    distance, _ = ks_distance(error_distribution(first, times), error_distribution(second))
    assert distance == pytest.approx(stats.ks_2samp(np.repeat(first, times), second).statistic)


def test_the_p_value_is_the_exact_one(generator: np.random.Generator) -> None:
    first, second = generator.normal(size=25), generator.normal(0.7, size=30)
    found = difference(first, second, draws=20_000)
    exact = stats.ks_2samp(first, second, method="exact").pvalue
    assert found.p_value == pytest.approx(exact, abs=4 * (exact / 20_000) ** 0.5 + 1e-4)


def test_the_p_value_at_equal_complexity_as_all_exchanges_within_bins() -> None:
    bins = Bins(np.array([0.0, 1.0, 2.0]), False)
    errors = (np.array([0.1, 0.25, 0.5]), np.array([0.3, 0.4, 0.2, 0.9, 0.7]))
    complexities = (np.array([0.5, 0.5, 1.5]), np.array([0.5, 0.5, 0.5, 1.5, 1.5]))
    low, high = [0.1, 0.25, 0.3, 0.4, 0.2], [0.5, 0.9, 0.7]
    observed = None
    distances = []
    for pair in itertools.combinations(range(5), 2):
        for single in range(3):
            first = [low[i] for i in pair] + [high[single]]
            second = [low[i] for i in range(5) if i not in pair] + [high[i] for i in range(3) if i != single]
            mass = [0.25, 0.25, 0.5], [1 / 6] * 3 + [0.25] * 2
            found, _ = ks_distance(error_distribution(first, mass[0]), error_distribution(second, mass[1]))
            distances.append(found)
            if pair == (0, 1) and single == 0:
                observed = found
    assert observed is not None
    exact = np.mean(np.array(distances) >= observed - 1e-12)
    result = difference(*errors, complexities, bins, draws=9999)
    assert result.distance.value == pytest.approx(observed)
    assert result.p_value == pytest.approx(exact, abs=0.02)


def test_the_chance_to_win_is_that_of_all_pairs(generator: np.random.Generator) -> None:
    first, second = generator.normal(size=30).round(1), generator.normal(0.4, size=40).round(1)
    found = difference(first, second, draws=50)
    signs = np.sign(second[None] - first[:, None])
    assert found.first_wins.value == pytest.approx((signs > 0).mean() + (signs == 0).mean() / 2)
    statistic = stats.mannwhitneyu(first, second).statistic  # pairs in which the first is larger
    assert found.first_wins.value == pytest.approx(1 - statistic / (30 * 40))
    medians = [np.quantile(e, 0.5, method="inverted_cdf") for e in (first, second)]
    assert found.median_difference.value == medians[0] - medians[1]


def weighted_wins(errors: tuple, weights: tuple) -> float:
    signs = np.sign(errors[1][None] - errors[0][:, None])
    return float(weights[0] @ ((signs > 0) + (signs == 0) / 2) @ weights[1])


def test_the_chance_to_win_at_equal_complexity(generator: np.random.Generator) -> None:
    bins = Bins(np.linspace(0, 1, 4), False)
    complexities = (generator.beta(2, 3, 60), generator.beta(3, 2, 50))
    errors = (generator.normal(size=60), generator.normal(size=50))
    found = difference(*errors, complexities, bins, draws=20)
    weights = tuple(normalizing_weights(c, bins) for c in complexities)
    assert found.first_wins.value == pytest.approx(weighted_wins(errors, weights))
    assert found.sizes == (60, 50)


def test_the_bootstrap_has_the_deviation_of_the_theory(generator: np.random.Generator) -> None:
    """Of a mean over strata, the chance that each network of the first space beats the second's, which do not vary."""
    bins = Bins(np.arange(31.0), False)
    complexities = (np.repeat(np.arange(30) + 0.5, 3), np.arange(30) + 0.5)
    errors = (generator.normal(size=90), generator.normal(size=30))
    found = difference(*errors, complexities, bins, draws=8000, confidence=0.6827)
    chances = (errors[0][:, None] < errors[1]).mean(1).reshape(30, 3)
    deviation = (chances.var(1, ddof=1) / 3).sum() ** 0.5 / 30
    assert (found.first_wins.high - found.first_wins.low) / 2 == pytest.approx(deviation, rel=0.08)


def test_no_p_value_is_less_than_draws_can_tell() -> None:
    assert difference(np.arange(30.0), np.arange(30.0) + 50, draws=99).p_value == 0.01


def test_the_same_seed_gives_the_same(generator: np.random.Generator) -> None:
    first, second = generator.normal(size=40), generator.normal(size=40)
    results = [difference(first, second, draws=50, seed=seed) for seed in (1, 1, 2)]
    assert results[0].p_value == results[1].p_value
    assert results[0].first_wins == results[1].first_wins != results[2].first_wins


def at_equal_complexity(generator: np.random.Generator, shift: float, seed: int) -> tuple[Difference, float]:
    """Spaces whose errors fall with the bin, the same way but for a shift; the second one's networks are larger."""
    bins = Bins(np.linspace(0.15, 0.85, 5), False)
    complexities = (generator.beta(2, 3, 160), generator.beta(3, 2, 130))
    errors = [generator.normal(-bins.place(c), 1.0) for c in complexities]
    naive = stats.ks_2samp(*errors).pvalue
    return difference(errors[0], errors[1] + shift, complexities, bins, draws=199, seed=seed), naive


def test_chance_is_not_taken_for_a_difference(generator: np.random.Generator) -> None:
    """Under the null hypothesis p-values are uniform, while those of the plain test are all small."""
    both = [at_equal_complexity(generator, 0.0, seed) for seed in range(200)]
    p_values, naive = np.array([(found.p_value, plain) for found, plain in both]).T
    for level in (0.05, 0.2, 0.5):
        assert abs((p_values <= level).mean() - level) < 3.5 * (level * (1 - level) / 200) ** 0.5
    assert (naive < 0.05).mean() > 0.85
    holds_zero = np.mean([found.distance.low == 0 for found, _ in both])
    holds_half = np.mean([found.first_wins.low <= 0.5 <= found.first_wins.high for found, _ in both])
    assert holds_zero > 0.88
    assert 0.88 < holds_half < 0.995


def test_a_difference_is_seen(generator: np.random.Generator) -> None:
    found = [at_equal_complexity(generator, 0.8, seed)[0] for seed in range(20)]
    assert np.mean([one.is_shown for one in found]) > 0.9
    assert all(one.better == 0 for one in found if one.is_shown)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.2, 0.5, 1.0])
def test_intervals_hold_what_is_true(generator: np.random.Generator, shift: float) -> None:
    truth = 2 * stats.norm.cdf(shift / 2) - 1, stats.norm.cdf(shift / 2**0.5), -shift
    held = []
    for seed in range(200):
        found = difference(generator.normal(size=150), generator.normal(shift, size=100), draws=300, seed=seed)
        intervals = (found.distance, found.first_wins, found.median_difference)
        held.append([one.low <= value <= one.high for one, value in zip(intervals, truth, strict=True)])
    of_distance, of_wins, of_medians = np.mean(held, axis=0)
    assert of_distance > 0.93  # wider than need be
    assert 0.89 < of_wins < 0.99
    assert 0.89 < of_medians < 0.99
