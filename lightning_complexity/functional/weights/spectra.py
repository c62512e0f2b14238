"""Singular values of weight matrices, and what is computed from them."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_complexity.functional.numerics.scaling import vector_norm

__all__ = [
    "effective_rank",
    "log_condition_number",
    "log_spectral_complexity",
    "log_spectral_product",
    "log_volume",
    "participation_ratio",
    "schatten_norm",
    "singular_values",
    "soft_orthogonality",
    "stable_rank",
]

_COLUMNS_AT_ONCE = 256  # in double precision
_FOURTH_POWERS_FIT = 1e6  # entries up to here, in single precision


def nan_if_not_finite(values: Tensor, matrix: Tensor) -> Tensor:
    """The values of a matrix, ``nan`` if it is not finite."""
    return torch.where(matrix.isfinite().all(), values, torch.full_like(values, torch.nan))


def gram_matrix(matrix: Tensor) -> Tensor:
    """The smaller of ``A A^T`` and ``A^T A``, in double precision; zero if ``A`` is not finite."""
    wide = matrix.detach() if matrix.shape[-2] <= matrix.shape[-1] else matrix.detach().mT
    wide = wide.reshape(-1, *wide.shape[-2:])
    gram = torch.zeros(len(wide), wide.shape[1], wide.shape[1], dtype=torch.float64, device=wide.device)
    for columns in wide.split(_COLUMNS_AT_ONCE, dim=-1):
        a = columns.to(torch.float64, copy=True).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        gram.baddbmm_(a, a.mT)
    return gram.reshape(*matrix.shape[:-2], *gram.shape[1:])


def singular_values(matrix: Tensor) -> Tensor:
    r"""Singular values, largest first.

    Single-precision matrices go through their Gram matrix in double precision, which is as accurate and
    faster; double-precision ones through the singular value decomposition. Only one product of the matrix with
    its left singular vectors is differentiated.

    Args:
        matrix: Shape ``(..., rows, columns)``.

    Returns:
        Shape ``(..., min(rows, columns))``. All ``nan`` if the matrix is not finite. The gradient is
        finite everywhere; where singular values coincide it is one of the subgradients.

    Example:
        >>> singular_values(torch.diag(torch.tensor([1.0, 3.0])))
        tensor([3., 1.])
    """
    if matrix.requires_grad:
        # Never the transposed matrix: its gradient would be laid out the other way around.
        if matrix.shape[-2] <= matrix.shape[-1]:
            values = vector_norm(_left_singular_vectors(matrix.detach()).mT @ matrix, dim=-1)
        else:
            values = vector_norm(matrix @ _left_singular_vectors(matrix.detach().mT), dim=-2)
    elif matrix.dtype == torch.float64:
        values = torch.linalg.svdvals(torch.nan_to_num(matrix, nan=0.0, posinf=0.0, neginf=0.0))
    else:
        values = torch.linalg.eigvalsh(gram_matrix(matrix)).clamp(min=0).sqrt().flip(-1).to(matrix.dtype)
    return nan_if_not_finite(values, matrix)


def _left_singular_vectors(wide: Tensor) -> Tensor:
    if wide.dtype == torch.float64:
        finite = torch.nan_to_num(wide, nan=0.0, posinf=0.0, neginf=0.0)
        return torch.linalg.svd(finite, full_matrices=False).U
    return torch.linalg.eigh(gram_matrix(wide)).eigenvectors.flip(-1).to(wide.dtype)


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


def log_spectral_complexity(spectral_norms: Tensor, distances: Tensor) -> Tensor:
    r"""Logarithm of :math:`\prod_i s_i \big( \sum_i (b_i / s_i)^{2/3} \big)^{3/2}`.

    Args:
        spectral_norms: :math:`s_i`, shape ``(layers,)``.
        distances: :math:`b_i`, by definition :math:`\|W_i - M_i\|_{2,1}`, shape ``(layers,)``.

    Returns:
        0-d. ``nan`` if a norm is zero; ``-inf`` if all distances are.

    References:
        Bartlett, Foster and Telgarsky, NeurIPS 2017.

    Example:
        >>> log_spectral_complexity(torch.tensor([2.0]), torch.tensor([3.0])).exp()
        tensor(3.)
    """
    return log_spectral_product(spectral_norms) + 1.5 * torch.logsumexp(2 / 3 * (distances / spectral_norms).log(), 0)


def schatten_norm(spectrum: Tensor, p: float = 1) -> Tensor:
    r"""Schatten norm :math:`\big(\sum_i s_i^p\big)^{1/p}`: nuclear for ``p=1``, Frobenius for 2, spectral for ``inf``.

    Args:
        spectrum: Singular values, shape ``(k,)``.
        p: At least 1.

    Returns:
        0-d. The gradient at the zero matrix is finite.

    Example:
        >>> schatten_norm(torch.tensor([3.0, 4.0])), schatten_norm(torch.tensor([3.0, 4.0]), p=2)
        (tensor(7.), tensor(5.))
    """
    return vector_norm(spectrum, p)


def effective_rank(spectrum: Tensor) -> Tensor:
    r"""Effective rank :math:`\exp\big(-\sum_i p_i \ln p_i\big)` with :math:`p_i = s_i / \sum_j s_j`.

    The number of equal singular values that has the same entropy. Unchanged when the matrix is scaled.

    Args:
        spectrum: Singular values, shape ``(k,)``.

    Returns:
        0-d, between 1 and the rank. ``nan`` for the zero matrix. The gradient is finite at any other, singular
        values of 0 having none.

    References:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.

    Example:
        >>> effective_rank(torch.tensor([2.0, 2.0, 0.0]))
        tensor(2.)
    """
    p = spectrum / spectrum.sum()
    positive = p > 0
    entropy = -torch.where(positive, p * torch.where(positive, p, torch.ones_like(p)).log(), torch.zeros_like(p)).sum()
    return torch.where(spectrum.sum() > 0, entropy.exp(), torch.full_like(entropy, torch.nan))


def participation_ratio(spectrum: Tensor) -> Tensor:
    r"""Participation ratio :math:`\big(\sum_i s_i^2\big)^2 / \sum_i s_i^4` of the squared singular values.

    The number of equal singular values that has the same ratio. Unchanged when the matrix is scaled.

    Args:
        spectrum: Singular values, shape ``(k,)``.

    Returns:
        0-d, between 1 and the rank. ``nan`` for the zero matrix. The gradient is finite at any other.

    References:
        Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262, 2017, of the
        eigenvalues of a covariance matrix.

    Example:
        >>> participation_ratio(torch.tensor([2.0, 2.0, 0.0]))
        tensor(2.)
    """
    squares = (spectrum / spectrum.detach().amax()).square()
    return squares.sum().square() / squares.square().sum()


def log_condition_number(spectrum: Tensor) -> Tensor:
    r"""Logarithm of the condition number, :math:`\ln (\max_i s_i / \min_i s_i)`.

    Args:
        spectrum: Singular values, shape ``(k,)``.

    Returns:
        0-d, at least 0; ``inf`` for a matrix without full rank, ``nan`` for the zero matrix.

    Example:
        >>> log_condition_number(torch.tensor([1.0, 4.0])).exp()
        tensor(4.)
    """
    return spectrum.amax().log() - spectrum.amin().log()


def log_volume(spectrum: Tensor) -> Tensor:
    r"""Logarithm of the volume that the unit cube is mapped to, :math:`\sum_i \ln s_i = \tfrac12 \ln \det W W^T`.

    Args:
        spectrum: Singular values, shape ``(k,)``.

    Returns:
        0-d; ``-inf`` for a matrix without full rank.

    Example:
        >>> log_volume(torch.tensor([2.0, 3.0])).exp()
        tensor(6.)
    """
    return spectrum.log().sum()


def soft_orthogonality(matrix: Tensor) -> Tensor:
    r"""Squared distance of the smaller Gram matrix from the identity, :math:`\|W W^T - I\|_F^2 = \sum_i (s_i^2 - 1)^2`.

    Args:
        matrix: Shape ``(..., rows, columns)``; of a tall matrix it is :math:`W^T W`.

    Returns:
        0-d, summed over leading dimensions; 0 if rows, or columns where there are fewer, are orthonormal. In double
        precision where entries are above 1e6, as fourth powers leave the range of the single one.

    References:
        Bansal, Chen and Wang, "Can we gain more from orthogonality regularizations?", NeurIPS 2018.

    Example:
        >>> soft_orthogonality(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))  # (4 - 1)^2
        tensor(9.)
    """
    if matrix.detach().abs().amax() > _FOURTH_POWERS_FIT:
        matrix = matrix.double()
    wide = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    gram = wide @ wide.mT
    return (gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)).square().sum()
