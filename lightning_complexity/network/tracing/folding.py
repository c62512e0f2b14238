"""Which BatchNorm follows which layer, found by following the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.network.running.batches import tensors_in
from lightning_complexity.network.tracing.interpreter import TorchFunctionInterpreter, operation_name, tensor_arguments
from lightning_complexity.network.tracing.operations import OPERATIONS, Effect, argument, plain_name
from lightning_complexity.network.weights import TRANSPOSED_CONVOLUTIONS, Weight


class _NormalizationTrace(TorchFunctionInterpreter):
    """Notes for each layer's weight the factors of the BatchNorms that directly follow it.

    ``None`` among the factors means that the layer's output is also used without BatchNorm.
    """

    def __init__(self) -> None:
        super().__init__()
        self._produced_by: dict[int, tuple[Tensor, Tensor]] = {}
        self.weights: dict[int, Tensor] = {}
        self.factors: dict[int, list[Tensor | None]] = {}

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result, operation = function(*args, **kwargs), OPERATIONS.get(plain_name(operation_name(function)))
        if not tensors_in(result):
            return result
        is_batch_norm = operation is not None and operation.effect is Effect.BATCH_NORM
        factor = _evaluation_factor(*args[1:], **kwargs) if is_batch_norm else None
        for tensor in tensor_arguments(args, kwargs):
            if id(tensor) in self._produced_by:
                weight, _ = self._produced_by[id(tensor)]
                self.factors[id(weight)].append(factor)
        if operation is not None and operation.output_dim is not None:
            weight = argument(args, kwargs, (1, "weight"))
            self._produced_by[id(result)] = (weight, result)
            self.weights[id(weight)] = weight
            self.factors.setdefault(id(weight), [])
        return result


def _evaluation_factor(
    running_mean: Tensor | None,  # noqa: ARG001 (the operation's signature)
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,  # noqa: ARG001
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001
    eps: float = 1e-5,
) -> Tensor | None:
    if training or running_var is None:
        return None
    return (running_var + eps).rsqrt() * (1.0 if weight is None else weight)


def _scale_outputs(weight: Weight, factor: Tensor) -> Weight:
    """Multiply each output unit of a layer by its own factor."""
    groups = len(weight.blocks)
    if isinstance(weight.module, TRANSPOSED_CONVOLUTIONS):
        shape, kernel = (
            (1, -1, *[1] * (weight.tensor.ndim - 2)),
            weight.blocks.shape[-1] * groups // len(factor),
        )
        blocks = weight.blocks * factor.reshape(groups, 1, -1).repeat_interleave(kernel, dim=2)
        tensor = torch.cat(
            [t * f.reshape(shape) for t, f in zip(weight.tensor.chunk(groups), factor.chunk(groups), strict=True)]
        )
    else:
        blocks = weight.blocks * factor.reshape(groups, -1, 1)
        tensor = weight.tensor * factor.reshape(-1, *[1] * (weight.tensor.ndim - 1))
    return Weight(weight.name, tensor, blocks, weight.module)


def _fold(weight: Weight, factor: Tensor) -> Weight:
    """The product with the factors, in double precision where it leaves the range of its own."""
    folded = _scale_outputs(weight, factor)
    largest = folded.tensor.detach().abs().amax()
    range_of = torch.finfo(folded.tensor.dtype)
    if range_of.tiny / range_of.eps <= largest.item() <= range_of.max:
        return folded
    return _scale_outputs(weight, factor.double())


def fold_batch_norm(model: nn.Module, inputs: Any, weights: list[Weight]) -> list[Weight]:
    r"""Multiply into each weight the BatchNorm that directly follows it.

    In evaluation mode BatchNorm multiplies each channel by :math:`\gamma / \sqrt{\text{running variance} + \epsilon}`.
    What follows what is found by running ``model`` once, not from names or the order of modules. A
    weight whose output is also used elsewhere, or that is followed by different BatchNorms in different
    places, stays as it is, since folding would not preserve the function.

    Args:
        model: In evaluation mode.
        inputs: One sample is enough.
        weights: The model's weights, as :func:`read_weights` gives them in the same call.

    Returns:
        The same weights, scaled where a BatchNorm was folded in.
    """
    trace = _NormalizationTrace()
    with trace:
        model(inputs)
    folded = []
    for weight in weights:
        factors = trace.factors.get(id(weight.tensor), [])
        foldable = len(factors) == 1 and factors[0] is not None and weight.tensor.numel() > 0
        folded.append(_fold(weight, factors[0]) if foldable else weight)  # type: ignore[arg-type]
    return folded
