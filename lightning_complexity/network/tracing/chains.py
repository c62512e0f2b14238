"""Networks whose layers follow each other in a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_complexity.network.errors import UnsupportedOperationError
from lightning_complexity.network.running.batches import num_samples
from lightning_complexity.network.tracing.activations import PIECEWISE_LINEAR, ActivationCapture, plain_name
from lightning_complexity.network.tracing.interpreter import ModulePath, operation_name

# Each passes on all of what comes in and nothing else, so that layers in between follow each other in a chain.
_CHAIN = {
    *(
        "linear",
        "flatten",
        "unflatten",
        "view",
        "reshape",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "clone",
        "dropout",
        "batch_norm",
    ),
    *(f"conv{d}d" for d in (1, 2, 3)),
    *(f"{kind}avg_pool{d}d" for d in (1, 2, 3) for kind in ("", "adaptive_")),
}


class _ChainCheck(ActivationCapture):
    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result, plain = super().on_operation(function, args, kwargs), plain_name(operation_name(function))
        if isinstance(result, Tensor) and plain not in _CHAIN and plain not in PIECEWISE_LINEAR:
            raise self.refuse(plain)
        return result


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
    path = ModulePath(model)
    capture = _ChainCheck(path, num_samples(inputs), measure=measure)
    with path.followed(), capture:
        model(inputs)
    for activation in capture.found:
        if len(activation.kinks) != 1:
            raise UnsupportedOperationError(activation.function, activation.name, measure)
    return [activation.inputs[0].numel() for activation in capture.found]
