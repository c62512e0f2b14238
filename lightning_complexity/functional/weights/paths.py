"""Arithmetic of path norms: non-negative numbers far outside the range of floating point."""

from __future__ import annotations

import math
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Scaled", "aligned", "log_path_norm", "log_path_norms", "scaled", "scaled_power", "scaled_sum"]


class Scaled(NamedTuple):
    r"""The non-negative tensor :math:`\text{value} \cdot e^{\text{log\_scale}}`.

    Attributes:
        value: Non-negative, any shape, largest entry about 1 (or all zero).
        log_scale: A Python number, as each operation on a 0-d tensor costs as much as one on a small layer. It
            carries no gradient, since what it stands for does not depend on it.
    """

    value: Tensor
    log_scale: float


def scaled(value: Tensor, log_scale: float = 0.0) -> Scaled:
    """Move the size of ``value`` into the scale, so that products of any depth stay in range.

    Args:
        value: Non-negative, any shape.
        log_scale: What ``value`` is scaled by already, as a logarithm.

    Returns:
        The same number with largest entry 1; a scale of ``-inf`` where everything is zero.

    Example:
        >>> scaled(torch.tensor([1.0, 4.0])).value
        tensor([0.2500, 1.0000])
    """
    largest = _largest_magnitude(value)
    return Scaled(value / _divisor(largest), _log(largest) + log_scale)


def _largest_magnitude(tensor: Tensor) -> float:
    if tensor.numel() == 0:
        return 0.0
    low, high = torch.aminmax(tensor.detach())  # faster than the maximum norm
    return max(-float(low), float(high))


def _divisor(largest: float) -> float:
    return largest if largest > 0 else 1.0


def _log(magnitude: float) -> float:
    return -math.inf if magnitude == 0 else math.log(magnitude)


def scaled_power(weight: Tensor, q: float) -> Scaled:
    r"""Entrywise :math:`|w|^q` that neither overflows nor vanishes for any ``q``.

    Args:
        weight: Any shape.
        q: Exponent, at least 1.

    Returns:
        :math:`|w|^q` as a scaled tensor. The gradient at ``w = 0`` is 0.

    Example:
        >>> power = scaled_power(torch.tensor([1e-30, 2e-30]), q=4)
        >>> power.value, power.log_scale / 4
        (tensor([0.0625, 1.0000]), -68.384...)
    """
    largest = _largest_magnitude(weight)
    base = weight / _divisor(largest)
    into = None if base.requires_grad else base  # fresh memory for a large weight costs more than the arithmetic
    if q == 2:
        power = torch.square(base, out=into)
    else:
        power = torch.abs(base, out=into)
        power = power if q == 1 else torch.pow(power, q, out=into)
    return Scaled(power, q * _log(largest))


def aligned(terms: list[Scaled]) -> tuple[list[Tensor], float]:
    """Values of scaled tensors on one scale, and that scale as a logarithm: the largest of theirs.

    Example:
        >>> aligned([Scaled(torch.ones(1), 1000.0), Scaled(torch.ones(1), 999.0)])
        ([tensor([1.]), tensor([0.3679])], 1000.0)
    """
    common = max(term.log_scale for term in terms)
    common = 0.0 if common == -math.inf else common
    exponents = [term.log_scale - common for term in terms]
    return [t.value if e == 0 else t.value * math.exp(e) for t, e in zip(terms, exponents, strict=True)], common


def scaled_sum(terms: list[Scaled]) -> Scaled:
    """Sum of scaled tensors whose values broadcast against each other.

    Example:
        >>> big = scaled(torch.ones(2), log_scale=1000.0)
        >>> scaled_sum([big, big]).log_scale  # 1000 + ln 2
        1000.693...
    """
    values, common = aligned(terms)
    return scaled(reduce(torch.add, values), common)


def log_path_norm(outputs: Scaled, q: float) -> Tensor:
    r"""Logarithm of the path norm, from what a unit input becomes on its way through the network.

    .. math:: \ln \Big( \sum_{\text{paths}} \prod_{e \in \text{path}} |\theta_e|^q \Big)^{1/q}

    Args:
        outputs: For each output unit the sum over its paths, that is the output of the network with
            weights :math:`|\theta|^q` on an input of ones.
        q: Exponent, at least 1.

    Returns:
        0-d, double precision. ``-inf`` if no path has a non-zero weight, with a gradient of ``nan``.

    References:
        Gonon, Brisebarre, Riccietti and Gribonval, "A path-norm toolkit for modern networks", ICLR 2024.

    Example:
        >>> log_path_norm(scaled(torch.tensor([9.0, 16.0])), q=2).exp().round()  # sqrt(9 + 16)
        tensor(5., dtype=torch.float64)
    """
    return log_path_norms(Scaled(outputs.value.sum(), outputs.log_scale), q)


def log_path_norms(outputs: Scaled, q: float) -> Tensor:
    r"""Logarithm of the path norm of each output alone, of which :func:`log_path_norm` is the combination.

    .. math:: \ln \Big( \sum_{\text{paths to } k} \prod_{e \in \text{path}} |\theta_e|^q \Big)^{1/q}

    Args:
        outputs: As in :func:`log_path_norm`.
        q: Exponent, at least 1.

    Returns:
        The shape of ``outputs``, double precision. ``-inf`` for an output without a path of non-zero
        weights, with a gradient of ``nan``, and for one whose sum over paths is smaller than the largest by
        more than its precision can hold (1e-45 in single).

    Example:
        >>> log_path_norms(scaled(torch.tensor([9.0, 16.0])), q=2).exp()
        tensor([3.0000, 4.0000], dtype=torch.float64)
    """
    return (outputs.value.double().log() + outputs.log_scale) / q
