"""Norms of numbers whose powers leave the range of their precision."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["power_of_two", "root_power_of_two", "vector_norm"]

_SAFE = 0.6  # share of the exponents' range that a sum of powers may take


def power_of_two(tensor: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """The power of two next below the largest magnitude, by which a division is exact.

    Args:
        tensor: Any shape, at least one entry.
        dim: Dimensions over which the magnitude is taken, kept with length 1; ``None`` for all.

    Returns:
        0-d, or the shape of ``tensor`` with length 1 in ``dim``. Without gradient; 1 where all entries are 0 or one is
        not finite.

    Example:
        >>> power_of_two(torch.tensor([3.0, -5.0]))
        tensor(4.)
    """
    exponent = _exponent(tensor, dim)
    return torch.ldexp(torch.ones_like(exponent, dtype=tensor.dtype), exponent)


def root_power_of_two(tensor: Tensor) -> Tensor:
    """The power of two near the square root of the largest magnitude.

    Divided by it, squares of the entries stay in range, and so does a gradient that is multiplied with it.

    Args:
        tensor: Any shape, at least one entry.

    Returns:
        0-d, without gradient; 1 where all entries are 0 or one is not finite.

    Example:
        >>> root_power_of_two(torch.tensor([16.0, -25.0]))
        tensor(4.)
    """
    exponent = _exponent(tensor, None) // 2
    return torch.ldexp(torch.ones_like(exponent, dtype=tensor.dtype), exponent)


def _exponent(tensor: Tensor, dim: int | tuple[int, ...] | None) -> Tensor:
    magnitude = tensor.detach().abs()
    largest = magnitude.amax() if dim is None else magnitude.amax(dim, keepdim=True)
    usable = (largest > 0) & largest.isfinite()
    return torch.frexp(torch.where(usable, largest, torch.ones_like(largest))).exponent - 1


def vector_norm(tensor: Tensor, p: float = 2, dim: int | tuple[int, ...] | None = None) -> Tensor:
    r"""Norm :math:`\big(\sum_k |w_k|^p\big)^{1/p}`, right for every finite tensor.

    In single precision the squares of 1e-23 vanish and those of 1e20 overflow. On the CPU a norm that shows that no
    power did so is taken as it is; otherwise powers are taken in double precision.

    Args:
        tensor: Any shape, at least one entry.
        p: At least 1.
        dim: Dimensions over which the norm is taken; ``None`` for all.

    Returns:
        0-d, or the shape without ``dim``. The gradient where the norm is 0 is 0.

    Example:
        >>> vector_norm(torch.tensor([3e-23, 4e-23]))
        tensor(5.0000e-23)
    """
    if tensor.is_complex():
        tensor = tensor.abs()
    if p in (1, math.inf):
        return torch.linalg.vector_norm(tensor, ord=p, dim=dim)
    if _is_read_at_no_cost(tensor):
        norm = _norm(tensor, p, dim)
        if _is_safe(norm, p):
            return norm
    if p == 2 and dim is None:
        return _EuclideanNormInDouble.apply(tensor)  # type: ignore[no-untyped-call]
    scale = power_of_two(tensor, dim).double()
    norm = torch.linalg.vector_norm(tensor.double() / scale, ord=p, dim=dim)
    return (norm * scale.reshape(norm.shape)).to(tensor.dtype)


def _is_read_at_no_cost(tensor: Tensor) -> bool:
    """Whether no device has to be waited for and ``torch.func.vmap`` does not stand in between."""
    return tensor.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _is_safe(norm: Tensor, p: float) -> bool:
    low, high = (norm, norm) if norm.ndim == 0 else torch.aminmax(norm.detach())
    range_of = torch.finfo(norm.dtype)
    return range_of.tiny ** (_SAFE / p) <= low.item() and high.item() <= range_of.max ** (_SAFE / p)


def _norm(tensor: Tensor, p: float, dim: int | tuple[int, ...] | None) -> Tensor:
    if p == 2 and dim is None and tensor.requires_grad:
        return _EuclideanNorm.apply(tensor)  # type: ignore[no-untyped-call]
    return torch.linalg.vector_norm(tensor, ord=p, dim=dim)


class _EuclideanNorm(torch.autograd.Function):
    """The gradient in one pass over the tensor, where torch's own takes three."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(tensor)
        ctx.save_for_backward(tensor, norm)
        return norm

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        tensor, norm = ctx.saved_tensors
        return tensor * torch.where(norm == 0, 0, gradient / norm)


class _EuclideanNormInDouble(torch.autograd.Function):
    """The same where squares, or a factor of the gradient, may leave the range."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return torch.linalg.vector_norm(tensor, dtype=torch.float64).to(tensor.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        tensor, norm = ctx.saved_tensors
        factor = torch.where(norm == 0, 0, gradient.double() / norm.double())
        part = root_power_of_two(factor)
        return tensor * (factor / part) * part
