"""Whether a network is piecewise linear, and of how many pieces its activations are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.network.running.batches import tensors_in
from lightning_complexity.network.tracing.dataflow import PiecewiseLinearFlow
from lightning_complexity.network.tracing.interpreter import ModulePath, operation_name
from lightning_complexity.network.tracing.operations import (
    Effect,
    Operation,
    UnknownBendsError,
    argument,
    bends_of,
    plain_name,
)


class PiecewiseLinearity(PiecewiseLinearFlow):
    """Notes the first operation that is not piecewise linear, and the most pieces of an activation.

    It raises no error, computes nothing and keeps nothing alive, so that other measures can share its pass.

    Args:
        model: The network.
        path: Tells the module being called.
        inputs: What goes into the network.

    Attributes:
        pieces: The most pieces of an activation, at least two; the maximum of ``k`` entries has ``k``.
        refused: The first operation that is not piecewise linear and the path of the module that called it.
    """

    def __init__(self, model: nn.Module, path: ModulePath, inputs: Any) -> None:
        super().__init__(path, inputs)
        self.pieces = 2
        hidden = (name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule))
        self.refused = next((("a scripted module, whose operations cannot be seen", name) for name in hidden), None)

    def on_data(
        self, function: Callable[..., Any], operation: Operation | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Do the operation and note it."""
        plain = plain_name(operation_name(function))
        before = self.refusal(plain, operation, args, kwargs)
        result = function(*args, **kwargs)
        self._refuse(before or self.refusal_of_result(plain, operation, args, kwargs, result))
        if operation is not None and operation.effect is Effect.KINKED:
            self._note_bends(plain, args, kwargs)
        elif operation is not None and operation.effect is Effect.MAXIMUM:
            self._note_maximum(args, kwargs, result)
        return result

    def _refuse(self, operation: str | None) -> None:
        if operation is not None and self.refused is None:
            self.refused = operation, self.path.current

    def _note_bends(self, plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self.pieces = max(self.pieces, len(bends_of(plain, args[1:], kwargs).kinks) + 1)
        except UnknownBendsError:  # bounds that differ between entries, one or two
            bounds = (argument(args, kwargs, place) for place in ((1, "min"), (2, "max")))
            self.pieces = max(self.pieces, 1 + sum(bound is not None for bound in bounds))

    def _note_maximum(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if not isinstance(argument(args, kwargs, (1, "other")), Tensor):
            self.pieces = max(self.pieces, args[0].numel() // max(tensors_in(result)[0].numel(), 1))
