"""The graphs from parameters to the loss, of some samples at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_complexity.network.derivatives import differentiated, output_gradients
from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.losses import batch_losses, check_dependent, loss_of_batch, shares
from lightning_complexity.network.outputs import check_not_quantized, float_tensors, model_outputs
from lightning_complexity.network.running.batches import Batches, can_be_cut, chunks, map_tensors, num_samples
from lightning_complexity.network.running.memory import at_least_single
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.decompositions import Decompositions


class Graph(NamedTuple):
    """Tensors with the graph from the parameters to them.

    Attributes:
        roots: What is differentiated.
        vectors: For each the gradient of the loss of the whole batch; ``None`` where they are (a part of) that loss.
        samples: How many samples they are computed from.
    """

    roots: list[Tensor]
    vectors: list[Tensor] | None
    samples: int


def graphs(snapshot: Snapshot) -> Iterator[Graph]:
    """Those of the whole batch, whose gradients add up to that of the loss."""
    check_separable(snapshot)
    if snapshot.task.judges_batches:
        given = snapshot.batches or Batches.of((snapshot.inputs, snapshot.targets))
        sizes = [size for _, size in given.pieces()]
        for loss, size in zip(batch_losses(snapshot, 1, records=True), sizes, strict=True):
            yield Graph([loss], None, size)
        return
    outputs = None
    if snapshot.num_samples <= snapshot.chunk_size:  # one pass gives the outputs and their graph
        outputs = _outputs(snapshot, snapshot.inputs)
        model_outputs.note(snapshot, map_tensors(lambda t: at_least_single(t.detach()), outputs))
    _check_loss_apart(snapshot)
    if outputs is not None:
        yield _pulled(outputs, output_gradients(snapshot), snapshot.num_samples)
        return
    for x, vectors in snapshot.chunks(snapshot.inputs, output_gradients(snapshot)):
        yield _pulled(_outputs(snapshot, x), vectors, num_samples(x))


def single_graphs(snapshot: Snapshot) -> Iterator[Graph]:
    """One for each sample, whose gradients add up in the same way; the outputs are known."""
    if snapshot.task.judges_batches:
        for batch, share in shares(snapshot):
            size = num_samples(batch)
            for sample in chunks(batch, 1):
                yield Graph([loss_of_batch(snapshot, sample) * (share / size)], None, 1)
    else:
        for x, vectors in chunks((snapshot.inputs, output_gradients(snapshot)), 1):
            yield _pulled(_outputs(snapshot, x), vectors, 1)


def _outputs(snapshot: Snapshot, x: Any) -> Any:
    with Decompositions(1):
        return snapshot.run(lambda model: model(x), records=True, once=True)


def _pulled(outputs: Any, vectors: list[Tensor], samples: int) -> Graph:
    pairs = zip(float_tensors(outputs), vectors, strict=True)
    used = [(o, v.to(o.dtype)) for o, v in pairs if o.requires_grad]
    check_dependent([o for o, _ in used])
    return Graph([o for o, _ in used], [v for _, v in used], samples)


# Whether samples are apart ---------------------------------------------------------------------------


def check_separable(snapshot: Snapshot) -> None:
    """Raise an error where a batch is no row of samples that have a gradient each.

    Raises:
        MeasureError: If samples depend on one another, or batches cannot be cut into them.
    """
    snapshot.check_samples_apart("the gradient of each sample")
    check_not_quantized(snapshot)
    batches = [batch for batch, _ in snapshot.batches.pieces()] if snapshot.batches else []
    if snapshot.is_whole or not all(map(can_be_cut, batches)):
        raise MeasureError(
            "needs the gradient of each sample, but these batches cannot be cut into samples. Give tensors, or "
            "mappings, tuples and lists of tensors, whose first dimension counts the samples."
        )


def _check_loss_apart(snapshot: Snapshot) -> None:
    """Raise an error where the loss is no sum over samples, as its gradient for some depends on other outputs."""
    outputs, count = float_tensors(model_outputs(snapshot)), snapshot.num_samples
    if any(t.ndim == 0 or len(t) != count for t in outputs):
        shapes = ", ".join(str(tuple(t.shape)) for t in outputs)
        raise MeasureError(
            f"needs outputs whose first dimension counts the {count} samples, to tell their gradients apart, got "
            f"{shapes}. Give others with forward=lambda model, inputs: ...."
        )
    if snapshot.task.loss is None or count < 2:
        return
    half = count // 2
    for before, after in zip(output_gradients(snapshot), _gradients_elsewhere(snapshot, half), strict=True):
        tolerance = 1e-6 * float(before.abs().nan_to_num(0, 0).max())
        if not torch.allclose(before[:half], after[:half], rtol=1e-3, atol=tolerance, equal_nan=True):
            raise MeasureError(
                "needs a loss that is a mean, or a sum, over samples, but here a sample's gradient changes with the "
                "outputs of others. Give one with loss=lambda outputs, targets: ..., or leave this measure out."
            )


def _gradients_elsewhere(snapshot: Snapshot, half: int) -> list[Tensor]:
    """Gradients of the loss for the outputs, where those of the second half of the samples are others."""
    leaves: list[Tensor] = []

    def moved(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        leaves.append(torch.cat([t[:half], t[half:] / 2]).requires_grad_())
        return leaves[-1]

    with torch.enable_grad():
        outputs = map_tensors(moved, model_outputs(snapshot))
        return differentiated([snapshot.task.loss_of(outputs, snapshot.targets)], leaves)
