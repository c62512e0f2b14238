"""Eigenvalues of the Hessian, their density and effective dimension, against dense matrices and closed forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import linalg as sparse
from torch import Tensor, nn

from lightning_complexity.functional import (
    Lanczos,
    MatrixOperator,
    extreme_eigenvalues,
    lanczos_quadrature,
    random_signs,
    random_start,
)
from lightning_complexity.functional.numerics.lanczos import Quadrature, mean_over_spectrum, spectral_density
from lightning_complexity.metrics import (
    EffectiveDimension,
    LargestHessianEigenvalue,
    NegativeCurvature,
    PreconditionedSharpness,
    SmallestHessianEigenvalue,
)
from lightning_complexity.network import HessianOperator, Snapshot
from lightning_complexity.network.curvature.hessian import hessian_lanczos
from tests.networks import mlp


def symmetric(eigenvalues: Tensor) -> Tensor:
    basis = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues))).Q
    return basis * eigenvalues @ basis.T


def smooth() -> tuple[nn.Module, Tensor, Tensor]:
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(20, 3), torch.arange(20) % 3


def dense_hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    operator = HessianOperator(Snapshot(model, x, y))
    return operator.matmat(torch.eye(operator.shape[0]))


class Counted(MatrixOperator):
    """Counts products."""

    products = 0

    def matvec(self, v: Tensor) -> Tensor:
        self.products += 1
        return super().matvec(v)


# The iteration ---------------------------------------------------------------------------------------


def test_all_eigenvalues_are_found_also_equal_ones() -> None:
    eigenvalues = torch.cat([torch.tensor([-2.0, 3.0, 3.0, 3.0]), torch.zeros(5), torch.rand(4)])
    process = Lanczos(MatrixOperator(symmetric(eigenvalues)), torch.randn(13))
    values, weights, residuals = process.ritz(100)
    assert process.steps == 13
    torch.testing.assert_close(values, eigenvalues.sort().values, atol=1e-12, rtol=0)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    assert residuals.max() == 0


@pytest.mark.parametrize("scale", [1.0, 1e-6, -1.0])
def test_both_ends_and_their_residuals(scale: float) -> None:
    eigenvalues = scale * torch.cat([torch.tensor([9.0, 7.0, 6.5, -4.0, -3.0]), 0.5 * torch.randn(95)])
    matrix = symmetric(eigenvalues)
    found = extreme_eigenvalues(Lanczos(MatrixOperator(matrix), torch.randn(100)), 2, 2, tolerance=1e-3)
    ascending = torch.linalg.eigvalsh(matrix)
    torch.testing.assert_close(found.largest, ascending.flip(0)[:2], rtol=1e-5, atol=0)
    torch.testing.assert_close(found.smallest, ascending[:2], rtol=1e-5, atol=0)
    assert found.converged
    assert found.products < 60
    assert (found.residuals <= 1e-3 * ascending.abs().max()).all()


def test_a_residual_is_a_distance_within_which_there_is_an_eigenvalue() -> None:
    matrix = symmetric(torch.randn(60))
    process = Lanczos(MatrixOperator(matrix), torch.randn(60))
    values, _, residuals = process.ritz(12)
    nearest = (values.unsqueeze(1) - torch.linalg.eigvalsh(matrix)).abs().amin(1)
    assert (nearest <= residuals + 1e-12).all()
    assert residuals.min() > 0


def test_too_few_products_are_told() -> None:
    found = extreme_eigenvalues(Lanczos(MatrixOperator(symmetric(torch.rand(200))), torch.randn(200)), max_products=4)
    assert not found.converged
    assert found.products == 4


def test_no_more_products_than_arpack_needs() -> None:
    eigenvalues = torch.cat([torch.tensor([20.0, 15.0, 12.0, 8.0, 7.0]), torch.rand(295) ** 3])
    matrix, start = symmetric(eigenvalues), torch.randn(300)
    theirs = Counted(matrix)
    operator = sparse.LinearOperator(
        (300, 300), matvec=lambda v: theirs.matvec(torch.from_numpy(v.flatten())).numpy(), dtype="float64"
    )
    sparse.eigsh(operator, k=5, which="LA", v0=start.numpy(), tol=1e-3)
    ours = extreme_eigenvalues(Lanczos(MatrixOperator(matrix), start), 5, tolerance=1e-3)
    assert ours.products <= theirs.products
    torch.testing.assert_close(ours.largest, eigenvalues[:5], rtol=1e-3, atol=0)


def test_what_was_asked_for_is_not_computed_again() -> None:
    operator = Counted(symmetric(torch.randn(80)))
    process = Lanczos(operator, torch.randn(80))
    first = extreme_eigenvalues(process, 2)
    second = extreme_eigenvalues(process, 2)
    assert operator.products == first.products == second.products


def test_what_others_asked_for_before_changes_no_value() -> None:
    matrix, start = symmetric(torch.randn(80)), torch.randn(80)
    alone = extreme_eigenvalues(Lanczos(MatrixOperator(matrix), start), 2, tolerance=0.1)
    process = Lanczos(MatrixOperator(matrix), start)
    lanczos_quadrature(process, 60)
    after = extreme_eigenvalues(process, 2, tolerance=0.1)
    assert torch.equal(after.largest, alone.largest)
    assert after.products == alone.products < 60


def test_a_matrix_that_is_not_finite_has_no_eigenvalues() -> None:
    found = extreme_eigenvalues(Lanczos(MatrixOperator(torch.full((9, 9), torch.nan)), torch.ones(9)), 2, 1)
    assert found.largest.isnan().all()
    assert found.smallest.isnan().all()
    assert not found.converged


def test_quadrature_is_exact_for_polynomials() -> None:
    matrix = symmetric(torch.randn(40))
    start = torch.randn(40)
    nodes, weights = lanczos_quadrature(Lanczos(MatrixOperator(matrix), start), 6)
    v = start / start.norm()
    for power in range(12):  # up to twice the nodes minus 1
        expected = v @ torch.linalg.matrix_power(matrix, power) @ v
        torch.testing.assert_close((weights * nodes**power).sum(), expected, rtol=1e-8, atol=1e-8)
    assert abs((weights * nodes**12).sum() - v @ torch.linalg.matrix_power(matrix, 12) @ v) > 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_eigenvalues_of_zero_are_zero_beside_large_ones(dtype: torch.dtype) -> None:
    axes = torch.linalg.qr(torch.randn(30, 30)).Q[:, :2]
    matrix = (1e30 * axes @ torch.diag(torch.tensor([1.0, -0.3])) @ axes.T).to(dtype)
    for seed in range(4):
        operator = MatrixOperator(matrix)
        process = Lanczos(operator, random_start(operator, torch.Generator().manual_seed(seed)).to(dtype))
        nodes, weights = lanczos_quadrature(process, 16)
        assert (nodes != 0).sum() == 2
        assert weights[nodes == 0].sum() > 0.5


def test_density_integrates_to_one_and_has_the_moments() -> None:
    quadratures = [Quadrature(torch.tensor([-1.0, 3.0]), torch.tensor([0.25, 0.75]))]
    values, density = spectral_density(quadratures, 2000, width=0.02)
    torch.testing.assert_close(torch.trapezoid(density, values), torch.tensor(1.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.trapezoid(density * values, values), torch.tensor(2.0), rtol=1e-4, atol=0)
    assert mean_over_spectrum(quadratures, torch.square) == 7


# The metrics -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [smooth, lambda: (mlp(3, 5, 3), torch.randn(20, 3), torch.arange(20) % 3)])
def test_ends_of_the_spectrum_are_those_of_the_dense_hessian(
    build: Callable[[], tuple[nn.Module, Tensor, Tensor]],
) -> None:
    model, x, y = build()
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(model, x, y))
    largest, smallest = LargestHessianEigenvalue(3, tolerance=1e-6), SmallestHessianEigenvalue(tolerance=1e-6)
    snapshot = Snapshot(model, x, y)
    largest.update(snapshot)
    smallest.update(snapshot)
    torch.testing.assert_close(largest.compute(), eigenvalues[-1])
    torch.testing.assert_close(smallest.compute(), eigenvalues[0])
    report = {key.rpartition("/")[2]: value for key, value in largest.report().items()}
    torch.testing.assert_close(report["2"], eigenvalues[-2])
    torch.testing.assert_close(report["3"], eigenvalues[-3])
    assert report["converged"] == 1
    assert report["residual"] <= 1e-6 * eigenvalues[-1]


@pytest.mark.parametrize("features", range(3, 11))
def test_eigenvectors_of_two_equal_entries_are_found(features: int) -> None:
    """Logistic regression on features that never meet: ``(1, -1)`` for each, which half of all signs are blind to."""
    x = torch.eye(features).repeat_interleave(torch.arange(1, features + 1) * 3, 0)
    model, y = nn.Linear(features, 2, bias=False), torch.arange(len(x)) % 2
    expected = torch.linalg.eigvalsh(dense_hessian(model, x, y)).flip(0)[:3]
    plain, scaled = LargestHessianEigenvalue(3, tolerance=1e-5), PreconditionedSharpness(tolerance=1e-5)
    for metric in (plain, scaled):
        metric.update(model, x, y)
    torch.testing.assert_close(plain.eigenvalues, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(scaled.compute(), expected[0], rtol=1e-6, atol=0)


def test_weights_of_zero_have_the_curvature_of_the_last_bias() -> None:
    model = mlp(4, 6, 3)
    for p in model.parameters():
        nn.init.zeros_(p)
    metric = LargestHessianEigenvalue()
    metric.update(model, torch.randn(12, 4), torch.arange(12) % 3)
    assert metric.compute().item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", range(3))
def test_starts_are_unbiased_and_next_to_no_worse_than_signs(seed: int) -> None:
    matrix = symmetric(torch.linspace(-1, 3, 20)) + torch.diag(torch.linspace(0, 2, 20))
    operator, generator = MatrixOperator(matrix), torch.Generator().manual_seed(seed)
    starts = torch.stack([random_start(operator, generator) for _ in range(4000)])
    signs = torch.stack([random_signs(operator, generator) for _ in range(4000)])
    found, expected = (((v @ matrix) * v).sum(1) / v.square().sum(1) for v in (starts, signs))
    assert abs(found.mean() - matrix.trace() / 20) <= 3 * found.std() / 4000**0.5
    assert found.std() < 1.1 * expected.std()


def test_the_second_metric_goes_on_from_the_products_of_the_first() -> None:
    model, x, y = smooth()
    snapshot = Snapshot(model, x, y)
    LargestHessianEigenvalue(tolerance=1e-5).update(snapshot)
    known = hessian_lanczos(snapshot).steps
    again = LargestHessianEigenvalue(tolerance=1e-5)
    again.update(snapshot)
    assert hessian_lanczos(snapshot).steps == known == again.report()["largest_hessian_eigenvalue/products"]


def test_a_loss_times_a_millionth_has_eigenvalues_times_a_millionth() -> None:
    model, x, y = smooth()
    model, x = model.float(), x.float()
    values = []
    for scale in (1.0, 1e-6):
        metric = LargestHessianEigenvalue()
        metric.update(model, x, y, loss=lambda z, t, scale=scale: scale * F.cross_entropy(z, t))
        values.append(metric.compute() / scale)
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=0)


def test_effective_dimension_of_ridge_regression_is_its_degrees_of_freedom() -> None:
    """Half the squared error: the Hessian is X^T X / n, and the degrees of freedom tr X (X^T X + n a)^-1 X^T."""
    x, alpha = torch.randn(30, 6) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1, 0.01]), 0.3
    hat = x @ torch.linalg.solve(x.T @ x + 30 * alpha * torch.eye(6), x.T)
    metric = EffectiveDimension(alpha, num_probes=400)
    metric.update(nn.Linear(6, 1, bias=False), x, torch.randn(30, 1), loss=lambda z, y: F.mse_loss(z, y) / 2)
    assert abs(metric.compute() - hat.trace()) <= 3 * metric.standard_error()
    assert metric.standard_error() < 0.05 * hat.trace()


def test_effective_dimension_ignores_negative_curvature() -> None:
    model, x, y = smooth()
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(model, x, y)).clamp(min=0)
    metric = EffectiveDimension(0.01, num_probes=300, num_steps=30)
    metric.update(model, x, y)
    assert abs(metric.compute() - (eigenvalues / (eigenvalues + 0.01)).sum()) <= 3 * metric.standard_error()


def test_negative_curvature_is_that_of_the_dense_hessian() -> None:
    model, x, y = smooth()
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(model, x, y))
    metric = NegativeCurvature(400, num_steps=40)
    metric.update(model, x, y)
    expected = (-eigenvalues).clamp(min=0).sum() / eigenvalues.abs().sum()
    assert 0.01 < expected < 0.99
    assert abs(metric.compute() - expected) <= 3 * metric.standard_error()
    assert metric.standard_error() < 0.1 * expected


def test_its_density_is_drawn() -> None:
    pytest.importorskip("matplotlib")
    model, x, y = smooth()
    metric, snapshot = NegativeCurvature(2), Snapshot(model, x, y)
    metric.update(snapshot)
    values, density = metric.density()
    torch.testing.assert_close(torch.trapezoid(density, values), torch.tensor(1.0), rtol=1e-3, atol=0)
    assert list(metric.figures(snapshot)) == ["negative_curvature/density"]


@pytest.mark.slow
@pytest.mark.parametrize("cls", [EffectiveDimension, NegativeCurvature])
def test_two_standard_errors_cover_the_truth(cls: type[EffectiveDimension] | type[NegativeCurvature]) -> None:
    matrix = symmetric(torch.cat([torch.linspace(-1, 3, 40)]))
    eigenvalues = torch.linalg.eigvalsh(matrix)
    metric = cls(num_probes=16)
    truth = (
        (eigenvalues.clamp(min=0) / (eigenvalues.clamp(min=0) + 1)).sum()
        if cls is EffectiveDimension
        else (-eigenvalues).clamp(min=0).sum() / eigenvalues.abs().sum()
    )
    covered = 0
    for _ in range(200):
        starts = torch.randint(0, 2, (16, 40)) * 2.0 - 1
        found = [lanczos_quadrature(Lanczos(MatrixOperator(matrix), start), 40) for start in starts]
        metric.nodes, metric.weights = (torch.stack(column) for column in zip(*found, strict=True))
        metric.size = torch.tensor(40.0)
        covered += bool((metric.total() - truth).abs() <= 2 * metric.standard_error())
    assert 0.90 <= covered / 200 <= 0.97


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LargestHessianEigenvalue(0), "k must be at least 1, got 0"),
        (lambda: LargestHessianEigenvalue(tolerance=0.0), "tolerance must be between 0 and 1, got 0.0"),
        (lambda: SmallestHessianEigenvalue(5, max_products=4), "max_products must be at least k=5, got 4"),
        (lambda: NegativeCurvature(0), "num_probes must be at least 1, got 0"),
        (lambda: EffectiveDimension(num_steps=0), "num_steps must be at least 1, got 0"),
        (lambda: EffectiveDimension(0.0), "alpha must be positive, got 0.0"),
    ],
)
def test_options_are_checked(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
