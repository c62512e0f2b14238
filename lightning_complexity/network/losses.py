"""The loss of a batch, and its graph."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.network.errors import MeasureError, NetworkError
from lightning_complexity.network.leaves import with_leaf
from lightning_complexity.network.outputs import float_tensors, graph_of_outputs, model_outputs
from lightning_complexity.network.running.batches import Batches, map_tensors, owned, tensors_in
from lightning_complexity.network.running.memory import at_least_single, lazily_cloned
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.decompositions import Decompositions, check_derivatives


@shared
def mean_loss(snapshot: Snapshot) -> Tensor:
    """Loss of the whole batch. Needs targets, unless the loss takes batches; that is the mean of theirs by sample."""
    if snapshot.task.judges_batches:
        with snapshot.opened():
            losses = list(batch_losses(snapshot, 1, records=False))
        return torch.stack(losses).sum() if snapshot.differentiable else torch.stack(losses).sum().detach()
    return snapshot.task.loss_of(model_outputs(snapshot), snapshot.targets)


def batch_losses(snapshot: Snapshot, order: int, *, records: bool) -> Iterator[Tensor]:
    """The loss of each batch by a ``loss`` that takes it, times its share of the samples.

    Args:
        snapshot: Of the network.
        order: Highest derivative of the network that will be taken.
        records: Whether gradients are recorded for the parameters.
    """
    for batch, share in shares(snapshot):
        loss = loss_of_batch(snapshot, batch, order, records=records)
        with torch.set_grad_enabled(records or snapshot.differentiable):
            weighted = share * loss
        yield weighted


def loss_of_batch(snapshot: Snapshot, batch: Any, order: int = 1, *, records: bool = True) -> Tensor:
    """The loss of one batch by a ``loss`` that takes it, see :func:`batch_losses`."""
    judged = partial(_judged, snapshot=snapshot, batch=batch)
    with Decompositions(max(order, snapshot.order if snapshot.differentiable else 1)):
        try:
            loss = snapshot.run(judged, records=records, once=order == 1)
        except NetworkError:
            if records:
                raise
            # It may take derivatives for the parameters itself, as one that looks a step ahead does.
            loss = snapshot.run(judged, records=True, once=order == 1).detach()
    if records:
        check_dependent([loss] if loss.requires_grad else [])
    return loss


def shares(snapshot: Snapshot) -> Iterator[tuple[Any, float]]:
    """What the loss is given at once, and its share of the samples."""
    batches = snapshot.batches or Batches.of((snapshot.inputs, snapshot.targets))
    for batch, size in batches.pieces():
        yield batch if snapshot.is_mixed else map_tensors(at_least_single, batch), size / batches.num_samples


def _judged(_: nn.Module, snapshot: Snapshot, batch: Any) -> Tensor:
    return snapshot.task.loss_on(snapshot.model, owned(batch))


def loss_with_leaf(snapshot: Snapshot, batch: Any) -> tuple[Tensor, Tensor]:
    """What the loss of a batch, by a ``loss`` that takes it, can be differentiated for, and the loss; inside a run."""
    own = owned(batch)
    inputs, _ = snapshot.task.split(own)

    def judged(given: Any) -> Tensor:
        # The step may write to what it is given.
        pairs = {id(old): lazily_cloned(new) for old, new in zip(tensors_in(inputs), tensors_in(given), strict=True)}
        return snapshot.task.loss_on(snapshot.model, map_tensors(lambda t: pairs.get(id(t), t), own))

    return with_leaf(snapshot, inputs, judged)


def loss_with_graph(snapshot: Snapshot, order: int) -> Tensor:
    """Loss of the whole batch, computed at once, with the graph from the parameters to it.

    Args:
        snapshot: Of the network.
        order: Of the highest derivative that will be taken.
    """
    if snapshot.task.judges_batches:
        losses = list(batch_losses(snapshot, order, records=True))
        with torch.enable_grad():
            return torch.stack(losses).sum()
    given = snapshot.given_outputs is not None
    if snapshot.differentiable or given:
        outputs = graph_of_outputs(snapshot, order).outputs
        if given:
            _check_given_outputs(outputs)
    else:
        with Decompositions(order):
            outputs = snapshot.run(lambda model: model(snapshot.inputs), records=True, once=order == 1)
    with torch.enable_grad():
        loss = snapshot.task.loss_of(map_tensors(at_least_single, outputs), snapshot.targets)
    check_dependent([loss] if loss.requires_grad else [])
    return loss


def check_dependent(derivatives: list[Tensor], of: str = "parameters") -> None:
    """Raise an error where a loss depends on nothing that it is to be differentiated for.

    Args:
        derivatives: Those that there are, or what can be differentiated.
        of: What the loss should depend on.

    Raises:
        MeasureError: As where the loss is a Python number, or the outputs are detached.
    """
    if not derivatives:
        raise MeasureError(
            f"needs a loss with a derivative, but this one does not depend on the {of} through torch's operations on "
            "floating-point numbers. Compute it from outputs that are not detached, and return a tensor."
        )


def _check_given_outputs(outputs: Any) -> None:
    found = float_tensors(outputs)
    if not any(t.requires_grad for t in found):
        raise MeasureError("needs outputs with the graph from the parameters to them, or none: leave outputs out.")
    check_derivatives(found, order=2)
