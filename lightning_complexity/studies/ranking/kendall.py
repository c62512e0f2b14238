r"""Kendall's rank correlation, over all networks and where one hyper-parameter at a time changes.

For networks with measures :math:`\mu_i` and gaps :math:`g_i`, and :math:`s = \sum_{i \ne j}
\operatorname{sgn}(\mu_i - \mu_j) \operatorname{sgn}(g_i - g_j)`:

- tau-a is :math:`s / (n (n - 1))`. A tie adds nothing to :math:`s` but counts as a pair, so that ties pull to 0.
- tau-b is :math:`s / \sqrt{(n (n - 1) - t_\mu)(n (n - 1) - t_g)}` with :math:`t` the ordered pairs that are tied
  in one of the two.

Sources: Kendall, Biometrika 30, 1938; Jiang et al., "Fantastic generalization measures and where to find them", ICLR
2020 (arXiv:1912.02178), for tau-a in granulated form.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import kendalltau

from lightning_complexity.studies.ranking.design import Bools, Design, Floats, Pairs


def kendall(measure: Floats, gap: Floats) -> tuple[float, float]:
    """Kendall's tau-a and tau-b.

    Args:
        measure: Shape ``(n,)``.
        gap: Shape ``(n,)``.

    Returns:
        Both are 1 if the measure rises with the gap throughout, and -1 if it falls. If either is
        constant, tau-a is 0, since there are only ties, and tau-b, which leaves ties out, is ``nan``. With fewer than
        two networks both are ``nan``.

    Example:
        >>> [round(t, 4) for t in kendall(np.array([1.0, 2.0, 2.0]), np.array([0.1, 0.2, 0.3]))]
        [0.6667, 0.8165]
    """
    pairs = len(gap) * (len(gap) - 1) // 2
    if pairs == 0:
        return math.nan, math.nan
    untied_measure, untied_gap = pairs - _tied(measure), pairs - _tied(gap)
    if not untied_measure or not untied_gap:
        return 0.0, math.nan
    if pairs == 1:  # scipy divides by the variance of its test, which two networks do not have
        sign = float(np.sign(measure[1] - measure[0]) * np.sign(gap[1] - gap[0]))
        return sign, sign
    tau_b = float(kendalltau(measure, gap, method="asymptotic").statistic)
    # The sum of signs is a whole number; scipy gives it divided by this root.
    total = round(tau_b * math.sqrt(untied_measure) * math.sqrt(untied_gap))
    return total / pairs, tau_b


def _tied(values: Floats) -> int:
    counts = np.unique(values, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def sign_products(pairs: Pairs, measures: Floats, gap: Floats) -> Floats:
    """Whether measure and gap order each pair alike (1), differently (-1), or not at all (0).

    Args:
        pairs: Of configurations.
        measures: Of configurations, shape ``(configurations, measures)``.
        gap: Shape ``(configurations,)``.

    Returns:
        Shape ``(pairs, measures)``.
    """
    sign = np.sign(gap[pairs.first] - gap[pairs.second])
    return np.sign(measures[pairs.first] - measures[pairs.second]) * sign[:, None]


def granulated(design: Design, measures: Floats, gap: Floats) -> Floats:
    r"""Granulated Kendall coefficients :math:`\psi_i`, one a hyper-parameter.

    For each setting of the other hyper-parameters, tau-a of the configurations that differ in hyper-parameter
    :math:`i` only; :math:`\psi_i` is their mean over the settings with at least two configurations. Their mean over
    hyper-parameters is :math:`\Psi`. It cannot be bought by following one hyper-parameter that happens to have many
    values. A constant measure has :math:`\psi_i = 0`.

    Args:
        design: The configurations.
        measures: Of configurations, shape ``(configurations, measures)``; a configuration that is ``nan`` in any
            column, or in ``gap``, is taken to be absent.
        gap: Shape ``(configurations,)``.

    Returns:
        Shape ``(measures, hyperparameters)``; ``nan`` for a hyper-parameter in which no two configurations differ
        alone.
    """
    present = np.isfinite(gap) & np.isfinite(measures).all(1)
    return np.stack([_granulated(pairs, present, measures, gap) for pairs in design.pairs], axis=1)


def _granulated(pairs: Pairs, present: Bools, measures: Floats, gap: Floats) -> Floats:
    both = present[pairs.first] & present[pairs.second]
    kept = Pairs(pairs.first[both], pairs.second[both], pairs.group[both])
    if not both.any():
        return np.full(measures.shape[1], np.nan)
    # The mean over groups of tau-a, which is the mean over the pairs of a group.
    num_pairs = np.bincount(kept.group)
    return (1 / num_pairs[kept.group] / np.count_nonzero(num_pairs)) @ sign_products(kept, measures, gap)


def mean_of_defined(psi: Floats) -> Floats:
    r""":math:`\Psi`: the mean over hyper-parameters that have a :math:`\psi_i`; ``nan`` if none has.

    Args:
        psi: Shape ``(measures, hyperparameters)``.
    """
    defined = np.isfinite(psi)
    with np.errstate(invalid="ignore"):
        return np.where(defined, psi, 0.0).sum(1) / defined.sum(1)
