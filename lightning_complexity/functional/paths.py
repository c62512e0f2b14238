"""Arithmetic of path norms: non-negative numbers far outside the range of floating point."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Scaled", "log_path_norm", "scaled", "scaled_power", "scaled_sum"]


class Scaled(NamedTuple):
    r"""The non-negative tensor :math:`\text{value} \cdot e^{\text{log\_scale}}`.

    Attributes:
        value: Non-negative, any shape, largest entry 1 (or all zero).
        log_scale: 0-d, double precision; carries no gradient, since what it stands for does not depend on it.
    """

    value: Tensor
    log_scale: Tensor


def scaled(value: Tensor, log_scale: Tensor | float = 0.0) -> Scaled:
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
    largest = _largest_magnitude(value.detach())
    divisor = torch.where(largest > 0, largest, torch.ones_like(largest))
    return Scaled(value / divisor, largest.double().log() + log_scale)


def _largest_magnitude(tensor: Tensor) -> Tensor:
    if tensor.numel() == 0:
        return tensor.new_zeros(())
    low, high = torch.aminmax(tensor)  # faster than the maximum norm
    return torch.maximum(-low, high)


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
        (tensor([0.0625, 1.0000]), tensor(-68.3844, dtype=torch.float64))
    """
    largest = _largest_magnitude(weight.detach())
    base = weight / torch.where(largest > 0, largest, torch.ones_like(largest))
    power = base.square() if q == 2 else base.abs().pow(q)
    return Scaled(power, q * largest.double().log())


def scaled_sum(terms: list[Scaled]) -> Scaled:
    """Sum of scaled tensors whose values broadcast against each other.

    Example:
        >>> big = scaled(torch.ones(2), log_scale=1000.0)
        >>> scaled_sum([big, big]).log_scale  # 1000 + ln 2
        tensor(1000.6931, dtype=torch.float64)
    """
    common = torch.stack([t.log_scale for t in terms]).amax()
    common = torch.where(common == -torch.inf, torch.zeros_like(common), common)
    total = sum(t.value * (t.log_scale - common).exp().to(t.value.dtype) for t in terms)
    return scaled(torch.as_tensor(total), common)


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
    return (outputs.value.sum().double().log() + outputs.log_scale) / q
