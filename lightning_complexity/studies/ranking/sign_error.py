r"""Robust sign error: how often a measure orders two networks against their gaps, where it fails most.

An environment is a pair of configurations that differ in one hyper-parameter only. For a run :math:`a` of
one and a run :math:`b` of the other, the sign error is

.. math:: e = \tfrac12 (1 - \operatorname{sgn}(\mu_a - \mu_b) \operatorname{sgn}(g_a - g_b)),

0 or 1, and 1/2 for a tie in either. The loss of an environment is the mean over its pairs of runs, weighted by

.. math:: w = \max(h(|g_a - g_b|) - \tfrac12, 0), \quad h(D) = \max(0, 1 - 2 e^{-2 n (D/2)^2})^2,

a bound (Hoeffding) for how surely the order of the two accuracies is not chance on :math:`n` test samples. An
environment counts if its effective sample size :math:`(\sum w)^2 / \sum w^2` is at least 12. Each counts twice, once
in each direction, which matters for percentiles only. The paper's robust sign error is the maximum over environments.
In the weak family, environments of the same two values of the same hyper-parameter are one.

Source: Dziugaite et al., "In search of robust measures of generalization", NeurIPS 2020 (arXiv:2010.11924).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lightning_complexity.studies.ranking.design import Bools, Design, Floats, Ints

MIN_EFFECTIVE_SAMPLES = 12.0
_RUN_PAIRS_AT_ONCE = 1_000_000


def hoeffding_weight(difference: Floats, test_samples: int) -> Floats:
    """Weight of a pair of runs by the difference of their gaps.

    Args:
        difference: Of two gaps, as fractions; any sign.
        test_samples: How many samples the accuracies are of.

    Returns:
        Between 0, for differences that may be chance, and 1/2.

    Example:
        >>> hoeffding_weight(np.array([0.0, 0.019, 0.03, 1.0]), 10_000).round(3)
        array([0.   , 0.   , 0.456, 0.5  ])
    """
    surely = np.maximum(0.0, 1 - 2 * np.exp(-2 * test_samples * (difference / 2) ** 2)) ** 2
    return np.maximum(surely - 0.5, 0.0)


@dataclass(frozen=True)
class Environments:
    """Sums over pairs of runs, one row a pair of configurations.

    Attributes:
        hyperparameter: Index of the one that differs.
        low: Index of the smaller one of its two values.
        high: Index of the greater one.
        errors: Weighted sum of sign errors of each measure, shape ``(environments, measures)``.
        weights: Sum of weights.
        squares: Sum of squared weights.
    """

    hyperparameter: Ints
    low: Ints
    high: Ints
    errors: Floats
    weights: Floats
    squares: Floats

    @classmethod
    def none(cls, num_measures: int) -> Environments:
        """No environments."""
        nothing = np.empty(0, dtype=np.int64)
        return cls(nothing, nothing, nothing, np.empty((0, num_measures)), np.empty(0), np.empty(0))

    @property
    def losses(self) -> Floats:
        """Mean sign error, shape ``(environments, measures)``; ``nan`` without weight."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.errors / self.weights[:, None]

    @property
    def effective_samples(self) -> Floats:
        """Number of equally weighted pairs of runs that say as much."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.weights > 1e-8, self.weights**2 / self.squares, 0.0)

    def enough(self, minimum: float) -> Bools:
        """Which have the effective sample size, or are within rounding of it."""
        found = self.effective_samples
        return (found > minimum) | np.isclose(found, minimum)

    def weak_family(self) -> Environments:
        """Those of the same two values of the same hyper-parameter as one."""
        keys = np.stack([self.hyperparameter, self.low, self.high], axis=1)
        unique, place = np.unique(keys, axis=0, return_inverse=True)
        sums = []
        for values in (self.errors, self.weights, self.squares):
            total = np.zeros((len(unique), *values.shape[1:]))
            np.add.at(total, place.reshape(-1), values)
            sums.append(total)
        return Environments(unique[:, 0], unique[:, 1], unique[:, 2], *sums)


def compared(design: Design) -> tuple[Ints, Ints, Ints]:
    """All pairs of configurations that differ in one hyper-parameter only, and which one."""
    first = np.concatenate([pairs.first for pairs in design.pairs])
    second = np.concatenate([pairs.second for pairs in design.pairs])
    which = np.repeat(np.arange(len(design.names)), [len(pairs.first) for pairs in design.pairs])
    return first, second, which


@dataclass(frozen=True)
class RunPairs:
    """All pairs of runs of some pairs of configurations, shape ``(environments, runs of one, runs of the other)``.

    Attributes:
        first: Runs of one, shape ``(environments, runs, 1)``.
        second: Runs of the other, shape ``(environments, 1, runs)``.
        order: Sign of the difference of gaps.
        weight: 0 where there is no run.
    """

    first: Ints
    second: Ints
    order: Floats
    weight: Floats

    def errors(self, measure: Floats) -> Floats:
        """Sign error of each pair of runs.

        Args:
            measure: Of runs, shape ``(runs,)``.
        """
        return 0.5 - 0.5 * np.sign(measure[self.first] - measure[self.second]) * self.order


def run_pairs(
    slots: Ints, first: Ints, second: Ints, gap: Floats, test_samples: int | None
) -> Iterator[tuple[slice, RunPairs]]:
    """Pairs of runs, for as many pairs of configurations at once as memory should hold.

    Args:
        slots: Runs of each configuration, ``-1`` where there is none.
        first: One configuration of each pair.
        second: The other.
        gap: Of runs, shape ``(runs,)``.
        test_samples: Of the noise filter.
    """
    step = max(1, _RUN_PAIRS_AT_ONCE // slots.shape[1] ** 2)
    for start in range(0, len(first), step):
        rows = slice(start, start + step)
        one, other = slots[first[rows]][:, :, None], slots[second[rows]][:, None, :]
        difference = gap[one] - gap[other]
        weight = ((one >= 0) & (other >= 0)).astype(float)
        if test_samples is not None:
            weight *= hoeffding_weight(difference, test_samples)
        yield rows, RunPairs(one, other, np.sign(difference), weight)


def environments(design: Design, measures: Floats, gap: Floats, test_samples: int | None) -> Environments:
    """Compare the runs of all pairs of configurations that differ in one hyper-parameter.

    Args:
        design: The runs.
        measures: Of runs, shape ``(runs, measures)``.
        gap: Of runs, shape ``(runs,)``.
        test_samples: Of the noise filter; ``None`` gives each pair of runs weight 1.
    """
    first, second, which = compared(design)
    values = np.stack([design.codes[first, which], design.codes[second, which]])
    errors = np.empty((len(first), measures.shape[1]))
    weights, squares = np.empty(len(first)), np.empty(len(first))
    for rows, part in run_pairs(_packed(design.slots), first, second, gap, test_samples):
        for column, runs in enumerate(measures.T):
            errors[rows, column] = np.einsum("eab,eab->e", part.weight, part.errors(runs))
        weights[rows] = part.weight.sum((1, 2))
        squares[rows] = (part.weight**2).sum((1, 2))
    return Environments(which, values.min(0), values.max(0), errors, weights, squares)


def _packed(slots: Ints) -> Ints:
    """Runs of each configuration without holes between them."""
    order = np.argsort(slots < 0, axis=1, kind="stable")
    packed = np.take_along_axis(slots, order, axis=1)
    return packed[:, : int((slots >= 0).sum(1).max())]


def summarized(losses: Floats) -> Floats:
    """Mean, 90th percentile (linear) and maximum over environments, each in both directions.

    Args:
        losses: Shape ``(environments, measures)``.

    Returns:
        Shape ``(3, measures)``; ``nan`` without environments.
    """
    if not len(losses):
        return np.full((3, losses.shape[1]), np.nan)
    both = np.repeat(losses, 2, axis=0)
    return np.stack([both.mean(0), np.percentile(both, 90, axis=0), both.max(0)])
