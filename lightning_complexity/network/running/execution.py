"""Run one network with tensors of one's own in it, and leave no trace."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import _get_current_function_mode_stack

from lightning_complexity.network.running.checkpointing import recomputed_by
from lightning_complexity.network.running.guard import (
    TWICE_DIFFERENTIABLE,
    attention_by,
    computed_exactly,
    cuda_devices,
    kernels_of_attention,
    left_alone,
)
from lightning_complexity.network.running.sharding import sharding_suspended
from lightning_complexity.network.running.state import PythonState
from lightning_complexity.network.tracing.interpreter import TorchFunctionInterpreter

Result = TypeVar("Result")


class Execution:
    """Runs functions of one network, each on copies of all that the network could change.

    While it is open the network is observed, see :func:`observe`. Backward passes belong inside too, as checkpointed
    parts of the network run again in them; such a part also finds the network observed, with the tensors of its
    forward pass, if a backward pass comes later, as that of a penalty does.

    Args:
        model: The network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._block: ExitStack | None = None
        self._state: PythonState | None = None
        self._running: Mapping[int, Tensor] | None = None
        self._once, self._kernels_of_training = False, TWICE_DIFFERENTIABLE
        self._keeps = False
        self._devices: list[torch.device] = []

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Compute exactly inside the block, with the network observed from its first run on; blocks may be nested."""
        if self._block is not None:
            yield
            return
        with ExitStack() as block:
            block.enter_context(computed_exactly(self.model))
            self._block = block
            try:
                yield
            finally:
                self._block = self._state = None

    def _observed(self) -> PythonState:
        assert self._block is not None
        if self._state is None:
            self._kernels_of_training = kernels_of_attention()
            for guard in (left_alone(self.model), sharding_suspended(self.model), recomputed_by(self._replayed)):
                self._block.enter_context(guard)
            self._devices = cuda_devices(self.model)
            self._state = PythonState(self.model)
        return self._state

    def observe(self) -> None:
        """Observe the network from now on in an open block, before a backward pass through the graph of an earlier one.

        Checkpointed parts run again in it, with random states of their own, which are none to go back to.
        """
        if self._block is not None:
            self._observed()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Let checkpointed functions keep what they compute inside the block, as if they were not checkpointed.

        For those who read tensors that autograd has saved: those of a checkpoint can be read once, by a backward pass.
        """
        before, self._keeps = self._keeps, True
        try:
            yield
        finally:
            self._keeps = before

    def run(
        self, function: Callable[[nn.Module], Result], tensors: Mapping[int, Tensor], *, once: bool = False
    ) -> Result:
        """Call ``function(model)`` with other tensors in the model.

        Every call draws the same random numbers, where the network draws any.

        Args:
            function: Anything that reads or calls the model.
            tensors: What stands in for parameters and buffers, by the ``id`` of these. They may be written to.
            once: Whether what it gives is differentiated once at most, which all kernels of attention can be.
        """
        with self._with_tensors(tensors, once):
            self._seed()
            return function(self.model)

    @contextmanager
    def _with_tensors(self, tensors: Mapping[int, Tensor], once: bool) -> Iterator[None]:
        with self.opened():
            state = self._observed()  # first, as it chooses kernels too
            attention = nullcontext() if once == self._once else self._attention(once)
            before, self._running, self._once = (self._running, self._once), tensors, once
            try:
                with attention, state.replaced(tensors), _own_cache_of_parametrizations():
                    yield
            finally:
                self._running, self._once = before

    def _attention(self, once: bool) -> AbstractContextManager[None]:
        return attention_by(self._kernels_of_training if once else TWICE_DIFFERENTIABLE)

    def _replayed(self, function: Callable[..., Any]) -> Callable[..., Any] | None:
        """A checkpointed part of the network for when it is recomputed.

        ``None`` where its operations are watched, or its graph will be read.
        """
        modes = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, TorchFunctionInterpreter)]
        tensors, once = self._running, self._once
        if tensors is None or self._keeps or not all(mode.can_be_repeated for mode in modes):
            return None
        modes = [mode for mode in modes if mode.sees_repeats]

        def replay(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                if self._running is not tensors:
                    stack.enter_context(self._with_tensors(tensors, once))
                for mode in modes:
                    if mode not in _get_current_function_mode_stack():
                        stack.enter_context(mode)
                return function(*args, **kwargs)

        return replay

    def _seed(self) -> None:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 (the state that networks may draw from)
        torch.default_generator.manual_seed(0)
        for device in self._devices:
            torch.cuda.default_generators[device.index or 0].manual_seed(0)


@contextmanager
def _own_cache_of_parametrizations() -> Iterator[None]:
    """Compute each parametrized weight once, apart from what the caller may have cached of the real ones."""
    before, parametrize._cache = parametrize._cache, {}
    try:
        with parametrize.cached():
            yield
    finally:
        parametrize._cache = before
