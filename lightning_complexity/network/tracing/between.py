"""What stands between two layers as an activation does, without being one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_complexity.network.running.batches import tensors_in
from lightning_complexity.network.tracing.dataflow import Memory, is_number, memory_of
from lightning_complexity.network.tracing.interpreter import tensor_arguments
from lightning_complexity.network.tracing.operations import Effect, Operation

if TYPE_CHECKING:
    from lightning_complexity.network.tracing.activations import ActivationCapture

_Passed = tuple[str, str, Tensor, Tensor]
_PASS_ON = {Effect.MOVE, Effect.SUM, Effect.PRODUCT, Effect.LAYER, Effect.BATCH_NORM, Effect.MEAN_POOLING}
_ACTIVATIONS = {Effect.KINKED, Effect.CURVED, Effect.MAXIMUM, Effect.MAX_POOLING}


class BetweenLayers:
    """Finds smooth operations that a layer reads as it would read an activation.

    These are softmax, normalization and the like where they stand directly between two layers, and
    powers, exponentials and the like of any data that a layer reads directly. Rearrangements, BatchNorm, and sums or
    products with constants do not count as something in between. So attention, a softmax at the end, and the LayerNorm
    of a transformer, which follows an addition, are not found: what the network does there is not that of a unit.

    Args:
        capture: Where to note them.
    """

    def __init__(self, capture: ActivationCapture) -> None:
        self._capture = capture
        self._from_layer: set[Memory] = set()
        self._smooth: dict[Memory, _Passed] = {}

    def arrive(self, operation: Operation | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at what an operation reads, before it is done."""
        if operation is not None and self._is_layer(operation, args, kwargs):
            for tensor in tensor_arguments(args, kwargs):
                passed = self._smooth.pop(memory_of(tensor), None)
                if passed is not None:
                    self._capture.note_between_layers(*passed)

    def leave(
        self, plain: str, operation: Operation | None, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Look at what an operation gave."""
        data = [t for t in self._capture.data_among(tensor_arguments(args, kwargs)) if is_number(t)]
        for tensor in tensors_in(result):
            memory = memory_of(tensor)
            from_layer, smooth = self._state(plain, operation, args, kwargs, data, tensor)
            (self._from_layer.add if from_layer else self._from_layer.discard)(memory)
            if smooth is None:
                self._smooth.pop(memory, None)
            else:
                self._smooth[memory] = smooth

    def _state(
        self,
        plain: str,
        operation: Operation | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        data: list[Tensor],
        result: Tensor,
    ) -> tuple[bool, _Passed | None]:
        """Whether a result is that of a layer, and the smooth operation that it is that of."""
        if operation is None:
            keeps_shape = any(t.shape == result.shape for t in data)
            return False, self._if_from_layer(plain, data, result) if keeps_shape else None
        if self._is_layer(operation, args, kwargs):
            return True, None
        if not data:  # integers alone, such as tokens, which are given
            return False, None
        from_layer = any(memory_of(t) in self._from_layer for t in data)
        if operation.effect in _ACTIVATIONS:
            return from_layer, None
        if operation.effect is Effect.POINTWISE or self._is_square(operation, data):
            return False, (plain, self._capture.path.current, data[0], result)
        if operation.effect in _PASS_ON:
            return self._passed_on(operation, data, result)
        if operation.effect is Effect.MIXING:
            return False, self._if_from_layer(plain, data, result)
        return False, None

    def _is_layer(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return operation.effect is Effect.LAYER and self._capture.num_factors(operation, args, kwargs) == 1

    @staticmethod
    def _is_square(operation: Operation, data: list[Tensor]) -> bool:
        return operation.effect is Effect.PRODUCT and len(data) == 2 and data[0] is data[1]

    def _if_from_layer(self, plain: str, data: list[Tensor], result: Tensor) -> _Passed | None:
        """A mixing operation counts directly behind a layer only."""
        if data and any(memory_of(t) in self._from_layer for t in data):
            return plain, self._capture.path.current, data[0], result
        return None

    def _passed_on(self, operation: Operation, data: list[Tensor], result: Tensor) -> tuple[bool, _Passed | None]:
        alone = len(data) == 1
        reduced = operation.effect is Effect.SUM and alone and result.shape != data[0].shape
        if reduced or not (alone or operation.effect in (Effect.SUM, Effect.MOVE)):
            return False, None
        smooth = next((s for t in data if (s := self._smooth.get(memory_of(t))) is not None), None)
        return alone and memory_of(data[0]) in self._from_layer, smooth
