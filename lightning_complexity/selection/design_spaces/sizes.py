"""How many random networks tell what a space is like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import kstwo, kstwobign

from lightning_complexity.selection.design_spaces.distributions import (
    Floats,
    effective_size,
    error_distribution,
    finite,
)
from lightning_complexity.selection.design_spaces.efficiency import count, powers_of_two

_LARGEST = 2**14  # of the paper


@dataclass(frozen=True)
class SampleSize:
    """How many networks are enough. Its ``str`` says so.

    Attributes:
        enough: The least number of networks whose distribution is within the tolerance, so confidently.
        pilot: Networks of the pilot sample.
        effective: Its effective sample size; less than ``pilot`` if networks are weighted.
        off: How far the distribution of the pilot itself may be off, so confidently.
        tolerance: Of the Kolmogorov-Smirnov distance.
        confidence: With which the distance is kept.
        distances: A row for each size of a sub-sample: its ``size``; the ``mean`` of its distance to the pilot and the
            quantile ``high`` at the confidence, from draws; ``expected_high`` by the exact law.
    """

    enough: int
    pilot: int
    effective: float
    off: float
    tolerance: float
    confidence: float
    distances: pd.DataFrame

    @property
    def missing(self) -> int:
        """How many more networks are needed."""
        return max(self.enough - self.pilot, 0)

    @property
    def distinguishable(self) -> float:
        """The distance of two spaces, with as many networks each, below which a difference is likely not to be seen."""
        return float(kstwobign.ppf(self.confidence)) * math.sqrt(2 / self.effective)

    def __str__(self) -> str:
        weighted = f", as good as {self.effective:.0f} of equal weight" if self.effective < 0.99 * self.pilot else ""
        need = f"{self.missing} more are needed" if self.missing else "they are enough"
        return (
            f"{self.enough} networks are enough: in {100 * self.confidence:g} of 100 samples the distribution of their "
            f"errors is within {self.tolerance:g} of the space's everywhere. There are {self.pilot}{weighted}, which "
            f"may be off by {self.off:.3f}: {need}. Of two spaces with as many networks each, a distance below "
            f"{self.distinguishable:.3f} would mostly be taken for chance."
        )


def sample_size(
    errors: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    tolerance: float = 0.1,
    confidence: float = 0.95,
    sizes: Sequence[int] | None = None,
    draws: int = 100,
    seed: int = 0,
) -> SampleSize:
    r"""Say how many random networks of a space are enough, from a pilot sample of it.

    Enough are the least number :math:`k` of networks with

    .. math:: P\Big(\sup_e |F_k(e) - F(e)| \le t\Big) \ge c,

    for a tolerance :math:`t` and a confidence :math:`c`. For errors without ties this probability is Kolmogorov's, the
    same for all spaces: 181 networks for 0.1 at 95 %, and about :math:`1.84 / t^2` for smaller tolerances. Ties make
    distances smaller. Weighted networks count as many as their effective sample size says, so that :math:`k` is
    larger by its ratio to the number of networks.

    Beside that, samples of the pilot are drawn, with replacement, and the distance of each to the pilot measured, which
    shows how far the rule holds for these weights.

    Args:
        errors: Of the pilot's networks.
        weights: Of these, such as those of :func:`normalizing_weights`; equal if not given.
        tolerance: Between 0 and 1.
        confidence: Between 0 and 1.
        sizes: Of the samples that are drawn; powers of two up to four times what is enough, and to 16,384, if
            not given.
        draws: Samples of each size.
        seed: Of random numbers.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Radosavovic et al., ICCV 2019, where the sizes at which the mean distance stops to fall fast are found by
        eye, at 100 to 1000 networks. Distribution of the distance: Simard and L'Ecuyer, J. Stat. Softw. 39(11), 2011.

    Example:
        >>> found = sample_size(np.random.default_rng(0).normal(size=100))
        >>> found.enough, found.missing, round(found.off, 3)
        (181, 81, 0.134)
    """
    for role, value in (("tolerance", tolerance), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{role} must be between 0 and 1, got {value}.")
    values = finite(errors, "errors")
    found = error_distribution(values, weights)
    mass = np.full(len(values), 1 / len(values)) if weights is None else finite(weights, "weights")
    effective = effective_size(mass)
    share = effective / len(values)
    enough = math.ceil(_least_size(tolerance, confidence) / share - 1e-9)
    numbers = powers_of_two(min(_LARGEST, 4 * enough)) if sizes is None else [count(k, "sizes") for k in sizes]
    generator = np.random.default_rng(seed)
    rows = []
    for k in numbers:
        distances = _distances(values, mass, found(np.unique(values)), k, count(draws, "draws"), generator)
        law = kstwo(max(round(k * share), 1))
        rows.append((k, distances.mean(), np.quantile(distances, confidence), law.ppf(confidence)))
    names = ["size", "mean", "high", "expected_high"]
    off = float(kstwo(max(round(effective), 1)).ppf(confidence))
    return SampleSize(enough, len(values), effective, off, tolerance, confidence, pd.DataFrame(rows, columns=names))


def _least_size(tolerance: float, confidence: float) -> int:
    """By bisection, since more networks are never farther off at a given confidence."""
    low, high = 0, 1
    while kstwo(high).ppf(confidence) > tolerance:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if kstwo(middle).ppf(confidence) <= tolerance else (middle, high)
    return high


def _distances(
    values: Floats, mass: Floats, pilot: Floats, size: int, draws: int, generator: np.random.Generator
) -> Floats:
    """Of samples to the pilot they are drawn from; a sample of weight zero says nothing, and is as far as can be."""
    _, place = np.unique(values, return_inverse=True)
    found = np.empty(draws)
    for draw in range(draws):
        chosen = generator.integers(len(values), size=size)
        shares = np.bincount(place[chosen], mass[chosen], minlength=len(pilot))
        total = shares.sum()
        found[draw] = np.abs(shares.cumsum() / total - pilot).max() if total > 0 else 1.0
    return found
