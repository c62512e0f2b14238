r"""Conditional mutual information of the order by a measure and the order by the gap.

For a pair of configurations, :math:`V_\mu` and :math:`V_g` say which has the greater measure and the greater gap, and
:math:`U_S` holds the values of the hyper-parameters in :math:`S` of both. The statistic is :math:`I(V_\mu; V_g | U_S) /
H(V_g | U_S)`, and :math:`K` its least value over all :math:`S` of at most two hyper-parameters: what the measure says
about the gap that hyper-parameters do not say already. It does not see the sign: a measure that falls
where the gap rises scores as well as one that rises.

Two variants are in use, and differ:

- that of Jiang et al. (ICLR 2020, arXiv:1912.02178), :func:`conditional_information`;
- that of the competition "Predicting Generalization in Deep Learning" (Jiang et al., NeurIPS 2020, arXiv:2012.07976),
  as its scoring program computes it, :func:`competition_information`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lightning_complexity.studies.ranking.design import Floats, Ints, settings

_ROWS_AT_ONCE = 1024
_NUMBERS_AT_ONCE = 20_000_000
_NEVER_ZERO = 1e-12  # what the competition's scoring program adds to probabilities inside logarithms


@dataclass(frozen=True)
class Cells:
    """How many ordered pairs have which order, by the values of some hyper-parameters.

    Each array has shape ``(settings of one, settings of the other)``.

    Attributes:
        both: Measure and gap of the first are greater.
        measure: The measure of the first is greater, whatever the gaps.
        gap: The gap of the first is greater, whatever the measures.
        against: The measure of the first is greater, and the gap of the second.
        pairs: All pairs, each configuration with itself among them.
    """

    both: Floats
    measure: Floats
    gap: Floats
    against: Floats
    pairs: Floats


def subsets(num_hyperparameters: int, size: int) -> list[tuple[int, ...]]:
    """All sets of at most ``size`` hyper-parameters, smaller ones first.

    Example:
        >>> subsets(3, 2)
        [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    """
    return [s for n in range(size + 1) for s in combinations(range(num_hyperparameters), n)]


def cells(codes: Ints, measure: Floats, gap: Floats, sets: list[tuple[int, ...]]) -> Iterator[Cells]:
    """Count ordered pairs of configurations for each set of hyper-parameters.

    Args:
        codes: Values of the hyper-parameters of each configuration, shape ``(configurations, hyperparameters)``.
        measure: Of configurations, shape ``(configurations,)``.
        gap: Shape ``(configurations,)``.
        sets: Which hyper-parameters are known.
    """
    numbered = [settings(codes, chosen) for chosen in sets]
    widths = [int(numbers.max()) + 1 for numbers in numbered]
    start = 0
    while start < len(sets):
        end = start + max(1, int(np.searchsorted(np.cumsum(widths[start:]), _NUMBERS_AT_ONCE // len(gap))))
        yield from _counted(measure, gap, numbered[start:end])
        start = end


def _counted(measure: Floats, gap: Floats, numbered: list[Ints]) -> Iterator[Cells]:
    # Pairs are summed over the second by a product with the settings' indicators. Counts are
    # exact in single precision up to 16 million configurations.
    indicators = [np.eye(int(numbers.max()) + 1, dtype=np.float32)[numbers] for numbers in numbered]
    indicator = np.concatenate(indicators, axis=1)
    sums = np.zeros((4, len(gap), indicator.shape[1]), dtype=np.float32)
    for start in range(0, len(gap), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        above, gap_above = measure[rows, None] > measure, gap[rows, None] > gap
        against = above & (gap[rows, None] < gap)
        for total, which in zip(sums, (above & gap_above, above, gap_above, against), strict=True):
            total[rows] = which.astype(np.float32) @ indicator
    end = 0
    for own in indicators:
        start, end = end, end + own.shape[1]
        first = own.T.astype(float)
        both, of_measure, of_gap, opposed = (first @ total[:, start:end] for total in sums)
        yield Cells(both, of_measure, of_gap, opposed, pairs=np.outer(first.sum(1), first.sum(1)))


def least(values: list[float]) -> float:
    """The least value that is defined; ``nan`` if none is.

    Example:
        >>> least([float("nan"), 0.25, 0.5])
        0.25
    """
    return min((value for value in values if value == value), default=float("nan"))


def conditional_information(counts: Cells) -> float:
    r"""Normalised conditional mutual information of Jiang et al., in :math:`[0, 1]`.

    Over ordered pairs of different configurations that are tied neither in the measure nor in the gap: cells
    of :math:`U_S` weigh as they have pairs,

    .. math:: \frac{\sum_u p(u) I(V_\mu; V_g | u)}{\sum_u p(u) H(V_g | u)}.

    Returns:
        0 if there is no pair without ties, as for a constant measure; ``nan`` if :math:`S` decides the order of all
        gaps, so that nothing is left to explain.

    Example:
        >>> one = np.ones((1, 1))
        >>> conditional_information(Cells(both=3 * one, measure=3 * one, gap=3 * one, against=0 * one, pairs=9 * one))
        1.0
    """
    both, against = counts.both, counts.against
    joint = np.stack([[both, against], [against.T, both.T]])  # [measure greater or not, gap greater or not]
    information, entropy = _bits(joint)
    if joint.sum() == 0:
        return 0.0
    total = entropy.sum()
    return float(information.sum() / total) if total > 0 else np.nan


def competition_information(counts: Cells) -> float:
    r"""Normalised conditional mutual information as the competition scores it, in :math:`[0, 1]`.

    Its leaderboard has 100 times the least value over pairs of hyper-parameters. The variant differs in that
    :math:`|S| = 2` always; that pairs of a configuration with itself are among the pairs; that a tie counts as "not
    greater"; and that all cells that are not empty weigh the same,

    .. math:: \frac{\operatorname{mean}_u I(V_\mu; V_g | u)}{\operatorname{mean}_u H(V_g | u)},

    with :math:`10^{-12}` added to probabilities inside logarithms. ``nan`` if :math:`S` decides the order of all gaps.
    """
    filled = counts.pairs > 0
    both, pairs = counts.both[filled], counts.pairs[filled]
    measure, gap = counts.measure[filled] - both, counts.gap[filled] - both
    joint = np.stack([[both, measure], [gap, pairs - both - measure - gap]]) / pairs
    of_measure, of_gap = joint.sum(1), joint.sum(0)
    information = sum(
        joint[v, w] * np.log2((joint[v, w] + _NEVER_ZERO) / (of_measure[v] * of_gap[w] + _NEVER_ZERO))
        for v in range(2)
        for w in range(2)
    )
    entropy = -(of_gap * np.log2(of_gap + _NEVER_ZERO)).sum(0)
    mean = float(np.mean(entropy))
    return float(np.mean(information)) / mean if mean > 1e-9 else np.nan


def _bits(joint: Floats) -> tuple[Floats, Floats]:
    """Information and entropy of the gap's order, times the number of pairs, of each cell."""
    of_measure, of_gap, all_pairs = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True), joint.sum((0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.where(joint > 0, joint * np.log2(joint * all_pairs / (of_measure * of_gap)), 0.0)
        entropy = np.where(of_gap > 0, of_gap * np.log2(all_pairs / of_gap), 0.0)
    return information.sum((0, 1)), entropy.sum((0, 1))
