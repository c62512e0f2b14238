"""The last places of a training's weights, in few dimensions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_complexity.network.running.sharding import local_part, reshard, whole

_SEED = 0


class WeightTrajectory:
    r"""Keeps the last places of weights, projected so that distances stay, up to a random error.

    Parameters as one vector are cut into pieces of ``dimensions`` entries, and the pieces summed with random signs.
    Squared distances are kept on average over the signs, with a relative standard deviation of at most
    :math:`\sqrt{2 / k}` for :math:`k` dimensions and differences that are spread over the entries; exactly, where there
    are no more parameters than dimensions. Complex parameters count as their real and imaginary parts.

    Parameters that come later, such as those of layers that are unfrozen, count as having stood still until then.

    Args:
        window: How many places are kept, the last ones.
        every: How many steps lie between two of them.
        dimensions: Of the projection.

    Example:
        >>> trajectory = WeightTrajectory(window=2)
        >>> for value in (0.0, 3.0, 4.0):
        ...     trajectory.add([torch.full((2,), value)])
        >>> trajectory.points().abs().tolist()
        [[3.0, 3.0], [4.0, 4.0]]
    """

    def __init__(self, window: int = 500, *, every: int = 1, dimensions: int = 512) -> None:
        self.window, self.every, self.dimensions = window, every, dimensions
        self._points: deque[Tensor] = deque(maxlen=window)
        self._steps = 0
        self._forget()

    def _forget(self) -> None:
        self._generator = torch.Generator().manual_seed(_SEED)
        self._signs: dict[str, Tensor] = {}
        self._places: dict[str, int] = {}
        self._drawn: list[tuple[str, int]] = []

    def before_step(self, model: nn.Module) -> None:
        """Know parameters that are trained from now on, and where they have been until now."""
        self._learn(self._trained(model))

    def after_step(self, model: nn.Module) -> None:
        """Keep where the trained parameters are after a step, if it is one of every so many."""
        self._steps += 1
        if self._steps % self.every == 0:
            self._add(self._trained(model))

    def _trained(self, model: nn.Module) -> dict[str, Tensor]:
        """Those that are trained or have been, by name; the rest stands still."""
        reshard(model)  # what a forward pass has left gathered is as it was before the step
        return {
            name: p
            for name, p in model.named_parameters()
            if (p.requires_grad or name in self._signs) and not isinstance(p, UninitializedParameter)
        }

    def add(self, parameters: Iterable[Tensor]) -> None:
        """Keep where the parameters are now, in their order; sharded ones are gathered, one at a time."""
        self._add({str(i): p for i, p in enumerate(parameters)})

    @torch.no_grad()
    def _add(self, parameters: Mapping[str, Tensor]) -> None:
        if parameters:
            self._learn(parameters)
            self._points.append(self._projected(parameters))

    @torch.no_grad()
    def _learn(self, parameters: Mapping[str, Tensor]) -> None:
        entries = {name: 2 * p.numel() if p.is_complex() else p.numel() for name, p in parameters.items()}
        new = [name for name, n in entries.items() if name not in self._signs or len(self._signs[name]) != n]
        for name in new:
            self._draw(name, entries[name])
        if new and self._points:
            there = self._projected({name: parameters[name] for name in new})
            self._points = deque((point + there.to(point.device) for point in self._points), self.window)

    def _draw(self, name: str, entries: int) -> None:
        self._places[name] = sum(n for _, n in self._drawn)
        self._signs[name] = torch.randint(0, 2, (entries,), generator=self._generator, dtype=torch.int8) * 2 - 1
        self._drawn.append((name, entries))

    def _projected(self, parameters: Mapping[str, Tensor]) -> Tensor:
        point = local_part(next(iter(parameters.values()))).new_zeros(self.dimensions, dtype=torch.float32)
        for name, parameter in parameters.items():
            values = whole(parameter.detach())
            values = torch.view_as_real(values) if values.is_complex() else values
            self._signs[name] = self._signs[name].to(parameter.device)
            signed = values.flatten().float() * self._signs[name]
            _add_in_turn(point, signed.to(point.device), self._places[name])
        return point

    def points(self) -> Tensor:
        """The places that are kept, shape ``(points, dimensions)``, double precision."""
        if not self._points:
            return torch.zeros(0, 0, dtype=torch.float64)
        width = min(self.dimensions, sum(entries for _, entries in self._drawn))
        return self._stacked().double()[:, :width]

    def _stacked(self) -> Tensor:
        """On the device of the last one; those of a checkpoint are on the CPU."""
        return torch.stack([point.to(self._points[-1].device) for point in self._points])

    def state_dict(self) -> dict[str, Any]:
        """What a run that is continued needs."""
        points = self._stacked().cpu() if self._points else None
        return {"points": points, "parameters": list(self._drawn), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._forget()
        for name, entries in state["parameters"]:
            self._draw(name, entries)
        self._points = deque(() if state["points"] is None else state["points"], maxlen=self.window)
        self._steps = state["steps"]


def _add_in_turn(point: Tensor, entries: Tensor, place: int) -> None:
    """Add entries to the dimensions one after the other, the first one to that of ``place``, again and again."""
    size = len(point)
    rolled = point.roll(-(place % size))
    whole = len(entries) // size * size
    rolled += entries[:whole].view(-1, size).sum(0)
    rolled[: len(entries) - whole] += entries[whole:]
    point.copy_(rolled.roll(place % size))
