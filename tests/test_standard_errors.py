"""Two standard errors cover the truth about as often as they should."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import nn

from lightning_complexity import metrics
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import Context, HessianOperator, Snapshot
from tests.networks import mlp

SEEDS = 200
SAMPLES = 100

MEANS: dict[str, Callable[[], ComplexityMetric]] = {
    "MeanMargin": metrics.MeanMargin,
    "SmoothMarginLoss": metrics.SmoothMarginLoss,
    "NoiseSensitivity": metrics.NoiseSensitivity,
    "GeometricComplexity": lambda: metrics.GeometricComplexity(num_projections=1),
    # The norm itself is low for few projections; with as many as here its bias is below a tenth of the error.
    "JacobianNorm": lambda: metrics.JacobianNorm(num_projections=64),
    "OutputEntropy": metrics.OutputEntropy,
    "RelativeFlatness": metrics.RelativeFlatness,
    "EmpiricalFisherTrace": metrics.EmpiricalFisherTrace,
    "SampleGradientNorm": metrics.SampleGradientNorm,
    "FisherRaoNorm": metrics.FisherRaoNorm,
    "FisherRaoNorm(empirical)": lambda: metrics.FisherRaoNorm("empirical"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MEANS)
def test_of_means_over_samples_and_draws(name: str) -> None:
    """The truth is the mean over 50,000 other samples, whose own error is a twentieth of those that are tested."""
    model = mlp(4, 6, 3)
    long_run = MEANS[name]()
    x = torch.randn(50_000, 4)
    long_run.update(Snapshot(model, x, x[:, :3].argmax(1), chunk_size=10_000))
    truth, covered = long_run.compute(), 0
    for _ in range(SEEDS):
        x = torch.randn(SAMPLES, 4)
        metric = MEANS[name]()
        metric.update(model, x, x[:, :3].argmax(1))
        covered += bool((metric.compute() - truth).abs() <= 2 * metric.standard_error())
    assert 0.90 <= covered / SEEDS <= 0.98


@pytest.mark.slow
def test_of_slices_along_random_directions() -> None:
    """The truth is the mean over 4000 directions."""
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(20, 4)
    snapshot, directions = Snapshot(model, x, torch.arange(20) % 3), 16
    long_run, covered = metrics.LossSlice(4000, num_points=3, seed=1), 0
    long_run.update(snapshot)
    for seed in range(SEEDS):
        metric = metrics.LossSlice(directions, num_points=3, seed=1000 + seed)
        metric.update(snapshot)
        covered += bool((metric.compute() - long_run.compute()).abs() <= 2 * metric.standard_error())
    expected = 2 * stats.t.cdf(2, directions - 1) - 1  # 0.936
    assert abs(covered / SEEDS - expected) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("num_probes", [8, 32])
def test_of_the_hessian_trace_by_the_distribution_of_student(num_probes: int) -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(20, 4)
    snapshot = Snapshot(model, x, torch.arange(20) % 3)
    operator = HessianOperator(snapshot)
    truth = operator.matmat(torch.eye(operator.shape[0])).trace()
    metric, covered = metrics.HessianTrace(num_probes=num_probes), 0
    for seed in range(SEEDS):
        samples = metric.probe(snapshot, Context(seed=1000 + seed))[1].sum(1)
        error = samples.std() / num_probes**0.5
        covered += bool((samples.mean() - truth).abs() <= 2 * error)
    expected = 2 * stats.t.cdf(2, num_probes - 1) - 1  # 0.914 and 0.946
    assert abs(covered / SEEDS - expected) < 0.05
