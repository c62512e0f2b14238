"""The path norm of a network, by one forward pass in which every operation sums over paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional.weights.paths import Scaled, aligned, scaled, scaled_power, scaled_sum
from lightning_complexity.network.errors import UnsupportedOperationError
from lightning_complexity.network.running.batches import map_tensors, tensors_in
from lightning_complexity.network.running.task import main_tensor
from lightning_complexity.network.tracing.dataflow import check_visible
from lightning_complexity.network.tracing.interpreter import (
    HandlerTable,
    ModulePath,
    TorchFunctionInterpreter,
    operation_name,
    tensor_arguments,
)
from lightning_complexity.network.tracing.operations import OPERATIONS, Effect, overwrites, plain_name
from lightning_complexity.network.tracing.pooling import mean_window_weights, sum_pool

_HANDLERS = HandlerTable()
# Of sums over paths, which are not negative, in evaluation mode.
_IDENTITIES = [name for name, operation in OPERATIONS.items() if operation.passes_paths]


@dataclass
class _Node:
    """What stands for one tensor of the forward pass.

    Attributes:
        carrier: The tensor the network holds; kept so that its identity stays unique.
        paths: For each entry the sum over all paths that lead to it.
        unbiased: Of a layer's output, that sum without the layer's bias, and the bias.
    """

    carrier: Tensor
    paths: Scaled
    unbiased: tuple[Scaled, Tensor | None] | None = None


def _along_channels(vector: Tensor, like: Tensor) -> Tensor:
    return vector.reshape(-1, *[1] * (like.ndim - 2))


class PathInterpreter(TorchFunctionInterpreter):
    r"""Replaces each operation by the one that sums :math:`\prod |\theta|^q` over paths.

    Weights become :math:`|\theta|^q`; max pooling, which may pick any of its window, becomes the sum
    over the window; average pooling over ``n`` has weight :math:`(1/n)^q`; rectifiers pass everything on.
    BatchNorm is its affine map in evaluation mode, fused with the layer right before it, so that the
    biases of both make one path. Anything that is not positively homogeneous in this sense is refused.

    Args:
        q: Exponent, at least 1.
        path: Tells the module being called, for errors.
        measure: Name of the measure, for errors.
    """

    def __init__(self, q: float, path: ModulePath, measure: str) -> None:
        super().__init__()
        self.q, self._path, self._measure = q, path, measure
        self._nodes: dict[int, _Node] = {}
        self._places: dict[int, Tensor] = {}
        self._overwritten: dict[int, int] = {}
        self._memory: list[Tensor] = []  # keeps memory that is compared by its address from being reused

    def start(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A network input from which every path starts with factor 1."""
        return self._keep(Scaled(torch.ones(shape, dtype=like.dtype, device=like.device), 0.0))

    def paths_to(self, tensor: Tensor) -> Scaled:
        """Sum over all paths that lead to each entry of ``tensor``."""
        if id(tensor) not in self._nodes:
            raise ValueError(f"{self._measure} needs an output that depends on the input; this one does not.")
        return self._node(tensor).paths

    def refuse(self, operation: str) -> UnsupportedOperationError:
        """The error for an operation that has no sum over paths."""
        return UnsupportedOperationError(operation, self._path.current, self._measure)

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replace an operation on tracked tensors; do any other as it is."""
        tensors = tensor_arguments(args, kwargs)
        if any(id(t) in self._places for t in tensors):
            raise self.refuse("the place of a maximum")
        if not any(self._tracked(t) for t in tensors):
            return function(*args, **kwargs)
        name = operation_name(function)
        plain, in_place = plain_name(name), overwrites(name, {})
        handler = _HANDLERS.by_name.get(f"{plain}_" if in_place else plain)
        if handler is not None:
            try:
                return handler(self, *args, **kwargs)
            except TypeError as error:
                raise self.refuse(f"{name} (called in an unknown form: {error})") from error
        effect = OPERATIONS[plain].effect if plain in OPERATIONS else None
        if in_place or effect is Effect.READ:
            raise self.refuse(name)
        if effect is Effect.MOVE:
            return self._rearrange(function, args, kwargs)
        result = function(*args, **kwargs)
        if tensors_in(result) and effect is not Effect.SHAPE:
            raise self.refuse(name)
        return result

    def _tracked(self, value: Any) -> bool:
        return isinstance(value, Tensor) and id(value) in self._nodes

    def _node(self, tensor: Tensor) -> _Node:
        if self._overwritten.get(tensor.untyped_storage().data_ptr(), id(tensor)) != id(tensor):
            raise self.refuse("in-place change of a view")
        return self._nodes[id(tensor)]

    def _keep(self, paths: Scaled, unbiased: tuple[Scaled, Tensor | None] | None = None) -> Tensor:
        self._nodes[id(paths.value)] = _Node(paths.value, paths, unbiased)
        return paths.value

    def _overwrite(self, tensor: Tensor, paths: Scaled) -> Tensor:
        """Let ``tensor`` stand for other paths from now on, as an in-place operation does.

        Other tensors on the same memory are out of date then, and are refused when they are used.
        """
        written = [tensor, self._node(tensor).paths.value] if self._tracked(tensor) else [tensor]
        for stale in written:
            self._overwritten[stale.untyped_storage().data_ptr()] = id(tensor)
        self._nodes[id(tensor)] = _Node(tensor, paths)
        self._memory.append(paths.value)
        return tensor

    def _constant(self, value: Tensor | float, like: Tensor) -> Scaled:
        tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        return scaled_power(tensor, self.q)

    def _term(self, value: Any, like: Tensor) -> Scaled:
        return self._node(value).paths if self._tracked(value) else self._constant(value, like)

    def _rearrange(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = [t for t in tensor_arguments(args, kwargs) if t.is_floating_point()]
        if len(inputs) == 1:  # the result may be a view, and must then be one here
            paths = self._node(inputs[0]).paths
            terms, common = {id(inputs[0]): paths.value}, paths.log_scale
        else:
            values, common = aligned([self._term(t, t) for t in inputs])
            terms = {id(t): value for t, value in zip(inputs, values, strict=True)}
        args, kwargs = (map_tensors(lambda t: terms.get(id(t), t), part) for part in (args, kwargs))
        return map_tensors(lambda t: self._keep(Scaled(t, common)), function(*args, **kwargs))

    def _layer(self, apply: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Scaled:
        paths, power = self._node(x).paths, scaled_power(weight, self.q)
        return scaled(apply(paths.value, power.value), paths.log_scale + power.log_scale)

    def _power(self, value: Tensor, like: Tensor) -> Scaled:
        power = scaled_power(value, self.q)
        return Scaled(power.value.to(like.dtype), power.log_scale)

    def _with_bias(self, total: Scaled, bias: Tensor | None) -> Tensor:
        """The layer's output; ``bias`` has the shape of ``total`` but for leading dimensions."""
        terms = [total] if bias is None else [total, self._power(bias, total.value)]
        return self._keep(scaled_sum(terms), (total, bias))

    @_HANDLERS.handles("linear")
    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._with_bias(self._layer(F.linear, x, weight), bias)

    def _convolve(
        self,
        convolution: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *rest: Any,
        **kw: Any,
    ) -> Tensor:
        total = self._layer(lambda v, w: convolution(v, w, None, *rest, **kw), x, weight)
        return self._with_bias(total, None if bias is None else _along_channels(bias, x))

    @_HANDLERS.handles("matmul")
    def _matmul(self, x: Any, other: Any) -> Tensor:
        if self._tracked(x) and self._tracked(other):
            raise self.refuse("matmul of two activations")
        if self._tracked(x):
            return self._with_bias(self._layer(torch.matmul, x, other), None)
        return self._with_bias(self._layer(lambda v, w: torch.matmul(w, v), other, x), None)

    @_HANDLERS.handles("rmatmul")
    def _matmul_from_the_left(self, x: Any, other: Any) -> Tensor:
        return self._matmul(other, x)

    @_HANDLERS.handles("mm", "mv")
    def _matrix_product(self, x: Any, mat2: Any) -> Tensor:
        return self._matmul(x, mat2)

    @_HANDLERS.handles("batch_norm")
    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,  # noqa: ARG002 (the operation's signature)
        eps: float = 1e-5,
    ) -> Tensor:
        if training or running_mean is None or running_var is None:
            raise self.refuse("batch_norm without running statistics")
        node = self._node(x)
        # In double precision, as products of two parameters may leave the range of the single one.
        factor = (running_var.double() + eps).rsqrt() * (1.0 if weight is None else weight)
        shift = -running_mean * factor + (0.0 if bias is None else bias)
        total, layer_bias = node.unbiased or (node.paths, None)
        if layer_bias is not None:
            shift = shift + layer_bias.flatten() * factor
        power = self._power(_along_channels(factor, x), x)
        total = scaled(total.value * power.value, total.log_scale + power.log_scale)
        return self._with_bias(total, _along_channels(shift, x))

    @_HANDLERS.handles("add")
    def _add(self, x: Any, other: Any, *, alpha: float = 1) -> Tensor:
        return self._keep(self._added(x, other, alpha))

    @_HANDLERS.handles("add_")
    def _add_in_place(self, x: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
        return self._overwrite(x, self._added(x, other, alpha))

    # A sum over paths has no signs: subtraction is addition.
    _HANDLERS.handles("sub", "rsub")(_add)
    _HANDLERS.handles("sub_")(_add_in_place)

    def _added(self, x: Any, other: Any, alpha: float) -> Scaled:
        like = x if self._tracked(x) else other
        first, second = self._term(x, like), self._term(other, like)
        if alpha != 1:
            power = self._constant(alpha, like)
            second = Scaled(second.value * power.value, second.log_scale + power.log_scale)
        return scaled_sum([first, second])

    @_HANDLERS.handles("mul")
    def _multiply(self, x: Any, other: Any) -> Tensor:
        return self._keep(self._multiplied(x, other))

    @_HANDLERS.handles("mul_")
    def _multiply_in_place(self, x: Tensor, other: Any) -> Tensor:
        return self._overwrite(x, self._multiplied(x, other))

    def _multiplied(self, x: Any, other: Any) -> Scaled:
        if self._tracked(x) and self._tracked(other):
            raise self.refuse("mul of two activations")
        like = x if self._tracked(x) else other
        first, second = self._term(x, like), self._term(other, like)
        return scaled(first.value * second.value, first.log_scale + second.log_scale)

    @_HANDLERS.handles("div")
    def _divide(self, x: Any, other: Any) -> Tensor:
        if not self._tracked(x) or self._tracked(other):
            raise self.refuse("division by an activation")
        return self._keep(self._multiplied(x, 1 / other))

    @_HANDLERS.handles("mean")
    def _mean(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        paths = self._node(x).paths
        mean = paths.value.mean(*args, **kwargs)
        return self._keep(scaled(mean * (x.numel() / mean.numel()) ** (1 - self.q), paths.log_scale))

    @_HANDLERS.handles("sum")
    def _sum(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        paths = self._node(x).paths
        return self._keep(Scaled(paths.value.sum(*args, **kwargs), paths.log_scale))

    @_HANDLERS.handles("maximum", "minimum")
    def _maximum(self, x: Tensor, other: Tensor) -> Tensor:
        if any(not self._tracked(t) and t.any() for t in (x, other)):
            raise self.refuse("maximum of an activation and a number other than 0")
        return self._keep(self._added(x, other, 1))

    @_HANDLERS.handles("max", "min")
    def _max(self, x: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        other = dim if isinstance(dim, Tensor) else other
        if other is not None:
            return self._maximum(x, other)
        if dim is None:
            return self._amax(x)
        values = self._amax(x, dim, keepdim)
        places = torch.zeros_like(values, dtype=torch.long)
        self._places[id(places)] = places
        return torch.return_types.max((values, places))

    @_HANDLERS.handles("amax", "amin")
    def _amax(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        paths = self._node(x).paths
        return self._keep(scaled(paths.value.sum(*args, **kwargs), paths.log_scale))

    @_HANDLERS.handles(*_IDENTITIES)
    def _pass_on(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        paths = self._node(x).paths
        return self._keep(Scaled(paths.value.clone(), paths.log_scale))

    @_HANDLERS.handles("requires_grad_", "detach_", *(f"{name}_" for name in _IDENTITIES))
    def _leave(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        self._node(x)
        return x

    @_HANDLERS.handles("clamp", "clamp_min")
    def _clamp(self, x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:  # noqa: A002
        if min != 0 or max is not None:
            raise self.refuse(f"clamp between {min} and {max}")
        return self._pass_on(x)

    @_HANDLERS.handles("leaky_relu", "leaky_relu_")
    def _leaky_relu(self, x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:  # noqa: ARG002
        if abs(negative_slope) > 1:
            raise self.refuse(f"leaky_relu with slope {negative_slope}")
        return self._pass_on(x)

    @_HANDLERS.handles("interpolate", "upsample")
    def _interpolate(
        self, x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **_: Any
    ) -> Tensor:
        if not mode.startswith("nearest"):
            raise self.refuse(f"interpolate with mode {mode!r}")
        paths = self._node(x).paths
        return self._keep(Scaled(F.interpolate(paths.value, size, scale_factor, mode), paths.log_scale))

    @_HANDLERS.handles("pad")
    def _pad(self, x: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
        if value:
            raise self.refuse("pad with a value other than 0")
        paths = self._node(x).paths
        return self._keep(Scaled(F.pad(paths.value, pad, mode=mode), paths.log_scale))

    def _max_pool(self, pooling: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        paths = self._node(x).paths
        return self._keep(scaled(sum_pool(pooling, paths.value, args, kwargs), paths.log_scale))

    def _mean_pool(self, pooling: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        paths = self._node(x).paths
        weights = mean_window_weights(pooling, paths.value, args, kwargs)
        pooled = pooling(paths.value, *args, **kwargs)
        return self._keep(scaled(pooled * weights ** (self.q - 1), paths.log_scale))


def _with_function(method: Callable[..., Tensor], function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def handler(interpreter: PathInterpreter, *args: Any, **kwargs: Any) -> Tensor:
        return method(interpreter, function, *args, **kwargs)

    return handler


def _convolution_handler(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def handler(
        self: PathInterpreter,
        input: Tensor,  # noqa: A002 (callers may name it)
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        **kw: Any,
    ) -> Tensor:
        return self._convolve(function, input, weight, bias, *rest, **kw)

    return handler


for _dim in (1, 2, 3):
    for _name in (f"conv{_dim}d", f"conv_transpose{_dim}d"):
        _HANDLERS.handles(_name)(_convolution_handler(getattr(F, _name)))
    for _name in (f"max_pool{_dim}d", f"adaptive_max_pool{_dim}d"):
        _HANDLERS.handles(_name)(_with_function(PathInterpreter._max_pool, getattr(F, _name)))
    for _name in (f"avg_pool{_dim}d", f"adaptive_avg_pool{_dim}d"):
        _HANDLERS.handles(_name)(_with_function(PathInterpreter._mean_pool, getattr(F, _name)))


def path_sums(model: nn.Module, shape: tuple[int, ...], like: Tensor, q: float, *, measure: str) -> Scaled:
    r"""Sum of :math:`\prod |\theta_e|^q` over all paths to each output of ``model``.

    Args:
        model: Piecewise linear: layers, rectifiers, pooling, additions, BatchNorm in evaluation mode.
        shape: Shape of one input without the batch dimension.
        like: Tensor with the dtype and device of the input.
        q: Exponent, at least 1.
        measure: Name of the measure, for errors.

    Returns:
        Shape of the model's output for one input.

    Raises:
        UnsupportedOperationError: At an operation without such a sum, attention or a sigmoid, say.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU())
        >>> _ = nn.init.constant_(net[0].weight, -3.0)
        >>> sums = path_sums(net, (2,), torch.zeros(1), q=2, measure="PathNorm")
        >>> sums.value.item(), sums.log_scale  # ln 18
        (1.0, 2.890...)
    """
    check_visible(model, measure)
    path = ModulePath(model)
    interpreter = PathInterpreter(q, path, measure)
    with path.followed():
        x = interpreter.start((1, *shape), like)
        with interpreter:
            outputs = main_tensor(model(x))
    return interpreter.paths_to(outputs)
