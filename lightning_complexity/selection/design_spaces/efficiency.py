"""How good the best of some random networks is; exactly, from the distribution, without drawing any."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import gammaln

from lightning_complexity.selection.design_spaces.distributions import Distribution, Floats, error_distribution, finite

QUANTILES = (0.025, 0.5, 0.975)


def search_efficiency(
    errors: ArrayLike,
    draws: Sequence[int] | None = None,
    *,
    weights: ArrayLike | None = None,
    replace: bool = True,
) -> pd.DataFrame:
    r"""The least error among k random networks, for each k.

    With replacement the least of :math:`k` draws exceeds :math:`e` with probability :math:`(1 - F(e))^k`; without, with
    that of :math:`k` draws all from the :math:`r` networks of larger error,
    :math:`\binom{r}{k} / \binom{N}{k}`. Mean, deviation and quantiles follow by summation; nothing is simulated.

    Args:
        errors: One a network.
        draws: Numbers of networks that are tried; powers of two up to the number of networks if not given.
        weights: Of the networks, such as those of :func:`normalizing_weights`; equal if not given.
        replace: Whether a network can be drawn twice, as networks of a space can that the errors are a sample of.
            Without replacement the errors are all there are, as in a table.

    Returns:
        A row for each number of draws, with columns ``draws``, ``mean``, ``sd``, and the quantiles ``q2.5``,
        ``q50`` and ``q97.5``.

    Raises:
        ValueError: If a number of draws is not positive, or there are not as many networks without replacement; if
            weights come without replacement, for which there is no exact result.

    References:
        Radosavovic et al., ICCV 2019, where draws are simulated.

    Example:
        >>> search_efficiency([0.1, 0.2, 0.3, 0.4], [1, 2, 4], replace=False)["mean"].round(3).tolist()
        [0.25, 0.167, 0.1]
    """
    if weights is not None and not replace:
        raise ValueError(
            "weights need replace=True: without replacement the least of weighted draws has no closed form."
        )
    found = error_distribution(errors, weights)
    size = len(finite(errors, "errors"))
    numbers = powers_of_two(size) if draws is None else [count(k, "draws") for k in draws]
    rows = []
    for k in numbers:
        chances = np.diff(1 - _all_worse(found, k, None if replace else size), prepend=0.0)
        mean = float(chances @ found.errors)
        sd = float(chances @ np.square(found.errors - mean)) ** 0.5
        least = Distribution(found.errors, chances, np.nan)
        rows.append({"draws": k, "mean": mean, "sd": sd, **{f"q{100 * q:g}": least.quantile(q) for q in QUANTILES}})
    return pd.DataFrame(rows)


def _all_worse(found: Distribution, k: int, size: int | None) -> Floats:
    """For each error, the chance that k draws all have larger ones; of a table, if its size is given."""
    worse = np.clip(1 - found.shares.cumsum(), 0.0, 1.0)
    worse[-1] = 0.0
    if size is None:
        return np.asarray(worse**k)
    if k > size:
        raise ValueError(f"draws without replacement must be at most the {size} networks, got {k}.")
    worse_ones = np.rint(worse * size)
    enough = worse_ones >= k
    left = np.where(enough, worse_ones, k)
    logs = gammaln(left + 1) - gammaln(left - k + 1) - gammaln(size + 1) + gammaln(size - k + 1)
    return np.where(enough, np.exp(logs), 0.0)


class Contest(NamedTuple):
    """Chances of the best of one set of draws against the best of another: they add up to 1."""

    wins: float
    ties: float
    losses: float


def best_against_best(
    first: ArrayLike,
    second: ArrayLike,
    m: int,
    n: int,
    *,
    weights: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    replace: bool = True,
) -> Contest:
    r"""The chances that the best of m networks of one space has a lower error than the best of n of another.

    .. math:: P = \sum_e P(\min_m = e) \, P(\min_n > e),

    exact, for draws that are independent of each other. This is why the best networks of two searches say little about
    their spaces: the space in which more networks were tried wins. See :func:`chance_of_the_larger_search`.

    Args:
        first: Errors of one space.
        second: Errors of the other; the same ones for a space against itself.
        m: Draws from the first.
        n: Draws from the second.
        weights: Of the networks of each.
        replace: Whether a network can be drawn twice by one set; weights need it.

    Raises:
        ValueError: As :func:`search_efficiency`.

    Example:
        >>> contest = best_against_best([1, 2, 3], [1, 2, 3], 2, 1, replace=False)
        >>> [round(chance, 4) for chance in contest]
        [0.5556, 0.3333, 0.1111]
    """
    least = []
    for errors, k, mass in ((first, m, weights[0]), (second, n, weights[1])):
        if mass is not None and not replace:
            raise ValueError("weights need replace=True: without replacement there is no closed form.")
        found = error_distribution(errors, mass)
        size = None if replace else len(finite(errors, "errors"))
        chances = np.diff(1 - _all_worse(found, count(k, "draws"), size), prepend=0.0)
        least.append((found.errors, chances))
    (values, chances), (others, other_chances) = least
    behind = np.concatenate([[0.0], other_chances.cumsum()])
    at_most, below = (behind[np.searchsorted(others, values, side=side)] for side in ("right", "left"))
    losses, ties = float(chances @ below), float(chances @ (at_most - below))
    return Contest(1 - losses - ties, ties, losses)


def chance_of_the_larger_search(m: int, n: int) -> float:
    r"""The chance :math:`m / (m + n)` that the best of m networks beats the best of n others of the same space.

    Exact for independent draws from any distribution without ties, and for two sets without a network in common out of
    a table: the best of all is in either set by the number of its networks.

    Args:
        m: Networks that the first search tries.
        n: Networks that the second one tries.

    Example:
        >>> round(chance_of_the_larger_search(1000, 100), 3)  # 90 % in 5000 trials of the paper
        0.909
    """
    m, n = count(m, "m"), count(n, "n")
    return m / (m + n)


def expected_evaluations(total: int, top: int = 1) -> float:
    r"""How many networks of a table random search tries, on average, until it finds one of the best.

    :math:`(N + 1) / (k + 1)`, for draws without replacement of :math:`N` networks, of which :math:`k` are sought: they
    divide the order into :math:`k + 1` parts that are equally long on average.

    Args:
        total: Networks of the table.
        top: How many of them are sought.

    Raises:
        ValueError: If numbers are not positive, or more are sought than there are.

    Example:
        >>> round(expected_evaluations(3969, 10), 1)
        360.9
    """
    total, top = count(total, "total"), count(top, "top")
    if top > total:
        raise ValueError(f"top must be at most the {total} networks, got {top}.")
    return float(Fraction(total + 1, top + 1))


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4 and so on, as long as they are not more."""
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def count(value: int, role: str) -> int:
    """A positive whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{role} must be positive whole numbers, got {value!r}.")
    return int(value)
