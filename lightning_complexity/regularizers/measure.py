"""A measure that is followed through training, differentiable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import Context, Snapshot, Task
from lightning_complexity.network.tracing.decompositions import check_differentiable
from lightning_complexity.network.weights.choice import chosen

_NEEDS_BATCH = {"inputs", "targets", "loss"}


class TrainedMeasure:
    """A metric of the network that is trained, and what its next value goes on from.

    Args:
        metric: What is measured.

    Attributes:
        initial: State that distances are measured from, where the metric needs it.
        calls: How many values were taken; the next draws random numbers with this seed.
        warm_start: Singular vectors of the last value.
    """

    def __init__(self, metric: ComplexityMetric) -> None:
        self.metric = metric
        self.initial: Mapping[str, Tensor] | None = None
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget the values that were taken, for the training of another network."""
        self.calls = 0
        self.warm_start: dict[str, Tensor] = {}

    @property
    def name(self) -> str:
        """The metric's name."""
        return self.metric.name

    @property
    def needs_batch(self) -> bool:
        """Whether it depends on the batch, if only on its shape."""
        return bool(_NEEDS_BATCH & self.metric.needs)

    def progress(self) -> dict[str, Any]:
        """What a continued run needs to go on as if it had not been interrupted: tensors on the CPU, and numbers."""
        initial = None if self.initial is None else {name: t.cpu() for name, t in self.initial.items()}
        warm_start = {name: t.cpu() for name, t in self.warm_start.items()}
        return {"initial": initial, "warm_start": warm_start, "calls": self.calls}

    def resume(self, progress: Mapping[str, Any]) -> None:
        """Continue from what :meth:`progress` gave."""
        self.initial, self.warm_start = progress["initial"], dict(progress["warm_start"])
        self.calls = progress["calls"]

    def __call__(self, snapshot: Snapshot) -> Tensor:
        """The value on a differentiable snapshot, 0-d, in at least single precision.

        Where layers are chosen, its gradient reaches the parameters of these alone.

        Raises:
            MissingInputError: If something that the metric needs is missing.
            MeasureError: If the metric has no value on this network, or its value no derivative.
        """
        self.metric.check(snapshot)
        context = Context(self.calls, self.metric.layers_chosen, self.warm_start)
        is_checked = self.calls == 0 and self.metric.order > 0 and torch.is_grad_enabled()
        with snapshot.opened(), self.metric.explained():
            value = self.metric.measure(snapshot, context)
            if self.metric.layers_chosen is not None and self.metric.reads_samples and value.requires_grad:
                value = _for_parameters_of(value, chosen(_trained(snapshot), self.metric.layers_chosen, snapshot.model))
            if is_checked and value.requires_grad:
                check_differentiable([value], order=self.metric.order + 1)
        self.calls += 1
        return value


def _trained(snapshot: Snapshot) -> dict[str, Tensor]:
    return {name: p for name, p in snapshot.parameters.items() if p.requires_grad}


def _for_parameters_of(value: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """The value as a function of some parameters alone: the same number and, for these, the same gradient."""
    leaves = list(parameters.values())
    gradients = torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True)
    moves = [(g * (p - p.detach())).sum() for g, p in zip(gradients, leaves, strict=True)]
    return value.detach() + torch.stack([move.to(value.dtype) for move in moves]).sum()


def snapshot_for(
    measures: Iterable[TrainedMeasure],
    model: nn.Module,
    inputs: Any = None,
    targets: Any = None,
    *,
    task: Task | None = None,
    initial: Mapping[str, Tensor] | None = None,
    outputs: Any = None,
) -> Snapshot:
    """A differentiable snapshot whose one forward pass serves all of some measures.

    Args:
        measures: What will be measured on it.
        model: The network that is trained.
        inputs: A batch, where a measure needs it.
        targets: Its targets, where a measure needs them.
        task: How the batch becomes outputs and a loss.
        initial: State at the start.
        outputs: What the model gave for the inputs.
    """
    metrics = [measure.metric for measure in measures]
    return Snapshot(
        model,
        inputs,
        targets,
        task=task,
        initial=initial,
        outputs=outputs,
        differentiable=True,
        order=1 + max((metric.order for metric in metrics), default=0),
        differentiate_inputs=any(metric.differentiates_inputs for metric in metrics),
    )
