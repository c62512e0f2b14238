"""Curvature of a loss, read from products with its Hessian."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["hutchinson_samples", "standard_error"]


def hutchinson_samples(
    matvec: Callable[[Tensor], Tensor],
    sizes: Sequence[int],
    num_probes: int,
    *,
    like: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Unbiased samples of the traces of the diagonal blocks of a symmetric matrix.

    With random signs :math:`v` (Rademacher), :math:`\mathbb{E}\, v_b^T (A v)_b = \operatorname{tr} A_{bb}`, and summed
    over blocks :math:`\mathbb{E}\, v^T A v = \operatorname{tr} A`. The variance of the latter is
    :math:`2 \sum_{i \ne j} A_{ij}^2`, so one probe is exact for a diagonal matrix.

    Args:
        matvec: Multiplies a vector of length ``sum(sizes)`` with the matrix.
        sizes: Length of each diagonal block.
        num_probes: Number of random vectors, one product each.
        like: Tensor with the dtype and device of the vectors.
        generator: CPU generator the signs are drawn from, so that every device sees the same.

    Returns:
        Shape ``(num_probes, blocks)``.

    References:
        Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990.

    Example:
        >>> diagonal = torch.tensor([1.0, 2.0, 4.0])
        >>> hutchinson_samples(lambda v: diagonal * v, [1, 2], num_probes=1, like=diagonal)
        tensor([[1., 6.]])
    """
    samples = []
    for _ in range(num_probes):
        signs = torch.randint(0, 2, (sum(sizes),), generator=generator, dtype=torch.int8)
        v = signs.to(like.device, like.dtype) * 2 - 1
        samples.append(torch.stack([part.sum() for part in (v * matvec(v)).split(list(sizes))]))
    return torch.stack(samples)


def standard_error(samples: Tensor) -> Tensor:
    r"""Standard error :math:`s / \sqrt{n}` of the mean of independent samples.

    Args:
        samples: Shape ``(n, ...)``.

    Returns:
        Shape ``(...)``. ``nan`` for one sample, from which no spread can be told.

    Example:
        >>> standard_error(torch.tensor([1.0, 3.0]))
        tensor(1.)
    """
    n = len(samples)
    if n < 2:
        return torch.full_like(samples[0], torch.nan)
    return samples.std(0) / n**0.5
