"""The nonlinearities of a forward pass: what goes into each, what comes out, and where it bends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_complexity.network.errors import UnsupportedOperationError
from lightning_complexity.network.running.batches import num_samples
from lightning_complexity.network.tracing.interpreter import ModulePath, TorchFunctionInterpreter, operation_name
from lightning_complexity.network.tracing.pooling import is_max_pooling, max_pool_comparisons


@dataclass(frozen=True, eq=False)
class Activation:
    """One call of a nonlinearity in a forward pass.

    Attributes:
        name: Path of the module that called it, or the function's name if that was the network's own forward;
            with ``.1``, ``.2`` for further calls from there. Unique in a forward pass.
        function: Its plain name, ``"relu"``, however it was called.
        inputs: The preactivation, samples first, as it was before an in-place operation.
        outputs: What the network goes on with.
        kinks: Inputs at which the slope jumps, ascending.
        flat: Which of the pieces between the kinks, counted from the left, have slope zero.
        piecewise_linear: Whether it is linear between the kinks.
        unit_dim: The dimension along which units differ: 1 behind a convolution, -1 behind a linear layer.
    """

    name: str
    function: str
    inputs: Tensor
    outputs: Tensor
    kinks: tuple[float, ...] = ()
    flat: tuple[int, ...] = ()
    piecewise_linear: bool = True
    unit_dim: int = -1


Replacement = Callable[[Activation], "Tensor | None"]


@dataclass(frozen=True)
class _Shape:
    """How a nonlinearity bends, and whether this call of it overwrites its input."""

    kinks: tuple[float, ...]
    flat: tuple[int, ...] = ()
    inplace: bool = False
    piecewise_linear: bool = True


class _UnknownShapeError(ValueError):
    """Kinks that are not the same number for all entries, or a jump."""


# Each has the signature of the torch function behind its first argument. --------------------------


def _relu(inplace: bool = False) -> _Shape:
    return _Shape((0.0,), (0,), inplace)


def _relu6(inplace: bool = False) -> _Shape:
    return _Shape((0.0, 6.0), (0, 2), inplace)


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> _Shape:
    return _Shape((float(min_val), float(max_val)), (0, 2), inplace)


def _hardsigmoid(inplace: bool = False) -> _Shape:
    return _Shape((-3.0, 3.0), (0, 2), inplace)


def _leaky_relu(negative_slope: float = 0.01, inplace: bool = False) -> _Shape:
    return _Shape((0.0,), () if negative_slope else (0,), inplace)


def _prelu(weight: Tensor) -> _Shape:  # noqa: ARG001
    return _Shape((0.0,))


def _rrelu(
    lower: float = 0.125,  # noqa: ARG001
    upper: float = 1 / 3,  # noqa: ARG001
    training: bool = False,  # noqa: ARG001
    inplace: bool = False,
) -> _Shape:
    return _Shape((0.0,), (), inplace)


def _threshold(threshold: float, value: float, inplace: bool = False) -> _Shape:
    if threshold != value:
        raise _UnknownShapeError
    return _Shape((float(threshold),), (0,), inplace)


def _softshrink(lambd: float = 0.5) -> _Shape:
    return _Shape((-lambd, lambd), (1,))


def _absolute() -> _Shape:
    return _Shape((0.0,))


def _number(bound: Any) -> float:
    if isinstance(bound, Tensor) and bound.numel() != 1:
        raise _UnknownShapeError
    return float(bound)


def _clamp(min: Any = None, max: Any = None) -> _Shape:  # noqa: A002 (the operation's signature)
    low, high = (() if bound is None else (_number(bound),) for bound in (min, max))
    flat = ((0,) if low else ()) + ((len(low) + 1,) if high else ())
    return _Shape(low + high, flat)


def _clamp_min(min: Any) -> _Shape:  # noqa: A002
    return _clamp(min=min)


def _clamp_max(max: Any) -> _Shape:  # noqa: A002
    return _clamp(max=max)


PIECEWISE_LINEAR: dict[str, Callable[..., _Shape]] = {
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "hardsigmoid": _hardsigmoid,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "rrelu": _rrelu,
    "threshold": _threshold,
    "softshrink": _softshrink,
    "abs": _absolute,
    "absolute": _absolute,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp_min,
    "clamp_max": _clamp_max,
}
_PLAIN_NAMES = {"absolute": "abs", "clip": "clamp", "clamp_min": "clamp", "clamp_max": "clamp"}
_EXTREMES = {
    **dict.fromkeys(("maximum", "max", "fmax"), "maximum"),
    **dict.fromkeys(("minimum", "min", "fmin"), "minimum"),
}
# Curved ones, with the inputs at which their slope jumps.
CURVED: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("tanh", "sigmoid", "gelu", "silu", "softplus", "mish", "elu", "celu", "logsigmoid"), ()),
    **dict.fromkeys(("softsign", "tanhshrink", "erf"), ()),
    "selu": (0.0,),
    "hardswish": (-3.0, 3.0),
}
# What else a network that is linear between kinks must not do.
_NOT_PIECEWISE_LINEAR = {
    *("softmax", "log_softmax", "softmin", "gumbel_softmax", "glu", "hardshrink", "normalize"),
    *("layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"),
    *("scaled_dot_product_attention", "multi_head_attention_forward", "lstm", "gru", "rnn_tanh", "rnn_relu"),
    *("sort", "topk", "median", "cummax", "cummin", "max", "min", "amax", "amin", "aminmax", "logsumexp"),
}
# The same, but often applied to constants, which is harmless.
_CURVED_ON_DATA = {"exp", "log", "sqrt", "rsqrt", "pow", "square", "sin", "cos", "reciprocal", "norm"}
_UNITS_BEHIND = {
    **dict.fromkeys(("linear", "matmul", "__matmul__", "addmm", "bmm", "bilinear"), -1),
    **{f"conv{transposed}{d}d": 1 for d in (1, 2, 3) for transposed in ("", "_transpose")},
}


def plain_name(name: str) -> str:
    """The name without the marks of in-place and operator forms."""
    name = name.strip("_") if name.startswith("__") else name.removesuffix("_")
    return {"log_sigmoid": "logsigmoid", "_threshold": "threshold"}.get(name, name)


def _overwrites(name: str, kwargs: dict[str, Any]) -> bool:
    """Whether an operation may write into its first argument; a wrong yes costs a copy."""
    operator = name.startswith("__")
    return (
        (name.endswith("_") and not operator)
        or (operator and (name.startswith("__i") or name == "__setitem__"))
        or kwargs.get("inplace", False) is True
    )


def _same_memory(first: Tensor, second: Tensor) -> bool:
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


class ActivationCapture(TorchFunctionInterpreter):
    """Notes every nonlinearity of a forward pass, and may put something else in its place.

    Args:
        path: Tells the module being called.
        num_samples: How many samples go through the network.
        replace: See :func:`capture_activations`.
        pooling: See :func:`capture_activations`.
        measure: See :func:`capture_activations`.

    Attributes:
        found: What was noted, in the order of the calls.
    """

    def __init__(
        self,
        path: ModulePath,
        num_samples: int,
        *,
        replace: Replacement | None = None,
        pooling: bool = False,
        measure: str | None = None,
    ) -> None:
        super().__init__()
        self.path, self.num_samples = path, num_samples
        self.replace, self.pooling, self.measure = replace, pooling, measure
        self.found: list[Activation] = []
        self._names: set[str] = set()
        self._unit_dim = -1

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do the operation; note it if it is a nonlinearity."""
        name = operation_name(function)
        plain = plain_name(name)
        self._unit_dim = _UNITS_BEHIND.get(plain, self._unit_dim)
        if plain in PIECEWISE_LINEAR or plain in CURVED:
            return self._nonlinearity(function, name, plain, args, kwargs)
        if plain in _EXTREMES and len(args) == 2 and isinstance(args[1], Tensor):
            return self._extreme(function, _EXTREMES[plain], args[0], args[1])
        if self.pooling and is_max_pooling(plain):
            return self._max_pooling(function, plain, args, kwargs)
        if self.measure is not None and self._is_curved(plain, args):
            raise self.refuse(plain)
        if args and isinstance(args[0], Tensor) and _overwrites(name, kwargs):
            self._rescue(args[0])
        return function(*args, **kwargs)

    def _is_curved(self, plain: str, args: tuple[Any, ...]) -> bool:
        if plain in _CURVED_ON_DATA:
            return bool(args) and isinstance(args[0], Tensor) and args[0].shape[:1] == (self.num_samples,)
        return plain in _NOT_PIECEWISE_LINEAR

    def refuse(self, operation: str) -> UnsupportedOperationError:
        """The error for an operation that has no meaning for the measure."""
        return UnsupportedOperationError(operation, self.path.current, self.measure or "the capture of activations")

    def _nonlinearity(
        self, function: Callable[..., Any], name: str, plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if "input" in kwargs:
            kwargs = dict(kwargs)
            args = (kwargs.pop("input"), *args)
        x, rest = args[0], args[1:]
        shape = self._shape(plain, rest, kwargs)
        if plain == "hardtanh" and shape.kinks == (0.0, 6.0):
            plain = "relu6"
        if not (shape.inplace or (name.endswith("_") and not name.startswith("__"))):
            outputs = function(x, *rest, **kwargs)
            return self._note(_PLAIN_NAMES.get(plain, plain), x, outputs, shape).outputs
        self._rescue(x)
        preactivation = x.clone()
        outputs = function(preactivation.clone(), *rest, **kwargs)
        noted = self._note(_PLAIN_NAMES.get(plain, plain), preactivation, outputs, shape)
        x.copy_(noted.outputs)
        self.found[-1] = dataclasses.replace(noted, outputs=x)
        return x

    def _shape(self, plain: str, rest: tuple[Any, ...], kwargs: dict[str, Any]) -> _Shape:
        if plain in PIECEWISE_LINEAR:
            try:
                return PIECEWISE_LINEAR[plain](*rest, **kwargs)
            except _UnknownShapeError:
                raise self.refuse(f"{plain} with {rest or kwargs}") from None
        if self.measure is not None:
            raise self.refuse(plain)
        inplace = bool(kwargs.get("inplace", False))
        alpha = kwargs.get("alpha", rest[0] if rest else 1.0)
        kinks = (0.0,) if plain == "elu" and alpha != 1 else CURVED[plain]
        return _Shape(kinks, inplace=inplace, piecewise_linear=False)

    def _extreme(self, function: Callable[..., Any], plain: str, a: Tensor, b: Tensor) -> Tensor:
        outputs = function(a, b)
        if a.numel() == 1 and b.numel() > 1:
            a, b = b, a
        if b.numel() == 1 and a.numel() > 1:
            # The larger (smaller) of a number and a tensor is flat where the number wins.
            shape = _Shape((float(b),), (0,) if plain == "maximum" else (1,))
            return self._note(plain, a, outputs, shape).outputs
        return self._note(plain, a - b, outputs, _Shape((0.0,))).outputs

    def _max_pooling(
        self, function: Callable[..., Any], plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = function(*args, **kwargs)
        pooled = result if isinstance(result, Tensor) else result[0]
        comparisons = max_pool_comparisons(plain, args, kwargs, pooled)
        self._note(plain, comparisons, pooled, _Shape((0.0,)), replaceable=False)
        return result

    def _note(
        self,
        function: str,
        inputs: Tensor,
        outputs: Tensor,
        shape: _Shape,
        *,
        replaceable: bool = True,
    ) -> Activation:
        noted = Activation(
            self._unique_name(function),
            function,
            inputs,
            outputs,
            shape.kinks,
            shape.flat,
            shape.piecewise_linear,
            self._unit_dim,
        )
        replaced = self.replace(noted) if self.replace is not None and replaceable else None
        if replaced is not None:
            noted = dataclasses.replace(noted, outputs=replaced)
        self.found.append(noted)
        return noted

    def _unique_name(self, function: str) -> str:
        first = self.path.current or function
        name, call = first, 0
        while name in self._names or (call and self.path.has(name)):
            call += 1
            name = f"{first}.{call}"
        self._names.add(name)
        return name

    def _rescue(self, overwritten: Tensor) -> None:
        """Copy what was noted and is about to be overwritten."""
        for index, noted in enumerate(self.found):
            for attribute in ("inputs", "outputs"):
                tensor = getattr(noted, attribute)
                if _same_memory(tensor, overwritten):
                    noted = dataclasses.replace(noted, **{attribute: tensor.clone()})
            self.found[index] = noted


def run_capturing(
    model: nn.Module,
    inputs: Any,
    *,
    replace: Replacement | None = None,
    pooling: bool = False,
    measure: str | None = None,
) -> tuple[Any, list[Activation]]:
    """What ``model`` returns, and the nonlinearities on the way; see :func:`capture_activations`."""
    path = ModulePath(model)
    capture = ActivationCapture(path, num_samples(inputs), replace=replace, pooling=pooling, measure=measure)
    with path.followed(), capture:
        outputs = model(inputs)
    return outputs, capture.found


def capture_activations(
    model: nn.Module,
    inputs: Any,
    *,
    replace: Replacement | None = None,
    pooling: bool = False,
    measure: str | None = None,
) -> list[Activation]:
    """Run ``model`` once and note every nonlinearity: modules, functions, tensor methods, in-place forms.

    The larger (or smaller) of a tensor and a number is an activation of that tensor; of two tensors it is one of
    their difference, with a kink at 0. Softmax, normalization and products of two activations are no activations.
    Preactivations are part of the graph that leads to the outputs, so that derivatives for them can be taken,
    unless the network overwrites them in place with something that is no activation.

    Args:
        model: In the mode that it is to run in.
        inputs: A batch.
        replace: Called with each activation right after it was computed; the tensor it returns takes
            the place of the result, ``None`` leaves it.
        pooling: Whether max pooling is noted too, which is as piecewise linear as a rectifier. Its inputs are
            then the differences of every two entries of a window, shape ``(n, comparisons)``, with the kink 0.
            Its boundaries are among those of the comparisons; not all of the latter are boundaries.
        measure: Name of a measure that needs a piecewise linear network, to refuse what is not.

    Returns:
        The activations in the order of the calls.

    Raises:
        UnsupportedOperationError: For a ``clamp`` with different bounds for different entries and a ``threshold``
            with a jump; with ``measure`` also for everything that is known not to be piecewise linear.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Hardtanh())
        >>> [(a.name, a.function, a.kinks) for a in capture_activations(net, torch.zeros(4, 2))]
        [('1', 'relu', (0.0,)), ('3', 'hardtanh', (-1.0, 1.0))]
    """
    return run_capturing(model, inputs, replace=replace, pooling=pooling, measure=measure)[1]
