"""Singular values of weight matrices, and what is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_complexity.functional.eigen import top_eigenvectors

__all__ = [
    "PowerLawFit",
    "circular_norm",
    "effective_rank",
    "fit_power_law",
    "log_condition_number",
    "log_spectral_complexity",
    "log_spectral_product",
    "log_volume",
    "schatten_norm",
    "singular_values",
    "soft_orthogonality",
    "spectral_norm",
    "stable_rank",
    "warm_started_spectral_norm",
]

_CANDIDATES_AT_ONCE = 64
_FREQUENCIES_AT_ONCE = 64
_COLUMNS_AT_ONCE = 256  # in double precision
NUM_WARM_VECTORS = 16  # singular vectors, so that the largest is not lost when others overtake it
_EQUAL_UP_TO = 1e-6  # relative; eigenvalues of an orthogonal matrix differ by rounding alone


def _nan_if_not_finite(values: Tensor, matrix: Tensor) -> Tensor:
    return torch.where(matrix.isfinite().all(), values, torch.full_like(values, torch.nan))


def _gram(matrix: Tensor) -> Tensor:
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
            values = torch.linalg.vector_norm(_left_singular_vectors(matrix.detach()).mT @ matrix, dim=-1)
        else:
            values = torch.linalg.vector_norm(matrix @ _left_singular_vectors(matrix.detach().mT), dim=-2)
    elif matrix.dtype == torch.float64:
        values = torch.linalg.svdvals(torch.nan_to_num(matrix, nan=0.0, posinf=0.0, neginf=0.0))
    else:
        values = torch.linalg.eigvalsh(_gram(matrix)).clamp(min=0).sqrt().flip(-1).to(matrix.dtype)
    return _nan_if_not_finite(values, matrix)


def _left_singular_vectors(wide: Tensor) -> Tensor:
    if wide.dtype == torch.float64:
        finite = torch.nan_to_num(wide, nan=0.0, posinf=0.0, neginf=0.0)
        return torch.linalg.svd(finite, full_matrices=False).U
    return torch.linalg.eigh(_gram(wide)).eigenvectors.flip(-1).to(wide.dtype)


def warm_started_spectral_norm(matrix: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    r"""Spectral norm, and the singular vectors from which the next call can start.

    The matrix of a training step differs little from that of the step before. Starting from its vectors, a few
    products are enough, see :func:`lightning_complexity.functional.eigen.top_eigenvectors`. In 23 trainings of three
    layers under spectral penalties, some so strong that they made training unstable, the logarithm of the product of
    their norms was at most 5e-4 low for a call.

    Args:
        matrix: Shape ``(..., rows, columns)``.
        start: The vectors of an earlier call, or ``None``.

    Returns:
        The norm, shape ``(...)``, as :func:`spectral_norm`; and the vectors, ``None`` where ``matrix`` is a batch of
        several, whose norms are always computed anew.

    Example:
        >>> norm, vectors = warm_started_spectral_norm(torch.diag(torch.tensor([1.0, 3.0])))
        >>> warm_started_spectral_norm(torch.diag(torch.tensor([1.0, 3.1])), vectors)[0]
        tensor(3.1000)
    """
    is_wide = matrix.shape[-2] <= matrix.shape[-1]
    a = matrix.detach() if is_wide else matrix.detach().mT
    rows, columns = a.shape[-2:]
    if a.numel() != rows * columns:
        top, vectors = torch.linalg.eigh(_gram(a)).eigenvectors[..., -1:].to(a.dtype), None
    else:
        vectors = _top_left_singular_vectors(a.reshape(rows, columns), start)
        top = vectors[:, :1].reshape(*a.shape[:-1], 1)
    image = top.mT @ matrix if is_wide else matrix @ top
    return torch.linalg.vector_norm(image, dim=(-2, -1)), vectors


def _top_left_singular_vectors(a: Tensor, start: Tensor | None) -> Tensor:
    count = min(NUM_WARM_VECTORS, len(a))
    if start is None and a.device.type != "cpu":
        return torch.linalg.eigh(_gram(a)).eigenvectors[:, -count:].flip(1).to(a.dtype)
    # In this order a few columns cost about as much as one.
    return top_eigenvectors(lambda v: (v.mT @ a @ a.mT).mT, lambda v: (v.mT @ a).mT, a[:, 0], count, start=start)


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
    return warm_started_spectral_norm(matrix)[0]


def circular_norm(kernel: Tensor, size: Sequence[int]) -> Tensor:
    r"""Norm of a convolution with stride 1 on a torus: the largest singular value over all frequencies.

    .. math:: \max_\omega \| \hat K(\omega) \|_2

    A proxy for the norm of the convolution that a network computes, whose border, stride and dilation differ;
    for zero padding that keeps the size and stride 1 it is an upper bound.

    Args:
        kernel: Shape ``(..., out, in, *kernel)``; the largest norm of a batch, such as the groups, counts.
        size: Size of the image, one number for each spatial dimension; a larger kernel is wrapped around.

    Returns:
        0-d, differentiable. ``nan`` if the kernel is not finite.

    References:
        Sedghi, Gupta and Long, "The singular values of convolutional layers", ICLR 2019.

    Example:
        >>> circular_norm(torch.ones(1, 1, 3), [4])  # frequency 0
        tensor(3.)
    """
    for dim, length in enumerate(size, -len(size)):
        kernel = _wrapped(kernel, dim, length)
    dims = tuple(range(-len(size), 0))
    transformed = torch.fft.rfftn(torch.nan_to_num(kernel, nan=0.0, posinf=0.0, neginf=0.0), dim=dims)
    matrices = transformed.flatten(-len(size)).movedim(-1, 0)
    norm = torch.stack([_spectral_norms(part) for part in matrices.split(_FREQUENCIES_AT_ONCE)]).amax()
    return _nan_if_not_finite(norm, kernel)


def _wrapped(kernel: Tensor, dim: int, length: int) -> Tensor:
    """Sum of the pieces that fall on each other on a circle."""
    pieces = kernel.split(length, dim)
    missing = length - pieces[-1].shape[dim]
    shape = list(kernel.shape)
    shape[dim] = missing
    last = torch.cat([pieces[-1], kernel.new_zeros(shape)], dim)
    return sum(pieces[:-1], last)


def _spectral_norms(matrices: Tensor) -> Tensor:
    """Largest of the norms of complex matrices, by their smaller Gram matrices."""
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mH
    return torch.linalg.eigvalsh(wide @ wide.mH)[..., -1].amax().clamp(min=0).sqrt()


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
    return torch.linalg.vector_norm(spectrum, ord=p)


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
        0-d, summed over leading dimensions; 0 if rows, or columns where there are fewer, are orthonormal.

    References:
        Bansal, Chen and Wang, "Can we gain more from orthogonality regularizations?", NeurIPS 2018.

    Example:
        >>> soft_orthogonality(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))  # (4 - 1)^2
        tensor(9.)
    """
    wide = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    gram = wide @ wide.mT
    return (gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)).square().sum()


class PowerLawFit(NamedTuple):
    r"""Density :math:`\propto x^{-\alpha}` above :math:`x_{\min}`, fitted to a sample.

    Attributes:
        alpha: The exponent, 0-d.
        ks_distance: Kolmogorov-Smirnov distance of the tail from the fit, 0-d.
        num_tail: Number of values at or above the threshold, 0-d.
        threshold: :math:`x_{\min}`, 0-d.
    """

    alpha: Tensor
    ks_distance: Tensor
    num_tail: Tensor
    threshold: Tensor


def _distances(values: Tensor, alphas: Tensor, starts: Tensor) -> Tensor:
    """KS distance of each tail ``values[start:]`` from its own power law."""
    n = len(values)
    rank = torch.arange(n, device=values.device) - starts.unsqueeze(1)
    in_tail = rank >= 0
    ratio = (values[starts].unsqueeze(1) / values).clamp(max=1)
    fitted = 1 - ratio ** (alphas.unsqueeze(1) - 1)
    empirical = rank / (n - starts).unsqueeze(1)
    return torch.where(in_tail, (fitted - empirical).abs(), torch.zeros_like(fitted)).amax(1)


def fit_power_law(values: Tensor) -> PowerLawFit:
    r"""Maximum-likelihood exponent of the tail that looks most like a power law.

    For every value as threshold, :math:`\alpha = 1 + n / \sum_i \ln (x_i / x_{\min})` over the ``n`` values at or
    above it; the threshold with the smallest Kolmogorov-Smirnov distance wins, where, as in the authors' code,
    the empirical distribution at the ``k``-th smallest value of the tail is :math:`(k - 1) / n`. The standard
    error of the exponent is :math:`(\alpha - 1) / \sqrt{n}`: with few values, or a short tail, it means little.

    Args:
        values: Any shape; what is not positive is left out.

    Returns:
        The fit; all ``nan`` if fewer than two distinct positive values are there, or one is not finite.

    References:
        Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51(4), 2009.

    Example:
        >>> fit_power_law(torch.tensor([1.0, 2.0, 4.0])).num_tail
        tensor(3.)
    """
    nothing = torch.full((), torch.nan, dtype=values.dtype, device=values.device)
    x = values.detach().flatten()
    x = x[x > 0].double().sort().values if x.isfinite().all() else x[:0].double()
    logs = x.log()
    counts = torch.arange(len(x), 0, -1, device=x.device)
    spread = logs.flip(0).cumsum(0).flip(0) - counts * logs
    candidates = (spread > _EQUAL_UP_TO * counts).nonzero().flatten()
    if len(candidates) == 0:
        return PowerLawFit(nothing, nothing, nothing, nothing)
    alphas = 1 + counts[candidates] / spread[candidates]
    pairs = zip(alphas.split(_CANDIDATES_AT_ONCE), candidates.split(_CANDIDATES_AT_ONCE), strict=True)
    distances = torch.cat([_distances(x, a, c) for a, c in pairs])
    best = distances.argmin()
    start = candidates[best]
    return PowerLawFit(*(t.to(values.dtype) for t in (alphas[best], distances[best], counts[start], x[start])))
