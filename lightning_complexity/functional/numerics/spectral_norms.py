"""Largest singular values, without all the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_complexity.functional.numerics.eigen import top_eigenvectors
from lightning_complexity.functional.numerics.linear_operators import GramOperator, MatrixOperator
from lightning_complexity.functional.numerics.scaling import power_of_two, root_power_of_two, vector_norm
from lightning_complexity.functional.weights.spectra import gram_matrix, nan_if_not_finite

__all__ = ["circular_norm", "spectral_norm", "warm_started_spectral_norm"]

NUM_WARM_VECTORS = 16  # singular vectors, so that the largest is not lost when others overtake it
_FREQUENCIES_AT_ONCE = 64
_SMALL, _LARGE = 1e-9, 1e9  # between them fourth powers, of the products with the Gram matrix, stay in range


def warm_started_spectral_norm(matrix: Tensor, warm_start: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    r"""Spectral norm, and the singular vectors with which the next call starts warm.

    The matrix of a training step differs little from that of the step before. Starting from its vectors, a few
    products are enough, see :func:`lightning_complexity.functional.top_eigenvectors`. In 23 trainings of three
    layers under spectral penalties, some so strong that they made training unstable, the logarithm of the product of
    their norms was at most 5e-4 low for a call.

    Args:
        matrix: Shape ``(..., rows, columns)``.
        warm_start: The vectors of an earlier call, or ``None``.

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
        top, vectors = torch.linalg.eigh(gram_matrix(a)).eigenvectors[..., -1:].to(a.dtype), None
    else:
        vectors = _top_left_singular_vectors(a.reshape(rows, columns), warm_start)
        top = vectors[:, :1].reshape(*a.shape[:-1], 1)
    image = top.mT @ matrix if is_wide else matrix @ top
    return vector_norm(image, dim=(-2, -1)), vectors


def _top_left_singular_vectors(a: Tensor, warm_start: Tensor | None) -> Tensor:
    count = min(NUM_WARM_VECTORS, len(a))
    if warm_start is None and a.device.type != "cpu":
        return torch.linalg.eigh(gram_matrix(a)).eigenvectors[:, -count:].flip(1).to(a.dtype)
    return top_eigenvectors(GramOperator(MatrixOperator(_near_one(a).mT)), count, warm_start=warm_start)


def _near_one(a: Tensor) -> Tensor:
    """The matrix, divided by a power of two where its squares could leave the range of its precision."""
    low, high = torch.aminmax(a)
    if _SMALL < max(-low.item(), high.item()) < _LARGE:
        return a
    return a / power_of_two(a)


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
    scale = root_power_of_two(kernel)
    kernel = kernel / scale
    for dim, length in enumerate(size, -len(size)):
        kernel = _wrapped(kernel, dim, length)
    dims = tuple(range(-len(size), 0))
    transformed = torch.fft.rfftn(torch.nan_to_num(kernel, nan=0.0, posinf=0.0, neginf=0.0), dim=dims)
    matrices = transformed.flatten(-len(size)).movedim(-1, 0)
    norm = torch.stack([_spectral_norms(part) for part in matrices.split(_FREQUENCIES_AT_ONCE)]).amax()
    return nan_if_not_finite(norm * scale, kernel)


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
