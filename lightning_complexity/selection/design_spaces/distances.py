"""How far apart the errors of two spaces are: what is estimated, how surely, and whether chance would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lightning_complexity.selection.design_spaces.distributions import (
    Bins,
    Distribution,
    Floats,
    Ints,
    error_distribution,
    normalizing_weights,
)

_Side: TypeAlias = "tuple[Floats, Floats, Ints]"
_ENTRIES_AT_ONCE = 2_000_000
_SAME = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Difference:
    """How the errors of two spaces differ.

    Attributes:
        distance: Kolmogorov-Smirnov: the largest distance between the distributions.
        at: The error where it is.
        p_value: The chance of such a distance, or a larger one, if both spaces had the same errors.
        first_wins: The chance that a random network of the first space has a lower error than one of the second; equal
            errors count half.
        median_difference: The first space's median error less the second one's.
        distributions: Of the errors of both spaces.
        sizes: How many networks were compared.
        confidence: Of the intervals.
    """

    distance: Estimate
    at: float
    p_value: float
    first_wins: Estimate
    median_difference: Estimate
    distributions: tuple[Distribution, Distribution]
    sizes: tuple[int, int]
    confidence: float

    @property
    def is_shown(self) -> bool:
        """Whether chance is an unlikely reason for the distance."""
        return self.p_value < 1 - self.confidence

    @property
    def better(self) -> int | None:
        """0 or 1, the space whose random networks are better; none if that is not shown."""
        if not self.is_shown or self.first_wins.low <= 0.5 <= self.first_wins.high:
            return None
        return 0 if self.first_wins.value > 0.5 else 1


def ks_distance(first: Distribution, second: Distribution) -> tuple[float, float]:
    r"""The Kolmogorov-Smirnov distance :math:`\sup_e |F_1(e) - F_2(e)|`, and the least error where it is.

    Args:
        first: Of one space.
        second: Of another.

    Example:
        >>> ks_distance(error_distribution([1, 2, 3, 4]), error_distribution([3, 4, 5, 6]))
        (0.5, 2.0)
    """
    errors = np.union1d(first.errors, second.errors)
    distances = np.abs(first(errors) - second(errors))
    place = int(np.flatnonzero(distances >= distances.max() - _SAME)[0])
    return float(distances[place]), float(errors[place])


@dataclass(frozen=True)
class _Pool:
    """The networks of two spaces in the order of their errors; networks in one stratum stand for each other.

    Attributes:
        weights: Of each network in its own space.
        is_first: Whether it is of the first space.
        strata: The bin of each network; 0 without bins.
        starts: Where each different error begins.
        errors: The different errors.
    """

    weights: Floats
    is_first: np.ndarray[tuple[int], np.dtype[np.bool_]]
    strata: Ints
    starts: Ints
    errors: Floats

    @classmethod
    def of(cls, first: _Side, second: _Side) -> _Pool:
        errors, weights, strata = (np.concatenate(both) for both in zip(first, second, strict=True))
        order = np.argsort(errors, kind="stable")
        is_first = (np.arange(len(errors)) < len(first[0]))[order]
        distinct, starts = np.unique(errors[order], return_index=True)
        return cls(weights[order], is_first, strata[order], starts, distinct)

    def masses(self, weights: Floats) -> Floats:
        """Weight of each different error, for each row of weights."""
        return np.add.reduceat(weights, self.starts, axis=-1)

    def chunks(self, draws: int) -> Iterator[int]:
        size = max(1, _ENTRIES_AT_ONCE // len(self.weights))
        yield from (min(size, draws - start) for start in range(0, draws, size))


def difference(
    first: Floats,
    second: Floats,
    complexities: tuple[Floats, Floats] | None = None,
    bins: Bins | None = None,
    *,
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Difference:
    r"""Estimate how the errors of two spaces differ; with bins, at equal complexity.

    The p-value is that of a permutation test: networks change spaces at random, with bins only within their bin, so
    that the weights stay as they are. It is exact, for any number of networks and any ties, if within each bin both
    spaces have the same errors. Effective sample sizes in the usual formula would not give that: they take weighted
    networks for independent draws, while the number of networks in each bin is given.

    Intervals are from the bootstrap within each space and bin, in which one network less is drawn than there are, since
    samples of all would vary too little where networks are few (Rao and Wu, JASA 83, 1988). For the chance to win and
    for medians they are percentiles. The distance, as a largest one, is estimated too large; its interval is
    :math:`D \pm c`, where :math:`c` bounds how far the difference of the distributions is off anywhere:

    .. math:: \big| \sup |\hat F_1 - \hat F_2| - \sup |F_1 - F_2| \big| \le
        \sup |(\hat F_1 - \hat F_2) - (F_1 - F_2)|.

    It is wider than need be, and holds the distance whatever that is, zero included.

    Args:
        first: Errors of one space.
        second: Errors of the other.
        complexities: Of the networks of each, if there are bins.
        bins: Of complexity; networks outside are left out.
        confidence: Of intervals.
        draws: Permutations, and bootstrap samples.
        seed: Of random numbers.
    """
    sides = [_side(first, None, None), _side(second, None, None)]
    if complexities is not None and bins is not None:
        sides = [
            _side(errors, complexity, bins) for errors, complexity in zip((first, second), complexities, strict=True)
        ]
    pool = _Pool.of(*sides)
    found = (error_distribution(*sides[0][:2]), error_distribution(*sides[1][:2]))
    distance, at = ks_distance(*found)
    generator = np.random.default_rng(seed)
    p_value = _permutation_p_value(pool, distance, draws, generator)
    differences, wins, medians = _statistics(pool, pool.weights[None])
    off, of_wins, of_medians = _bootstrap(pool, differences, draws, generator)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    margin = float(np.quantile(off, confidence))
    return Difference(
        Estimate(distance, max(distance - margin, 0.0), min(distance + margin, 1.0)),
        at,
        p_value,
        Estimate(float(wins[0]), *map(float, np.quantile(of_wins, tails))),
        Estimate(float(medians[0]), *map(float, np.quantile(of_medians, tails))),
        found,
        (len(sides[0][0]), len(sides[1][0])),
        confidence,
    )


def _side(errors: Floats, complexity: Floats | None, bins: Bins | None) -> _Side:
    """Errors, weights and bins of a space's networks; without those outside of the bins."""
    if complexity is None or bins is None:
        return errors, np.full(len(errors), 1 / len(errors)), np.zeros(len(errors), np.int64)
    places = bins.place(complexity)
    kept = places >= 0
    return errors[kept], normalizing_weights(complexity, bins)[kept], places[kept]


def _statistics(pool: _Pool, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Differences of distributions, chance that the first wins, and difference of medians, for each row of weights."""
    a, b = (pool.masses(np.where(own, weights, 0.0)) for own in (pool.is_first, ~pool.is_first))
    below_a, below_b = a.cumsum(-1), b.cumsum(-1)
    wins = (a * (1 - below_b + b / 2)).sum(-1)
    medians = [pool.errors[(below >= 0.5 - _SAME).argmax(-1)] for below in (below_a, below_b)]
    return below_a - below_b, wins, medians[0] - medians[1]


def _permutation_p_value(pool: _Pool, distance: float, draws: int, generator: np.random.Generator) -> float:
    signed = np.where(pool.is_first, pool.weights, -pool.weights)
    groups = [np.flatnonzero(pool.strata == stratum) for stratum in np.unique(pool.strata)]
    at_least = 0
    for count in pool.chunks(draws):
        permuted = np.empty((count, len(signed)))
        for rows in groups:
            permuted[:, rows] = generator.permuted(np.tile(signed[rows], (count, 1)), axis=1)
        distances = np.abs(pool.masses(permuted).cumsum(-1)).max(-1)
        at_least += int((distances >= distance - _SAME).sum())
    return (at_least + 1) / (draws + 1)


def _bootstrap(pool: _Pool, differences: Floats, draws: int, generator: np.random.Generator) -> list[Floats]:
    """How far differences of distributions are off where they are most; the chance to win; difference of medians."""
    parts = 2 * pool.strata + pool.is_first
    groups = [np.flatnonzero(parts == part) for part in np.unique(parts)]
    found = []
    for count in pool.chunks(draws):
        times = np.empty((count, len(parts)))
        for rows in groups:
            times[:, rows] = _resampled(len(rows), count, generator)
        others, wins, medians = _statistics(pool, times * pool.weights)
        found.append((np.abs(others - differences).max(-1), wins, medians))
    return [np.concatenate(values) for values in zip(*found, strict=True)]


def _resampled(size: int, count: int, generator: np.random.Generator) -> Floats:
    """How often each network counts; their sum is the size. A single one always counts once."""
    drawn = max(size - 1, 1)
    chosen = generator.integers(size, size=(count, drawn)) + size * np.arange(count)[:, None]
    return np.bincount(chosen.ravel(), minlength=count * size).reshape(count, size).astype(float) * (size / drawn)
