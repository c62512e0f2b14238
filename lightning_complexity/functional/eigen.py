"""The top eigenvector of a positive semi-definite matrix that is only multiplied with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

Vector = np.ndarray[Any, Any]

__all__ = ["top_eigenvector"]

_DENSE_UP_TO = 32
_TOLERANCE = {"float32": 1e-6, "float64": 1e-10}


def top_eigenvector(matvec: Callable[[Vector], Vector], size: int, dtype: str = "float64") -> Vector:
    """Unit eigenvector of the largest eigenvalue, by ARPACK's Lanczos iteration.

    The start is fixed, so that equal matrices give equal vectors. Small matrices, and those on which the
    iteration does not converge because eigenvalues nearly coincide, are solved densely.

    Args:
        matvec: Multiplies a vector with a symmetric positive semi-definite matrix.
        size: Length of the vectors.
        dtype: ``"float32"`` or ``"float64"``; the eigenvalue is relative to 1e-6 or 1e-10.

    Returns:
        Shape ``(size,)``.

    Example:
        >>> bool(abs(top_eigenvector(lambda v: np.array([1.0, 4.0]) * v, 2)[1]) > 0.999999)
        True
    """
    start = np.random.default_rng(0).standard_normal(size).astype(dtype)
    if size > _DENSE_UP_TO and matvec(start).any():
        operator = LinearOperator((size, size), matvec=matvec, dtype=dtype)
        try:
            return eigsh(operator, k=1, which="LA", v0=start, tol=_TOLERANCE[dtype])[1][:, 0]
        except ArpackNoConvergence:
            pass
    return np.linalg.eigh(np.stack([matvec(e) for e in np.eye(size, dtype=dtype)]))[1][:, -1]
