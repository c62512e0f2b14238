"""Eigenvalues, and their density, of a symmetric matrix that is only multiplied with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_complexity.functional.numerics.linear_operators import LinearOperator

__all__ = [
    "Eigenvalues",
    "Lanczos",
    "Quadrature",
    "extreme_eigenvalues",
    "lanczos_quadrature",
    "mean_over_spectrum",
    "spectral_density",
]


class Eigenvalues(NamedTuple):
    r"""Eigenvalues at both ends of a spectrum, and how sure they are.

    Attributes:
        largest: The largest, in descending order.
        smallest: The smallest, in ascending order.
        residuals: :math:`\|A v - \lambda v\|` of the largest and then of the smallest: that far from each value, at
            most, there is an eigenvalue.
        products: How many products with the matrix were taken.
        converged: Whether all residuals are within the tolerance.
    """

    largest: Tensor
    smallest: Tensor
    residuals: Tensor
    products: int
    converged: bool


class Quadrature(NamedTuple):
    r"""Nodes and weights of one random vector: :math:`\sum_k w_k f(\lambda_k)` estimates the mean of :math:`f`.

    Attributes:
        nodes: Shape ``(steps,)``.
        weights: Shape ``(steps,)``, which sum to 1.
    """

    nodes: Tensor
    weights: Tensor


class Lanczos:
    r"""Lanczos' iteration, each vector orthogonalised against all before, to be continued as far as is needed.

    After ``m`` steps :math:`A Q_m \approx Q_m T_m` with a tridiagonal :math:`T_m` whose eigenvalues are close to those
    of :math:`A` at both ends. Where the Krylov space ends early it goes on from a random vector outside, so that
    eigenvalues that are equal are all found. Keeps a vector of the matrix's size for each step.

    Args:
        operator: Square and symmetric.
        start: Shape ``(columns,)``, not zero.
        rounding: The product with a unit vector counts as zero where it is no longer than this.

    Example:
        >>> from lightning_complexity.functional import MatrixOperator
        >>> process = Lanczos(MatrixOperator(torch.diag(torch.tensor([1.0, 4.0]))), torch.ones(2))
        >>> process.ritz(2)[0]
        tensor([1.0000, 4.0000], dtype=torch.float64)
    """

    def __init__(self, operator: LinearOperator, start: Tensor, *, rounding: float = 0.0) -> None:
        self._operator, self._rounding = operator, rounding
        self._basis = (start / _norm(start)).unsqueeze(0)  # with room for more
        self._diagonal: list[float] = []
        self._beside: list[float] = []

    @property
    def size(self) -> int:
        """Rows and columns of the matrix."""
        return self._operator.shape[0]

    @property
    def steps(self) -> int:
        """How many products were taken."""
        return len(self._diagonal)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to find, since all of the space was, or the matrix is not finite."""
        broken = bool(self._diagonal) and self._diagonal[-1] != self._diagonal[-1]
        return self.steps >= self.size or broken

    @property
    def rounding_of_largest(self) -> float:
        """Share of the largest eigenvalue below which others are rounding."""
        return 10 * torch.finfo(self._basis.dtype).eps

    def advance(self, steps: int) -> None:
        """Take so many products in all; none beyond the size of the matrix."""
        while self.steps < steps and not self.is_complete:
            self._step()

    def _step(self) -> None:
        v = self._basis[self.steps]
        image = self._operator.matvec(v).to(v.dtype)
        if _norm(image) <= self._rounding:
            image = torch.zeros_like(image)
        along = v @ image
        rest = image - along * v
        if self.steps:
            rest -= self._beside[-1] * self._basis[self.steps - 1]
        self._diagonal.append(float(along))
        rest = self._orthogonal(rest)
        beside = float(_norm(rest))
        scale = max(map(abs, [*self._diagonal, *self._beside]))
        if beside <= self.rounding_of_largest * scale:
            noise = torch.randn(len(v), generator=torch.Generator().manual_seed(self.steps), dtype=torch.float64)
            beside, rest = 0.0, self._orthogonal(noise.to(v))
        self._beside.append(beside)
        if self.steps < len(v):
            self._keep(rest / _norm(rest))

    def _keep(self, vector: Tensor) -> None:
        if self.steps == len(self._basis):
            room = min(max(len(self._basis), 4), len(vector) - len(self._basis))  # twice as much
            self._basis = torch.cat([self._basis, vector.new_empty(room, len(vector))])
        self._basis[self.steps] = vector

    def _orthogonal(self, vector: Tensor) -> Tensor:
        """What of a vector is outside the basis; again where much was inside, of which rounding errors are left."""
        known, before = self._basis[: self.steps], _norm(vector)
        rest = vector - (known @ vector) @ known
        if _norm(rest) < 0.7 * before:
            rest = rest - (known @ rest) @ known
        return rest

    def ritz(self, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values in ascending order, the squared first and the absolute residual of each, on the CPU.

        Args:
            steps: After how many; what was found later does not count, so that who asked for more changes nothing.

        Returns:
            Values, the weights of a quadrature, and residuals, each of shape ``(steps,)``, or shorter where all was
            found before; ``nan`` where the matrix is not finite.
        """
        self.advance(steps)
        m = min(steps, self.steps)
        matrix = torch.diag(torch.tensor(self._diagonal[:m], dtype=torch.float64))
        if m > 1:
            beside = torch.tensor(self._beside[: m - 1], dtype=torch.float64)
            matrix = matrix + torch.diag(beside, 1) + torch.diag(beside, -1)
        if not matrix.isfinite().all():
            return (torch.full((m,), torch.nan, dtype=torch.float64),) * 3
        values, vectors = torch.linalg.eigh(matrix)
        last = 0.0 if m >= self.size else self._beside[m - 1]
        return values, vectors[0].square(), vectors[-1].abs() * last


def _norm(vector: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vector, dtype=torch.float64)  # squares of large single-precision numbers overflow


def extreme_eigenvalues(
    process: Lanczos, largest: int = 1, smallest: int = 0, *, tolerance: float = 1e-3, max_products: int = 200
) -> Eigenvalues:
    r"""Eigenvalues at the ends of the spectrum of a symmetric matrix.

    Goes on until the residual of each is at most ``tolerance`` times its absolute value, or a tenth of the largest
    absolute value where that is more. The error of a value is about the square of its residual divided by the distance
    to the next eigenvalue. Eigenvalues that are equal may be found as one, and what the start is orthogonal to not at
    all: draw it with :func:`lightning_complexity.functional.random_start`.

    Args:
        process: Started or not; its products are kept for who asks next.
        largest: How many of the largest; no more than there are.
        smallest: How many of the smallest.
        tolerance: See above; relative, so that the matrix may be multiplied by any number.
        max_products: Where it stops, converged or not.

    Example:
        >>> from lightning_complexity.functional import MatrixOperator
        >>> process = Lanczos(MatrixOperator(torch.diag(torch.tensor([-1.0, 1.0, 4.0]))), torch.ones(3))
        >>> found = extreme_eigenvalues(process, 2, 1)
        >>> found.largest, found.smallest, found.products
        (tensor([4.0000, 1.0000], dtype=torch.float64), tensor([-1.0000], dtype=torch.float64), 3)
    """
    steps = min(largest + smallest + 1, max_products)
    while True:
        values, _, residuals = process.ritz(steps)
        top, bottom = list(range(len(values)))[::-1][:largest], list(range(len(values)))[:smallest]
        ends = [*top, *bottom]
        enough = tolerance * values[ends].abs().clamp(min=0.1 * float(values.abs().max()))
        converged = bool((residuals[ends] <= enough).all())
        if converged or len(values) < steps or steps >= min(process.size, max_products) or values.isnan().any():
            return Eigenvalues(values[top], values[bottom], residuals[ends], len(values), converged)
        steps += 1


def lanczos_quadrature(process: Lanczos, steps: int) -> Quadrature:
    r"""Gauss quadrature of the spectrum as a random vector sees it.

    For a random vector :math:`v`, :math:`v^T f(A) v / \|v\|^2 = \sum_k w_k f(\lambda_k)`, exact for polynomials of
    degree up to twice the steps minus 1. Its mean over vectors is that of :math:`f` over the eigenvalues, for vectors
    such as :func:`lightning_complexity.functional.random_start` draws.

    Nodes that are rounding of the largest ones are zero.

    Args:
        process: From a random vector.
        steps: How many nodes; no more than there are eigenvalues.

    References:
        Golub and Meurant, "Matrices, moments and quadrature", 1994; Ghorbani, Krishnan and Xiao, ICML 2019.

    Example:
        >>> from lightning_complexity.functional import MatrixOperator
        >>> process = Lanczos(MatrixOperator(torch.diag(torch.tensor([1.0, 4.0]))), torch.ones(2))
        >>> nodes, weights = lanczos_quadrature(process, 2)
        >>> (weights * nodes.square()).sum()  # the mean of 1 and 16
        tensor(8.5000, dtype=torch.float64)
    """
    values, weights, _ = process.ritz(steps)
    rounding = process.rounding_of_largest * values.abs().amax()
    return Quadrature(torch.where(values.abs() <= rounding, 0.0, values), weights)


def mean_over_spectrum(quadratures: Sequence[Quadrature], function: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of a function over the eigenvalues, as each random vector estimates it.

    Args:
        quadratures: One for each random vector.
        function: Of eigenvalues, one by one.

    Returns:
        Shape ``(vectors,)``.

    Example:
        >>> mean_over_spectrum([Quadrature(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5]))], torch.square)
        tensor([5.])
    """
    return torch.stack([(q.weights * function(q.nodes)).sum() for q in quadratures])


def spectral_density(
    quadratures: Sequence[Quadrature], num_points: int = 512, width: float = 0.01
) -> tuple[Tensor, Tensor]:
    """The density of eigenvalues, with a normal distribution in the place of each node.

    Args:
        quadratures: One for each random vector.
        num_points: At how many values.
        width: Standard deviation of the normal distributions, as a share of the range of the nodes.

    Returns:
        Values in ascending order, and the density at each, which integrates to 1; shapes ``(num_points,)``.

    Example:
        >>> values, density = spectral_density([Quadrature(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]))])
        >>> torch.trapezoid(density, values)
        tensor(1.0000)
    """
    nodes = torch.cat([q.nodes for q in quadratures])
    weights = torch.cat([q.weights for q in quadratures]) / len(quadratures)
    spread = nodes.max() - nodes.min()
    sigma = width * (spread if spread > 0 else nodes.abs().max().clamp(min=torch.finfo(nodes.dtype).tiny))
    values = torch.linspace(0, 1, num_points).to(nodes) * (spread + 10 * sigma) + nodes.min() - 5 * sigma
    bells = torch.exp(-((values.unsqueeze(1) - nodes) / sigma).square() / 2) / (sigma * math.sqrt(2 * math.pi))
    return values, bells @ weights
