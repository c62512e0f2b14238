"""The top eigenvectors of a positive semi-definite matrix that is only multiplied with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

Product = Callable[[Tensor], Tensor]

__all__ = ["top_eigenvectors"]

_DENSE_UP_TO = 32
_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
_RESIDUAL, _TOO_FAR = 3e-3, 0.1  # of the first vector, relative to its eigenvalue
_RESTARTS = 8


def top_eigenvectors(
    product: Product, factor: Product, like: Tensor, count: int = 1, *, start: Tensor | None = None
) -> Tensor:
    r"""Orthonormal eigenvectors of the largest eigenvalues of :math:`A = B^T B`, the largest first.

    Without a start they come from ARPACK's Lanczos iteration, those of small matrices from a dense solver. With
    one, they are the best within the block Krylov space :math:`[V, A V]`, again from there until the
    residual :math:`\|A v - \lambda v\|` of the first is at most 0.3 % of :math:`\lambda`. Half of the vectors
    are first turned out of the span, so that an eigenvalue growing in a subspace that the others do not reach is found
    before it becomes the largest. A start that leads to a residual above 10 %, or that is not good enough after 8
    times, is not used. A small residual shows that the vector belongs to an eigenvalue, not that this is the
    largest: where several change places at once, the largest can be missed by a little for a call.

    Args:
        product: Multiplies the columns of a tensor of shape ``(size, columns)`` with :math:`A`.
        factor: Multiplies them with :math:`B`.
        like: Shape ``(size,)``; its type and device are those of the vectors.
        count: How many vectors, at most ``size``.
        start: What an earlier call returned for nearly the same matrix.

    Returns:
        Shape ``(size, count)``. Equal matrices and starts give equal vectors; those of a matrix that is not finite
        are finite and mean nothing.

    Example:
        >>> scale = torch.tensor([[1.0], [2.0]])
        >>> top_eigenvectors(lambda v: scale**2 * v, lambda v: scale * v, torch.zeros(2)).abs()
        tensor([[0.],
                [1.]])
    """
    if len(like) <= max(_DENSE_UP_TO, 3 * count):
        return _dense(product, like, count)
    if start is not None and start.shape == (len(like), count):
        followed = _follow(product, factor, start.to(like))
        if followed is not None:
            return followed
    return _lanczos(product, like, count)


def _follow(product: Product, factor: Product, basis: Tensor) -> Tensor | None:
    count = basis.shape[1]
    basis = _scouting(basis)
    for _ in range(_RESTARTS):
        image = product(basis)
        if not image.isfinite().all():
            return None
        krylov = torch.linalg.qr(torch.cat([basis, image], dim=1)).Q
        mapped = factor(krylov)
        values, rotation = torch.linalg.eigh(mapped.mT @ mapped)
        basis = krylov @ rotation[:, -count:].flip(1)
        top = basis[:, :1]
        residual = torch.linalg.vector_norm(product(top) - values[-1] * top) / values[-1]
        if residual <= _RESIDUAL:
            return basis
        if residual > _TOO_FAR:
            return None
    return None


def _scouting(basis: Tensor) -> Tensor:
    scouts = basis.shape[1] // 2
    noise = torch.randn(len(basis), scouts, generator=torch.Generator().manual_seed(0)).to(basis)
    turned = basis[:, -scouts:] + noise / torch.linalg.vector_norm(noise, dim=0)
    return torch.linalg.qr(torch.cat([basis[:, :-scouts], turned], dim=1)).Q if scouts else basis


def _lanczos(product: Product, like: Tensor, count: int) -> Tensor:
    size, dtype = len(like), like.dtype

    def matvec(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return _finite(product(torch.from_numpy(v.reshape(size, 1)).to(like))).flatten().cpu().numpy()

    numpy_dtype = str(dtype).removeprefix("torch.")
    start = np.random.default_rng(0).standard_normal(size).astype(numpy_dtype)
    if not matvec(start).any():
        return torch.eye(size, count, dtype=dtype, device=like.device)
    operator = LinearOperator((size, size), matvec=matvec, dtype=numpy_dtype)
    try:
        values, vectors = eigsh(operator, k=count, which="LA", v0=start, tol=_TOLERANCE[dtype])
    except ArpackNoConvergence:
        return _dense(product, like, count)
    return torch.from_numpy(np.ascontiguousarray(vectors[:, np.argsort(-values)])).to(like)


def _dense(product: Product, like: Tensor, count: int) -> Tensor:
    matrix = _finite(product(torch.eye(len(like), dtype=like.dtype, device=like.device)))
    return torch.linalg.eigh(matrix).eigenvectors[:, -count:].flip(1)


def _finite(tensor: Tensor) -> Tensor:
    return torch.nan_to_num(tensor, nan=0.0, posinf=0.0, neginf=0.0)
