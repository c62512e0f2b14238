"""The last linear layer of a network, and what enters it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.outputs import check_not_quantized, predictions
from lightning_complexity.network.running.memory import at_least_single
from lightning_complexity.network.running.task import main_tensor
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.interpreter import TorchFunctionInterpreter, operation_name
from lightning_complexity.network.tracing.operations import argument, plain_name


class LastLayer(NamedTuple):
    """A linear layer whose outputs are the network's.

    Attributes:
        features: What enters it, shape ``(n, inputs)``.
        weight: Shape ``(outputs, inputs)``.
    """

    features: Tensor
    weight: Tensor


class _LinearCalls(TorchFunctionInterpreter):
    """Notes linear operations: what enters them, their weight, and their result."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def on_operation(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do the operation, and note it if it is linear."""
        result = function(*args, **kwargs)
        if plain_name(operation_name(function)) == "linear":
            self.last = args[0], argument(args, kwargs, (1, "weight")), result
        return result


@shared
def last_layer(snapshot: Snapshot) -> LastLayer:
    """The linear layer that gives the outputs. Needs inputs.

    Raises:
        MeasureError: If the outputs are not those of a linear layer for one row of features a sample.
    """
    check_not_quantized(snapshot)
    found = list(snapshot.run_chunks(_noted))
    outputs = predictions(snapshot)
    if any(part is None for part in found):
        raise _no_layer()
    features, results = (torch.cat([part[i] for part in found if part is not None]) for i in (0, 2))
    weight = next(part[1] for part in found if part is not None)
    if results.shape != outputs.shape or features.ndim != 2 or not _is_same(results, outputs):
        raise _no_layer()
    return LastLayer(features.to(outputs.dtype), weight.to(outputs.dtype))


def _noted(model: nn.Module, inputs: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    with _LinearCalls() as calls:
        main_tensor(model(inputs))
    if calls.last is None:
        return None
    features, weight, results = map(at_least_single, calls.last)
    return features, weight, results


def _is_same(results: Tensor, outputs: Tensor) -> bool:
    return torch.allclose(results.detach(), outputs.detach().to(results.dtype), rtol=1e-4, atol=1e-6, equal_nan=True)


def _no_layer() -> MeasureError:
    return MeasureError(
        "needs a network whose outputs are those of a linear layer, for one row of features a sample. Give such "
        "outputs with forward=lambda model, inputs: ...., or leave this measure out."
    )
