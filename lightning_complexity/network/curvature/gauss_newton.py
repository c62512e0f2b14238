"""The trace of the Gauss-Newton matrix, and where the Hessian has the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_complexity.functional.numerics.random import normal_by_sample, sample_keys
from lightning_complexity.network.curvature.output_curvature import OutputCurvature, output_curvature
from lightning_complexity.network.derivatives import differentiated, trainable
from lightning_complexity.network.losses import check_dependent
from lightning_complexity.network.outputs import checked_predictions, counted, float_tensors, graph_of_outputs
from lightning_complexity.network.per_sample.ghosts import GhostCapture
from lightning_complexity.network.running.batches import Batches, chunks, tensors_in
from lightning_complexity.network.running.memory import at_least_single
from lightning_complexity.network.running.task import main_tensor
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.decompositions import Decompositions, FrozenStatistics, check_derivatives
from lightning_complexity.network.tracing.multilinearity import not_multilinear
from lightning_complexity.network.weights.choice import LayerChoice


@shared
def is_multilinear(snapshot: Snapshot) -> bool:
    """Whether the network is piecewise linear in each single parameter, as far as one sample tells. Needs inputs."""
    if isinstance(snapshot.inputs, Batches):
        return False
    sample = next(chunks(snapshot.inputs, 1))
    with FrozenStatistics():
        outputs = snapshot.run(lambda model: model(sample), records=True)
    return not_multilinear(float_tensors(outputs)) is None


class TraceSamples(NamedTuple):
    """Estimates of a trace.

    Attributes:
        names: Of the parameters.
        samples: Of each probe for the block of each parameter, shape ``(probes, parameters)``; one row if it is exact.
        is_exact: Whether there is nothing random in it.
        is_hessian: Whether the Hessian has the same trace, block by block; ``False`` also where that is not known.
    """

    names: list[str]
    samples: Tensor
    is_exact: bool
    is_hessian: bool


class Run(NamedTuple):
    """One forward pass of some samples with its graph, and the layers that used parameters in it."""

    outputs: Tensor
    ghosts: GhostCapture


def gauss_newton_samples(
    snapshot: Snapshot, num_probes: int, seed: int = 0, layers: LayerChoice | None = None
) -> TraceSamples:
    r"""Samples of the traces of the diagonal blocks of :math:`\sum_i J_i^T H_i J_i`.

    With :math:`J_i` the Jacobian of a sample's outputs and :math:`H_i` the Hessian of the loss for them. Where there
    are no more outputs than probes, exact by a backward pass for each. Else each probe is a backward pass of random
    signs for each output of each sample, and, where all layers are known to
    :class:`~lightning_complexity.network.per_sample.ghosts.GhostCapture`, squared norms sample by sample: no products
    between samples add to the variance. Elsewhere the squared norm of the sum over samples is taken, which has the same
    mean.

    Args:
        snapshot: With inputs and targets.
        num_probes: Backward passes at most.
        seed: Of the random signs.
        layers: Which layers count.

    Raises:
        MeasureError: As :func:`output_curvature`.
    """
    return _samples(snapshot, num_probes, seed, layers)


@shared
def _samples(snapshot: Snapshot, num_probes: int, seed: int, layers: LayerChoice | None) -> TraceSamples:
    snapshot.check_samples_apart("the Gauss-Newton matrix")
    curvature = output_curvature(snapshot)
    parameters = trainable(snapshot, layers)
    names = list(parameters)
    is_exact = curvature.shape[1:].numel() <= num_probes
    vectors = list(curvature.columns()) if is_exact else _probes(snapshot, curvature, num_probes, seed)
    leaves, graph = list(parameters.values()), snapshot.differentiable
    found, is_hessian, has_parts = list[Tensor](), True, False
    for run, own in _with_rows(captured_runs(snapshot), vectors):
        is_hessian = is_hessian and not_multilinear([run.outputs]) is None
        if run.ghosts.covers(names, run.outputs):
            squares = [run.ghosts.squares([run.outputs], [v], names, create_graph=graph).sum(0) for v in own]
        elif is_exact:
            squares = [_sample_by_sample(run, leaves, v, create_graph=graph) for v in own]
        elif len(run.outputs) == len(vectors[0]):
            squares = [_squared_norms(_pulled(run, leaves, v, create_graph=graph)) for v in own]
        else:
            has_parts = True
            continue
        found.append(torch.stack(squares))
    if has_parts:
        found = [torch.stack([_squared_norms(_summed(snapshot, leaves, v)) for v in vectors])]
    total = torch.stack(found).sum(0)
    return TraceSamples(names, total.sum(0, keepdim=True) if is_exact else total, is_exact, is_hessian)


def _with_rows(runs: Iterable[Run], vectors: list[Tensor]) -> Iterator[tuple[Run, list[Tensor]]]:
    """Each run and the part of the vectors for its samples."""
    start = 0
    for run in runs:
        count = len(run.outputs)
        yield run, [v[start : start + count] for v in vectors]
        start += count


def _sample_by_sample(run: Run, leaves: list[Tensor], vector: Tensor, *, create_graph: bool) -> Tensor:
    """Squared norms for each parameter, summed over samples."""
    single = [_pulled(run, leaves, vector * _only(vector, i), create_graph=create_graph) for i in range(len(vector))]
    return torch.stack([_squared_norms(gradients) for gradients in single]).sum(0)


def _summed(snapshot: Snapshot, leaves: list[Tensor], vector: Tensor) -> list[Tensor]:
    """The gradients of all chunks: chunks of any size have the same products between samples, and one set is held."""
    total = [torch.zeros_like(leaf) for leaf in leaves]
    for run, (own,) in _with_rows(captured_runs(snapshot), [vector]):
        total = [t + g for t, g in zip(total, _pulled(run, leaves, own, create_graph=False), strict=True)]
    return total


def _pulled(run: Run, leaves: list[Tensor], vector: Tensor, *, create_graph: bool) -> list[Tensor]:
    vectors = [vector.to(run.outputs.dtype)]
    return differentiated([run.outputs], leaves, vectors, retain_graph=True, create_graph=create_graph)


def _squared_norms(gradients: list[Tensor]) -> Tensor:
    return torch.stack([g.square().sum() for g in gradients])


def _only(v: Tensor, sample: int) -> Tensor:
    mask = v.new_zeros(len(v), *[1] * (v.ndim - 1))
    mask[sample] = 1
    return mask


def captured_runs(snapshot: Snapshot, at_most: int | None = None, order: int = 1) -> Iterator[Run]:
    """Forward passes of all samples, some at a time.

    Args:
        snapshot: With inputs.
        at_most: How many samples at a time, if not as many as the snapshot computes at once.
        order: Highest derivative that will be taken of a snapshot that observes; of one that is differentiable, one
            more.

    Raises:
        ValueError: If torch gets such a derivative of given outputs wrong.
    """
    if snapshot.differentiable or snapshot.given_outputs is not None:
        run = _differentiable_run(snapshot)
        highest = order + snapshot.differentiable
        if snapshot.given_outputs is not None and highest > 1:
            check_derivatives([run.outputs], order=highest)
        yield run
        return
    pieces = (x for (x,) in snapshot.chunks(snapshot.inputs)) if at_most is None else chunks(snapshot.inputs, at_most)
    for x in pieces:
        yield _captured(snapshot, x, order)


@shared
def _differentiable_run(snapshot: Snapshot) -> Run:
    if snapshot.given_outputs is None:
        return _captured(snapshot, snapshot.inputs, max(2, snapshot.order))
    outputs = checked_predictions(main_tensor(graph_of_outputs(snapshot, 2).outputs), counted(snapshot.inputs))
    return Run(at_least_single(outputs), GhostCapture(nn.Module()))


def _captured(snapshot: Snapshot, x: Any, order: int) -> Run:
    def forward(model: nn.Module) -> Run:
        ghosts = GhostCapture(snapshot.model)
        with ghosts:
            outputs = checked_predictions(main_tensor(model(x)), counted(x))
        check_dependent([outputs] if outputs.requires_grad else [])
        return Run(at_least_single(outputs), ghosts)

    with Decompositions(order):
        return snapshot.run(forward, records=True)


def _probes(snapshot: Snapshot, curvature: OutputCurvature, num_probes: int, seed: int) -> list[Tensor]:
    """Random signs for each output of each sample, times the factor of the Hessian for them."""
    generator, keys = torch.Generator().manual_seed(seed), _keys(snapshot, seed)
    shape = curvature.shape
    if keys is None:
        drawn = [torch.randint(0, 2, shape, generator=generator, dtype=torch.int8) * 2 - 1 for _ in range(num_probes)]
    else:
        normal = normal_by_sample(keys, (num_probes, *shape[1:]), torch.float32)
        drawn = list(((normal > 0).to(torch.int8) * 2 - 1).unbind(1))
    return [curvature.half(signs.to(curvature.like)) for signs in drawn]


def _keys(snapshot: Snapshot, seed: int) -> Tensor | None:
    """A number for each sample, so that batches of any size draw the same; ``None`` where batches cannot be cut."""
    if isinstance(snapshot.inputs, Batches):
        return None
    rows = [t for t in tensors_in(snapshot.inputs) if t.ndim and len(t) == snapshot.num_samples and not t.is_complex()]
    if not rows:
        return None
    keys = sample_keys(rows[0], seed)
    for other in rows[1:]:
        keys = keys ^ sample_keys(other, seed + 1)
    return keys
