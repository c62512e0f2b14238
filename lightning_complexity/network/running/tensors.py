"""The parameters and buffers of a network as they are at one moment, or with others in the place of some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_complexity.network.running.batches import map_tensors
from lightning_complexity.network.running.memory import at_least_single, lazily_cloned
from lightning_complexity.network.running.sharding import whole, whole_parameters


def plain_name(name: str) -> str:
    """Name of a parameter without the module that ``torch.compile`` puts around another."""
    return name.replace("_orig_mod.", "")


def initial_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters to the CPU, to measure distances from them later, and the running statistics with them.

    Returns:
        Parameters, and buffers of floating-point numbers, by name; tied parameters once. A network and its compiled
        form have the same names.
    """
    buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    tensors = {**whole_parameters(model), **buffers}
    return {plain_name(name): t.detach().to("cpu", copy=True) for name, t in tensors.items()}


class Gathered:
    """The module's own parameters and buffers, whole where they are sharded, from when they are first asked for.

    Args:
        model: Any module.
        optimizers: What trains it.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self.model, self._optimizers = model, optimizers

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """By name, tied ones once."""
        with torch.enable_grad():  # whoever asks first: what is gathered without would pass for not trained
            return whole_parameters(self.model)

    @cached_property
    def buffers(self) -> list[tuple[str, Tensor, Tensor]]:
        """Name, the module's buffer, and the whole of it."""
        return [(name, buffer, whole(buffer).detach()) for name, buffer in self.model.named_buffers()]

    @cached_property
    def optimizer_state(self) -> tuple[dict[Any, Any], ...]:
        """The state of each optimizer by what it belongs to."""
        return tuple(
            {key: map_tensors(whole, kept) if isinstance(kept, dict) else kept for key, kept in dict(o.state).items()}
            for o in self._optimizers
        )


class Tensors:
    """What a snapshot has in the places of a module's parameters and buffers.

    Args:
        gathered: The module's own.
        replaced: Those that have others in their places, by name.
        differentiable: Whether parameters are the real ones, or detached leaves of the same numbers.
    """

    def __init__(self, gathered: Gathered, replaced: Mapping[str, Tensor], *, differentiable: bool) -> None:
        self._gathered, self.differentiable = gathered, differentiable
        self._replaced = {plain_name(name): tensor for name, tensor in replaced.items()}

    def replacing(self, tensors: Mapping[str, Tensor], *, differentiable: bool) -> Tensors:
        """With others in the place of some more; gathered by now, as it is for all who look at this moment."""
        _ = self._gathered.parameters, self._gathered.buffers
        replaced = {**self._replaced, **{plain_name(name): tensor for name, tensor in tensors.items()}}
        return Tensors(self._gathered, replaced, differentiable=differentiable)

    def gather(self) -> None:
        """Take in parameters and buffers now; where they are sharded all processes must do that together."""
        _ = self.parameters, self._buffers

    @property
    def optimizer_state(self) -> tuple[dict[Any, Any], ...]:
        """The state of each optimizer by what it belongs to, whole where it is sharded."""
        return self._gathered.optimizer_state

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """By name, tied ones once, in at least single precision."""
        gathered = self._gathered.parameters
        named = {n: self._in_place_of(n, p) for n, p in gathered.items()}
        if self.differentiable:
            with torch.enable_grad():  # whoever asks first
                return {n: at_least_single(p) for n, p in named.items()}
        with torch.inference_mode(False):
            leaves = {n: lazily_cloned(at_least_single(p.detach())) for n, p in named.items()}
            return {n: leaf.requires_grad_(gathered[n].requires_grad) for n, leaf in leaves.items()}

    @cached_property
    def _buffers(self) -> list[tuple[Tensor, Tensor]]:
        """The buffers, and what is in their places."""
        return [(b, self._in_place_of(name, value)) for name, b, value in self._gathered.buffers]

    def _in_place_of(self, name: str, tensor: Tensor) -> Tensor:
        replaced = self._replaced.get(plain_name(name))
        return tensor if replaced is None else replaced.to(at_least_single(tensor))

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        names = [name for name, _, _ in self._gathered.buffers]
        buffers = zip(names, (value for _, value in self._buffers), strict=True)
        return {**dict(buffers), **self.parameters}

    def stand_ins(self, *, records: bool, dtype: torch.dtype | None, is_mixed: bool) -> dict[int, Tensor]:
        """What takes the place of each parameter and buffer in a run, by the ``id`` of these."""

        def stand_in(original: Tensor, tensor: Tensor) -> Tensor:
            kind = dtype or (original.dtype if is_mixed else None)
            if kind is not None and tensor.is_floating_point() and tensor.dtype != kind:
                return tensor.to(kind)
            return lazily_cloned(tensor)

        tensors = {}
        for name, parameter in self._named_parameters.items():
            leaf = self.parameters[name]
            tensors[id(parameter)] = stand_in(parameter, leaf if records else leaf.detach())
        for buffer, value in self._buffers:
            tensors[id(buffer)] = stand_in(buffer, value if is_mixed else at_least_single(value))
        return tensors

    def stand_in_of(self, tensor: Tensor) -> Tensor:
        """What is in the place of a tensor that the module reads."""
        name = self._names.get(id(tensor))
        leaf = at_least_single(tensor) if name is None else self.parameters[name]
        return leaf if self.differentiable else leaf.detach()

    @cached_property
    def _named_parameters(self) -> dict[str, nn.Parameter]:
        _ = self.parameters  # gathers those that are sharded, which gives the module others
        return dict(self._gathered.model.named_parameters())

    @cached_property
    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self._named_parameters.items()}
