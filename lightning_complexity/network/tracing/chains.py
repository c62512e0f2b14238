"""Networks whose layers follow each other in a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_complexity.network.errors import UnsupportedOperationError
from lightning_complexity.network.tracing.activations import ActivationCapture
from lightning_complexity.network.tracing.dataflow import check_visible
from lightning_complexity.network.tracing.interpreter import ModulePath, operation_name
from lightning_complexity.network.tracing.operations import Effect, Operation, plain_name


class _ChainCheck(ActivationCapture):
    def on_data(
        self, function: Callable[..., Any], operation: Operation | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = super().on_data(function, operation, args, kwargs)
        if isinstance(result, Tensor) and (operation is None or not _is_link(operation)):
            raise self.refuse(plain_name(operation_name(function)))
        return result


def _is_link(operation: Operation) -> bool:
    """Whether an operation passes on all of what comes in and nothing else, as activations do."""
    return operation.in_chain or operation.effect in (Effect.KINKED, Effect.SHAPE)


def chain_widths(model: nn.Module, inputs: Any, *, measure: str) -> list[int]:
    """Number of units of each hidden layer of a network whose layers follow each other in a chain.

    Args:
        model: In evaluation mode.
        inputs: A batch; one sample is enough.
        measure: Name of the measure, for errors.

    Raises:
        UnsupportedOperationError: At a skip connection, max pooling, an activation with two kinks, or anything
            else that is not an affine layer or an activation with one kink.
    """
    check_visible(model, measure)
    path = ModulePath(model)
    capture = _ChainCheck(path, inputs, measure=measure)
    with path.followed(), capture:
        model(inputs)
    for activation in capture.found:
        if len(activation.kinks) != 1:
            raise UnsupportedOperationError(activation.function, activation.name, measure)
    return [activation.inputs[0].numel() for activation in capture.found]
