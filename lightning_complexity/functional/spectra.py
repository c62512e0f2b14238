"""Singular values of weight matrices, and what is computed from them."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_complexity.functional.eigen import top_eigenvector

__all__ = ["log_spectral_product", "singular_values", "spectral_norm", "stable_rank"]


def _nan_if_not_finite(values: Tensor, matrix: Tensor) -> Tensor:
    return torch.where(matrix.isfinite().all(), values, torch.full_like(values, torch.nan))


def _gram(matrix: Tensor) -> Tensor:
    """The smaller of ``A A^T`` and ``A^T A``, in double precision; zero if ``A`` is not finite."""
    a = torch.nan_to_num(matrix.detach().double(), nan=0.0, posinf=0.0, neginf=0.0)
    return a @ a.mT if a.shape[-2] <= a.shape[-1] else a.mT @ a


def singular_values(matrix: Tensor) -> Tensor:
    r"""Singular values, largest first.

    Single-precision matrices without gradient go through their Gram matrix in double precision, which
    is as accurate and faster; all others through the singular value decomposition.

    Args:
        matrix: Shape ``(..., rows, columns)``.

    Returns:
        Shape ``(..., min(rows, columns))``. All ``nan`` if the matrix is not finite. The gradient is
        finite everywhere; where singular values coincide it is one of the subgradients.

    Example:
        >>> singular_values(torch.diag(torch.tensor([1.0, 3.0])))
        tensor([3., 1.])
    """
    if matrix.requires_grad or matrix.dtype == torch.float64:
        values = torch.linalg.svdvals(torch.nan_to_num(matrix, nan=0.0, posinf=0.0, neginf=0.0))
    else:
        values = torch.linalg.eigvalsh(_gram(matrix)).clamp(min=0).sqrt().flip(-1).to(matrix.dtype)
    return _nan_if_not_finite(values, matrix)


def _top_left_singular_vector(matrix: Tensor) -> Tensor:
    """Shape ``(..., rows, 1)``. A single matrix on the CPU is only multiplied with, which is much faster."""
    if matrix.numel() != matrix.shape[-1] * matrix.shape[-2] or matrix.device.type != "cpu":
        return torch.linalg.eigh(_gram(matrix)).eigenvectors[..., -1:].to(matrix.dtype)
    a = torch.nan_to_num(matrix, nan=0.0, posinf=0.0, neginf=0.0).reshape(matrix.shape[-2:]).numpy()
    top = torch.from_numpy(top_eigenvector(lambda v: a @ (a.T @ v), len(a), str(a.dtype)).copy())
    return top.reshape(*matrix.shape[:-1], 1)


def spectral_norm(matrix: Tensor) -> Tensor:
    r"""Largest singular value :math:`\max_v \|Av\| / \|v\|`, differentiable at low cost.

    The gradient is :math:`u v^T` with the top singular vectors, exact because their own change has no
    first-order effect. Only one product with the matrix is differentiated. The vectors come from ARPACK,
    in single precision to a relative 1e-6 of the squared norm, in double precision to 1e-10.

    Args:
        matrix: Shape ``(..., rows, columns)``.

    Returns:
        Shape ``(...)``. ``nan`` if the matrix is not finite. The gradient is 0 at the zero matrix and one
        of the subgradients where the two largest singular values coincide.

    Example:
        >>> spectral_norm(torch.diag(torch.tensor([1.0, 3.0])))
        tensor(3.)
    """
    wide = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    return torch.linalg.vector_norm(wide.mT @ _top_left_singular_vector(wide.detach()), dim=(-2, -1))


def stable_rank(frobenius_norm: Tensor, spectral_norm: Tensor) -> Tensor:
    r"""Stable rank :math:`\|W\|_F^2 / \|W\|_2^2 = \sum_i s_i^2 / \max_i s_i^2`: how many directions matter.

    Unchanged when the matrix is scaled.

    Args:
        frobenius_norm: Any shape.
        spectral_norm: The same shape.

    Returns:
        The same shape, between 1 and the rank. ``nan`` for the zero matrix, which has none.

    References:
        Rudelson and Vershynin, "Sampling from large matrices", J. ACM 54(4), 2007, as "numerical rank".

    Example:
        >>> stable_rank(torch.tensor(6.0).sqrt(), torch.tensor(2.0))  # singular values 2, 1, 1
        tensor(1.5000)
    """
    return (frobenius_norm / spectral_norm).square()


def log_spectral_product(spectral_norms: Tensor) -> Tensor:
    r"""Logarithm of the product of the layers' norms, :math:`\sum_i \ln \|W_i\|_2`.

    Args:
        spectral_norms: One norm a layer, shape ``(layers,)``.

    Returns:
        0-d. ``-inf`` if a layer is zero; the gradient is not finite there.

    References:
        Bartlett, Foster and Telgarsky, "Spectrally-normalized margin bounds", NeurIPS 2017. Twice this
        value is equation 32 of Jiang et al., "Fantastic generalization measures", ICLR 2020.

    Example:
        >>> log_spectral_product(torch.tensor([2.0, 3.0])).exp()
        tensor(6.)
    """
    return spectral_norms.log().sum(-1)
