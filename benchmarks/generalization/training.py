"""One network of the study from start to end: by which method, and what is kept of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.generalization.data import CLASSES, Samples, Split
from lightning_complexity import metrics, regularizers
from lightning_complexity.network import Snapshot, initial_state
from lightning_complexity.regularizers import Regularizer

WIDTH, BATCH, RATE, MOMENTUM = 128, 32, 0.05, 0.9

NONE, WEIGHT_DECAY = "no penalty", "weight decay"
PENALTIES: dict[str, Callable[[float], Regularizer]] = {
    "DistanceFromInitialization": regularizers.DistanceFromInitialization,
    "LogSpectralProduct": regularizers.LogSpectralProduct,
    "PathNorm": regularizers.PathNorm,
    "JacobianNorm": partial(regularizers.JacobianNorm, num_projections=1),
    "InputGradientNorm": regularizers.InputGradientNorm,
    "GradientNorm": regularizers.GradientNorm,
}
MEASURES: dict[str, Callable[[], metrics.ComplexityMetric]] = {
    WEIGHT_DECAY: metrics.ParameterNorm,
    **{name: getattr(metrics, name) for name in PENALTIES},
}
"""What each method holds down; all are measured on every network."""


def rounded(value: float, digits: int = 6) -> float:
    """So many significant digits, so that what is computed and what is read from a table are the same."""
    return float(f"{value:.{digits}g}")


class Outcome(NamedTuple):
    """What is kept of a trained network; the measures are without strength, on the training set."""

    train_accuracy: float
    val_accuracy: float
    test_accuracy: float
    seconds: float
    measures: dict[str, float]


def network(num_inputs: int, seed: int) -> nn.Module:
    """Two hidden layers of ReLU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second, last = nn.Linear(num_inputs, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last).float()


def batches(samples: Samples, seed: int, steps: int) -> Iterator[Samples]:
    """So many batches, in an order that only the seed determines."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(samples.labels), generator=generator).split(BATCH):
            if steps == 0:
                return
            steps -= 1
            yield Samples(samples.inputs[rows], samples.labels[rows])


def optimize(
    model: nn.Module, samples: Samples, seed: int, steps: int, method: str = NONE, strength: float = 0.0
) -> Iterator[Samples]:
    """Train step by step, giving each batch before it is used; stop where the loss is no longer finite."""
    penalty = PENALTIES[method](strength) if method in PENALTIES else None
    decay = 2 * strength if method == WEIGHT_DECAY else 0.0  # the gradient of strength times the squared norm
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batch in batches(samples, seed, steps):
        yield batch
        loss = F.cross_entropy(model(batch.inputs), batch.labels)
        if penalty is not None:
            loss = loss + penalty(model, *batch)
        if not math.isfinite(loss.item()):
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, samples: Samples) -> float:
    """Share of samples whose label has the largest output."""
    return (model(samples.inputs).argmax(1) == samples.labels).double().mean().item()


def measured(model: nn.Module, samples: Samples, start: Mapping[str, Tensor]) -> dict[str, float]:
    """All measures by method."""
    snapshot = Snapshot(model, *samples, initial=start)
    values = {}
    for name, build in MEASURES.items():
        metric = build()
        metric.update(snapshot)
        values[name] = float(metric.compute())
    return values


def trained(parts: Split, seed: int, steps: int, method: str, strength: float) -> Outcome:
    """Train one network and look at it."""
    model = network(parts.train.inputs.shape[1], seed)
    start = initial_state(model)
    begin = time.process_time()  # of this process alone, since machines are shared
    for _ in optimize(model, parts.train, seed, steps, method, strength):
        pass
    seconds = time.process_time() - begin
    numbers = (*(accuracy(model, part) for part in parts), seconds)
    measures = measured(model, parts.train, start)
    return Outcome(*map(rounded, numbers), {name: rounded(value) for name, value in measures.items()})


def scales(parts: Split, seed: int, steps: int) -> dict[str, float]:
    """By method, the strength at which its gradient is as long as the loss's, on average over training without it."""

    def squared_norm(model: nn.Module, *_: Any) -> Tensor:
        return sum((p.square().sum() for p in model.parameters()), torch.zeros(()))

    terms = {WEIGHT_DECAY: squared_norm, **{name: build(1.0) for name, build in PENALTIES.items()}}
    model, lengths = network(parts.train.inputs.shape[1], seed), dict.fromkeys(["loss", *terms], 0.0)
    for step, batch in enumerate(optimize(model, parts.train, seed, steps)):
        if step % 10 == 0:
            lengths["loss"] += _gradient_length(model, F.cross_entropy(model(batch.inputs), batch.labels))
            for name, term in terms.items():
                lengths[name] += _gradient_length(model, term(model, *batch))
    return {name: rounded(lengths["loss"] / lengths[name], 2) for name in terms}


def _gradient_length(model: nn.Module, value: Tensor) -> float:
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
