"""A loss times a factor gives the power of it that units say, in single precision: a law for the catalogue."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity import metrics
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import initial_state
from tests.networks import mlp
from tests.quick import quick

FACTORS = [1e-6, 1e-12, 1e6]
OF_THE_LOSS = [entry.metric for entry in metrics.catalogue() if "loss" in entry.metric().needs]
# Their options have the scale of the loss, or one is added to it.
OTHERWISE: dict[str, Callable[[float], ComplexityMetric]] = {
    "EffectiveDimension": lambda c: metrics.EffectiveDimension(0.1 * c),
    "LearningCoefficient": lambda c: metrics.LearningCoefficient(inverse_temperature=5 / c),
    "FunctionalVariance": lambda c: metrics.FunctionalVariance(inverse_temperature=5 / c),
}
OPTIONS: dict[str, Callable[[float], ComplexityMetric]] = {
    **{cls.__name__: lambda c, cls=cls: quick(cls) for cls in OF_THE_LOSS if cls is not metrics.WorstCaseSharpness},
    **OTHERWISE,
    "squared gradient": lambda c: metrics.GradientNorm(squared=True),
    "adaptive": lambda c: metrics.SAMSharpness(adaptive=True),
    "empirical": lambda c: metrics.FisherRaoNorm("empirical"),
    "squared": lambda c: metrics.FisherRaoNorm(squared=True),
    "squared empirical": lambda c: metrics.FisherRaoNorm("empirical", squared=True),
    "hutch++": lambda c: metrics.HessianTrace(12, estimator="hutch++"),
    "hutchinson": lambda c: metrics.HessianTrace(estimator="hutchinson"),
    "exact Takeuchi": lambda c: metrics.TakeuchiCriterion(exact=True),
}


def power(metric: ComplexityMetric) -> float:
    """Of the loss, as the units say."""
    if isinstance(metric, metrics.PreconditionedSharpness):
        return 1  # without an optimizer it is the plain eigenvalue
    powers = {"root of loss": 0.5, "loss²": 2.0, "loss": 1.0}
    return next((p for name, p in powers.items() if metric.units.startswith(name)), 0.0)


def network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Trained for some steps, so that losses and gradients are not alike."""
    torch.manual_seed(0)
    model = mlp(6, 12, 3) if name == "relu" else nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.randn(30, 6, dtype=torch.float32), torch.arange(30) % 3
    model = model.float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, x, y


def report(metric: ComplexityMetric, model: nn.Module, x: Tensor, y: Tensor, factor: float) -> dict[str, float]:
    options: dict[str, Any] = {}
    if "initial" in metric.needs:
        torch.manual_seed(1)
        other = copy.deepcopy(model)
        for p in other.parameters():
            nn.init.normal_(p, std=0.5)
        options["initial"] = initial_state(other)
    metric.update(model, x, y, loss=lambda outputs, targets: factor * F.cross_entropy(outputs, targets), **options)
    return {key.removeprefix(metric.name).strip("/"): float(value) for key, value in metric.report().items()}


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ["relu", "tanh"])
@pytest.mark.parametrize("build", OPTIONS.values(), ids=OPTIONS)
def test_values_errors_and_verdicts(build: Callable[[float], ComplexityMetric], name: str, factor: float) -> None:
    model, x, y = network(name)
    plain, scaled = report(build(1.0), model, x, y, 1.0), report(build(factor), model, x, y, factor)
    assert plain.keys() == scaled.keys()
    for key in plain.keys() & {"", "standard_error"}:
        expected = plain[key] * factor ** power(build(1.0))
        assert scaled[key] == pytest.approx(expected, rel=1e-3, abs=1e-5 * abs(expected), nan_ok=True)
    for key in plain.keys() & {"converged", "products", "evaluations", "sigma"}:
        assert scaled[key] == plain[key]


@pytest.mark.parametrize("factor", FACTORS)
def test_the_rise_in_a_box(factor: float) -> None:
    """Its per cents are of one plus the loss; the rise is the loss's own."""
    model, x, y = network("relu")
    plain, scaled = (report(metrics.WorstCaseSharpness(), model, x, y, c) for c in (1.0, factor))
    assert scaled["rise"] == pytest.approx(factor * plain["rise"], rel=1e-3)
    assert scaled["converged"] == plain["converged"]
    assert math.isfinite(scaled[""])
