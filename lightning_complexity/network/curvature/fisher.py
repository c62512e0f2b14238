"""The Fisher information, from each sample's gradient and from the outputs along a direction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_complexity.network.curvature.gauss_newton import Run, captured_runs
from lightning_complexity.network.curvature.output_curvature import output_gradient
from lightning_complexity.network.derivatives import differentiated, trainable
from lightning_complexity.network.per_sample.graphs import check_separable
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.weights.choice import LayerChoice


@shared
def gradient_squares(snapshot: Snapshot, layers: LayerChoice | None = None) -> Tensor:
    """The squared norm of each sample's own gradient for each trained parameter, shape ``(n, parameters)``.

    Without the gradients where all layers are known to
    :class:`~lightning_complexity.network.per_sample.ghosts.GhostCapture`; else by a forward and a backward pass of each
    sample alone. Needs inputs and targets.

    Raises:
        MeasureError: If the loss is no function of outputs and targets, samples depend on one another, or batches
            cannot be cut into them.
    """
    check_separable(snapshot)
    vectors, names = output_gradient(snapshot), list(trainable(snapshot, layers))
    found, start = [], 0
    for run in captured_runs(snapshot):
        if not run.ghosts.covers(names, run.outputs):
            return _one_by_one(snapshot, layers, vectors)
        own = vectors[start : start + len(run.outputs)]
        found.append(run.ghosts.squares([run.outputs], [own], names, create_graph=snapshot.differentiable))
        start += len(run.outputs)
    return torch.cat(found)


def _one_by_one(snapshot: Snapshot, layers: LayerChoice | None, vectors: Tensor) -> Tensor:
    leaves = list(trainable(snapshot, layers).values())
    rows = zip(captured_runs(snapshot, at_most=1), vectors.split(1), strict=True)
    return torch.stack([torch.stack([g.square().sum() for g in _pulled(run, leaves, v)]) for run, v in rows])


def _pulled(run: Run, leaves: list[Tensor], vector: Tensor) -> list[Tensor]:
    return differentiated([run.outputs], leaves, [vector.to(run.outputs.dtype)])


@shared
def per_sample_gradients(snapshot: Snapshot) -> Tensor:
    """The gradient of each sample's own loss for all trained parameters, shape ``(n, parameters)``; a pass for each."""
    check_separable(snapshot)
    leaves = list(trainable(snapshot).values())
    rows = zip(captured_runs(snapshot, at_most=1), output_gradient(snapshot).split(1), strict=True)
    return torch.stack([torch.cat([g.flatten() for g in _pulled(run, leaves, v)]) for run, v in rows])


def outputs_along(snapshot: Snapshot, direction: Mapping[str, Tensor]) -> Tensor:
    """The Jacobian of the outputs for the parameters times a direction, in the shape of the outputs.

    By two backward passes of all samples, whatever the layers are; differentiable where the snapshot is.

    Args:
        snapshot: With inputs.
        direction: Change of parameters by name; others do not move.
    """
    leaves = [snapshot.parameters[name] for name in direction]
    found = []
    with torch.enable_grad():
        for run in captured_runs(snapshot, order=2):
            weights = torch.zeros_like(run.outputs, requires_grad=True)
            pulled = differentiated([run.outputs], leaves, [weights], create_graph=True)
            found.append(
                differentiated(pulled, [weights], list(direction.values()), create_graph=snapshot.differentiable)[0]
            )
    return torch.cat(found)
