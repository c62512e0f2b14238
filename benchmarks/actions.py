"""What is timed: a training step, each metric, and a training step with each penalty."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
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
from lightning_complexity.network import Snapshot, initial_state, layer_norms
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
    "margins": (metrics.MarginPercentile(), metrics.MeanMargin(), metrics.InverseSquaredMargin()),
    "circular norms of convolutions": (metrics.LogSpectralProduct(convolution="circular"),),
}
"""Metrics that share what is expensive, measured on one snapshot."""

ON_SMALL_NETWORKS = frozenset(
    {"RegionBoundaryDistance", "LANNComplexity", "LinearRegions", "LocalComplexity", "SmoothLocalComplexity"}
    | {"TrajectoryLength", "Transitions"}
)
"""Metrics that look at each unit or at many points, and are therefore timed on the MLP alone."""

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "JacobianNorm": ({"num_projections": 1},),
    "GeometricComplexity": ({"num_projections": 1},),
    "LogSpectralProduct": ({"fold_batch_norm": True},),
}
"""Options by class name that are measured beside the defaults, since they change the cost.

The true operator norm of convolutions, ``convolution="operator"``, is not among them: it takes 14 steps on a ResNet-18.
"""


def training_step(
    workload: Workload, *penalties: Regularizer, reuse_outputs: bool = False, share: bool = False
) -> Action:
    """Forward, backward and SGD step on the workload's batch.

    Args:
        workload: What is trained.
        penalties: What is added to the loss.
        reuse_outputs: Whether penalties get the outputs that the loss is computed from, attention then by a kernel
            that can be differentiated twice.
        share: Whether one snapshot, and so one forward pass, serves all penalties.
    """
    model, targets = workload.model, workload.targets
    inputs = workload.inputs.clone().requires_grad_(reuse_outputs)
    attention: Callable[[], AbstractContextManager[None]] = (
        partial(sdpa_kernel, SDPBackend.MATH) if reuse_outputs else nullcontext
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

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


def metric_actions(workload: Workload) -> dict[str, Action]:
    """By name, what measures each metric of the catalogue on a snapshot of its own."""
    classes = [entry.metric for entry in catalogue()]
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

    groups = {name: measurement(workload, list(group)) for name, group in GROUPS.items()}
    return {
        "forward pass": forward,
        "one Hessian-vector product": hessian_vector_product(workload),
        **groups,
        "spectral norms, followed from the step before": followed,
    }


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
    for options in VARIANTS.get(cls.__name__, ()):
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
