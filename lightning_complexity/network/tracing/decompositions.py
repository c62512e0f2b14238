"""Operations whose higher derivatives torch gets wrong, made from operations where it is right.

torch saves the statistics of a fused normalization for its derivatives and forgets, from some derivative on, that they
depend on the input. No error tells: third derivatives are wrong for LayerNorm and for BatchNorm with statistics of the
batch (pytorch issues 175754, 186256), second ones for weight normalization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_complexity.network.tracing.interpreter import TorchFunctionInterpreter


class Decompositions(TorchFunctionInterpreter):
    """Inside, operations whose derivatives are wrong are made from others, with the same values.

    Args:
        order: Of the highest derivative that will be taken.
    """

    can_be_repeated = True

    def __init__(self, order: int) -> None:
        super().__init__()
        self._replacements = {f: r for wrong_from, rs in _REPLACEMENTS.items() if wrong_from <= order for f, r in rs}

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do the operation, or its replacement."""
        return self._replacements.get(function, function)(*args, **kwargs)


class FrozenStatistics(TorchFunctionInterpreter):
    """Inside, BatchNorm without running statistics runs with mean 0 and variance 1, so that one sample is enough."""

    can_be_repeated = True

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do the operation, BatchNorm with statistics."""
        if function is not F.batch_norm:
            return function(*args, **kwargs)
        return _batch_norm_with_statistics(*args, **kwargs)


def _batch_norm_with_statistics(
    input: Tensor,  # noqa: A002 (may be given by name)
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        running_mean, running_var = input.new_zeros(input.shape[1]), input.new_ones(input.shape[1])
    return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


def check_derivatives(tensors: Iterable[Tensor], order: int) -> None:
    """Raise an error if torch gets a derivative of what the tensors are computed from wrong.

    Args:
        tensors: Outputs, or their derivatives.
        order: That of the highest derivative of outputs, 2 or 3.

    Raises:
        ValueError: With the operation.
    """
    for node in _operations(tensors):
        name = node.name()
        wrong = name.startswith("WeightNormInterface") or (
            order > 2 and (name.startswith("NativeLayerNorm") or getattr(node, "_saved_training", False))
        )
        if wrong:
            raise ValueError(
                f"torch gets derivatives of order {order} wrong for {name}. If outputs were given, leave them out; "
                "if the network calls torch's function itself, use the module or torch.nn.functional."
            )


def _operations(tensors: Iterable[Tensor]) -> Iterator[Any]:
    """The nodes of the tensors' graph."""
    waiting: list[Any] = [tensor.grad_fn for tensor in tensors]
    seen = {None}
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [earlier for earlier, _ in node.next_functions]
            yield node


def _normalized(x: Tensor, dims: list[int], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _affine_by_channel(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1, *[1] * (x.ndim - 2))
    return _affine(x, None if weight is None else weight.view(shape), None if bias is None else bias.view(shape))


def _layer_norm(
    input: Tensor,  # noqa: A002 (may be given by name)
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    return _affine(_normalized(input, list(range(-len(normalized_shape), 0)), eps), weight, bias)


def _batch_norm(
    input: Tensor,  # noqa: A002 (may be given by name)
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _affine_by_channel(_normalized(input, [0, *range(2, input.ndim)], eps), weight, bias)


def _instance_norm(
    input: Tensor,  # noqa: A002 (may be given by name)
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _affine_by_channel(_normalized(input, list(range(2, input.ndim)), eps), weight, bias)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


_REPLACEMENTS: dict[int, tuple[tuple[Callable[..., Any], Callable[..., Any]], ...]] = {
    2: ((torch._weight_norm, _weight_norm),),
    3: (
        (F.layer_norm, _layer_norm),
        (torch.layer_norm, _layer_norm),
        (F.batch_norm, _batch_norm),
        (F.instance_norm, _instance_norm),
    ),
}
"""By the order from which its derivatives are wrong, an operation and what it is made from."""
