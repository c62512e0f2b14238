"""Spectral measures, against numpy's singular values and values on paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from lightning_complexity.functional import (
    effective_rank,
    fit_power_law,
    log_spectral_product,
    participation_ratio,
    singular_values,
    soft_orthogonality,
    spectral_norm,
    stable_rank,
)
from lightning_complexity.metrics import (
    ComplexityMetric,
    EffectiveRank,
    HeavyTailAlpha,
    LogConditionNumber,
    LogSpectralComplexity,
    LogSpectralProduct,
    LogVolume,
    ParticipationRatio,
    SchattenNorm,
    SoftOrthogonality,
    StableRank,
)
from lightning_complexity.network import Snapshot, initial_state
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


@pytest.mark.parametrize("shape", [(3, 60), (60, 3), (60, 50), (50, 60)])
@pytest.mark.parametrize("norm", [spectral_norm, lambda matrix: singular_values(matrix).sum()])
def test_gradients_are_laid_out_as_their_matrices(norm: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(norm(matrix), matrix)
    assert gradient.is_contiguous()


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


def test_spectral_complexity_is_bartletts() -> None:
    model, start = mlp(4, 6, 3), mlp(4, 6, 3)
    for origin, reference in (("zero", None), ("initialization", start)):
        matrices = [model[i].weight.detach().numpy() for i in (0, 2)]
        moved = [
            w - (0 if reference is None else reference[i].weight.detach().numpy())
            for i, w in zip((0, 2), matrices, strict=True)
        ]
        spectral = [np.linalg.norm(w, 2) for w in matrices]
        corrections = [(np.linalg.norm(m, axis=1).sum() / s) ** (2 / 3) for m, s in zip(moved, spectral, strict=True)]
        metric = LogSpectralComplexity(origin=origin)
        metric.update(model, initial=initial_state(start))
        assert metric.compute().exp().item() == pytest.approx(np.prod(spectral) * sum(corrections) ** 1.5)
    with pytest.raises(ValueError, match='origin must be "zero" or "initialization", got \'random\''):
        LogSpectralComplexity(origin="random")


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


def spectrum_of(cls: type[ComplexityMetric], matrix: torch.Tensor, **options: Any) -> float:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0])
    with torch.no_grad():
        layer.weight.copy_(matrix)
    metric = cls(**options)
    metric.update(layer)
    return metric.compute().item()


def test_schatten_norms_are_numpys() -> None:
    matrix = torch.randn(5, 7)
    for p, order in ((1, "nuc"), (2, "fro"), (math.inf, 2)):
        assert spectrum_of(SchattenNorm, matrix, p=p) == pytest.approx(np.linalg.norm(matrix.numpy(), order))
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    assert spectrum_of(SchattenNorm, matrix, p=3) == pytest.approx((values**3).sum() ** (1 / 3))
    with pytest.raises(ValueError, match=r"p must be at least 1 for a norm, got 0.5"):
        SchattenNorm(p=0.5)


def test_effective_rank_is_the_exponential_of_scipys_entropy() -> None:
    matrix = torch.randn(5, 7)
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    assert spectrum_of(EffectiveRank, matrix) == pytest.approx(np.exp(scipy.stats.entropy(values)))
    assert spectrum_of(EffectiveRank, 1e-9 * matrix) == pytest.approx(spectrum_of(EffectiveRank, matrix))
    # Of singular values, as RankMe has it, and not of eigenvalues, which would give 1.6493.
    assert effective_rank(torch.tensor([2.0, 1.0])).item() == pytest.approx(1.8899, abs=5e-5)
    assert effective_rank(torch.tensor([0.0, 3.0])) == 1
    assert effective_rank(torch.zeros(2)).isnan()


def test_participation_ratio_on_paper() -> None:
    assert participation_ratio(torch.tensor([2.0, 1.0, 1.0])) == 2  # (4 + 1 + 1)^2 / (16 + 1 + 1)
    assert participation_ratio(torch.tensor([3.0, 0.0])) == 1
    assert participation_ratio(torch.zeros(2)).isnan()
    assert spectrum_of(ParticipationRatio, torch.eye(4, 6)) == pytest.approx(4)
    assert spectrum_of(ParticipationRatio, torch.ones(3, 5)) == pytest.approx(1)


def test_participation_ratio_is_that_of_the_gram_matrix() -> None:
    matrix = torch.randn(5, 7)
    gram = matrix.numpy() @ matrix.numpy().T
    expected = np.trace(gram) ** 2 / np.linalg.norm(gram) ** 2
    assert spectrum_of(ParticipationRatio, matrix) == pytest.approx(expected)
    assert spectrum_of(ParticipationRatio, 1e-9 * matrix.T) == pytest.approx(expected)


def test_gradient_of_the_participation_ratio_is_finite_where_singular_values_are_zero() -> None:
    matrix = torch.ones(3, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(participation_ratio(singular_values(matrix)), matrix)
    torch.testing.assert_close(gradient, torch.zeros(3, 5))  # 1 is the least value


def test_condition_and_volume_are_numpys() -> None:
    matrix = torch.randn(5, 7)
    assert spectrum_of(LogConditionNumber, matrix) == pytest.approx(np.log(np.linalg.cond(matrix.numpy())))
    gram = np.linalg.slogdet(matrix.numpy() @ matrix.numpy().T)[1]
    assert spectrum_of(LogVolume, matrix) == pytest.approx(gram / 2)
    assert spectrum_of(LogVolume, matrix.T) == pytest.approx(gram / 2)
    assert spectrum_of(LogVolume, torch.diag(torch.tensor([1.0, 0.0]))) == -math.inf
    assert spectrum_of(LogConditionNumber, torch.diag(torch.tensor([1.0, 0.0]))) == math.inf


def test_orthogonality_defect_is_that_of_the_singular_values() -> None:
    for matrix in (torch.randn(5, 7), torch.randn(7, 5)):
        values = torch.linalg.svdvals(matrix)
        expected = (values.square() - 1).square().sum().item()
        assert spectrum_of(SoftOrthogonality, matrix) == pytest.approx(expected)
    q = torch.linalg.qr(torch.randn(6, 4))[0]
    assert spectrum_of(SoftOrthogonality, q) == pytest.approx(0, abs=1e-25)
    assert spectrum_of(SoftOrthogonality, q.T) == pytest.approx(0, abs=1e-25)


def test_orthogonality_defect_of_groups_is_that_of_their_blocks() -> None:
    conv, metric = nn.Conv2d(4, 6, 3, groups=2), SoftOrthogonality()
    metric.update(conv)
    blocks = conv.weight.detach().flatten(1).chunk(2)
    torch.testing.assert_close(metric.compute(), sum(soft_orthogonality(block) for block in blocks))


def slow_power_law(values: np.ndarray) -> tuple[float, float, int]:
    """Clauset's procedure as it is written down, one threshold after the other."""
    best = (math.inf, math.nan, 0)
    for threshold in sorted(set(values.tolist())):
        tail = np.sort(values[values >= threshold])
        if tail[-1] == threshold:
            continue
        alpha = 1 + len(tail) / np.log(tail / threshold).sum()
        empirical = np.arange(len(tail)) / len(tail)
        distance = np.abs(1 - (threshold / tail) ** (alpha - 1) - empirical).max()
        best = min(best, (distance, alpha, len(tail)))
    return best


@pytest.mark.parametrize("n", [3, 40, 600])
def test_power_law_fit_is_clausets(n: int) -> None:
    values = torch.rand(n).square() * 10
    distance, alpha, num_tail = slow_power_law(values.numpy())
    fit = fit_power_law(values)
    assert (fit.alpha.item(), fit.ks_distance.item(), fit.num_tail.item()) == pytest.approx((alpha, distance, num_tail))


@pytest.mark.parametrize("alpha", [2.0, 3.0, 4.0])
def test_exponent_of_a_pareto_sample_is_found(alpha: float) -> None:
    samples = torch.rand(3000) ** (-1 / (alpha - 1))
    fit = fit_power_law(samples)
    assert abs(fit.alpha - alpha) < 4 * (alpha - 1) / fit.num_tail.sqrt()
    assert fit.ks_distance < 0.05


def test_heavy_tails_of_a_network() -> None:
    matrix = torch.randn(60, 50)
    eigenvalues = torch.from_numpy(np.linalg.svd(matrix.numpy(), compute_uv=False) ** 2)
    distance, alpha, num_tail = slow_power_law(eigenvalues.numpy())
    largest = math.log10(eigenvalues.max())
    expected = {
        "alpha": alpha,
        "ks_distance": distance,
        "num_tail": num_tail,
        "weighted_alpha": alpha * largest,
        "log_alpha_norm": math.log10(eigenvalues.pow(alpha).sum()),
    }
    for of, value in expected.items():
        assert spectrum_of(HeavyTailAlpha, matrix, of=of) == pytest.approx(value)
        assert HeavyTailAlpha(of).name == f"heavy_tail_{of}"
    with pytest.raises(ValueError, match="of must be one of alpha, ks_distance"):
        HeavyTailAlpha("exponent")


def test_no_tail_no_exponent() -> None:
    for values in (
        torch.zeros(3),
        torch.ones(4),
        1 + 1e-9 * torch.rand(4),
        torch.tensor([1.0, torch.nan]),
        torch.tensor([2.0]),
    ):
        assert fit_power_law(values).alpha.isnan()


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
