"""Tiny and huge single-precision weights give what double precision gives: a law for every metric of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from lightning_complexity import metrics, regularizers
from lightning_complexity.functional import circular_norm, lp_norm, mixed_norm, schatten_norm, spectral_norm
from lightning_complexity.metrics import generalization_measures
from lightning_complexity.metrics.base import ComplexityMetric, WeightsAndSamplesMetric
from lightning_complexity.network import Context, Snapshot, initial_state, read_weights
from tests.networks import conv_net, mlp

SCALES = [1e-23, 1e-15, 1.0, 1e15, 1e20]
CLASSES = [entry.metric for entry in metrics.catalogue()]
OPTIONS: list[ComplexityMetric] = [
    *(metrics.ParameterNorm(p) for p in (1, 1.5, 3, math.inf)),
    *(metrics.LogNormProduct(n) for n in ("spectral", "trace", ("schatten", 3), (1, math.inf), (2, 1), (3, 1.5))),
    *(metrics.WeightDistance(n) for n in ("frobenius", "trace", (2, 1))),
    *(metrics.SchattenNorm(p) for p in (2, 3, 20, math.inf)),
    *(metrics.LogSpectralProduct(convolution=c) for c in ("circular", "operator")),
    metrics.LogSpectralComplexity(origin="initialization"),
    *(metrics.HeavyTailAlpha(of) for of in ("ks_distance", "num_tail", "weighted_alpha", "log_alpha_norm")),
    *(metrics.PathNorm(q) for q in (1, 2, 4)),
    metrics.LogNormProduct(fold_batch_norm=True),
    metrics.StableRank(fold_batch_norm=True),
]
OF_WEIGHTS = [metric() for metric in CLASSES if metric().needs <= {"initial"}] + OPTIONS
STUDY = [measure for measure in generalization_measures() if "targets" not in measure.needs]
PARTS = [metric() for metric in CLASSES if issubclass(metric, WeightsAndSamplesMetric)]


def networks() -> Iterator[tuple[nn.Module, torch.Tensor]]:
    yield mlp(6, 40, 3), torch.randn(5, 6)
    yield (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2, stride=2), nn.Flatten(), mlp(36, 3)
        ),
        torch.randn(5, 2, 8, 8),
    )
    yield conv_net(), torch.randn(5, 2, 8, 8)


def pairs(scale: float, *, differentiable: bool = False) -> Iterator[tuple[Snapshot, Snapshot]]:
    """Each network in single precision, and the same numbers in double."""
    for network, x in networks():
        network.float()
        start = copy.deepcopy(network)
        with torch.no_grad():
            for now, before in zip(network.parameters(), start.parameters(), strict=True):
                before.add_(0.3 * torch.randn_like(before)).mul_(scale)
                now.mul_(scale)
        yield tuple(
            Snapshot(
                copy.deepcopy(network).to(dtype),
                x.to(dtype),
                torch.tensor([0, 1, 2, 0, 1]),
                initial=initial_state(copy.deepcopy(start).to(dtype)),
                differentiable=differentiable,
            )
            for dtype in (torch.float32, torch.float64)
        )


def assert_same(single: torch.Tensor, double: torch.Tensor) -> None:
    torch.testing.assert_close(single.double(), double.double(), rtol=1e-4, atol=0, equal_nan=True)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("metric", OF_WEIGHTS + STUDY, ids=lambda m: m.name)
def test_values(metric: ComplexityMetric, scale: float) -> None:
    for snapshots in pairs(scale):
        values = []
        for snapshot in snapshots:
            metric.reset()
            metric.update(snapshot)
            values.append(metric.compute())
        assert_same(*values)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("metric", PARTS, ids=lambda m: m.name)
def test_what_comes_from_the_weights(metric: WeightsAndSamplesMetric, scale: float) -> None:
    for single, double in pairs(scale):
        if "two_layer" in metric.name and len(read_weights(single.model)) != 2:
            continue
        assert_same(metric.from_weights(single, Context()), metric.from_weights(double, Context()))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "metric", [m for m in OF_WEIGHTS if type(m).__name__ in regularizers.__all__], ids=lambda m: m.name
)
def test_gradients(metric: ComplexityMetric, scale: float) -> None:
    for snapshots in pairs(scale, differentiable=True):
        single, double = (
            torch.cat(
                [
                    g.flatten().double()
                    for g in torch.autograd.grad(
                        metric.measure(s, Context()),
                        list(s.model.parameters()),
                        allow_unused=True,
                        materialize_grads=True,
                    )
                ]
            )
            for s in snapshots
        )
        largest = double.abs().amax()
        if largest < 1e38:
            torch.testing.assert_close(single, double, rtol=0, atol=2e-3 * largest.item() + 1e-37)


@pytest.mark.parametrize("scale", [1e-23, 1e20])
def test_second_derivatives_of_a_tiny_norm(scale: float) -> None:
    w = scale * torch.tensor([3.0, 4.0], dtype=torch.float32)
    hessian = torch.autograd.functional.hessian(lp_norm, w)
    expected = (torch.eye(2) - torch.tensor([[9.0, 12.0], [12.0, 16.0]]) / 25) / (5 * scale)
    torch.testing.assert_close(hessian.double(), expected, rtol=1e-5, atol=1e-6 / scale)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 20, math.inf])
@pytest.mark.parametrize("scale", SCALES)
def test_norms_of_entries_of_very_different_size(p: float, scale: float) -> None:
    w = (scale * torch.tensor([[1.0, -2.0, 0.0], [1e-3, 0.0, 5e-3]])).float()
    expected = torch.linalg.vector_norm(w.double() / scale, ord=p) * scale
    assert_same(lp_norm(w), torch.linalg.vector_norm(w.double()))
    assert_same(lp_norm(w, p), expected)
    assert_same(schatten_norm(w[0].abs(), p), torch.linalg.vector_norm(w[0].double() / scale, ord=p) * scale)
    rows = torch.linalg.vector_norm(w.double() / scale, ord=p, dim=1)
    assert_same(mixed_norm(w, p, 1), rows.sum() * scale)


@pytest.mark.parametrize("shape", [(50, 60), (60, 50), (2, 5, 6)])
@pytest.mark.parametrize("scale", SCALES)
def test_spectral_norms(shape: tuple[int, ...], scale: float) -> None:
    w = (scale * torch.randn(shape)).float().requires_grad_()
    assert_same(spectral_norm(w), torch.linalg.matrix_norm(w.double(), 2))
    kernel = w.reshape(2, -1, 5)
    assert_same(circular_norm(kernel, [9]), circular_norm(kernel.double() / scale, [9]) * scale)


def test_a_zero_among_tiny_weights_has_gradient_zero() -> None:
    w = torch.zeros(3, dtype=torch.float32, requires_grad=True)
    (gradient,) = torch.autograd.grad(lp_norm(w) + lp_norm(w, 3) + mixed_norm(w.reshape(1, 3), 2, 1), w)
    assert torch.equal(gradient, torch.zeros(3, dtype=torch.float32))


NORMS = {
    "1.5": lambda w: lp_norm(w, 1.5),
    "2": lp_norm,
    "3": lambda w: lp_norm(w, 3),
    "mixed": lambda w: mixed_norm(w, 2, 1),
    "spectral": spectral_norm,
    "circular": lambda w: circular_norm(w.reshape(2, 4, 5), [9]),
}


@pytest.mark.parametrize("outer", [torch.square, torch.log, torch.clone])
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("scale", [1e-23, 1e15])
def test_gradients_of_what_is_made_from_norms(
    name: str, outer: Callable[[torch.Tensor], torch.Tensor], scale: float
) -> None:
    w = (scale * torch.randn(8, 5)).float().requires_grad_()
    double = w.detach().double().requires_grad_()
    (single,) = torch.autograd.grad(outer(NORMS[name](w)), w)
    (expected,) = torch.autograd.grad(outer(NORMS[name](double / scale) * scale), double)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-4 * expected.abs().amax().item())
