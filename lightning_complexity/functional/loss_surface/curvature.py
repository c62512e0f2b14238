"""Curvature of a loss, read from products with its Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_complexity.functional.numerics.linear_operators import LinearOperator

__all__ = ["hutch_plus_plus_samples", "hutchinson_samples", "random_signs", "random_start", "standard_error"]


def random_signs(operator: LinearOperator, generator: torch.Generator | None = None) -> Tensor:
    """A vector of random signs that an operator can be multiplied with.

    Args:
        operator: Says the size, the precision and the device.
        generator: CPU generator, so that every device sees the same.

    Returns:
        Shape ``(columns,)``, of -1 and 1.

    Example:
        >>> from lightning_complexity.functional import MatrixOperator
        >>> random_signs(MatrixOperator(torch.zeros(2, 5))).abs()
        tensor([1., 1., 1., 1., 1.])
    """
    signs = torch.randint(0, 2, (operator.shape[1],), generator=generator, dtype=torch.int8)
    return signs.to(operator.device, operator.dtype) * 2 - 1


def random_start(operator: LinearOperator, generator: torch.Generator | None = None) -> Tensor:
    """A vector for Lanczos' iteration to start from: random signs, of lengths between 0.8 and 1.2.

    Signs alone are orthogonal to many vectors of few entries, such as ``(1, -1, 0, 0)`` to half of them, and what a
    start is orthogonal to is never found. The outer product of the vector with itself, divided by its squared norm, is
    still the identity over the size in the mean, as for signs.

    Args:
        operator: Says the size, the precision and the device.
        generator: CPU generator, so that every device sees the same.

    Returns:
        Shape ``(columns,)``.

    Example:
        >>> from lightning_complexity.functional import MatrixOperator
        >>> start = random_start(MatrixOperator(torch.zeros(2, 5)))
        >>> bool(((start.abs() >= 0.8) & (start.abs() <= 1.2)).all())
        True
    """
    signs = random_signs(operator, generator)
    lengths = 0.8 + 0.4 * torch.rand(len(signs), generator=generator, dtype=torch.float64)
    return signs * lengths.to(signs)


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
        v = random_signs(operator, generator)
        samples.append(torch.stack([part.sum() for part in (v * operator.matvec(v)).split(lengths)]))
    return torch.stack(samples)


def hutch_plus_plus_samples(
    operator: LinearOperator, num_products: int, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Unbiased samples of the trace of a symmetric matrix, from which its large eigenvalues are taken out first.

    With the orthonormal basis :math:`Q` of the images of random vectors, and random signs :math:`v_j`,

    .. math:: \operatorname{tr} Q^T A Q + w_j^T A w_j, \quad w_j = (I - Q Q^T) v_j

    A third of the products each makes the basis, the exact part and the samples of the rest. Where eigenvalues fall
    quickly the error is far below Hutchinson's at as many products. The samples are independent given the basis, so
    that :func:`standard_error` is right.

    Args:
        operator: Square and symmetric.
        num_products: At least 6.
        generator: CPU generator the vectors are drawn from.

    Returns:
        Shape ``(num_products - 2 * (num_products // 3),)``; or one exact value, where the basis spans everything.

    Raises:
        ValueError: If there are fewer than 6 products.

    References:
        Meyer, Musco, Musco and Woodruff, "Hutch++: optimal stochastic trace estimation", 2021.

    Example:
        >>> from lightning_complexity.functional import MatrixOperator
        >>> hutch_plus_plus_samples(MatrixOperator(torch.diag(torch.tensor([1.0, 2.0]))), 6)
        tensor([3.])
    """
    if num_products < 6:
        raise ValueError(f"Hutch++ needs at least 6 products, got {num_products!r}.")
    size, count = operator.shape[1], num_products // 3
    if size <= count:
        identity = torch.eye(size, dtype=operator.dtype, device=operator.device)
        return operator.quadratic_form(identity).trace().reshape(1)
    starts = torch.stack([random_signs(operator, generator) for _ in range(count)], dim=1)
    basis = torch.linalg.qr(operator.matmat(starts)).Q
    known, rest = operator.quadratic_form(basis).trace(), []
    for _ in range(num_products - 2 * count):
        v = random_signs(operator, generator)
        v = v - basis @ (basis.mT @ v)
        rest.append(v @ operator.matvec(v))
    return known + torch.stack(rest)


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
