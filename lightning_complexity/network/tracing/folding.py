"""Which BatchNorm follows which layer, found by following the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_complexity.network.running.batches import tensors_in
from lightning_complexity.network.tracing.interpreter import TorchFunctionInterpreter, operation_name, tensor_arguments
from lightning_complexity.network.tracing.operations import OPERATIONS, Effect, argument, plain_name
from lightning_complexity.network.weights.matrices import TRANSPOSED_CONVOLUTIONS, Weight


class _Normalization(NamedTuple):
    """A BatchNorm with running statistics."""

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    @property
    def factor(self) -> Tensor:
        return (self.running_var + self.eps).rsqrt() * (1.0 if self.weight is None else self.weight)

    @property
    def shift(self) -> Tensor:
        return (0.0 if self.bias is None else self.bias) - self.factor * self.running_mean


class _NormalizationTrace(TorchFunctionInterpreter):
    """Notes for each layer's weight the BatchNorms that directly follow it, and its bias.

    ``None`` among them means that the layer's output is also used without BatchNorm.
    """

    def __init__(self) -> None:
        super().__init__()
        self._produced_by: dict[int, tuple[Tensor, Tensor]] = {}
        self.weights: dict[int, Tensor] = {}
        self.biases: dict[int, Tensor | None] = {}
        self.followers: dict[int, list[_Normalization | None]] = {}
        self.calls: dict[int, int] = {}

    def folded_into(self, weight: Weight) -> _Normalization | None:
        """The BatchNorm that is all that follows a layer."""
        followers = self.followers.get(id(weight.tensor), [])
        return followers[0] if len(followers) == 1 and weight.tensor.numel() > 0 else None

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result, operation = function(*args, **kwargs), OPERATIONS.get(plain_name(operation_name(function)))
        if not tensors_in(result):
            return result
        is_batch_norm = operation is not None and operation.effect is Effect.BATCH_NORM
        normalization = _running(*args[1:], **kwargs) if is_batch_norm else None
        if normalization is not None:
            self.calls[id(normalization.running_var)] = self.calls.get(id(normalization.running_var), 0) + 1
        for tensor in tensor_arguments(args, kwargs):
            if id(tensor) in self._produced_by:
                weight, _ = self._produced_by[id(tensor)]
                self.followers[id(weight)].append(normalization)
        if operation is not None and operation.output_dim is not None:
            weight = argument(args, kwargs, (1, "weight"))
            self._produced_by[id(result)] = (weight, result)
            self.weights[id(weight)] = weight
            self.biases[id(weight)] = argument(args, kwargs, (2, "bias"))
            self.followers.setdefault(id(weight), [])
        return result


def _running(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001 (the operation's signature)
    eps: float = 1e-5,
) -> _Normalization | None:
    if training or running_mean is None or running_var is None:
        return None
    return _Normalization(running_mean, running_var, weight, bias, eps)


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
    found = [(weight, trace.folded_into(weight)) for weight in weights]
    return [weight if norm is None else _fold(weight, norm.factor) for weight, norm in found]


class FoldedNetwork(NamedTuple):
    """Parameters and buffers with which a network is the same function, and its BatchNorms do nothing.

    Attributes:
        tensors: Those that are others than the network's, by name.
        normalizations: Names of the parameters of these BatchNorms.
    """

    tensors: dict[str, Tensor]
    normalizations: frozenset[str]


def folded_network(model: nn.Module, inputs: Any, weights: list[Weight]) -> FoldedNetwork:
    """Multiply each BatchNorm that directly follows a layer into that layer, bias included.

    Where the layer has no bias, BatchNorm keeps the shift. A layer with a parametrized weight, and a
    BatchNorm that is called several times, stay as they are.

    Args:
        model: In evaluation mode.
        inputs: One sample is enough.
        weights: The model's weights, as :func:`read_weights` gives them in the same call.
    """
    trace = _NormalizationTrace()
    with trace:
        model(inputs)
    names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
    tensors: dict[str, Tensor] = {}
    normalizations: set[str] = set()
    for weight in weights:
        norm = trace.folded_into(weight)
        if norm is None or id(weight.tensor) not in names or trace.calls[id(norm.running_var)] > 1:
            continue
        bias = trace.biases[id(weight.tensor)]
        tensors[names[id(weight.tensor)]] = _scale_outputs(weight, norm.factor).tensor
        tensors[names[id(norm.running_mean)]] = torch.zeros_like(norm.running_mean)
        tensors[names[id(norm.running_var)]] = torch.full_like(norm.running_var, 1 - norm.eps)
        affine = {
            names[id(p)]: torch.full_like(p, value)
            for p, value in ((norm.weight, 1.0), (norm.bias, 0.0))
            if p is not None
        }
        tensors.update(affine)
        normalizations.update(affine)
        if bias is not None:
            tensors[names[id(bias)]] = norm.factor * bias + norm.shift
        elif norm.bias is not None:
            tensors[names[id(norm.bias)]] = norm.shift
        else:
            tensors[names[id(norm.running_mean)]] = -norm.shift
    return FoldedNetwork(tensors, frozenset(normalizations))
