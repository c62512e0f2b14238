"""Curvature of a loss, read from products with its Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_complexity.functional.linear_operators import LinearOperator

__all__ = ["hutchinson_samples", "standard_error"]


def hutchinson_samples(
    operator: LinearOperator, num_probes: int, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Unbiased samples of the traces of the diagonal blocks of a symmetric matrix.

    With random signs :math:`v` (Rademacher), :math:`\mathbb{E}\, v_b^T (A v)_b = \operatorname{tr} A_{bb}`, and summed
    over blocks :math:`\mathbb{E}\, v^T A v = \operatorname{tr} A`. The variance of the latter is
    :math:`2 \sum_{i \ne j} A_{ij}^2`, so one probe is exact for a diagonal matrix.

    Args:
        operator: Square and symmetric, with its blocks.
        num_probes: Number of random vectors, one product each.
        generator: CPU generator the signs are drawn from, so that every device sees the same.

    Returns:
        Shape ``(num_probes, blocks)``.

    References:
        Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990.

    Example:
        >>> from lightning_complexity.functional import MatrixOperator
        >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
        >>> hutchinson_samples(MatrixOperator(matrix, blocks={"first": 1, "rest": 2}), num_probes=1)
        tensor([[1., 6.]])
    """
    lengths = list(operator.blocks.values())
    samples = []
    for _ in range(num_probes):
        signs = torch.randint(0, 2, (operator.shape[1],), generator=generator, dtype=torch.int8)
        v = signs.to(operator.device, operator.dtype) * 2 - 1
        samples.append(torch.stack([part.sum() for part in (v * operator.matvec(v)).split(lengths)]))
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
