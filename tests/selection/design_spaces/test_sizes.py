"""Sample sizes against the exact law of the distance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstwo, kstwobign

from lightning_complexity.selection.design_spaces.sizes import sample_size


@pytest.mark.parametrize(("tolerance", "confidence"), [(0.1, 0.95), (0.2, 0.9), (0.05, 0.99), (0.9, 0.5)])
def test_enough_is_the_least_number_that_is(tolerance: float, confidence: float) -> None:
    found = sample_size(np.arange(50), tolerance=tolerance, confidence=confidence, sizes=[1])
    assert kstwo(found.enough).cdf(tolerance) >= confidence
    assert found.enough == 1 or kstwo(found.enough - 1).cdf(tolerance) < confidence


def test_what_is_drawn_is_as_far_off_as_the_law_says(generator: np.random.Generator) -> None:
    found = sample_size(generator.normal(size=4000), draws=400).distances
    assert found["size"].tolist() == [2**i for i in range(10)]
    exact = [0.75, 13 / 24]  # the means of the law for one and two networks
    np.testing.assert_allclose(found["mean"][:2], exact, rtol=0.05)
    np.testing.assert_allclose(found["high"], found["expected_high"], rtol=0.12)
    large = found[found["size"] >= 64]
    np.testing.assert_allclose(large["mean"], np.sqrt(np.pi / 2) * np.log(2) / np.sqrt(large["size"]), rtol=0.06)


def test_weighted_networks_count_as_their_effective_number(generator: np.random.Generator) -> None:
    weights = np.where(np.arange(2000) < 1000, 9.0, 1.0)  # independent of errors
    found = sample_size(generator.normal(size=2000), weights=weights, draws=300, sizes=[256, 1024])
    share = 10_000**2 / (1000 * 82) / 2000
    assert found.effective == pytest.approx(2000 * share)
    assert found.enough == pytest.approx(181 / share, rel=1e-2)
    np.testing.assert_allclose(found.distances["high"], found.distances["expected_high"], rtol=0.12)


def test_the_sentence_says_how_many_more(generator: np.random.Generator) -> None:
    found = sample_size(generator.normal(size=50), sizes=[16])
    assert (found.enough, found.missing) == (181, 131)
    assert found.off == pytest.approx(kstwo(50).ppf(0.95))
    assert found.distinguishable == pytest.approx(kstwobign.ppf(0.95) * 0.2)
    assert str(found).startswith(
        "181 networks are enough: in 95 of 100 samples the distribution of their errors is within"
    )
    assert "There are 50, which may be off by 0.188: 131 more are needed." in str(found)
    assert "they are enough" in str(sample_size(generator.normal(size=200), sizes=[16]))
    thin = sample_size(generator.normal(size=50), weights=np.arange(50), sizes=[16])
    assert "There are 50, as good as 37 of equal weight" in str(thin)


def test_ties_only_make_distances_smaller(generator: np.random.Generator) -> None:
    found = sample_size(generator.integers(3, size=500), sizes=[100], draws=300).distances
    assert (found["high"] < found["expected_high"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0}, "tolerance must be between 0 and 1, got 0"),
        ({"confidence": 1.5}, "confidence must be between 0 and 1, got 1.5"),
        ({"sizes": [0]}, "sizes must be positive whole numbers, got 0"),
        ({"draws": 0}, "draws must be positive whole numbers, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_size([1, 2, 3], **options)  # type: ignore[arg-type]
