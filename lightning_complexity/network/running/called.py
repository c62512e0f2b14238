"""A module that is called as a task says, and what it gives for several batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.running.batches import Batches, joined, owned
from lightning_complexity.network.running.layout import time_first_refused
from lightning_complexity.network.running.task import Task


class _Called:
    """A module that is called as a task says, on inputs that it may write to."""

    def __init__(self, model: nn.Module, task: Task, time_first: Mapping[str, nn.Module]) -> None:
        self._model, self._task, self._time_first = model, task, time_first

    def __call__(self, inputs: Any) -> Any:
        if isinstance(inputs, Batches):
            return joined_outputs([self(batch) for batch in inputs.batches])
        own = owned(inputs)
        with time_first_refused(self._time_first, own):
            return self._task.run(self._model, own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def joined_outputs(parts: list[Any]) -> Any:
    """What the network gave for parts of the batch, as one.

    Raises:
        MeasureError: If the parts do not fit.
    """
    try:
        return joined(parts)
    except ValueError as error:
        raise MeasureError(
            f"needs outputs of all batches that can be put together, but {error} Give outputs of one shape with "
            "forward=lambda module, batch: ...."
        ) from error


def called(model: nn.Module, task: Task, time_first: Mapping[str, nn.Module] | None = None) -> nn.Module:
    """A module that is called as a task says.

    Args:
        model: It has all that functions of a model read off one.
        task: How it is called.
        time_first: Its modules that take time in the first dimension, by name, to be refused where samples are there.
    """
    module: Any = _Called(model, task, time_first or {})
    return module
