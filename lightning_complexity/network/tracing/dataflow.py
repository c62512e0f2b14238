"""Which tensors of a forward pass depend on the inputs, and whether they do so in a piecewise linear way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdRef

from lightning_complexity.network.errors import UnsupportedOperationError
from lightning_complexity.network.running.batches import tensors_in
from lightning_complexity.network.tracing.interpreter import (
    ModulePath,
    TorchFunctionInterpreter,
    operation_name,
    tensor_arguments,
)
from lightning_complexity.network.tracing.operations import (
    OPERATIONS,
    Effect,
    Operation,
    argument,
    overwrites,
    plain_name,
)

Memory = StorageWeakRef | WeakIdRef


def memory_of(tensor: Tensor) -> Memory:
    """What a tensor shares with its views; the tensor itself where its memory cannot be told."""
    if tensor.layout == torch.strided:
        try:
            return StorageWeakRef(tensor.untyped_storage())
        except (NotImplementedError, RuntimeError):  # inside ``torch.func`` transforms
            pass
    return WeakIdRef(tensor)


def is_number(tensor: Tensor) -> bool:
    """Whether it holds floating-point numbers, not indices or truth values."""
    return tensor.is_floating_point() or tensor.is_complex()


class DataFlow(TorchFunctionInterpreter):
    """Follows what depends on the inputs through a forward pass: the data. Nothing is kept alive.

    Operations on weights, positions, masks and other constants are done as they are; those on data come to
    :meth:`on_data`. Memory counts, so that what is written into a part of a constant makes all of it data.

    Args:
        path: Tells the module being called, for errors.
        inputs: What goes into the network.
    """

    def __init__(self, path: ModulePath, inputs: Any) -> None:
        super().__init__()
        self.path = path
        self._data: set[Memory] = {memory_of(t) for t in tensors_in(inputs)}
        self._decided: set[Memory] = set()

    def on_data(
        self,
        function: Callable[..., Any],
        operation: Operation | None,  # noqa: ARG002 (for those who override it)
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Do an operation on data and return its result.

        Args:
            function: The operation.
            operation: Its row in the table, ``None`` if it has none.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        return function(*args, **kwargs)

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do the operation, and note whether its result is data."""
        data = self.data_among(tensor_arguments(args, kwargs))
        if not data:
            return function(*args, **kwargs)
        name = operation_name(function)
        operation = OPERATIONS.get(plain_name(name))
        result = self.on_data(function, operation, args, kwargs)
        if operation is None or operation.effect is not Effect.SHAPE:
            written = args[:1] if overwrites(name, kwargs) else ()
            self._note_results(tensors_in((result, written)), data)
        return result

    def data_among(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Those that depend on the inputs."""
        return [t for t in tensors if memory_of(t) in self._data]

    def is_data(self, value: Any) -> bool:
        """Whether a value is a tensor that depends on the inputs."""
        return isinstance(value, Tensor) and memory_of(value) in self._data

    def is_decided(self, tensor: Tensor) -> bool:
        """Whether it holds indices or truth values that were computed from numbers that depend on the inputs."""
        return memory_of(tensor) in self._decided

    def _note_results(self, results: list[Tensor], data: list[Tensor]) -> None:
        decides = any(is_number(t) or self.is_decided(t) for t in data)
        for result in results:
            self._data.add(memory_of(result))
            if decides and not is_number(result):
                self._decided.add(memory_of(result))


class PiecewiseLinearFlow(DataFlow):
    """Says of each operation on data whether it keeps the network piecewise linear.

    Inputs that are numbers count, not tokens: what is computed from tokens alone is given for a sample.
    """

    def _depends_on_numbers(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        data = self.data_among(tensor_arguments(args, kwargs))
        return any(is_number(t) or self.is_decided(t) for t in data)

    def refusal(
        self, plain: str, operation: Operation | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str | None:
        """What keeps the network from being piecewise linear, ``None`` if a known operation does not."""
        if operation is None or not self._depends_on_numbers(args, kwargs):
            return None
        if operation.effect in _NOT_PIECEWISE_LINEAR:
            return plain
        if operation.effect is Effect.BATCH_NORM and _has_batch_statistics(args, kwargs):
            return f"{plain} without running statistics"
        if operation.fixed is not None and self.is_data(argument(args, kwargs, operation.fixed)):
            return f"{plain} by an activation"
        if operation.effect in (Effect.PRODUCT, Effect.LAYER) and self.num_factors(operation, args, kwargs) > 1:
            return f"{plain} of two activations"
        return None

    def num_factors(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """How many factors of a product are data."""
        added = None if operation.added is None else argument(args, kwargs, operation.added)
        return len(self.data_among(t for t in tensor_arguments(args, kwargs) if t is not added))

    def refusal_of_result(
        self, plain: str, operation: Operation | None, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> str | None:
        """The same for what is seen by the result: unknown operations, and numbers chosen by comparisons of data."""
        results = tensors_in(result)
        if operation is None and results and self._depends_on_numbers(args, kwargs):
            return plain
        chosen = any(self.is_decided(t) for t in self.data_among(tensor_arguments(args, kwargs)))
        known_shape = operation is not None and operation.effect is Effect.SHAPE
        if chosen and not known_shape and any(map(is_number, results)):
            return f"{plain} by comparisons of activations"
        return None


_NOT_PIECEWISE_LINEAR = {Effect.CURVED, Effect.POINTWISE, Effect.MIXING, Effect.READ}


def _has_batch_statistics(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    statistics = (argument(args, kwargs, place) for place in ((1, "running_mean"), (2, "running_var")))
    return bool(argument(args, kwargs, (5, "training"), False)) or any(s is None for s in statistics)


def check_visible(model: nn.Module, measure: str) -> None:
    """Raise an error at a module whose operations cannot be seen.

    Raises:
        UnsupportedOperationError: At a scripted module.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedOperationError("a scripted module, whose operations cannot be seen", name, measure)
