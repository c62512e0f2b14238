"""Matrices that are only multiplied with: Hessians, convolutions, and plain matrices for tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["GramOperator", "LinearOperator", "MatrixOperator", "ScaledOperator"]


class LinearOperator(ABC):
    r"""A matrix :math:`A`, known by its products with vectors.

    A subclass gives :meth:`matvec`, and :meth:`matmat` where several products at once cost less than one by one.

    Args:
        shape: Rows and columns.
        dtype: Of the matrix and the vectors.
        device: Of the matrix and the vectors.
        blocks: Names and lengths of the diagonal blocks of a square matrix, such as the parameters of a Hessian;
            default one block, ``"all"``.

    Raises:
        ValueError: If the blocks do not add up to the number of columns.

    Example:
        >>> class Doubling(LinearOperator):
        ...     def matvec(self, v):
        ...         return 2 * v
        >>> Doubling((2, 2), dtype=torch.float32, device="cpu").matmat(torch.eye(2))
        tensor([[2., 0.],
                [0., 2.]])
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        blocks: Mapping[str, int] | None = None,
    ) -> None:
        rows, columns = shape
        self.shape, self.dtype, self.device = (rows, columns), dtype, torch.device(device)
        self.blocks: dict[str, int] = {"all": columns} if blocks is None else dict(blocks)
        if sum(self.blocks.values()) != columns:
            raise ValueError(f"blocks must add up to the {columns} columns, got {self.blocks}.")

    @abstractmethod
    def matvec(self, v: Tensor) -> Tensor:
        """The product with a vector.

        Args:
            v: Shape ``(columns,)``.

        Returns:
            Shape ``(rows,)``.
        """

    def matmat(self, vectors: Tensor) -> Tensor:
        """The product with the columns of a matrix.

        Args:
            vectors: Shape ``(columns, k)``.

        Returns:
            Shape ``(rows, k)``.
        """
        return torch.stack([self.matvec(v) for v in vectors.unbind(1)], dim=1)

    def rmatmat(self, vectors: Tensor) -> Tensor:
        """The product of the adjoint with the columns of a matrix.

        Args:
            vectors: Shape ``(rows, k)``.

        Returns:
            Shape ``(columns, k)``.

        Raises:
            NotImplementedError: If the operator has no adjoint.
        """
        raise NotImplementedError(f"{type(self).__name__} has no product with its adjoint.")

    def gram_matmat(self, vectors: Tensor) -> Tensor:
        r"""The product :math:`A^T A V` with the columns of a matrix.

        Args:
            vectors: Shape ``(columns, k)``.

        Returns:
            Shape ``(columns, k)``.
        """
        return self.rmatmat(self.matmat(vectors))

    def quadratic_form(self, vectors: Tensor) -> Tensor:
        r"""The matrix :math:`V^T A V` of a square operator in a subspace.

        Args:
            vectors: Shape ``(columns, k)``.

        Returns:
            Shape ``(k, k)``.
        """
        return vectors.mT @ self.matmat(vectors)


class MatrixOperator(LinearOperator):
    """A plain matrix as an operator.

    Args:
        matrix: Shape ``(rows, columns)``.
        blocks: As in :class:`LinearOperator`.

    Raises:
        ValueError: If it is no matrix, or if the blocks do not add up to the number of columns.

    Example:
        >>> MatrixOperator(torch.tensor([[1.0, 2.0]])).rmatmat(torch.ones(1, 1))
        tensor([[1.],
                [2.]])
    """

    def __init__(self, matrix: Tensor, *, blocks: Mapping[str, int] | None = None) -> None:
        if matrix.ndim != 2:
            raise ValueError(f"needs a matrix of shape (rows, columns), got {tuple(matrix.shape)}.")
        super().__init__((matrix.shape[0], matrix.shape[1]), dtype=matrix.dtype, device=matrix.device, blocks=blocks)
        self.matrix = matrix

    def matvec(self, v: Tensor) -> Tensor:
        """The product with a vector."""
        return self.matrix @ v

    # In this order, a few columns cost about as much as one.

    def matmat(self, vectors: Tensor) -> Tensor:
        """The product with the columns of a matrix."""
        return (vectors.mT @ self.matrix.mT).mT

    def rmatmat(self, vectors: Tensor) -> Tensor:
        """The product of the transposed matrix with the columns of a matrix."""
        return (vectors.mT @ self.matrix).mT


class GramOperator(LinearOperator):
    r"""The positive semi-definite matrix :math:`A = B^T B`.

    Args:
        factor: :math:`B`, with an adjoint.

    Example:
        >>> GramOperator(MatrixOperator(torch.tensor([[1.0, 2.0]]))).matvec(torch.tensor([1.0, 0.0]))
        tensor([1., 2.])
    """

    def __init__(self, factor: LinearOperator) -> None:
        columns = factor.shape[1]
        super().__init__((columns, columns), dtype=factor.dtype, device=factor.device, blocks=factor.blocks)
        self.factor = factor

    def matvec(self, v: Tensor) -> Tensor:
        """The product with a vector."""
        return self.matmat(v.unsqueeze(1)).squeeze(1)

    def matmat(self, vectors: Tensor) -> Tensor:
        """The product with the columns of a matrix."""
        return self.factor.gram_matmat(vectors)

    def quadratic_form(self, vectors: Tensor) -> Tensor:
        r""":math:`(BV)^T (BV)`: one product, and positive semi-definite also in rounding."""
        mapped = self.factor.matmat(vectors)
        return mapped.mT @ mapped


class ScaledOperator(LinearOperator):
    r"""A square matrix between two equal diagonal ones, :math:`D A D`.

    Args:
        inner: :math:`A`.
        diagonal: That of :math:`D`, shape ``(columns,)``.

    Example:
        >>> scaled = ScaledOperator(MatrixOperator(torch.ones(2, 2)), torch.tensor([1.0, 10.0]))
        >>> scaled.matvec(torch.tensor([0.0, 1.0]))
        tensor([ 10., 100.])
    """

    def __init__(self, inner: LinearOperator, diagonal: Tensor) -> None:
        super().__init__(inner.shape, dtype=inner.dtype, device=inner.device, blocks=inner.blocks)
        self.inner, self.diagonal = inner, diagonal

    def matvec(self, v: Tensor) -> Tensor:
        """The product with a vector."""
        return self.diagonal * self.inner.matvec(self.diagonal * v)
