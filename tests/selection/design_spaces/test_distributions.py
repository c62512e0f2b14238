"""Distributions, bins and weights against numpy, scipy and hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lightning_complexity.selection.design_spaces.distributions import (
    Bins,
    common_bins,
    effective_size,
    error_distribution,
    normalizing_weights,
)


def test_the_distribution_is_scipys(generator: np.random.Generator) -> None:
    errors = generator.integers(20, size=70) / 20  # with ties
    found, reference = error_distribution(errors), stats.ecdf(errors).cdf
    grid = np.concatenate([errors, np.linspace(-0.1, 1.1, 97)])
    np.testing.assert_allclose(found(grid), reference.evaluate(grid), atol=1e-12)
    np.testing.assert_array_equal(found.errors, reference.quantiles)
    assert found.effective_size == pytest.approx(70)
    for share in (0.01, 0.3, 0.5, 0.77, 1.0):
        assert found.quantile(share) == np.quantile(errors, share, method="inverted_cdf")


def test_weights_are_repeats(generator: np.random.Generator) -> None:
    errors, times = generator.normal(size=30), generator.integers(0, 4, size=30)
    weighted, repeated = error_distribution(errors, times), error_distribution(np.repeat(errors, times))
    grid = np.linspace(-3, 3, 50)
    np.testing.assert_allclose(weighted(grid), repeated(grid), atol=1e-12)
    assert weighted.quantile(0.5) == repeated.quantile(0.5)


def test_effective_size_of_equal_and_of_one_weight() -> None:
    assert effective_size([3, 3, 3, 3]) == 4
    assert effective_size([0, 0, 7]) == 1
    assert effective_size([1, 1, 2]) == pytest.approx(16 / 6)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_bins_count_as_numpys_histogram(generator: np.random.Generator, logarithmic: bool) -> None:
    for _ in range(50):
        first, second = generator.lognormal(size=200), generator.lognormal(0.3, size=150)
        bins = common_bins([first, second], 3, logarithmic=logarithmic, within=(0.2, 4.1))
        for complexity in (first, second):
            np.testing.assert_array_equal(bins.counts(complexity), np.histogram(complexity, bins.edges)[0])


def test_both_ends_of_the_range_belong_to_it() -> None:
    bins = common_bins([[0, 1, 2, 3, 10], [1, 2, 3, 4]], 2)
    assert bins.edges.tolist() == [1, 2.5, 4]
    assert bins.place([0.999, 1, 2.499, 2.5, 4, 4.001]).tolist() == [-1, 0, 0, 1, 1, -1]


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.856), (0.008, 0.129), (1e-9, 3.1e7), (0.1, 0.7)])
def test_the_ends_of_logarithmic_ranges_are_not_rounded_away(low: float, high: float) -> None:
    for count in range(1, 10):
        values = np.geomspace(low, high, 60)
        values[0], values[-1] = low, high
        bins = common_bins([values, values], count, logarithmic=True)
        assert bins.counts(values).sum() == 60
        ratios = bins.edges[1:] / bins.edges[:-1]
        np.testing.assert_allclose(ratios, ratios[0])


def test_weights_are_one_over_bin_size_and_number_of_bins(generator: np.random.Generator) -> None:
    complexity = generator.uniform(0, 1, 300) ** 2
    bins = common_bins([complexity], 6)
    weights = normalizing_weights(complexity, bins)
    assert weights.sum() == pytest.approx(1)
    inside, _ = np.histogram(complexity, bins.edges, weights=weights)
    np.testing.assert_allclose(inside, 1 / 6)
    assert effective_size(weights) < 300


def test_networks_out_of_range_weigh_nothing() -> None:
    bins = Bins(np.array([1.0, 2.0, 3.0]), False)
    assert normalizing_weights([0, 1, 2.5, 3, 9], bins).tolist() == [0, 0.5, 0.25, 0.25, 0]


def test_an_empty_bin_says_which_and_what_to_do() -> None:
    first, second = [1.0, 1.2, 1.4, 9.0, 10.0], np.linspace(1, 10, 40)
    with pytest.raises(ValueError, match=r"bin 2 of 5, complexity 2\.8 to 4\.6, has none of narrow; use 2 bins"):
        common_bins([first, second], 5, names=["narrow", "wide"])
    assert len(common_bins([first, second], 2)) == 2
    with pytest.raises(ValueError, match=r"bin 2 of 5, complexity 2\.8 to 4\.6, has none; use fewer bins or a smaller"):
        normalizing_weights(first, common_bins([second], 5))


def test_an_empty_linear_bin_may_be_full_in_logarithms() -> None:
    values = np.geomspace(1, 256, 17)
    with pytest.raises(ValueError, match="logarithmic bins, or a smaller range"):
        common_bins([values, values], 8)
    assert len(common_bins([values, values], 8, logarithmic=True)) == 8


def test_as_many_bins_as_have_five_networks(generator: np.random.Generator) -> None:
    first, second = generator.beta(2, 4, 120), generator.beta(4, 2, 120)
    bins = common_bins([first, second])
    low, high = max(first.min(), second.min()), min(first.max(), second.max())
    assert (bins.edges[0], bins.edges[-1]) == (low, high)

    def least(count: int) -> int:
        edges = np.linspace(low, high, count + 1)
        return min(np.histogram(complexity, edges)[0].min() for complexity in (first, second))

    assert least(len(bins)) >= 5
    assert all(least(count) < 5 for count in range(len(bins) + 1, 11))
    assert len(common_bins([np.arange(1000.0)] * 2)) == 10
    assert len(common_bins([[1.0, 2.0, 3.0]] * 2)) == 2


def test_spaces_without_a_common_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a range of complexity that all spaces have is needed, got 5 to 3"):
        common_bins([[1, 3], [5, 9]])
    with pytest.raises(ValueError, match="got 2 to 2"):
        common_bins([[2, 2], [2, 2]])
    with pytest.raises(ValueError, match="one space has none"):
        common_bins([[1, 5], [2, 3]], within=(1.5, 4))
    with pytest.raises(ValueError, match="logarithmic bins need a positive complexity, the range begins at 0"):
        common_bins([[0, 1], [0, 1]], logarithmic=True)
    with pytest.raises(ValueError, match="bins must be a positive whole number, got 0"):
        common_bins([[0, 1], [0, 1]], 0)


@pytest.mark.parametrize("weights", [[1, -1, 2], [0, 0, 0], [1, 1]])
def test_bad_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be 3 numbers"):
        error_distribution([1, 2, 3], weights)


def test_bad_errors_are_refused() -> None:
    with pytest.raises(ValueError, match="errors must be finite, got nan"):
        error_distribution([1, np.nan])
    with pytest.raises(ValueError, match="at least one number"):
        error_distribution([])
    with pytest.raises(TypeError, match="errors must be numbers"):
        error_distribution(["a"])
