"""Spectral measures, against numpy's singular values and values on paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lightning_complexity.functional import log_spectral_product, singular_values, spectral_norm, stable_rank
from lightning_complexity.metrics import LogSpectralProduct, StableRank
from lightning_complexity.network import Snapshot
from tests.networks import mlp


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (1, 5), (3, 2, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values_equal_numpys(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    matrix = torch.randn(shape, dtype=dtype)
    expected = torch.from_numpy(np.linalg.svd(matrix.double().numpy(), compute_uv=False))
    for m in (matrix, matrix.clone().requires_grad_()):
        torch.testing.assert_close(singular_values(m).detach().double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(spectral_norm(matrix).double(), expected[..., 0], rtol=1e-6, atol=0)


def test_small_singular_values_of_single_precision_are_as_accurate_as_its_rounding() -> None:
    left, right = (torch.linalg.qr(torch.randn(20, 20))[0] for _ in range(2))
    values = torch.logspace(0, -6, 20)
    matrix = (left * values @ right).float()
    torch.testing.assert_close(singular_values(matrix).double(), values, rtol=0, atol=2e-7)


def test_gradient_of_the_spectral_norm_is_the_outer_product_of_singular_vectors() -> None:
    for shape in ((3, 5), (5, 3)):
        matrix = torch.randn(shape, requires_grad=True)
        (gradient,) = torch.autograd.grad(spectral_norm(matrix), matrix)
        u, _, vh = torch.linalg.svd(matrix.detach(), full_matrices=False)
        torch.testing.assert_close(gradient, torch.outer(u[:, 0], vh[0]))


@pytest.mark.parametrize("rows", [40, 100])
def test_large_matrices_whose_top_singular_values_coincide(rows: int) -> None:
    q = torch.linalg.qr(torch.randn(rows, rows))[0]
    for matrix in (torch.eye(rows), q, q.float(), torch.zeros(rows, 50), q[:, :35] @ torch.randn(35, 60)):
        leaf = matrix.clone().requires_grad_()
        norm = spectral_norm(leaf)
        torch.testing.assert_close(norm.detach(), torch.linalg.svdvals(matrix)[0], rtol=1e-6, atol=1e-12)
        assert torch.autograd.grad(norm, leaf)[0].isfinite().all()


def test_gradients_at_zero_and_equal_singular_values_are_finite() -> None:
    for matrix in (torch.zeros(3, 3), torch.eye(3), torch.ones(3, 3)):
        for function in (spectral_norm, lambda m: singular_values(m).sum()):
            leaf = matrix.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(function(leaf), leaf)
            assert gradient.isfinite().all()


def test_not_finite_matrices_have_no_spectrum() -> None:
    for value in (torch.nan, torch.inf):
        matrix = torch.tensor([[1.0, value], [0.0, 1.0]])
        assert singular_values(matrix).isnan().all()
        assert singular_values(matrix.float()).isnan().all()
        assert not spectral_norm(matrix).isfinite()


def test_stable_rank_on_paper() -> None:
    assert stable_rank(torch.tensor(6.0).sqrt(), torch.tensor(2.0)).item() == pytest.approx(1.5)
    assert stable_rank(torch.tensor(0.0), torch.tensor(0.0)).isnan()
    model = nn.Linear(6, 6)
    nn.init.eye_(model.weight)
    metric = StableRank()
    metric.update(model)
    assert metric.compute().item() == pytest.approx(6)


def test_stable_rank_does_not_see_scale() -> None:
    model, values = mlp(4, 6, 3), []
    for scale in (1.0, 1e-3):
        with torch.no_grad():
            model[0].weight *= scale
        metric = StableRank()
        metric.update(model)
        values.append(metric.compute())
    torch.testing.assert_close(values[0], values[1])


def test_product_bounds_the_slope_of_the_network() -> None:
    model, metric = mlp(4, 8, 8, 2), LogSpectralProduct()
    metric.update(model)
    x, y = torch.randn(200, 4), torch.randn(200, 4)
    slopes = (model(x) - model(y)).norm(dim=1) / (x - y).norm(dim=1)
    assert slopes.max() <= metric.compute().exp()


def test_log_spectral_product_is_half_of_jiangs_equation_32() -> None:
    model = mlp(4, 6, 3)
    metric = LogSpectralProduct()
    metric.update(model)
    squares = [np.linalg.norm(m.weight.detach().numpy(), 2) ** 2 for m in model if isinstance(m, nn.Linear)]
    assert 2 * metric.compute().item() == pytest.approx(np.log(squares).sum())
    assert log_spectral_product(torch.tensor([2.0, 0.0])) == -torch.inf


def test_a_folded_network_has_other_norms() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4, eps=0.0))
    nn.init.constant_(model[1].weight, 5.0)
    plain, folded = LogSpectralProduct(), LogSpectralProduct(fold_batch_norm=True)
    plain.update(model)
    folded.update(model, torch.randn(2, 3))
    assert (folded.compute() - plain.compute()).exp().item() == pytest.approx(5)
    ranks = [StableRank(fold_batch_norm=fold) for fold in (True, False)]
    for rank in ranks:
        rank.update(model, torch.randn(2, 3))
    torch.testing.assert_close(ranks[0].compute(), ranks[1].compute())


def test_histograms_are_the_spectra() -> None:
    model = mlp(4, 6, 3)
    snapshot = Snapshot(model, torch.randn(2, 4))
    histograms = StableRank().histograms(snapshot)
    assert histograms.keys() == {"spectrum/0.weight", "spectrum/2.weight"}
    assert [len(v) for v in histograms.values()] == [4, 3]
    assert StableRank(fold_batch_norm=True).histograms(snapshot).keys() == {
        "folded_spectrum/0.weight",
        "folded_spectrum/2.weight",
    }
