"""Squared norms of each sample's gradient, from what enters layers and what comes back to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lightning_complexity.network.errors import missing_derivatives_named
from lightning_complexity.network.tracing.interpreter import (
    TorchFunctionInterpreter,
    operation_name,
    tensor_arguments,
)
from lightning_complexity.network.tracing.operations import argument, plain_name

_ENTRIES = 2**24  # of gradients that are held at once
_WEIGHT, _BIAS = "weight", "bias"
_PLACES = {  # of weight and bias among the arguments
    "linear": ((1, _WEIGHT), (2, _BIAS)),
    "conv1d": ((1, _WEIGHT), (2, _BIAS)),
    "conv2d": ((1, _WEIGHT), (2, _BIAS)),
    "batch_norm": ((3, _WEIGHT), (4, _BIAS)),
}


@dataclass(frozen=True)
class _Use:
    """A layer's use of trained parameters."""

    operation: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: Tensor
    version: int
    edge: GradientEdge
    names: dict[str, str]  # of the parameters, by what they are


class GhostCapture(TorchFunctionInterpreter):
    """Notes the layers that use trained parameters, for :meth:`squares`.

    Known are linear layers, convolutions of one and two dimensions, and BatchNorm with running statistics, with samples
    in the first dimension.

    Args:
        model: As it runs, with the parameters that stand in for its own.
    """

    can_be_repeated = True
    sees_repeats = False  # it holds the graph; and what a checkpointed part does once more is no other use

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        self._uses: list[_Use] = []
        self._counts: dict[str, int] = {}

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do the operation, and note it if it uses a trained parameter."""
        used = [self._names[id(t)] for t in tensor_arguments(args, kwargs) if id(t) in self._names]
        inputs = args[0] if args else None
        version = inputs._version if isinstance(inputs, Tensor) and used else 0
        result = function(*args, **kwargs)
        for name in used:
            self._counts[name] = self._counts.get(name, 0) + 1
        operation = plain_name(operation_name(function))
        if used and operation in _PLACES and isinstance(inputs, Tensor) and isinstance(result, Tensor):
            places = {place[1]: argument(args, kwargs, place) for place in _PLACES[operation]}
            names = {role: self._names[id(t)] for role, t in places.items() if id(t) in self._names}
            if len(names) == len(used) and result.requires_grad:
                edge = get_gradient_edge(result)
                self._uses.append(_Use(operation, args, kwargs, inputs, version, edge, names))
        return result

    def covers(self, names: Sequence[str], outputs: Tensor) -> bool:
        """Whether each of these parameters is used once, by a layer that is known, with samples first."""
        count = len(outputs)
        uses = [use for use in self._uses if set(use.names.values()) & set(names)]
        known = [
            use for use in uses if len(use.inputs) == count and use.inputs._version == use.version and _is_known(use)
        ]
        covered = {name for use in known for name in use.names.values()}
        if not all(name in covered and self._counts[name] == 1 for name in names):
            return False
        # Where another dimension is as long, samples could lie there: then one sample's gradient is in other rows too.
        unsure = [use for use in known if count > 1 and count in use.inputs.shape[1:]]
        return not unsure or _first_sample_is_first_row(outputs, [use.edge for use in unsure])

    def squares(
        self, outputs: Sequence[Tensor], vectors: Sequence[Tensor], names: Sequence[str], *, create_graph: bool = False
    ) -> Tensor:
        """The squared norm of each sample's part of a vector times the Jacobian for each parameter.

        Args:
            outputs: What the captured run gave.
            vectors: One for each of the outputs.
            names: Of parameters that :meth:`covers` is true of.
            create_graph: Whether the result is to be differentiated.

        Returns:
            Shape ``(n, parameters)``.
        """
        uses = [use for use in self._uses if set(use.names.values()) & set(names)]
        with missing_derivatives_named(2 if create_graph else 1):
            found = torch.autograd.grad(
                list(outputs),
                [use.edge for use in uses],
                list(vectors),
                retain_graph=True,
                create_graph=create_graph,
                allow_unused=True,
            )
        by_name: dict[str, Tensor] = {}
        with torch.set_grad_enabled(create_graph):
            for use, gradient in zip(uses, found, strict=True):
                if gradient is not None:
                    roles = _squares_of(use, gradient)
                    by_name |= {name: roles[role] for role, name in use.names.items()}
        zeros = uses[0].inputs.new_zeros(len(uses[0].inputs))
        return torch.stack([by_name.get(name, zeros) for name in names], dim=1)


def _first_sample_is_first_row(outputs: Tensor, edges: list[GradientEdge]) -> bool:
    vector = torch.zeros_like(outputs)
    vector[0] = 1
    found = torch.autograd.grad([outputs], edges, [vector], retain_graph=True, allow_unused=True)
    return all(g is None or not g[1:].any() for g in found)


def _is_known(use: _Use) -> bool:
    if use.operation == "linear":
        return use.inputs.ndim >= 2
    if use.operation == "batch_norm":
        statistics = (argument(use.args, use.kwargs, place) for place in ((1, "running_mean"), (2, "running_var")))
        return not argument(use.args, use.kwargs, (5, "training"), False) and all(s is not None for s in statistics)
    return not isinstance(argument(use.args, use.kwargs, (4, "padding"), 0), str) and use.inputs.ndim == (
        4 if use.operation == "conv2d" else 3
    )


def _squares_of(use: _Use, gradient: Tensor) -> dict[str, Tensor]:
    """By what the parameter is: the squared norm of each sample's gradient."""
    if use.operation == "batch_norm":
        return _of_batch_norm(use, gradient)
    rows = _positions_last(gradient) if use.operation == "linear" else gradient.flatten(2)
    found = {_BIAS: rows.sum(2).square().sum(1)} if _BIAS in use.names else {}
    if _WEIGHT in use.names:
        columns, groups = _columns(use)
        size = columns.shape[1] * rows.shape[1] // groups
        at_once = max(_ENTRIES // max(size, columns.shape[2] ** 2, 1), 1)
        pieces = zip(columns.split(at_once), rows.split(at_once), strict=True)
        found[_WEIGHT] = torch.cat([_of_products(a, g, groups) for a, g in pieces])
    return found


def _positions_last(t: Tensor) -> Tensor:
    """Shape ``(n, units, positions)``."""
    return t.flatten(1, -2).mT if t.ndim > 2 else t.unsqueeze(2)


def _columns(use: _Use) -> tuple[Tensor, int]:
    """What each position of an output is computed from, shape ``(n, input units, positions)``; and the groups."""
    x = use.inputs
    if use.operation == "linear":
        return _positions_last(x), 1
    weight = argument(use.args, use.kwargs, (1, "weight"))
    stride, padding, dilation, groups = (
        argument(use.args, use.kwargs, place, default)
        for place, default in (((3, "stride"), 1), ((4, "padding"), 0), ((5, "dilation"), 1), ((6, "groups"), 1))
    )
    if use.operation == "conv1d":
        x, kernel = x.unsqueeze(2), (1, weight.shape[2])
        stride, padding, dilation = ((d, _one(v)) for d, v in ((1, stride), (0, padding), (1, dilation)))
    else:
        kernel = tuple(weight.shape[2:])
    return F.unfold(x, kernel, dilation, padding, stride), groups


def _one(value: Any) -> int:
    return int(value[0]) if isinstance(value, (tuple, list)) else int(value)


def _of_products(columns: Tensor, rows: Tensor, groups: int) -> Tensor:
    """Squared norms of ``rows @ columns^T``, by that matrix or by the products of positions, what is smaller."""
    n, positions = len(columns), columns.shape[2]
    if positions == 1 and groups == 1:
        return columns.square().sum((1, 2)) * rows.square().sum((1, 2))
    columns, rows = (t.reshape(n * groups, -1, positions) for t in (columns, rows))
    if positions**2 < columns.shape[1] * rows.shape[1]:
        squares = ((columns.mT @ columns) * (rows.mT @ rows)).sum((1, 2))
    else:
        squares = (rows @ columns.mT).square().sum((1, 2))
    return squares.reshape(n, groups).sum(1)


def _of_batch_norm(use: _Use, gradient: Tensor) -> dict[str, Tensor]:
    mean, variance = (argument(use.args, use.kwargs, place) for place in ((1, "running_mean"), (2, "running_var")))
    eps = argument(use.args, use.kwargs, (7, "eps"), 1e-5)
    shape = (1, -1, *[1] * (gradient.ndim - 2))
    normalized = (use.inputs - mean.reshape(shape)) * (variance + eps).rsqrt().reshape(shape)
    found = {_WEIGHT: gradient * normalized, _BIAS: gradient}
    return {role: g.reshape(*g.shape[:2], -1).sum(2).square().sum(1) for role, g in found.items()}
