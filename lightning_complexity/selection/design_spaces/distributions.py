"""Distributions of the errors of a space's networks, as they are and at equal complexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

FEW = 5
"""Networks in a bin; with fewer, single ones decide what the bin says."""
MOST_BINS = 10


@dataclass(frozen=True)
class Distribution:
    r"""An empirical distribution :math:`F(e) = \sum_i w_i 1[e_i \le e]` of errors.

    Attributes:
        errors: Different errors, ascending.
        shares: The weight of each; their sum is 1.
        effective_size: :math:`1 / \sum_i w_i^2`: as many networks of equal weight are as uncertain.
    """

    errors: Floats
    shares: Floats
    effective_size: float

    def __call__(self, error: ArrayLike) -> Floats:
        """Share of networks whose error is at most this, for each of these.

        Args:
            error: Of any shape, which is that of the result.
        """
        below = np.concatenate([[0.0], np.minimum(self.shares.cumsum(), 1.0)])
        below[-1] = 1.0
        return below[np.searchsorted(self.errors, np.asarray(error, float), side="right")]

    def quantile(self, share: float) -> float:
        """The least error that this share of networks does not exceed.

        Args:
            share: Between 0 and 1.
        """
        place = np.searchsorted(self.shares.cumsum(), share - 1e-12)
        return float(self.errors[min(int(place), len(self.errors) - 1)])


def error_distribution(errors: ArrayLike, weights: ArrayLike | None = None) -> Distribution:
    r"""The empirical distribution of errors.

    The paper writes :math:`1[e_i < e]`; with :math:`\le` the distribution is continuous from the right, as is usual.
    The two differ at the errors themselves only, and no distance between distributions does.

    Args:
        errors: One a network.
        weights: Not negative, with a positive sum, to which they are scaled; equal if not given.

    Raises:
        ValueError: If there is no error, one is not finite, or weights are not as said.

    References:
        Radosavovic, Johnson, Xie, Lo and Dollár, On Network Design Spaces for Visual Recognition, ICCV 2019.

    Example:
        >>> found = error_distribution([0.3, 0.1, 0.1, 0.2])
        >>> found([0.1, 0.25]).tolist(), found.quantile(0.5), found.effective_size
        ([0.5, 0.75], 0.1, 4.0)
    """
    values = finite(errors, "errors")
    if weights is None:
        mass = np.full(len(values), 1 / len(values))
    else:
        mass = finite(weights, "weights")
        if mass.shape != values.shape or (mass < 0).any() or not mass.sum() > 0:
            raise ValueError(
                f"weights must be {len(values)} numbers that are not negative, and not all zero; got {len(mass)}, "
                f"of which the least is {mass.min():g}."
            )
        mass = mass / mass.sum()
    distinct, place = np.unique(values, return_inverse=True)
    return Distribution(distinct, np.bincount(place, mass).astype(float), effective_size(mass))


def effective_size(weights: ArrayLike) -> float:
    r"""The number of equally weighted samples that are as uncertain, :math:`(\sum_i w_i)^2 / \sum_i w_i^2`.

    Args:
        weights: Not all zero.

    References:
        Kish, Survey Sampling, Wiley 1965.

    Example:
        >>> effective_size([0.5, 0.25, 0.25])  # 1 / (1/4 + 1/16 + 1/16)
        2.66...
    """
    values = np.asarray(weights, float)
    return float(values.sum() ** 2 / np.square(values).sum())


@dataclass(frozen=True)
class Bins:
    """Parts of a range of complexity.

    Attributes:
        edges: Ascending, one more than there are bins.
        is_logarithmic: Whether the ratios of neighbouring edges are equal, and not their differences.
    """

    edges: Floats
    is_logarithmic: bool

    def __len__(self) -> int:
        return len(self.edges) - 1

    def place(self, complexity: ArrayLike) -> Ints:
        """The bin of each network, from 0; -1 outside of the range.

        A network at an inner edge is in the bin above it. One at the last edge is in the last bin, so that the range
        holds both its ends.

        Args:
            complexity: Of each network.
        """
        values = np.asarray(complexity, float)
        places = np.searchsorted(self.edges, values, side="right") - 1
        places[values == self.edges[-1]] = len(self) - 1
        places[(values < self.edges[0]) | (values > self.edges[-1])] = -1
        return places

    def counts(self, complexity: ArrayLike) -> Ints:
        """How many networks each bin has.

        Args:
            complexity: Of each network.
        """
        places = self.place(complexity)
        return np.bincount(places[places >= 0], minlength=len(self))

    def describe(self) -> str:
        """Number, kind and range."""
        kind = "logarithmic" if self.is_logarithmic else "linear"
        return f"{len(self)} {kind} bins from {self.edges[0]:.6g} to {self.edges[-1]:.6g}"


def common_bins(
    complexities: Sequence[ArrayLike],
    bins: int | None = None,
    *,
    logarithmic: bool = False,
    within: tuple[float, float] | None = None,
    names: Sequence[str] | None = None,
) -> Bins:
    """Divide the range of complexity that all spaces have in common.

    The range is that from the greatest of the least complexities to the least of the greatest. Every bin must have
    networks of every space.

    Args:
        complexities: For each space, that of its networks.
        bins: How many. If not given, as many as each have five networks of every space, but not more than ten. This
            looks at complexities and at no error.
        logarithmic: Whether ratios of edges are equal, and not differences.
        within: A range to take instead.
        names: Of the spaces, for messages.

    Raises:
        ValueError: If the spaces have no range in common, a bin is empty, or a logarithm does not exist; the message
            says what to change.

    Example:
        >>> common_bins([[0, 1, 2, 3, 4], [1, 2, 3, 5]], 3).edges.tolist()
        [1.0, 2.0, 3.0, 4.0]
    """
    values = [finite(complexity, "complexities") for complexity in complexities]
    low, high = within or (max(float(v.min()) for v in values), min(float(v.max()) for v in values))
    if not low < high:
        ranges = "; ".join(f"{v.min():g} to {v.max():g}" for v in values)
        raise ValueError(
            f"a range of complexity that all spaces have is needed, got {low:g} to {high:g} from spaces with {ranges}: "
            "compare without normalization, or by another complexity."
        )
    if logarithmic and low <= 0:
        raise ValueError(f"logarithmic bins need a positive complexity, the range begins at {low:g}: use linear bins.")
    if bins is not None and (isinstance(bins, bool) or not isinstance(bins, (int, np.integer)) or bins < 1):
        raise ValueError(f"bins must be a positive whole number, got {bins!r}.")
    if bins is None:
        return _most_bins(values, low, high, logarithmic)
    found = _divided(low, high, int(bins), logarithmic)
    for space, complexity in enumerate(values):
        empty = np.flatnonzero(found.counts(complexity) == 0)
        if len(empty):
            raise ValueError(
                _what_to_change(values, found, f"space {space + 1}" if names is None else names[space], int(empty[0]))
            )
    return found


def _divided(low: float, high: float, count: int, logarithmic: bool) -> Bins:
    edges = np.geomspace(low, high, count + 1) if logarithmic else np.linspace(low, high, count + 1)
    return Bins(edges, logarithmic)


def _fullest(values: Sequence[Floats], low: float, high: float, logarithmic: bool, most: int, least: int) -> int:
    """The largest number of bins, up to the most, that all have so many networks of every space; or 0."""
    for count in range(most, 0, -1):
        bins = _divided(low, high, count, logarithmic)
        if min(bins.counts(complexity).min() for complexity in values) >= least:
            return count
    return 0


def _most_bins(values: Sequence[Floats], low: float, high: float, logarithmic: bool) -> Bins:
    count = _fullest(values, low, high, logarithmic, MOST_BINS, FEW)
    if count < 2:
        count = max(count, min(2, _fullest(values, low, high, logarithmic, 2, 1)))
    if count == 0:
        raise ValueError(
            f"networks of every space are needed between the complexities {low:g} and {high:g}, one space has none: "
            "give another range."
        )
    return _divided(low, high, count, logarithmic)


def _what_to_change(values: Sequence[Floats], bins: Bins, space: str, empty: int) -> str:
    low, high = float(bins.edges[0]), float(bins.edges[-1])
    fewer = _fullest(values, low, high, bins.is_logarithmic, len(bins) - 1, 1)
    other = _divided(low, high, len(bins), not bins.is_logarithmic) if low > 0 or bins.is_logarithmic else None
    advice = [f"use {fewer} bins" if fewer else ""]
    if other is not None and min(other.counts(complexity).min() for complexity in values) > 0:
        advice.append(f"{'linear' if bins.is_logarithmic else 'logarithmic'} bins")
    advice.append("or a smaller range")
    return (
        f"every bin must have networks of every space: bin {empty + 1} of {len(bins)}, complexity "
        f"{bins.edges[empty]:.6g} to {bins.edges[empty + 1]:.6g}, has none of {space}; "
        + ", ".join(part for part in advice if part)
        + "."
    )


def normalizing_weights(complexity: ArrayLike, bins: Bins) -> Floats:
    r"""Weights with which networks are spread evenly over a range of complexity.

    .. math:: w_i = \frac{1}{n_{b(i)} \, B},

    where :math:`n_{b(i)}` is the number of networks in the bin of network :math:`i`, and :math:`B` that of bins. Their
    sum is 1. Networks outside of the range have weight 0. A bin with few networks gives them large weights: see
    :func:`effective_size`.

    Args:
        complexity: Of each network of one space: parameters, FLOPs, or any measure.
        bins: Common to the spaces that are compared.

    Raises:
        ValueError: If a bin is empty.

    References:
        Radosavovic et al., ICCV 2019.

    Example:
        >>> bins = common_bins([[1, 2, 3, 5]], 2)
        >>> normalizing_weights([1, 2, 3, 5], bins).tolist()  # edges 1, 3, 5
        [0.25, 0.25, 0.25, 0.25]
        >>> normalizing_weights([1, 1.5, 2, 5, 6], bins).round(3).tolist()
        [0.167, 0.167, 0.167, 0.5, 0.0]
    """
    places, counts = bins.place(complexity), bins.counts(complexity)
    if (counts == 0).any():
        empty = int(np.flatnonzero(counts == 0)[0])
        raise ValueError(
            f"every bin must have a network: bin {empty + 1} of {len(bins)}, complexity {bins.edges[empty]:.6g} to "
            f"{bins.edges[empty + 1]:.6g}, has none; use fewer bins or a smaller range."
        )
    return np.where(places >= 0, 1 / (counts[places] * len(bins)), 0.0)


def finite(values: ArrayLike, role: str) -> Floats:
    """A sequence of finite numbers, at least one."""
    try:
        found = np.asarray(values, float)
    except (TypeError, ValueError):
        raise TypeError(f"{role} must be numbers, got {values!r:.80}.") from None
    if found.ndim != 1 or not len(found):
        raise ValueError(f"{role} must be a sequence of at least one number, got the shape {found.shape}.")
    if not np.isfinite(found).all():
        raise ValueError(f"{role} must be finite, got {found[~np.isfinite(found)][0]}; leave such networks out.")
    return found
