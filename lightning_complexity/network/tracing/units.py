"""Which dimensions of which weights go through the same units, found by following the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from torch import Tensor, nn

from lightning_complexity.functional.loss_surface.landscape import UnitAxis
from lightning_complexity.network.errors import UnsupportedOperationError
from lightning_complexity.network.running.batches import tensors_in
from lightning_complexity.network.tracing.dataflow import DataFlow, check_visible
from lightning_complexity.network.tracing.interpreter import ModulePath, operation_name, tensor_arguments
from lightning_complexity.network.tracing.operations import Effect, Operation, argument, plain_name

_BY_UNIT = {Effect.KINKED, Effect.CURVED, Effect.POINTWISE, Effect.MOVE, Effect.MEAN_POOLING, Effect.MAX_POOLING}
_RESHAPINGS = frozenset({"flatten", "view", "reshape", "squeeze", "unsqueeze"})
_AVERAGES = frozenset({"mean", "sum", "amax"})
_NORMALIZING = ((1, "running_mean"), (2, "running_var"), (3, "weight"), (4, "bias"))


class _Units(NamedTuple):
    """The units along dimension 1 of a tensor of data, or along the last one behind a linear layer."""

    group: int
    dim: int
    repeat: int


class _UnitTrace(DataFlow):
    def __init__(self, path: ModulePath, inputs: Any, model: nn.Module, measure: str) -> None:
        super().__init__(path, inputs)
        self._measure = measure
        self._names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self._parameters = {id(p) for p in model.parameters()}
        self._units: dict[int, _Units] = {}
        self._fixed = {id(t) for t in tensors_in(inputs)}  # data that no permutation reaches
        self._carriers: list[Any] = []  # keeps identities unique
        self._joined: list[int] = []  # group by group, one that it is the same as; a tree
        self.axes: dict[tuple[str, int], tuple[int, UnitAxis]] = {}

    def on_data(
        self, function: Callable[..., Any], operation: Operation | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        entering = [t for t in tensor_arguments(args, kwargs) if self.is_data(t)]
        known = [self._units.get(id(t)) for t in entering]
        if any(id(t) not in self._fixed and units is None for t, units in zip(entering, known, strict=True)):
            self._refuse(function)  # it came about unseen
        result = function(*args, **kwargs)
        self._carriers += [result, *entering]
        if operation is not None and operation.effect is Effect.SHAPE:
            return result
        if operation is not None and operation.output_dim == 0:
            self._layer(function, operation, known[0], args, kwargs, result)
        elif not any(known):
            self._fixed.update(id(t) for t in tensors_in(result))
        elif isinstance(result, Tensor):
            self._units[id(result)] = self._passed(function, operation, known, entering, args, kwargs, result)
        elif tensors_in(result):
            self._refuse(function)
        return result

    def _layer(
        self,
        function: Callable[..., Any],
        operation: Operation,
        entering: _Units | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Tensor,
    ) -> None:
        weight, bias = argument(args, kwargs, (1, "weight")), argument(args, kwargs, (2, "bias"))
        is_linear = operation.unit_dim == -1
        if not is_linear and argument(args, kwargs, (6, "groups"), 1) != 1:
            self._refuse(function)
        if entering is not None:
            if entering.dim != (args[0].ndim - 1 if is_linear else 1):
                self._refuse(function)
            self._note(function, weight, 1, entering)
        leaving = _Units(self._new_group(), result.ndim - 1 if is_linear else 1, 1)
        for tensor in (weight, bias):
            if tensor is not None:
                self._note(function, tensor, 0, leaving)
        self._units[id(result)] = leaving

    def _passed(
        self,
        function: Callable[..., Any],
        operation: Operation | None,
        known: list[_Units | None],
        entering: list[Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Tensor,
    ) -> _Units:
        """The units of what an operation gives that is no layer."""
        plain, first = plain_name(operation_name(function)), known[0]
        x = entering[0]
        others = [t for t in tensor_arguments(args, kwargs) if not self.is_data(t) and t.numel() > 1]
        if operation is None or first is None:
            self._refuse(function)
        if operation.effect is Effect.BATCH_NORM and first.dim == 1:
            for place in _NORMALIZING:
                tensor = argument(args, kwargs, place)
                if tensor is not None:
                    self._note(function, tensor, 0, first)
            return first
        if plain in ("add", "sub") and len(entering) == 2 and not others:
            second = known[1]
            alike = second is not None and second[1:] == first[1:] and entering[0].shape == entering[1].shape
            if second is None or not alike:
                self._refuse(function)
            self._join(first.group, second.group)
            return first
        if others or len(entering) > 1:
            self._refuse(function)
        is_affine = plain in ("add", "sub", "mul", "div")  # with a number
        if (operation.keeps_units and operation.effect in _BY_UNIT) or is_affine:
            return first
        if plain in _RESHAPINGS and first.dim == 1 and result.shape[:1] == x.shape[:1]:
            if result.ndim == 2:
                return first._replace(repeat=first.repeat * result.shape[1] // x.shape[1])
            if result.shape[1:2] == x.shape[1:2]:
                return first
        if plain not in _AVERAGES or first.dim != 1 or _goes_over(args, kwargs, x.ndim):
            self._refuse(function)
        return first

    def _note(self, function: Callable[..., Any], tensor: Tensor, dim: int, units: _Units) -> None:
        name = self._names.get(id(tensor))
        if name is None:
            self._refuse(function)
        group, _ = self.axes.setdefault(
            (name, dim), (units.group, UnitAxis(name, dim, units.repeat, id(tensor) in self._parameters))
        )
        self._join(group, units.group)

    def _refuse(self, function: Callable[..., Any]) -> NoReturn:
        raise UnsupportedOperationError(plain_name(operation_name(function)), self.path.current, self._measure)

    def _new_group(self) -> int:
        self._joined.append(len(self._joined))
        return len(self._joined) - 1

    def _join(self, one: int, other: int) -> None:
        self._joined[self.root(one)] = self.root(other)

    def root(self, group: int) -> int:
        """What stands for all groups that are the same."""
        while self._joined[group] != group:
            group = self._joined[group]
        return group

    def groups_of(self, tensors: list[Tensor]) -> set[int]:
        """The groups whose units are those of some tensors."""
        return {self.root(self._units[id(t)].group) for t in tensors if id(t) in self._units}


def _goes_over(args: tuple[Any, ...], kwargs: dict[str, Any], ndim: int) -> bool:
    """Whether a sum goes over samples or units."""
    dims = argument(args, kwargs, (1, "dim"))
    if dims is None:
        return True
    return any(dim % ndim < 2 for dim in (dims if isinstance(dims, (tuple, list)) else [dims]))


def unit_axes(model: nn.Module, inputs: Any, *, measure: str) -> list[list[UnitAxis]]:
    """Run ``model`` once and find the sets of units that can be put in another order without changing the function.

    Followed are linear layers, convolutions, BatchNorm, activations, dropout, pooling, flattening and addition, behind
    which both terms have their units in one order.

    Args:
        model: In evaluation mode.
        inputs: A batch; one sample is enough.
        measure: Name of the measure, for errors.

    Returns:
        For each set of hidden units, all dimensions of parameters and buffers that go through them.

    Raises:
        UnsupportedOperationError: At an operation behind which units cannot be followed, such as a grouped convolution,
            attention, or a weight that is computed.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> [[(axis.name, axis.dim) for axis in axes] for axes in unit_axes(net, torch.zeros(1, 2), measure="example")]
        [[('0.weight', 0), ('0.bias', 0), ('2.weight', 1)]]
    """
    check_visible(model, measure)
    path = ModulePath(model)
    trace = _UnitTrace(path, inputs, model, measure)
    with path.followed(), trace:
        outputs = model(inputs)
    fixed = trace.groups_of(tensors_in(outputs))
    found: dict[int, list[UnitAxis]] = {}
    for group, axis in trace.axes.values():
        if trace.root(group) not in fixed:
            found.setdefault(trace.root(group), []).append(axis)
    return list(found.values())
