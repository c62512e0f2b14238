"""What changes nothing in a network changes no measure, found by discovery."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_complexity import metrics
from lightning_complexity.metrics import ComplexityMetric, catalogue
from lightning_complexity.network import MeasureError, Snapshot, initial_state
from tests.networks import mlp, randomize_batch_norm
from tests.quick import quick

METRICS = [entry.metric for entry in catalogue()]
RANDOM = dict.fromkeys(
    [
        metrics.HessianTrace,
        metrics.LargestHessianEigenvalue,
        metrics.SmallestHessianEigenvalue,
        metrics.NegativeCurvature,
        metrics.EffectiveDimension,
        metrics.PreconditionedSharpness,
        metrics.NoiseTolerance,
        metrics.PACBayesBound,
        metrics.WorstCaseSharpness,
        metrics.FunctionalVariance,
        metrics.LearningCoefficient,
        metrics.LossSlice,
    ],
    "its random numbers belong to parameters by their place",
)
BY_ORDER = {
    metrics.LinearRegions: "segments join samples that follow each other",
    metrics.Transitions: "trajectories go through three samples that follow each other",
    metrics.TrajectoryLength: "trajectories go through three samples that follow each other",
    metrics.LabelVariation: "partners are drawn by place",
}


def plain() -> tuple[nn.Sequential, Tensor]:
    return mlp(4, 6, 5, 3), torch.randn(8, 4)


def convolutional() -> tuple[nn.Sequential, Tensor]:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(27, 3),
    )
    randomize_batch_norm(model)
    return model.eval(), torch.randn(8, 2, 5, 5)


def permuted(state: dict[str, Tensor], second: str, order: Tensor) -> dict[str, Tensor]:
    """The units that the first layer gives in another order, in a BatchNorm behind it too, and read so by the next."""
    out = {}
    for name, t in state.items():
        if t.ndim and name.startswith(("0.", "1.")):
            t = t[order]
        elif name == f"{second}.weight":
            t = t[:, order]
        out[name] = t
    return out


def measured(cls: type[ComplexityMetric], model: nn.Module, x: Tensor, y: Tensor, initial: dict[str, Tensor]) -> Tensor:
    metric = quick(cls)
    metric.update(Snapshot(model, x, y, initial=initial))
    return metric.compute()


@pytest.mark.parametrize("make", [plain, convolutional])
@pytest.mark.parametrize("cls", METRICS)
def test_the_order_of_units_does_not_matter(
    cls: type[ComplexityMetric], make: Callable[[], tuple[nn.Sequential, Tensor]]
) -> None:
    if cls in RANDOM:
        pytest.skip(RANDOM[cls])
    model, x = make()
    initial = initial_state(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    y = model(x).argmax(1)
    try:
        before = measured(cls, model, x, y, initial)
    except MeasureError:
        pytest.skip("defined for other networks")
    order = torch.randperm(len(model[0].weight))
    second = "3" if isinstance(model[0], nn.Conv2d) else "2"
    state = permuted(dict(model.state_dict()), second, order)
    outputs = model(x)
    model.load_state_dict(state)
    torch.testing.assert_close(model(x), outputs)
    after = measured(cls, model, x, y, permuted(initial, second, order))
    torch.testing.assert_close(after, before, equal_nan=True)


OF_THE_FUNCTION = {  # of what goes in and comes out, or of products over consecutive layers
    metrics.PathNorm,
    metrics.LogSpectralProduct,
    metrics.LogNormProduct,
    metrics.JacobianNorm,
    metrics.GeometricComplexity,
    metrics.LocalLipschitzConstant,
    metrics.InputGradientNorm,
    metrics.NoiseSensitivity,
    metrics.LinearRegions,
    metrics.RegionBoundaryDistance,
    metrics.LocalComplexity,
    metrics.MeanMargin,
    metrics.MarginPercentile,
    metrics.SmoothMarginLoss,
    metrics.InverseSquaredMargin,
    metrics.NormalizedMargin,
    metrics.DeadUnits,
    metrics.ActivationEntropy,
    metrics.PatternEntropy,
    metrics.Transitions,
    metrics.RegionBound,
    metrics.MixupMargin,
    metrics.StableRank,
    metrics.EffectiveRank,
    metrics.LogConditionNumber,
}


def without_biases() -> tuple[nn.Sequential, Tensor, Tensor]:
    model, x = mlp(4, 6, 5, 3, bias=False), torch.randn(8, 4)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("cls", sorted(OF_THE_FUNCTION, key=lambda cls: cls.__name__))
def test_rescaling_layers_against_each_other_does_not_matter(cls: type[ComplexityMetric]) -> None:
    model, x, y = without_biases()
    before = measured(cls, model, x, y, {})
    with torch.no_grad():
        model[0].weight.mul_(8)
        model[2].weight.div_(8)
    torch.testing.assert_close(measured(cls, model, x, y, {}), before, equal_nan=True)


@pytest.mark.parametrize("cls", [metrics.PathNorm, metrics.LogSpectralProduct, metrics.LogNormProduct])
def test_scaling_all_three_layers_adds_their_logarithms(cls: type[ComplexityMetric]) -> None:
    model, x, y = without_biases()
    before = measured(cls, model, x, y, {})
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    torch.testing.assert_close(measured(cls, model, x, y, {}) - before, torch.tensor(3 * math.log(2)))


@pytest.mark.parametrize("cls", METRICS)
def test_the_order_of_samples_does_not_matter(cls: type[ComplexityMetric]) -> None:
    if cls in BY_ORDER:
        pytest.skip(BY_ORDER[cls])
    model, x = plain()
    initial, y = initial_state(model), model(x).argmax(1)
    with torch.no_grad():
        model[0].bias.add_(0.1)
    try:
        before = measured(cls, model, x, y, initial)
    except MeasureError:
        pytest.skip("defined for other networks")
    order = torch.randperm(len(x))
    torch.testing.assert_close(measured(cls, model, x[order], y[order], initial), before, equal_nan=True)


@pytest.mark.parametrize("cls", [cls for cls in METRICS if hasattr(cls, "means")])
def test_samples_that_come_twice_leave_means_as_they_are(cls: type[ComplexityMetric]) -> None:
    if cls in BY_ORDER:
        pytest.skip(BY_ORDER[cls])
    model, x = (plain if cls is not metrics.ShiftSensitivity else convolutional)()
    y = model(x).argmax(1)
    twice = measured(cls, model, torch.cat([x, x]), torch.cat([y, y]), {})
    torch.testing.assert_close(twice, measured(cls, model, x, y, {}))
