"""What a network gives for the batch: outputs, margins, loss, accuracy, and what enters its layers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_complexity.functional.margins import check_classification, positions_as_samples, signed_margins
from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.leaves import with_leaf
from lightning_complexity.network.running.batches import Batches, map_tensors, num_samples, tensors_in
from lightning_complexity.network.running.called import joined_outputs
from lightning_complexity.network.running.memory import at_least_single
from lightning_complexity.network.running.task import main_tensor
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.calls import Layer, entering, find_layer
from lightning_complexity.network.tracing.calls import running_order as read_running_order
from lightning_complexity.network.tracing.costs import Costs, count_costs
from lightning_complexity.network.tracing.decompositions import Decompositions
from lightning_complexity.network.weights.matrices import quantized_layers


class Graph(NamedTuple):
    """Outputs of a batch and the leaf of the inputs that they were computed from, where that requires grad."""

    inputs: Tensor | None
    outputs: Any


def graph_of_outputs(snapshot: Snapshot, order: int = 1, *, inputs: bool = False) -> Graph:
    """The one forward pass of a differentiable snapshot.

    Args:
        snapshot: Differentiable, with inputs.
        order: Highest derivative of the network that will be taken.
        inputs: Whether derivatives for the inputs will be taken.
    """
    if snapshot.given_outputs is not None:
        if inputs and snapshot.task.wrt is not None:
            raise MeasureError(
                "outputs= cannot be used with wrt=, as they are a function of the inputs; leave one out."
            )
        return Graph(snapshot.float_inputs if inputs else None, snapshot.given_outputs)
    return _graph(snapshot, max(order, snapshot.order), inputs or snapshot.differentiate_inputs)


@shared
def _graph(snapshot: Snapshot, order: int, inputs: bool) -> Graph:
    def forward(model: nn.Module) -> Graph:
        if not inputs:
            return Graph(None, model(snapshot.inputs))
        return Graph(*with_leaf(snapshot, snapshot.inputs, model))

    with Decompositions(order):
        leaf, outputs = snapshot.run(forward)
    return Graph(leaf, map_tensors(at_least_single, outputs))


@shared
def model_outputs(snapshot: Snapshot) -> Any:
    """All that the network gives for the batch. Needs inputs."""
    if snapshot.given_outputs is not None:
        return map_tensors(at_least_single, snapshot.given_outputs)
    if snapshot.differentiable:
        return graph_of_outputs(snapshot).outputs
    return outputs_on(snapshot, snapshot.inputs)


def outputs_on(snapshot: Snapshot, inputs: Any) -> Any:
    """All that the network gives for another batch."""
    parts = list(snapshot.run_chunks(lambda model, x: (counted(x), model(x)), inputs, once=True))
    if len(parts) > 1 and not _have_samples_first(snapshot, parts):
        return map_tensors(at_least_single, snapshot.run(lambda model: model(inputs), once=True))
    return map_tensors(at_least_single, joined_outputs([part for _, part in parts]))


def float_tensors(outputs: Any) -> list[Tensor]:
    """The tensors among outputs that a loss can be differentiated for."""
    return [t for t in tensors_in(outputs) if t.is_floating_point()]


def _have_samples_first(snapshot: Snapshot, parts: list[tuple[int | None, Any]]) -> bool:
    """Whether the outputs of all chunks have a row for each sample; one sample decides where they are square."""
    if not all(_counts_samples(part, count) for count, part in parts):
        return False
    if any(t.shape[1:2] != (count,) for count, part in parts for t in tensors_in(part)):
        return True
    return snapshot.run_one(lambda model, x: _counts_samples(model(x), 1))


def _counts_samples(outputs: Any, count: int | None) -> bool:
    """Whether every tensor among the outputs of a chunk has a row for each sample, or any number for whole batches."""
    lengths = {t.shape[:1] for t in tensors_in(outputs)}
    return lengths == {(count,)} if count is not None else len(lengths) == 1 and () not in lengths


@shared
def predictions(snapshot: Snapshot) -> Tensor:
    """The outputs as one tensor, shape ``(n, ...)``: the only tensor among them, or the logits. Needs inputs.

    Raises:
        MeasureError: If there is no such tensor of floating-point numbers, or its first dimension does not count the
            samples.
    """
    return checked_predictions(main_tensor(model_outputs(snapshot)), counted(snapshot.inputs))


def predictions_on(snapshot: Snapshot, inputs: Any) -> Tensor:
    """The outputs for another batch, as one tensor."""
    return checked_predictions(main_tensor(outputs_on(snapshot, inputs)), counted(inputs))


def counted(inputs: Any) -> int | None:
    """How many rows of outputs there are for inputs, one a sample; ``None`` for whole batches, where any number is."""
    return None if isinstance(inputs, Batches) else num_samples(inputs)


def checked_predictions(outputs: Tensor, count: int | None) -> Tensor:
    """The outputs, one dimension added where each sample has a single number.

    Raises:
        MeasureError: If they are no floating-point numbers, or their first dimension does not count the samples.
    """
    if not outputs.is_floating_point():
        raise MeasureError(
            f"needs outputs that are floating-point numbers, got {outputs.dtype}. Say what the outputs are with "
            "forward=lambda model, inputs: ...."
        )
    if outputs.ndim == 0 or count not in (None, len(outputs)):
        wanted = "the samples" if count is None else f"the {count} samples"
        raise MeasureError(
            f"needs outputs whose first dimension counts {wanted}, got shape {tuple(outputs.shape)}. Say what the "
            "outputs are with forward=lambda model, inputs: ...."
        )
    if outputs.numel() == 0:
        raise MeasureError(
            f"needs at least one output for each sample, got shape {tuple(outputs.shape)}. Say what the outputs are "
            "with forward=lambda model, inputs: ...."
        )
    return outputs.unsqueeze(1) if outputs.ndim == 1 else outputs


@shared
def class_dim(snapshot: Snapshot) -> int | None:
    """Dimension of the predictions along which classes lie; ``None`` where there are no classes. Needs inputs.

    There are classes if there are several outputs and targets, where given, are class indices or probabilities. They
    lie where the targets' shape says, else in dimension 1, as for torch's cross-entropy.
    """
    shape = shape_of_predictions(snapshot)
    if snapshot.task.class_dim is not None:
        return snapshot.task.class_dim % len(shape)
    dim = 1
    if snapshot.has("targets"):
        targets = snapshot.targets
        if not isinstance(targets, Tensor):
            return None
        if targets.is_floating_point():
            return 1 if snapshot.task.is_distribution(shape, targets) else None
        if targets.shape != shape[:1] + shape[2:]:
            if targets.shape != shape[:-1]:
                return None
            dim = len(shape) - 1
    return dim if shape[dim] > 1 else None


def shape_of_predictions(snapshot: Snapshot) -> torch.Size:
    """Shape of the predictions, from one sample where they are not known yet. Needs inputs."""
    if snapshot.differentiable or snapshot.given_outputs is not None or model_outputs.is_known(snapshot):
        return predictions(snapshot).shape
    sample = snapshot.run_one(lambda model, x: checked_predictions(main_tensor(model(x)), counted(x)))
    return torch.Size([snapshot.num_samples, *sample.shape[1:]])


class Classified(NamedTuple):
    """Logits of shape ``(m, classes)`` and class indices of shape ``(m,)``; positions count as samples."""

    logits: Tensor
    targets: Tensor


@shared
def classified(snapshot: Snapshot) -> Classified:
    """Logits and classes of all samples, or of all their positions, that the loss does not ignore. Needs targets.

    Raises:
        MeasureError: If targets are not classes of these outputs.
    """
    outputs, targets = predictions(snapshot), _one_tensor(snapshot.targets)
    if outputs.ndim == 2:
        check_classification(outputs, targets)
    dim, ignored = snapshot.task.class_dim, snapshot.task.ignore_index
    logits, classes, _ = positions_as_samples(outputs, targets, class_dim=dim, ignore_index=ignored)
    return Classified(logits, classes)


def class_targets(snapshot: Snapshot) -> tuple[Tensor, Tensor]:
    """One class of each sample, and which samples have one that the loss does not ignore, shapes ``(n,)``.

    Raises:
        MeasureError: If targets are something else.
    """
    targets = snapshot.targets
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        got = (
            f"{targets.dtype} of shape {tuple(targets.shape)}"
            if isinstance(targets, Tensor)
            else type(targets).__name__
        )
        raise MeasureError(f"needs integer class targets of shape (n,), got {got}.")
    if counted(snapshot.inputs) not in (None, len(targets)):
        raise MeasureError(f"needs a target for each of {snapshot.num_samples} samples, got {len(targets)}.")
    kept = targets != snapshot.task.ignore_index
    if not kept.any():
        raise _all_ignored(snapshot)
    return targets.long(), kept


def num_classified(snapshot: Snapshot) -> int:
    """Number of samples with a class, in any position, that the loss does not ignore. Needs targets.

    Raises:
        MeasureError: If targets are no tensor, or the loss ignores all.
    """
    kept = _one_tensor(snapshot.targets) != snapshot.task.ignore_index
    if not kept.any():
        raise _all_ignored(snapshot)
    return int(kept.reshape(len(kept), -1).any(1).sum())


def _one_tensor(targets: Any) -> Tensor:
    if not isinstance(targets, Tensor):
        raise MeasureError(f"needs integer class targets, got {type(targets).__name__}.")
    return targets


def _all_ignored(snapshot: Snapshot) -> MeasureError:
    ignored = snapshot.task.ignore_index
    return MeasureError(f"needs a sample with a class; all targets are {ignored}, to be ignored.")


@shared
def margins(snapshot: Snapshot) -> Tensor:
    """Signed margin of every sample, or of every position, that the loss does not ignore. Needs targets."""
    return signed_margins(*classified(snapshot))


@shared
def accuracy(snapshot: Snapshot) -> Tensor:
    """Share of samples, or positions, whose largest output is that of the target. Needs targets.

    Where a single output tells two classes apart, those that are on the target's side of the threshold.
    """
    if snapshot.task.threshold is not None:
        outputs = predictions(snapshot).squeeze(1)
        return ((outputs > snapshot.task.threshold) == snapshot.targets.reshape(outputs.shape)).double().mean()
    logits, targets = classified(snapshot)
    return (logits.argmax(1) == targets).double().mean()


@shared
def running_order(snapshot: Snapshot) -> list[str]:
    """Names of the linear and convolution modules in the order in which they run. Needs inputs.

    Raises:
        MeasureError: If the network calls none.
    """
    order = snapshot.run_one(read_running_order)
    if not order:
        raise MeasureError("needs a network with linear or convolution layers; this one calls none.")
    return order


def features(snapshot: Snapshot, *layers: Layer) -> dict[str, Tensor]:
    """What goes into layers, flattened to shape ``(n, d)``, by their names. Needs inputs.

    Args:
        snapshot: Of the network.
        layers: Names of modules, or places among the linear and convolution modules in the order in which they
            run: what goes into the last one, at -1, are the penultimate features. All of them by default.

    Raises:
        MeasureError: If there is no such layer.
    """
    order = running_order(snapshot)
    names = [find_layer(layer, order, snapshot.model) for layer in layers or order]
    return {name: _features_of(snapshot, name) for name in names} if layers else dict(_all_features(snapshot))


@shared
def _features_of(snapshot: Snapshot, name: str) -> Tensor:
    return features_on(snapshot, name, snapshot.inputs)


@shared
def _all_features(snapshot: Snapshot) -> dict[str, Tensor]:
    order = running_order(snapshot)
    parts = list(snapshot.run_chunks(partial(entering, names=order)))
    return {name: _by_sample(snapshot, name, parts, snapshot.inputs) for name in order}


def features_on(snapshot: Snapshot, name: str, inputs: Any) -> Tensor:
    """What goes into a module for another batch, flattened to shape ``(n, d)``."""
    return _by_sample(snapshot, name, snapshot.run_chunks(partial(entering, names=[name]), inputs), inputs)


def _by_sample(snapshot: Snapshot, name: str, parts: Iterable[dict[str, Tensor]], inputs: Any) -> Tensor:
    found = []
    for part, (x,) in zip(parts, snapshot.chunks(inputs), strict=True):
        given = part[name]
        is_odd = given.ndim < 2 or counted(x) not in (None, len(given)) or not given.numel()
        if is_odd or not given.is_floating_point():
            raise MeasureError(
                f"module {name!r} is given a tensor of {given.dtype} of shape {tuple(given.shape)} for "
                f"{num_samples(x)} samples, which is no row of features for each. Choose another with layer=..., or "
                "turn samples into the first dimension."
            )
        found.append(at_least_single(given).flatten(1))
    return torch.cat(found)


@shared
def costs(snapshot: Snapshot) -> Costs:
    """What one forward pass of the first sample takes, see :func:`count_costs`. Needs inputs."""
    check_not_quantized(snapshot)
    if snapshot.is_whole:
        raise MeasureError("needs one sample, but batches of this network cannot be cut into samples.")
    return snapshot.run_one(count_costs)


def check_real(snapshot: Snapshot) -> None:
    """Raise an error where weights are complex.

    Raises:
        MeasureError: Naming a parameter.
    """
    named = snapshot.model.named_parameters()
    found = next((name for name, p in named if p.is_complex()), None)
    if found is not None:
        raise MeasureError(f"needs real weights, but {found!r} is complex. Measure a part of the network without it.")


def check_not_quantized(snapshot: Snapshot) -> None:
    """Raise an error where weights are packed.

    Raises:
        MeasureError: Naming a layer.
    """
    packed = quantized_layers(snapshot.model)
    if packed:
        raise MeasureError(
            f"layer {packed[0]!r} is quantized, so that its weights can neither be read nor differentiated. Measure "
            "the network before it is quantized."
        )
