"""Operations whose derivatives torch gets wrong or lacks, made from operations where it is right.

torch saves the statistics of a fused normalization for its derivatives and forgets, from some derivative on, that they
depend on the input. No error tells: third derivatives are wrong for LayerNorm and for BatchNorm with statistics of the
batch (pytorch issues 175754, 186256), second ones for weight normalization. Others have no second derivative at all,
and sparse gradients of embeddings can be neither added to dense ones nor differentiated. Normalization of each sample
(InstanceNorm) is a BatchNorm to torch, which looks as if samples depended on one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_complexity.network.errors import MissingDerivativeError, missing_derivatives_named
from lightning_complexity.network.tracing.embedding_bags import dense_embedding_bag, embedding_bag
from lightning_complexity.network.tracing.interpreter import TorchFunctionInterpreter


class Decompositions(TorchFunctionInterpreter):
    """Inside, operations whose derivatives are wrong or missing are made from others, with the same values.

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


def check_derivatives(tensors: Iterable[Tensor], order: int) -> None:
    """Raise an error if torch gets a derivative of what the tensors are computed from wrong, or leaves it out.

    Args:
        tensors: Outputs, or their derivatives.
        order: That of the highest derivative of outputs, 2 or 3.

    Raises:
        ValueError: With the operation.
        MissingDerivativeError: At a function that is marked as differentiable once, which torch's own functions leave
            out without a word where they are given the inputs.
    """
    for node in _operations(tensors):
        name = node.name()
        if name.endswith("autograd::Error"):
            raise MissingDerivativeError("a function marked as once_differentiable", order)
        wrong = name.startswith("WeightNormInterface") or (
            order > 2 and (name.startswith("NativeLayerNorm") or getattr(node, "_saved_training", False))
        )
        if wrong:
            raise ValueError(
                f"torch gets derivatives of order {order} wrong for {name}. If outputs were given, leave them out; "
                "if the network calls torch's function itself, use the module or torch.nn.functional."
            )


def check_differentiable(tensors: Iterable[Tensor], order: int) -> None:
    """Raise an error if torch cannot differentiate what the tensors are computed from, which it says when it is asked.

    Args:
        tensors: Made from derivatives of outputs.
        order: That of the derivative of outputs that would be taken.

    Raises:
        MissingDerivativeError: With the operation.
    """
    for node in _operations(tensors):
        if node.name().endswith(("autograd::NotImplemented", "autograd::Error")):
            with missing_derivatives_named(order):
                node(*[torch.zeros(())] * len(node._input_metadata))  # which says of what


def takes_batch_statistics(tensors: Iterable[Tensor]) -> bool:
    """Whether a BatchNorm in the tensors' graph took its statistics from the batch, as a functional one may."""
    nodes = (node for node in _operations(tensors) if node.name().endswith("BatchNormBackward0"))
    return any(getattr(node, "_saved_training", False) for node in nodes)


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


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002 (may be given by name)
    if inplace:
        return input.copy_(_hardsigmoid(input.clone()))
    return F.relu6(input + 3) / 6


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, *_: Any, **__: Any) -> Tensor:
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)


def _pdist(input: Tensor, p: float = 2.0) -> Tensor:  # noqa: A002
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return torch.linalg.vector_norm(input[first] - input[second], p, dim=-1)


def _dense_embedding(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,  # noqa: ARG001 (the operation's signature)
) -> Tensor:
    return F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


_REPLACEMENTS: dict[int, tuple[tuple[Callable[..., Any], Callable[..., Any]], ...]] = {
    1: (
        (F.embedding, _dense_embedding),
        (F.embedding_bag, dense_embedding_bag),
        (F.instance_norm, _instance_norm),
    ),
    2: (
        (torch._weight_norm, _weight_norm),
        (F.hardsigmoid, _hardsigmoid),
        (torch.cdist, _cdist),
        (torch.pdist, _pdist),
        (F.pdist, _pdist),
        (F.embedding_bag, embedding_bag),
    ),
    3: (
        (F.layer_norm, _layer_norm),
        (torch.layer_norm, _layer_norm),
        (F.batch_norm, _batch_norm),
    ),
}
"""By the order from which its derivatives are wrong or missing, an operation and what it is made from."""


class FrozenStatistics(TorchFunctionInterpreter):
    """Inside, BatchNorm that would take its statistics from the batch has mean 0 and variance 1.

    For passes of a single sample that only look at what is called, on networks whose BatchNorm keeps no running
    statistics: those of one sample are no statistics, and torch refuses them where a channel has one number.

    Example:
        >>> net = torch.nn.BatchNorm1d(2, track_running_stats=False, eps=0.0)
        >>> with FrozenStatistics():
        ...     net(torch.tensor([[3.0, 4.0]]))
        tensor([[3., 4.]], grad_fn=<NativeBatchNormBackward0>)
    """

    can_be_repeated = True

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do the operation, BatchNorm with fixed statistics."""
        return (_frozen_batch_norm if function is F.batch_norm else function)(*args, **kwargs)


def _frozen_batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        running_mean, running_var = input.new_zeros(input.shape[1]), input.new_ones(input.shape[1])
    return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
