"""Derivatives of outputs and losses for inputs, and of the loss for parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_complexity.functional.function.sensitivity import jacobian_grams as grams_of_outputs
from lightning_complexity.functional.function.sensitivity import softmax_jacobian_grams
from lightning_complexity.network.errors import MeasureError, missing_derivatives_named
from lightning_complexity.network.leaves import check_leaf, entries_of_leaf, with_leaf
from lightning_complexity.network.losses import (
    batch_losses,
    check_dependent,
    loss_with_graph,
    loss_with_leaf,
    mean_loss,
    shares,
)
from lightning_complexity.network.outputs import (
    check_not_quantized,
    check_real,
    checked_predictions,
    class_dim,
    float_tensors,
    graph_of_outputs,
    model_outputs,
    predictions,
    shape_of_predictions,
)
from lightning_complexity.network.running.batches import chunks, map_tensors, tensors_in
from lightning_complexity.network.running.memory import at_least_single
from lightning_complexity.network.running.task import main_tensor, structure
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.decompositions import Decompositions, takes_batch_statistics
from lightning_complexity.network.weights.choice import LayerChoice, chosen

_JACOBIAN_ENTRIES = 2**21  # of the Jacobians that are held at once; with fewer, products of small matrices take longer
MAX_ROWS = 1024
"""Outputs of a sample, beyond which exact Jacobians are refused."""

JacobianOf = Literal["softmax", "logits"]


def differentiated(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    vectors: Sequence[Tensor] | None = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
    of: str | None = None,
) -> list[Tensor]:
    """Vectors times the Jacobian of outputs for inputs, dense, zero where nothing depends on an input.

    Args:
        outputs: Tensors, some of which may not depend on the inputs.
        inputs: Leaves.
        vectors: One for each output; ones by default.
        retain_graph: Whether the graph is kept.
        create_graph: Whether the result is to be differentiated.
        of: What the inputs are called, where it is an error that nothing depends on any of them.

    Raises:
        MissingDerivativeError: If torch has no such derivative of an operation.
        MeasureError: If nothing depends on the inputs, and that is an error.
    """
    given = vectors if vectors is not None else [torch.ones_like(o) for o in outputs]
    used = [(o, v) for o, v in zip(outputs, given, strict=True) if o.requires_grad]
    if of is not None:
        check_dependent([o for o, _ in used], of)
    if not used or not inputs:
        return [torch.zeros_like(i) for i in inputs]
    with missing_derivatives_named(2 if create_graph else 1):
        found = torch.autograd.grad(
            [o for o, _ in used],
            list(inputs),
            [v for _, v in used],
            retain_graph=retain_graph or create_graph,
            create_graph=create_graph,
            allow_unused=True,
        )
    if of is not None:
        check_dependent([g for g in found if g is not None], of)
    gradients = [torch.zeros_like(i) if g is None else g for g, i in zip(found, inputs, strict=True)]
    return [g.to_dense() if g.layout != torch.strided else g for g in gradients]


# For inputs ------------------------------------------------------------------------------------------


def input_output_chunks(snapshot: Snapshot, at_most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of inputs that require grad and predictions computed from them, of some samples at a time.

    Raises:
        MeasureError: If a sample's outputs depend on other samples.
    """
    snapshot.check_samples_apart("a Jacobian for each sample")
    check_not_quantized(snapshot)
    if snapshot.differentiable:
        graph = graph_of_outputs(snapshot, 2, inputs=True)
        assert graph.inputs is not None
        outputs = _predicted(graph.outputs, graph.inputs)
        _check_apart([outputs])
        yield graph.inputs, outputs
        return
    size = snapshot.chunk_size if at_most is None else min(at_most, snapshot.chunk_size)
    for x in chunks(snapshot.inputs, size):
        leaf, outputs = _differentiable_outputs(snapshot, x)
        _check_apart([outputs])
        yield leaf, outputs


def _check_apart(outputs: list[Tensor]) -> None:
    """Raise an error where a function, which no module tells of, makes outputs depend on other samples."""
    if takes_batch_statistics(outputs):
        raise MeasureError(
            "needs outputs that depend on their own sample alone, but the network calls batch_norm with the statistics "
            "of the batch; in outputs that were given instance_norm looks the same. Let it use running ones in "
            "evaluation mode, leave outputs out if they were given, or leave this measure out."
        )


def _predicted(outputs: Any, leaf: Tensor) -> Tensor:
    """The outputs, one row for each of the leaf."""
    predicted = checked_predictions(main_tensor(outputs), None)
    if len(predicted) != len(leaf):
        raise MeasureError(
            f"needs an output for each row of what is differentiated for, got {len(predicted)} outputs and a tensor of "
            f"shape {tuple(leaf.shape)}. Choose another with wrt='the name of a module', or other outputs with "
            "forward=lambda module, batch: ...."
        )
    return at_least_single(predicted)


def _differentiable_outputs(snapshot: Snapshot, x: Any) -> tuple[Tensor, Tensor]:
    def forward(model: nn.Module) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf, outputs = with_leaf(snapshot, x, model)
            return leaf, _predicted(outputs, leaf)

    with Decompositions(1):
        return snapshot.run(forward)


def as_rows(outputs: Tensor, of: JacobianOf, dim: int | None) -> Tensor:
    """Outputs, or probabilities along the dimension of the classes, as one row a sample."""
    probabilities = outputs.softmax(dim) if of == "softmax" and dim is not None else outputs
    return probabilities.flatten(1)


def nan_where_undefined(derivatives: Tensor, outputs: Any) -> Tensor:
    """Derivatives for each sample, ``nan`` where its outputs are: a rectifier's slope hides that."""
    count = len(derivatives)
    undefined = derivatives.new_zeros(count, dtype=torch.bool)
    for t in float_tensors(outputs):
        if t.ndim and len(t) == count:
            undefined = undefined | t.detach().reshape(count, -1).isnan().any(1)
    return derivatives.masked_fill(undefined.reshape(-1, *[1] * (derivatives.ndim - 1)), torch.nan)


class _Jacobians(NamedTuple):
    grams: Tensor
    rows: Tensor


@shared
def _jacobians(snapshot: Snapshot, of: JacobianOf) -> _Jacobians:
    check_leaf(snapshot)
    at_once = None if snapshot.differentiable else _jacobians_at_once(snapshot)
    dim = class_dim(snapshot) if of == "softmax" else None
    parts = []
    for x, y in input_output_chunks(snapshot, at_once):
        with torch.enable_grad(), missing_derivatives_named(2):
            rows = as_rows(y, of, dim)
            grams = grams_of_outputs(rows, x, create_graph=snapshot.differentiable)
            grams = nan_where_undefined(grams, rows)
        parts.append((grams, rows if snapshot.differentiable else rows.detach()))
    return _Jacobians(torch.cat([grams for grams, _ in parts]), torch.cat([rows for _, rows in parts]))


def _jacobians_at_once(snapshot: Snapshot) -> int:
    rows = shape_of_predictions(snapshot)[1:].numel()
    if rows > MAX_ROWS:
        raise MeasureError(
            f"the exact Jacobian takes a backward pass for each of {rows} outputs, more than {MAX_ROWS}. Estimate it "
            "with num_projections=1, or give fewer outputs with forward=lambda model, inputs: ...."
        )
    return max(_JACOBIAN_ENTRIES // max(entries_of_leaf(snapshot) * rows, 1), 1)


def jacobian_grams(snapshot: Snapshot, of: JacobianOf = "logits") -> Tensor:
    """Gram matrix of each sample's Jacobian, shape ``(n, K, K)`` for ``K`` outputs, by one backward pass for each.

    Args:
        snapshot: With inputs.
        of: ``"softmax"`` for the probabilities, where there are classes; ``"logits"`` for the outputs themselves.
    """
    if of == "softmax" and class_dim(snapshot) is None:
        of = "logits"
    if of == "softmax" and predictions(snapshot).ndim == 2:
        found = _jacobians(snapshot, "logits")
        return softmax_jacobian_grams(found.grams, found.rows.to(found.grams.dtype))
    return _jacobians(snapshot, of).grams


def input_gradients(snapshot: Snapshot) -> Iterator[Tensor]:
    """Number of samples times the gradient of the loss for each input, chunk by chunk.

    For a loss that is a mean over samples, that is the gradient of each sample's own loss. Needs targets, unless the
    loss takes batches.
    """
    total = snapshot.num_samples
    check_not_quantized(snapshot)
    snapshot.check_samples_apart("the gradient for each input")
    if snapshot.task.judges_batches:
        yield from _gradients_of_batches(snapshot)
    elif snapshot.differentiable:
        graph = graph_of_outputs(snapshot, 2, inputs=True)
        assert graph.inputs is not None
        with torch.enable_grad():
            loss = total * snapshot.task.loss_of(graph.outputs, snapshot.targets)
            _check_apart(float_tensors(graph.outputs))
            found = differentiated([loss], [graph.inputs], create_graph=True, of="inputs")[0]
            yield nan_where_undefined(found, graph.outputs)
    elif total <= snapshot.chunk_size:
        with Decompositions(1):
            found = snapshot.run(partial(_gradient_for_inputs, snapshot=snapshot))
        yield found * total
    else:
        for x, vectors in snapshot.chunks(snapshot.inputs, output_gradients(snapshot)):
            with Decompositions(1):
                found = snapshot.run(partial(_pulled_back_to_inputs, snapshot=snapshot, x=x, vectors=vectors))
            yield found * total


def _gradient_for_inputs(model: nn.Module, snapshot: Snapshot) -> Tensor:
    with torch.enable_grad():
        leaf, given = with_leaf(snapshot, snapshot.inputs, model)
        outputs = map_tensors(at_least_single, given)
        loss = snapshot.task.loss_of(outputs, snapshot.targets)
    _check_apart(float_tensors(outputs))
    return nan_where_undefined(differentiated([loss], [leaf], of="inputs")[0], outputs)


def _pulled_back_to_inputs(model: nn.Module, snapshot: Snapshot, x: Any, vectors: Any) -> Tensor:
    with torch.enable_grad():
        leaf, given = with_leaf(snapshot, x, model)
    outputs = float_tensors(given)
    _check_apart(outputs)
    weights = [v.to(o.dtype) for o, v in zip(outputs, tensors_in(vectors), strict=True)]
    return nan_where_undefined(differentiated(outputs, [leaf], weights, of="inputs")[0], outputs)


def _gradients_of_batches(snapshot: Snapshot) -> Iterator[Tensor]:
    for batch, share in shares(snapshot):
        with Decompositions(2):
            leaf, loss = snapshot.run(partial(_judged_with_leaf, snapshot=snapshot, batch=batch))
        gradient = differentiated([loss], [leaf], create_graph=snapshot.differentiable, of="inputs")[0]
        yield gradient * (share * snapshot.num_samples)


def _judged_with_leaf(_: nn.Module, snapshot: Snapshot, batch: Any) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        return loss_with_leaf(snapshot, batch)


# For outputs -----------------------------------------------------------------------------------------


class OutputLoss(NamedTuple):
    """The loss of a batch as a function of its outputs: leaves that require grad, and the gradient for them."""

    leaves: list[Tensor]
    gradients: list[Tensor]


@shared
def output_loss(snapshot: Snapshot) -> OutputLoss:
    """The loss of the whole batch, differentiated for its outputs, with the graph of the gradient. Needs targets.

    Raises:
        MeasureError: If there are no tensors of real numbers among the outputs, or complex ones.
    """
    _check_tensors(model_outputs(snapshot))
    leaves: list[Tensor] = []

    def as_leaf(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    with torch.enable_grad():
        loss = snapshot.task.loss_of(map_tensors(as_leaf, model_outputs(snapshot)), snapshot.targets)
        check_dependent([loss] if loss.requires_grad else [], "outputs")
        return OutputLoss(leaves, differentiated([loss], leaves, create_graph=True))


def _check_tensors(outputs: Any) -> None:
    if not float_tensors(outputs) or any(t.is_complex() for t in tensors_in(outputs)):
        raise MeasureError(
            "needs outputs that are tensors of real numbers, or mappings, tuples, lists or dataclasses of them, to "
            f"differentiate a loss for them; the network returns {structure(outputs)}. Give these with "
            "forward=lambda model, inputs: ...."
        )


def output_gradients(snapshot: Snapshot) -> list[Tensor]:
    """Gradient of the loss of the whole batch for each tensor of outputs. Needs targets.

    A loss need not be a mean: with ignored targets, class weights or a sum, chunks of the outputs get their due share.
    """
    return [g.detach() for g in output_loss(snapshot).gradients]


# For parameters --------------------------------------------------------------------------------------


def trainable(snapshot: Snapshot, layers: LayerChoice | None = None) -> dict[str, Tensor]:
    """The parameters that are trained, by name; of the chosen layers.

    Raises:
        MeasureError: If there are none.
    """
    check_not_quantized(snapshot)
    check_real(snapshot)
    _check_not_scripted(snapshot)
    # The graph of given outputs starts at the model's own parameters, also where those have half precision.
    given = snapshot.given_outputs is not None
    parameters = dict(snapshot.model.named_parameters()) if given else snapshot.parameters
    trained = {n: p for n, p in parameters.items() if p.requires_grad}
    if not trained:
        raise MeasureError("needs a network with parameters that are trained; this one has none.")
    return chosen(trained, layers, snapshot.model)


def _check_not_scripted(snapshot: Snapshot) -> None:
    for name, module in snapshot.model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters()):
            raise MeasureError(
                f"module {name!r} is scripted, so that nothing can be differentiated for its parameters. Measure the "
                "network with the module that it was made from."
            )


@shared
def gradient_graph(snapshot: Snapshot, order: int) -> list[Tensor]:
    """Gradient of the loss for each trained parameter, with its graph, of the whole batch at once. Needs targets.

    Args:
        snapshot: Of the network.
        order: Of the highest derivative that will be taken.
    """
    loss = _noted(snapshot, loss_with_graph(snapshot, order))
    return differentiated([loss], list(trainable(snapshot).values()), create_graph=True)


def _noted(snapshot: Snapshot, loss: Tensor) -> Tensor:
    """The loss, which need not be computed again."""
    mean_loss.note(snapshot, loss if snapshot.differentiable else loss.detach())
    return loss


@shared
def gradients(snapshot: Snapshot) -> dict[str, Tensor]:
    """Gradient of the loss for each trained parameter, by name. Needs targets.

    Of a differentiable snapshot with its graph: to differentiate it is a product with the Hessian.
    """
    parameters = trainable(snapshot)
    if snapshot.differentiable:
        found = gradient_graph(snapshot, max(2, snapshot.order))
    elif gradient_graph.is_known(snapshot, 2):
        found = [g.detach() for g in gradient_graph(snapshot, 2)]
    elif snapshot.task.judges_batches:
        found = _summed(snapshot, list(parameters.values()))
    elif snapshot.num_samples <= snapshot.chunk_size:
        kept = snapshot.given_outputs is not None  # whoever gave them still needs their graph
        loss = _noted(snapshot, loss_with_graph(snapshot, 1))
        found = differentiated([loss], list(parameters.values()), retain_graph=kept)
    else:
        found = _pulled_back_to_parameters(snapshot, output_gradients(snapshot))
    return {name: at_least_single(g) for name, g in zip(parameters, found, strict=True)}


def _summed(snapshot: Snapshot, parameters: list[Tensor]) -> list[Tensor]:
    """The gradient, batch by batch."""
    total = [torch.zeros_like(p) for p in parameters]
    losses = []
    for loss in batch_losses(snapshot, 1, records=True):
        losses.append(loss.detach())
        total = [t + g for t, g in zip(total, differentiated([loss], parameters), strict=True)]
    _noted(snapshot, torch.stack(losses).sum())
    return total


def _pulled_back_to_parameters(snapshot: Snapshot, vectors: list[Tensor]) -> list[Tensor]:
    """Vectors for the outputs of the batch times their Jacobian for the trained parameters, chunk by chunk."""
    parameters = list(trainable(snapshot).values())
    total = [torch.zeros_like(p) for p in parameters]
    for x, of_chunk in snapshot.chunks(snapshot.inputs, vectors):
        with Decompositions(1):
            outputs = float_tensors(snapshot.run(lambda model, x=x: model(x), records=True, once=True))  # type: ignore[misc]
        check_dependent([o for o in outputs if o.requires_grad])
        found = differentiated(outputs, parameters, [v.to(o.dtype) for o, v in zip(outputs, of_chunk, strict=True)])
        total = [t + f for t, f in zip(total, found, strict=True)]
    return total
