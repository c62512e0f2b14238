"""Linear operators, and the estimators that are written once over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_complexity.functional import (
    GramOperator,
    LinearOperator,
    MatrixOperator,
    hutchinson_samples,
    top_eigenvectors,
)
from lightning_complexity.network.weights.convolutions import ConvolutionOperator

CONVOLUTIONS = {
    "stride": (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 5, 6)),
    "reflect": (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect", groups=2), (2, 4, 5)),
    "transposed": (nn.ConvTranspose1d(2, 3, 3, stride=2, output_padding=1), (2, 5)),
}


class ByVectors(LinearOperator):
    """Knows products with single vectors only."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(tuple(matrix.shape), dtype=matrix.dtype, device=matrix.device)
        self.matrix = matrix

    def matvec(self, v: Tensor) -> Tensor:
        return self.matrix @ v


def operators() -> dict[str, tuple[LinearOperator, Tensor]]:
    a = torch.randn(4, 3)
    found: dict[str, tuple[LinearOperator, Tensor]] = {
        "vectors": (ByVectors(a), a),
        "matrix": (MatrixOperator(a), a),
        "gram": (GramOperator(MatrixOperator(a)), a.T @ a),
    }
    for name, (module, shape) in CONVOLUTIONS.items():
        module = module.double()
        units = torch.eye(int(np.prod(shape))).reshape(-1, *shape)
        bias = module(torch.zeros(1, *shape))
        unrolled = (module(units) - bias).flatten(1).detach().T
        found[name] = ConvolutionOperator(module, module.weight, torch.Size(shape)), unrolled
    return found


@pytest.mark.parametrize("name", ["vectors", "matrix", "gram", *CONVOLUTIONS])
def test_products_are_those_of_the_matrix(name: str) -> None:
    operator, matrix = operators()[name]
    assert operator.shape == tuple(matrix.shape)
    v, u = torch.randn(matrix.shape[1], 3), torch.randn(matrix.shape[0], 3)
    torch.testing.assert_close(operator.matmat(v), matrix @ v)
    torch.testing.assert_close(operator.matvec(v[:, 0]), matrix @ v[:, 0])
    if name not in ("vectors", "gram"):
        torch.testing.assert_close(operator.rmatmat(u), matrix.T @ u)
        torch.testing.assert_close(operator.gram_matmat(v), matrix.T @ (matrix @ v))
        torch.testing.assert_close(GramOperator(operator).quadratic_form(v), v.T @ matrix.T @ matrix @ v)


def test_an_adjoint_that_is_not_there_is_named() -> None:
    with pytest.raises(NotImplementedError, match="ByVectors has no product with its adjoint"):
        ByVectors(torch.eye(2)).rmatmat(torch.eye(2))


def test_what_is_no_operator() -> None:
    with pytest.raises(ValueError, match=r"blocks must add up to the 3 columns, got \{'a': 2\}"):
        MatrixOperator(torch.eye(3), blocks={"a": 2})
    with pytest.raises(ValueError, match=r"a matrix of shape \(rows, columns\), got \(3,\)"):
        MatrixOperator(torch.ones(3))


def test_traces_of_blocks_are_unbiased() -> None:
    a = torch.randn(5, 5)
    operator = MatrixOperator(a + a.T, blocks={"first": 2, "second": 3})
    samples = hutchinson_samples(operator, 4000, generator=torch.Generator().manual_seed(0))
    exact = torch.stack([block.diagonal().sum() for block in ((a + a.T)[:2, :2], (a + a.T)[2:, 2:])])
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - exact).abs() < 4 * error).all()


@pytest.mark.parametrize("size", [10, 60])
def test_largest_eigenvalues_of_an_indefinite_matrix(size: int) -> None:
    a = torch.randn(size, size)
    symmetric = a + a.T - 3 * torch.eye(size)
    exact = np.linalg.eigvalsh(symmetric)[::-1][:4]
    cold = top_eigenvectors(ByVectors(symmetric), 4)
    moved = ByVectors(symmetric + 1e-3 * torch.eye(size))
    for vectors in (cold, top_eigenvectors(moved, 4, warm_start=cold)):
        values = (vectors * (symmetric @ vectors)).sum(0)
        np.testing.assert_allclose(values[0], exact[0], rtol=1e-5)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=1e-10)
    np.testing.assert_allclose((cold * (symmetric @ cold)).sum(0), exact, rtol=1e-8)


def test_a_warm_start_far_from_a_small_eigenvalue_is_not_used() -> None:
    basis = torch.linalg.qr(torch.randn(60, 60)).Q
    matrix = MatrixOperator(-basis @ torch.diag(torch.linspace(1, 100, 60)) @ basis.T)  # the largest is -1
    start = torch.linalg.qr(torch.randn(60, 4)).Q
    warm = top_eigenvectors(matrix, 4, warm_start=start)
    torch.testing.assert_close(matrix.matmat(warm[:, :1]), -warm[:, :1], rtol=0, atol=3e-3)
