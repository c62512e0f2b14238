"""The nonlinearities of a forward pass: what goes into each, what comes out, and where it bends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_complexity.network.errors import UnsupportedOperationError
from lightning_complexity.network.running.batches import tensors_in
from lightning_complexity.network.tracing.between import BetweenLayers
from lightning_complexity.network.tracing.dataflow import PiecewiseLinearFlow, check_visible, is_number, memory_of
from lightning_complexity.network.tracing.interpreter import ModulePath, operation_name, tensor_arguments
from lightning_complexity.network.tracing.operations import (
    Bends,
    Effect,
    Operation,
    UnknownBendsError,
    argument,
    bends_of,
    overwrites,
    plain_name,
)
from lightning_complexity.network.tracing.pooling import comparisons_along, max_pool_comparisons, reduced_dims


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


_FAMILIES = {
    **dict.fromkeys(("clamp_min", "clamp_max"), "clamp"),
    **dict.fromkeys(("max", "fmax"), "maximum"),
    **dict.fromkeys(("min", "fmin"), "minimum"),
}


class ActivationCapture(PiecewiseLinearFlow):
    """Notes every nonlinearity of a forward pass, and may put something else in its place.

    Args:
        path: Tells the module being called.
        inputs: What goes into the network.
        replace: See :func:`capture_activations`.
        pooling: See :func:`capture_activations`.
        measure: See :func:`capture_activations`.
        between_layers: See :func:`capture_activations`.

    Attributes:
        found: What was noted, in the order of the calls.
    """

    def __init__(
        self,
        path: ModulePath,
        inputs: Any,
        *,
        replace: Replacement | None = None,
        pooling: bool = False,
        measure: str | None = None,
        between_layers: bool = False,
    ) -> None:
        super().__init__(path, inputs)
        self.replace, self.pooling, self.measure = replace, pooling, measure
        self.between = BetweenLayers(self) if between_layers else None
        self.found: list[Activation] = []
        self._names: set[str] = set()
        self._unit_dim = -1

    def on_data(
        self, function: Callable[..., Any], operation: Operation | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Do the operation; note it if it is a nonlinearity."""
        plain = plain_name(operation_name(function))
        if self.between is not None:
            self.between.arrive(operation, args, kwargs)
        if operation is not None and operation.unit_dim is not None:
            self._unit_dim = operation.unit_dim
        self._refuse_if(self.measure and self.refusal(plain, operation, args, kwargs))
        result = self._captured(function, plain, operation, args, kwargs)
        self._refuse_if(self.measure and self.refusal_of_result(plain, operation, args, kwargs, result))
        if self.between is not None:
            self.between.leave(plain, operation, args, kwargs, result)
        return result

    def _refuse_if(self, operation: str | None) -> None:
        if operation is not None:
            raise self.refuse(operation)

    def refuse(self, operation: str) -> UnsupportedOperationError:
        """The error for an operation that has no meaning for the measure."""
        return UnsupportedOperationError(operation, self.path.current, self.measure or "the capture of activations")

    def _captured(
        self,
        function: Callable[..., Any],
        plain: str,
        operation: Operation | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if operation is None:
            return self._unknown(function, plain, args, kwargs)
        if operation.effect in (Effect.KINKED, Effect.CURVED) and self.is_data(args[0]):
            return self._nonlinearity(function, plain, args, kwargs)
        if operation.effect is Effect.MAXIMUM:
            return self._maximum(function, plain, args, kwargs)
        if operation.effect is Effect.MAX_POOLING and self.pooling:
            return self._max_pooling(function, plain, args, kwargs)
        if overwrites(operation_name(function), kwargs) and isinstance(args[0], Tensor):
            self._rescue(args[0])
        return function(*args, **kwargs)

    def _unknown(self, function: Callable[..., Any], plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation that is in no table is an activation if it gives numbers of the shape of its data."""
        x = next((t for t in self.data_among(tensor_arguments(args, kwargs)) if is_number(t)), None)
        if x is None:
            return function(*args, **kwargs)
        before = x
        if overwrites(operation_name(function), kwargs):
            self._rescue(x)
            before = x.clone()
        result = function(*args, **kwargs)
        if not (isinstance(result, Tensor) and is_number(result) and result.shape == before.shape):
            return result
        noted = self._note(plain, before, result, Bends(piecewise_linear=False))
        if before is not x and noted.outputs is not result:
            result.copy_(noted.outputs)
            return result
        return noted.outputs

    def _nonlinearity(
        self, function: Callable[..., Any], plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        x, rest = args[0], args[1:]
        bends = self._bends(plain, rest, kwargs)
        name = operation_name(function)
        if plain == "hardtanh" and bends.kinks == (0.0, 6.0):
            plain = "relu6"
        plain = _FAMILIES.get(plain, plain)
        if not (bends.inplace or overwrites(name, kwargs)):
            return self._note(plain, x, function(x, *rest, **kwargs), bends).outputs
        self._rescue(x)
        preactivation = x.clone()
        outputs = function(preactivation.clone(), *rest, **kwargs)
        noted = self._note(plain, preactivation, outputs, bends)
        x.copy_(noted.outputs)
        self.found[-1] = dataclasses.replace(noted, outputs=x)
        return x

    def _bends(self, plain: str, rest: tuple[Any, ...], kwargs: dict[str, Any]) -> Bends:
        try:
            bends = bends_of(plain, rest, kwargs)
        except UnknownBendsError:
            raise self.refuse(f"{plain} with {rest or kwargs}") from None
        if not bends.continuous:
            raise self.refuse(f"{plain} with {rest or kwargs}, which jumps")
        return bends

    def _maximum(self, function: Callable[..., Any], plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        other = argument(args, kwargs, (1, "other"))
        if isinstance(other, Tensor):
            return self._extreme(function, _FAMILIES.get(plain, plain), args[0], other)
        result = function(*args, **kwargs)
        if self.pooling:
            dims = reduced_dims(args, kwargs)
            if 0 in dims:
                raise self.refuse(f"{plain} over samples")
            inputs = comparisons_along(args[0], dims)
            self._note(plain, inputs, tensors_in(result)[0], Bends((0.0,)), replaceable=False)
        return result

    def _extreme(self, function: Callable[..., Any], plain: str, a: Tensor, b: Tensor) -> Tensor:
        outputs = function(a, b)
        if not self.is_data(a):
            a, b = b, a
        if b.numel() == 1 and a.numel() > 1 and not self.is_data(b):
            # The larger (smaller) of a number and a tensor is flat where the number wins.
            bends = Bends((float(b),), (0,) if plain == "maximum" else (1,))
            return self._note(plain, a, outputs, bends).outputs
        return self._note(plain, a - b, outputs, Bends((0.0,))).outputs

    def _max_pooling(
        self, function: Callable[..., Any], plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = function(*args, **kwargs)
        pooled = tensors_in(result)[0]
        comparisons = max_pool_comparisons(plain, args, kwargs, pooled)
        self._note(plain, comparisons, pooled, Bends((0.0,)), replaceable=False)
        return result

    def _note(
        self, function: str, inputs: Tensor, outputs: Tensor, bends: Bends, *, replaceable: bool = True
    ) -> Activation:
        noted = Activation(
            self._unique_name(function),
            function,
            inputs,
            outputs,
            bends.kinks,
            bends.flat,
            bends.piecewise_linear,
            self._unit_dim,
        )
        replaced = self.replace(noted) if self.replace is not None and replaceable else None
        if replaced is not None:
            noted = dataclasses.replace(noted, outputs=replaced)
        self.found.append(noted)
        return noted

    def note_between_layers(self, function: str, module: str, inputs: Tensor, outputs: Tensor) -> None:
        """Note what stands between two layers as an activation does."""
        name = self._unique_name(function, module)
        self.found.append(Activation(name, function, inputs, outputs, piecewise_linear=False))

    def _unique_name(self, function: str, module: str | None = None) -> str:
        first = (self.path.current if module is None else module) or function
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
                if memory_of(tensor) == memory_of(overwritten):
                    noted = dataclasses.replace(noted, **{attribute: tensor.clone()})
            self.found[index] = noted


def run_capturing(
    model: nn.Module,
    inputs: Any,
    *,
    replace: Replacement | None = None,
    pooling: bool = False,
    measure: str | None = None,
    between_layers: bool = False,
) -> tuple[Any, list[Activation]]:
    """What ``model`` returns, and the nonlinearities on the way; see :func:`capture_activations`."""
    path = ModulePath(model)
    capture = ActivationCapture(
        path, inputs, replace=replace, pooling=pooling, measure=measure, between_layers=between_layers
    )
    if measure is not None:
        check_visible(model, measure)
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
    between_layers: bool = False,
) -> list[Activation]:
    """Run ``model`` once and note every nonlinearity: modules, functions, tensor methods, in-place forms.

    The larger (or smaller) of a tensor and a number is an activation of that tensor; of two tensors it is one of
    their difference, with a kink at 0. What is applied to weights, positions or other constants is no activation.
    An operation that the table of operations does not know is a smooth activation if it gives numbers of the shape of
    its data. Softmax, normalization and products of two activations are no activations.
    Preactivations are part of the graph that leads to the outputs, so that derivatives for them can be taken,
    unless the network overwrites them in place with something that is no activation.

    Args:
        model: In the mode that it is to run in.
        inputs: A batch.
        replace: Called with each activation right after it was computed; the tensor it returns takes
            the place of the result, ``None`` leaves it.
        pooling: Whether max pooling and maxima along dimensions are noted too, which are as piecewise linear as a
            rectifier. Their inputs are then the differences of every two entries that are compared, shape
            ``(n, comparisons)``, with the kink 0. Their boundaries are among those of the comparisons; not all of the
            latter are boundaries.
        measure: Name of a measure that needs a piecewise linear network, to refuse what is not.
        between_layers: Whether softmax, normalization and the like are noted where they stand between two layers as an
            activation does, see :class:`lightning_complexity.network.tracing.between.BetweenLayers`.

    Returns:
        The activations in the order of the calls.

    Raises:
        UnsupportedOperationError: For a ``clamp`` with different bounds for different entries and for activations
            with a jump; with ``measure`` also for everything that is not known to be piecewise linear.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Hardtanh())
        >>> [(a.name, a.function, a.kinks) for a in capture_activations(net, torch.zeros(4, 2))]
        [('1', 'relu', (0.0,)), ('3', 'hardtanh', (-1.0, 1.0))]
    """
    return run_capturing(
        model, inputs, replace=replace, pooling=pooling, measure=measure, between_layers=between_layers
    )[1]
