"""The loss along random directions from the parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.landscape import filter_normalized
from lightning_complexity.network.derivatives import trainable
from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.losses import mean_loss
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.weights.choice import LayerChoice

Direction = dict[str, Tensor]


def random_directions(snapshot: Snapshot, count: int, seed: int, layers: LayerChoice | None) -> list[Direction]:
    """Filter-normalized random directions in the weights of at least two dimensions; others stay where they are.

    Raises:
        MeasureError: If there are no such weights.
    """
    weights = {name: p.detach() for name, p in trainable(snapshot, layers).items() if p.ndim > 1}
    if not weights:
        raise MeasureError("needs trained weights of at least two dimensions; biases and normalization are not moved.")
    generator = torch.Generator().manual_seed(seed)
    # For every weight, chosen or not, so that a weight's direction does not depend on the choice.
    return [
        {
            name: filter_normalized(noise, weights[name])
            for name, noise in _noise(snapshot, generator)
            if name in weights
        }
        for _ in range(count)
    ]


def _noise(snapshot: Snapshot, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    for name, p in trainable(snapshot).items():
        if p.ndim > 1:
            yield name, torch.randn(p.shape, generator=generator).to(p.device, p.dtype)


def loss_at(snapshot: Snapshot, directions: list[Direction], distances: list[float]) -> Tensor:
    """Loss of the batch at a distance along each direction from the parameters, 0-d."""
    if not any(distances):
        return mean_loss(snapshot).detach()
    state = {name: snapshot.parameters[name].detach() for name in directions[0]}
    for direction, distance in zip(directions, distances, strict=True):
        if distance:
            state = {name: torch.add(p, direction[name], alpha=distance) for name, p in state.items()}
    return mean_loss(snapshot.at(state)).detach()
