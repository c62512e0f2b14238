"""What metrics and penalties say of themselves is true, found by discovery."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_complexity import metrics, regularizers
from lightning_complexity.metrics import ComplexityMetric, catalogue
from lightning_complexity.network import MeasureError, MissingInputError, NothingMeasuredError, Snapshot, initial_state
from lightning_complexity.regularizers import Regularizer, snapshot_for
from tests.networks import Attending, live_steps, mlp
from tests.quick import quick

METRICS = [entry.metric for entry in catalogue()]
EXPORTED = [getattr(regularizers, name) for name in regularizers.__all__]
PENALTIES = [c for c in EXPORTED if isinstance(c, type) and issubclass(c, Regularizer) and c is not Regularizer]
CHOOSING = [cls for cls in METRICS if cls.chooses_layers]
OF_WEIGHTS = [cls for cls in METRICS if not cls.reads_samples]


class Counting(nn.Sequential):
    """Counts its forward passes; no more samples than ``largest`` went through it at once."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return super().forward(x)


def network(cls: type[Any], *, counting: bool = False) -> nn.Sequential:
    if cls.__module__ == metrics.AttentionEntropy.__module__:
        return (Counting if counting else nn.Sequential)(Attending())
    if cls.__name__ == "ShiftSensitivity":
        layers: list[nn.Module] = [nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3)]
    else:
        layers = list(mlp(4, 5, 3) if cls.__name__ == "TwoLayerBound" else mlp(4, 5, 5, 3))
    return (Counting if counting else nn.Sequential)(*layers)


def inputs(cls: type[Any]) -> Tensor:
    if cls.__module__ == metrics.AttentionEntropy.__module__:
        return torch.randn(6, 3, 4)
    return torch.randn(6, 1, 2, 2) if cls.__name__ == "ShiftSensitivity" else torch.randn(6, 4)


def moved(model: nn.Module) -> dict[str, Tensor]:
    initial = initial_state(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return initial


def value(metric: ComplexityMetric, snapshot: Snapshot) -> Tensor:
    metric.update(snapshot)
    return metric.total()


def snapshot_of(model: nn.Module, x: Tensor, initial: dict[str, Tensor], **options: Any) -> Snapshot:
    with torch.no_grad():
        y = model(x).argmax(1)
    return Snapshot(model, x, y, initial=initial, live=live_steps(model), **options)


# Choosing layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CHOOSING)
def test_what_is_chosen_is_what_is_measured(cls: type[ComplexityMetric]) -> None:
    """One layer: its part of the whole. All layers: the whole. Several: the parts that they have."""
    model, x = network(cls), inputs(cls)
    snapshot = snapshot_of(model, x, moved(model))
    by_layer = {"per_layer": True} if cls.has_layers else {}
    every = quick(cls, **by_layer)
    whole = value(every, snapshot)
    parts = every.parts()
    torch.testing.assert_close(value(quick(cls).on("*"), snapshot), whole)
    for module in ("0", "2"):
        chosen = quick(cls, **by_layer).on(module)
        alone = value(chosen, snapshot)
        assert not torch.isclose(alone, whole)
        if not cls.has_layers:
            continue
        found = chosen.parts()
        assert 0 < len(found) < len(parts)
        if cls.reads_samples:
            continue  # of a Hessian, say, a block of several parameters has an estimate of its own
        for name, part in found.items():
            torch.testing.assert_close(part, parts[name])


@pytest.mark.parametrize("cls", [cls for cls in METRICS if not cls.chooses_layers])
def test_what_chooses_no_layers_says_why(cls: type[ComplexityMetric]) -> None:
    reason = "per_layer=True" if cls.has_layers else "belongs to the network as a whole"
    with pytest.raises(ValueError, match=f"{cls.__name__} has no layers to choose: .*{reason}"):
        cls().on("*")


@pytest.mark.parametrize("cls", CHOOSING)
def test_a_choice_that_fits_nothing_names_the_layers_there_are(cls: type[ComplexityMetric]) -> None:
    model, x = network(cls), inputs(cls)
    snapshot = snapshot_of(model, x, moved(model))
    with pytest.raises(MeasureError, match="chosen by 'zzz'") as caught:
        value(quick(cls).on("zzz"), snapshot)
    assert "0.weight" in str(caught.value) or cls is metrics.CustomizedL1


@pytest.mark.parametrize("cls", PENALTIES)
def test_a_penalty_reaches_the_chosen_layers_alone(cls: type[Regularizer]) -> None:
    model, x, penalty = network(cls), inputs(cls), cls(1.0)
    if not penalty.metric.chooses_layers:
        with pytest.raises(ValueError, match="no layers to choose"):
            penalty.on("*")
        return
    penalty.initial = moved(model)
    penalty.on("2")(model, x, torch.arange(6) % 3).backward()
    for name, p in model.named_parameters():
        reached = p.grad is not None and p.grad.abs().sum() > 0
        assert reached <= name.startswith("2."), name
    assert model[2].weight.grad.abs().sum() > 0


# What is needed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", METRICS)
def test_what_is_needed_is_enough_and_nothing_less_is(cls: type[ComplexityMetric]) -> None:
    model, x = network(cls), inputs(cls)
    everything = {"inputs": x, "targets": torch.arange(6) % 3, "initial": moved(model), "live": live_steps(model)}
    needs = cls().needs - {"loss"}
    exactly = {need: everything[need] for need in needs}
    metric = quick(cls)
    metric.update(model, **exactly)
    assert metric.compute().shape == ()
    for need in needs:
        with pytest.raises(MissingInputError, match=need):
            quick(cls).update(model, **{k: v for k, v in exactly.items() if k != need})


@pytest.mark.parametrize("cls", OF_WEIGHTS)
def test_what_reads_no_samples_has_one_value_for_all_of_them(cls: type[ComplexityMetric]) -> None:
    model, x = network(cls), inputs(cls)
    initial = moved(model)
    first, other = (value(quick(cls), snapshot_of(model, batch, initial)) for batch in (x, 10 * torch.randn_like(x)))
    assert torch.equal(first, other)


@pytest.mark.parametrize("wrapper", [metrics.CapacityOverMargin, metrics.NormalizedMargin])
@pytest.mark.parametrize("cls", METRICS)
def test_capacities_are_what_reads_no_samples(cls: type[ComplexityMetric], wrapper: Callable[..., Any]) -> None:
    if cls.reads_samples:
        with pytest.raises((ValueError, TypeError)):
            wrapper(quick(cls))
        return
    model, x = network(cls), inputs(cls)
    initial = moved(model)
    try:
        metric = wrapper(quick(cls))
    except ValueError as error:
        assert "logarithm" in str(error) or "positive" in str(error)  # noqa: PT017
        return
    whole = value(metric, snapshot_of(model, x, initial))
    parts = wrapper(quick(cls))
    for batch in x.split(2):
        parts.update(snapshot_of(model, batch, initial))
    torch.testing.assert_close(parts.compute(), whole, equal_nan=True)


# What it costs -------------------------------------------------------------------------------------


# The batch at once, one sample to see what the layers are, mixes and what goes into a layer of them.
AT_MOST = {"weights": 0, "forward": 5}


@pytest.mark.parametrize("cls", METRICS)
def test_what_costs_weights_never_runs_the_network(cls: type[ComplexityMetric]) -> None:
    model, x = network(cls, counting=True), inputs(cls)
    snapshot = snapshot_of(model, x, moved(model))
    Counting.calls = 0
    metric = quick(cls)
    value(metric, snapshot)
    assert (Counting.calls == 0) == (metric.cost == "weights")
    assert Counting.calls <= AT_MOST.get(metric.cost, 10**6), Counting.calls


VARIANTS: list[ComplexityMetric] = [
    metrics.LogSpectralProduct(convolution="operator"),
    metrics.LogSpectralProduct(convolution="circular"),
    metrics.LogNormProduct("spectral", convolution="operator"),
    metrics.StableRank(fold_batch_norm=True),
    metrics.WeightDistance(fold_batch_norm=True),
]


@pytest.mark.parametrize("metric", VARIANTS, ids=lambda m: type(m).__name__)
def test_the_cost_is_that_of_this_instance(metric: ComplexityMetric) -> None:
    assert metric.cost == "forward"
    assert "inputs" in metric.needs
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))
    with pytest.raises(MissingInputError, match="inputs"):
        metric.update(model)


def test_a_shared_snapshot_runs_the_network_once_for_what_is_shared() -> None:
    """Forward passes beyond those of the measures before, of one snapshot of 64 samples."""
    model, x = network(metrics.MeanMargin, counting=True), torch.randn(64, 4)
    snapshot = snapshot_of(model, x, moved(model))
    expected = {
        metrics.MeanMargin: 1,
        metrics.MarginPercentile: 0,
        metrics.SmoothMarginLoss: 0,
        metrics.DeadUnits: 1,
        metrics.ActivationEntropy: 0,
        metrics.PatternEntropy: 0,
        metrics.GradientNorm: 1,
        metrics.HessianTrace: 2,  # one sample, to see whether it has the trace of the Gauss-Newton matrix; all samples
        metrics.InputGradientNorm: 1,
    }
    found = {}
    for cls in expected:
        Counting.calls = 0
        quick(cls).update(snapshot)
        found[cls] = Counting.calls
    assert found == expected


TOGETHER: list[Callable[[], Regularizer]] = [
    lambda: regularizers.JacobianNorm(1.0, num_projections=1),
    lambda: regularizers.InputGradientNorm(1.0),
    lambda: regularizers.GradientNorm(1.0),
    lambda: regularizers.GeometricComplexity(1.0),
    lambda: regularizers.SmoothMarginLoss(1.0),
]


def test_several_penalties_run_the_network_once_and_are_those_of_one_by_one() -> None:
    model, x, y = network(nn.Module, counting=True), torch.randn(6, 4), torch.arange(6) % 3
    parameters = list(model.parameters())
    alone = [make()(model, x, y) for make in TOGETHER]
    gradients = [torch.autograd.grad(v, parameters, materialize_grads=True) for v in alone]
    penalties = [make() for make in TOGETHER]
    Counting.calls = 0
    snapshot = snapshot_for([p.measure for p in penalties], model, x, y)
    together = [penalty(snapshot) for penalty in penalties]
    assert Counting.calls == 1
    torch.testing.assert_close(together, alone)
    summed = torch.autograd.grad(torch.stack(together).sum(), parameters)
    torch.testing.assert_close(list(summed), [torch.stack(column).sum(0) for column in zip(*gradients, strict=True)])


# What is reported ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("cls", METRICS)
def test_the_report_has_the_value_first_and_the_rest_below_it(cls: type[ComplexityMetric]) -> None:
    model, x = network(cls), inputs(cls)
    snapshot = snapshot_of(model, x, moved(model))
    for options in ({}, {"per_layer": True}) if cls.has_layers else ({},):
        metric = cls(**options)
        before = {name: getattr(metric, name) for name in metric._notes}
        for ask in (metric.report, metric.compute):
            with pytest.raises(NothingMeasuredError, match=f"{cls.__name__}: nothing measured yet"):
                ask()
        metric.update(snapshot)
        first, *rest = metric.report()
        assert first == metric.name
        assert all(key.startswith(f"{metric.name}/") for key in rest)
        metric.reset()
        assert {name: getattr(metric, name) for name in metric._notes} == before
        for ask in (metric.report, metric.compute):
            with pytest.raises(NothingMeasuredError, match="nothing measured yet"):
                ask()


# Registration --------------------------------------------------------------------------------------

TOY_METRIC = '''
"""A toy family."""
from lightning_complexity.metrics.base import ComplexityMetric

__all__ = ["ToyCount"]


class ToyCount(ComplexityMetric):
    """Number of modules."""

    name = "toy_count"
    suite = "standard"
    reads_samples = False
    formula = "m"
    reference = "none"

    def measure(self, snapshot, context):
        import torch

        return torch.tensor(float(len(list(snapshot.model.modules()))))
'''
TOY_PENALTY = '''
"""A toy family."""
from lightning_complexity.metrics import toys
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["ToyCount"]


class ToyCount(Regularizer):
    """Penalty on the number of modules."""

    example_strength = 1.0

    def __init__(self, strength=1.0):
        super().__init__(strength, toys.ToyCount())
'''
TRY = """
from torch import nn
from lightning_complexity import metrics, regularizers
from lightning_complexity.metrics import catalogue, SUITES
[entry] = [entry for entry in catalogue() if entry.name == "toy_count"]
assert entry.family == "toys"
assert "ToyCount" not in SUITES["fast"]
assert "ToyCount" in SUITES["standard"] and "ToyCount" in SUITES["full"]
assert "ToyCount" in metrics.__all__ and "ToyCount" in regularizers.__all__
assert regularizers.ToyCount(2.0)(nn.Linear(2, 2)).item() == 2
assert metrics.resolve("toy_count")[0].name == "toy_count"
"""


def test_a_file_is_all_that_a_family_needs(tmp_path: Path) -> None:
    import shutil
    import subprocess

    import lightning_complexity

    package = tmp_path / "lightning_complexity"
    shutil.copytree(Path(lightning_complexity.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "metrics" / "toys.py").write_text(TOY_METRIC)
    (package / "regularizers" / "toys.py").write_text(TOY_PENALTY)
    options = {
        "cwd": tmp_path,
        "capture_output": True,
        "text": True,
        "check": False,
        "env": {"PYTHONPATH": str(tmp_path)},
    }
    done = subprocess.run([sys.executable, "-c", TRY], **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
