"""What is timed: a training step, each metric, and a training step with each penalty."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.models import Workload
from lightning_complexity import metrics, regularizers
from lightning_complexity.metrics import ComplexityMetric, catalogue, resolve
from lightning_complexity.metrics.base import SpectrumMetric
from lightning_complexity.network import (
    HessianOperator,
    LiveSteps,
    Snapshot,
    initial_state,
    layer_norms,
    squared_sample_gradients,
)
from lightning_complexity.regularizers import Regularizer, snapshot_for

Action = Callable[[], object]

GROUPS: dict[str, tuple[ComplexityMetric, ...]] = {
    "Frobenius-type norms": (
        metrics.ParameterNorm(),
        metrics.LogNormProduct(),
        metrics.LogNormSum(),
        metrics.LogNormProduct((2, 1)),
        metrics.LogNormProduct((1, math.inf)),
    ),
    "spectra, and all measures of them": (
        metrics.LogSpectralProduct(),
        metrics.StableRank(),
        metrics.SchattenNorm(),
        *(entry.metric() for entry in catalogue() if issubclass(entry.metric, SpectrumMetric)),
    ),
    "noise of the samples' gradients": (
        metrics.GradientVariance(),
        metrics.GradientSignalToNoise(),
        metrics.GradientNoiseScale(),
        metrics.GradientCoherence(),
        metrics.GradientCosine(),
    ),
    "margins": (metrics.MarginPercentile(), metrics.MeanMargin(), metrics.InverseSquaredMargin()),
    "circular norms of convolutions": (metrics.LogSpectralProduct(convolution="circular"),),
}
"""Metrics that share what is expensive, measured on one snapshot."""

CURVATURE: tuple[ComplexityMetric, ...] = (
    metrics.GradientNorm(),
    metrics.HessianTrace(),
    metrics.GaussNewtonTrace(),
    metrics.EmpiricalFisherTrace(),
    metrics.FisherRaoNorm(),
    metrics.RelativeFlatness(),
    metrics.CriticalSharpness(),
    metrics.LargestHessianEigenvalue(),
    metrics.SmallestHessianEigenvalue(),
    metrics.TakeuchiCriterion(),
)
"""Ten measures of curvature, together and each alone."""
CURVATURE_AND_GRADIENTS: tuple[ComplexityMetric, ...] = (
    metrics.GradientNorm(),
    metrics.SampleGradientNorm(),
    metrics.GradientVariance(),
    metrics.GradientNoiseScale(),
    metrics.GradientCosine(),
    metrics.HessianTrace(),
    metrics.GaussNewtonTrace(),
    metrics.EmpiricalFisherTrace(),
    metrics.FisherRaoNorm(),
    metrics.CriticalSharpness(),
)
"""Ten without eigenvalues, which take most of the time of the others."""

ON_SMALL_NETWORKS = frozenset(
    {"RegionBoundaryDistance", "LANNComplexity", "LinearRegions", "LocalComplexity", "SmoothLocalComplexity"}
    | {"TrajectoryLength", "Transitions"}
)
"""Metrics that look at each unit or at many points, and are therefore timed on the MLP alone."""

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "HessianTrace": ({"num_probes": 2}, {"estimator": "hutchinson"}),
    "GaussNewtonTrace": ({"num_probes": 1},),
    "LargestHessianEigenvalue": ({"k": 5},),
    "JacobianNorm": ({"num_projections": 1},),
    "GeometricComplexity": ({"num_projections": 1},),
    "LogSpectralProduct": ({"fold_batch_norm": True},),
    "LearningCoefficient": ({"num_chains": 1, "num_draws": 100, "burn_in": 0},),
}
"""Options by class name that are measured beside the defaults, since they change the cost.

The true operator norm of convolutions, ``convolution="operator"``, is not among them: it takes 14 steps on a ResNet-18.
"""


def training_step(
    workload: Workload,
    *penalties: Regularizer,
    reuse_outputs: bool = False,
    share: bool = False,
    followed_every: int | None = None,
) -> Action:
    """Forward, backward and SGD step on the workload's batch.

    Args:
        workload: What is trained.
        penalties: What is added to the loss.
        reuse_outputs: Whether penalties get the outputs that the loss is computed from, attention then by a kernel
            that can be differentiated twice.
        share: Whether one snapshot, and so one forward pass, serves all penalties.
        followed_every: How many steps one that is read stands for; ``None`` to read none.
    """
    model, targets = workload.model, workload.targets
    inputs = workload.inputs.clone().requires_grad_(reuse_outputs)
    attention: Callable[[], AbstractContextManager[None]] = (
        partial(sdpa_kernel, SDPBackend.MATH) if reuse_outputs else nullcontext
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    if followed_every is not None:
        LiveSteps(model, followed_every).follow([optimizer])

    def step() -> None:
        with attention():
            outputs = model(inputs)
        loss = F.cross_entropy(outputs, targets)
        snapshot = snapshot_for([p.measure for p in penalties], model, inputs, targets) if share else None
        for penalty in penalties:
            given = outputs if reuse_outputs else None
            loss = loss + (penalty(snapshot) if snapshot else penalty(model, inputs, targets, outputs=given))
        inputs.grad = None
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()  # at the end, so that a step allocates and frees its own gradients

    return step


def hessian_vector_product(workload: Workload) -> Action:
    """One product with the Hessian in plain torch: forward, backward, and backward through that."""
    model, inputs, targets = workload.model, workload.inputs, workload.targets
    parameters = list(model.parameters())
    vectors = [torch.randn_like(p) for p in parameters]

    def multiply() -> None:
        with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated twice
            loss = F.cross_entropy(model(inputs), targets)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        torch.autograd.grad(gradients, parameters, vectors)

    return multiply


def one_more_product(workload: Workload) -> Action:
    """One product with the Hessian on a graph that is kept, as an observation of curvature takes many."""
    hessian = HessianOperator(Snapshot(workload.model, workload.inputs, workload.targets))
    vector = torch.randn(hessian.shape[1])
    hessian.matvec(vector)
    return lambda: hessian.matvec(vector)


def metric_actions(workload: Workload) -> dict[str, Action]:
    """By name, what measures each metric of the catalogue on a snapshot of its own."""
    classes = [entry.metric for entry in catalogue() if "live" not in entry.needs]
    if not workload.small:
        classes = [cls for cls in classes if cls.__name__ not in ON_SMALL_NETWORKS]
    named = [pair for cls in classes for pair in _with_variants(cls)]
    return {name: measurement(workload, [metric]) for name, metric in named}


def group_actions(workload: Workload) -> dict[str, Action]:
    """By name, what measures each group of metrics on one snapshot, and what other costs are compared with."""
    model, inputs = workload.model, workload.inputs

    def forward() -> None:
        with torch.no_grad():
            model(inputs)

    vectors: dict[str, torch.Tensor] = {}

    def followed() -> None:
        with torch.no_grad():
            layer_norms(Snapshot(model, inputs, differentiable=True), warm_start=vectors)

    def of_samples() -> None:
        squared_sample_gradients(Snapshot(model, inputs, workload.targets))

    groups = {name: measurement(workload, list(group)) for name, group in GROUPS.items()}
    return {
        "forward pass": forward,
        "one Hessian-vector product": hessian_vector_product(workload),
        "norms of the samples' gradients": of_samples,
        "training step, every eighth one read": training_step(workload, followed_every=8),
        "one more on the same graph": one_more_product(workload),
        "ten measures of curvature": measurement(workload, list(CURVATURE)),
        "these ten, each alone": _each_alone(workload, CURVATURE),
        "ten of curvature and gradients": measurement(workload, list(CURVATURE_AND_GRADIENTS)),
        "these other ten, each alone": _each_alone(workload, CURVATURE_AND_GRADIENTS),
        **groups,
        "spectral norms, followed from the step before": followed,
    }


def _each_alone(workload: Workload, group: Sequence[ComplexityMetric]) -> Action:
    measures = [measurement(workload, [metric]) for metric in group]

    def alone() -> None:
        for measure in measures:
            measure()

    return alone


def region_actions(workload: Workload) -> dict[str, Action]:
    """By name, what counts linear regions."""
    counted = {along: metrics.LinearRegions(along) for along in ("segment", "plane")}
    return {f"LinearRegions({along!r})": measurement(workload, [metric]) for along, metric in counted.items()}


def penalized_steps(workload: Workload) -> dict[str, Action]:
    """By name, a training step with each regularizer's penalty in the loss."""
    left_out = set() if workload.small else ON_SMALL_NETWORKS
    exported = [getattr(regularizers, name) for name in regularizers.__all__ if name not in left_out]
    classes = [cls for cls in exported if isinstance(cls, type) and issubclass(cls, Regularizer)]
    classes.remove(Regularizer)
    penalties = [named for cls in classes for named in _with_variants(cls)]
    for _, penalty in penalties:
        penalty.initial = initial_state(workload.model)  # or the first step would copy them, and only the first
    reusing = {
        f"{name}, of the step's own outputs": training_step(workload, penalty, reuse_outputs=True)
        for name, penalty in penalties
        if "num_projections=1" in name or name == "GradientNorm"
    }
    together = [
        regularizers.JacobianNorm(num_projections=1),
        regularizers.InputGradientNorm(),
        regularizers.SmoothMarginLoss(),
    ]
    of_several = {
        f"three that need the batch, {how}": training_step(workload, *together, share=share)
        for how, share in (("a snapshot each", False), ("one snapshot", True))
    }
    return {name: training_step(workload, penalty) for name, penalty in penalties} | reusing | of_several


def _with_variants(cls: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    yield cls.__name__, cls()
    taken = inspect.signature(cls).parameters.keys()  # a penalty has fewer options than its metric
    for options in (options for options in VARIANTS.get(cls.__name__, ()) if options.keys() <= taken):
        yield f"{cls.__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})", cls(**options)


def measurement(workload: Workload, measured: list[ComplexityMetric]) -> Action:
    """Measure metrics on one snapshot that they share."""
    initial = initial_state(workload.model)

    def measure() -> None:
        snapshot = Snapshot(workload.model, workload.inputs, workload.targets, initial=initial)
        for metric in measured:
            metric.reset()
            metric.update(snapshot)
            metric.compute()

    return measure


def suite_actions(workload: Workload, suite: str, left_out: Collection[str]) -> tuple[Action, Action]:
    """Two ways to measure a suite: each metric on a snapshot of its own, and all on one.

    Args:
        workload: What is measured.
        suite: Name of the suite.
        left_out: Class names of metrics that have no value on this network.
    """
    measured = [metric for metric in resolve(suite) if type(metric).__name__ not in left_out]
    separate = [measurement(workload, [metric]) for metric in measured]

    def apart() -> None:
        for measure in separate:
            measure()

    return apart, measurement(workload, measured)
