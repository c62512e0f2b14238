"""The top eigenvectors of a symmetric matrix that is only multiplied with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import linalg as sparse
from torch import Tensor

from lightning_complexity.functional.numerics.linear_operators import LinearOperator

__all__ = ["top_eigenvectors"]

_DENSE_UP_TO = 32
_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
_RESIDUAL, _TOO_FAR = 3e-3, 0.1  # of the first vector, relative to its eigenvalue
_RESTARTS = 8


def top_eigenvectors(operator: LinearOperator, count: int = 1, *, warm_start: Tensor | None = None) -> Tensor:
    r"""Orthonormal eigenvectors of the largest eigenvalues of a symmetric matrix :math:`A`, the largest first.

    Without a warm start they come from ARPACK's Lanczos iteration, those of small matrices from a dense solver. With
    one, they are the best within the block Krylov space :math:`[V, A V]`, again from there until the
    residual :math:`\|A v - \lambda v\|` of the first is at most 0.3 % of :math:`|\lambda|`. Half of the vectors
    are first turned out of the span, so that an eigenvalue growing in a subspace that the others do not reach is found
    before it becomes the largest. A warm start that leads to a residual above 10 %, or that is not good enough after 8
    times, is not used. A small residual shows that the vector belongs to an eigenvalue, not that this is the
    largest: where several change places at once, the largest can be missed by a little for a call.

    Args:
        operator: Square and symmetric, in single or double precision.
        count: How many vectors, at most the number of columns.
        warm_start: What an earlier call returned for nearly the same matrix.

    Returns:
        Shape ``(columns, count)``. Equal matrices and warm starts give equal vectors; those of a matrix that is not
        finite are finite and mean nothing.

    Example:
        >>> from lightning_complexity.functional import MatrixOperator
        >>> top_eigenvectors(MatrixOperator(torch.diag(torch.tensor([1.0, 4.0])))).abs()
        tensor([[0.],
                [1.]])
    """
    size = operator.shape[1]
    if size <= max(_DENSE_UP_TO, 3 * count):
        return _dense(operator, count)
    if warm_start is not None and warm_start.shape == (size, count):
        vectors = _block_krylov(operator, warm_start.to(operator.device, operator.dtype))
        if vectors is not None:
            return vectors
    return _lanczos(operator, count)


def _block_krylov(operator: LinearOperator, basis: Tensor) -> Tensor | None:
    count = basis.shape[1]
    basis = _scouting(basis)
    for _ in range(_RESTARTS):
        image = operator.matmat(basis)
        if not image.isfinite().all():
            return None
        krylov = torch.linalg.qr(torch.cat([basis, image], dim=1)).Q
        values, rotation = torch.linalg.eigh(operator.quadratic_form(krylov))
        basis = krylov @ rotation[:, -count:].flip(1)
        top = basis[:, :1]
        residual = torch.linalg.vector_norm(operator.matmat(top) - values[-1] * top) / values[-1].abs()
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


def _lanczos(operator: LinearOperator, count: int) -> Tensor:
    size, dtype, device = operator.shape[1], operator.dtype, operator.device

    def matvec(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        column = torch.from_numpy(v.reshape(size, 1)).to(device, dtype)
        return _finite(operator.matmat(column)).flatten().cpu().numpy()

    numpy_dtype = str(dtype).removeprefix("torch.")
    first = np.random.default_rng(0).standard_normal(size).astype(numpy_dtype)
    if not matvec(first).any():
        return torch.eye(size, count, dtype=dtype, device=device)
    products = sparse.LinearOperator((size, size), matvec=matvec, dtype=numpy_dtype)
    try:
        values, vectors = sparse.eigsh(products, k=count, which="LA", v0=first, tol=_TOLERANCE[dtype])
    except sparse.ArpackNoConvergence:
        return _dense(operator, count)
    return torch.from_numpy(np.ascontiguousarray(vectors[:, np.argsort(-values)])).to(device, dtype)


def _dense(operator: LinearOperator, count: int) -> Tensor:
    identity = torch.eye(operator.shape[1], dtype=operator.dtype, device=operator.device)
    return torch.linalg.eigh(_finite(operator.matmat(identity))).eigenvectors[:, -count:].flip(1)


def _finite(tensor: Tensor) -> Tensor:
    return torch.nan_to_num(tensor, nan=0.0, posinf=0.0, neginf=0.0)
