"""What modules hold in Python besides parameters and buffers, and how a run is kept from changing it."""

from __future__ import annotations

import copy
import itertools
import operator
import random
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_complexity.network.running.memory import lazily_cloned

DEPTH = 3
"""How far containers and objects are looked into, from the attribute of a module on."""

_OWN_OF_MODULES = frozenset(nn.Module().__dict__) - {"training"}
_IMMUTABLE = (
    *(int, float, complex, bool, str, bytes, range, slice, type, type(None), type(Ellipsis), torch.dtype, torch.device),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, torch.Size),
)
_PLAIN = frozenset(_IMMUTABLE)
_CONTAINERS = (dict, list, set, deque, bytearray)
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, itertools.count)
# Objects of these packages are tools around the network, such as trainers, optimizers and loggers.
_TOOLS = frozenset({"torch", "pytorch_lightning", "lightning", "lightning_fabric", "logging", "threading", "weakref"})
_OWN_TOOLS = ("lightning_complexity.callbacks.", "lightning_complexity.recording.")
_TOO_MANY = 10_000  # entries of a container, beyond which they are not looked into one by one
_TOO_LARGE = 1_000_000  # entries of an array, beyond which it is not copied

Namespace = MutableMapping[str, Any]


class PythonState:
    """The attributes of a network's modules while it is observed.

    A run works on copies: of tensors and arrays that are attributes, of random generators, and of lists, dictionaries,
    sets and queues, through ``DEPTH`` levels of containers and of the attributes of other objects found there. Modules
    that are found so, hidden from the network's own, are kept as well; they run in the mode that they are in.
    Afterwards each attribute is the object that it was, added attributes and hooks are gone, and deleted ones are
    back. Not seen are changes that lie deeper, what closures and ``functools.partial`` refer to, objects without a
    ``__dict__``, sets of objects, containers of more than 10,000 entries, arrays of more than a million, files,
    trainers, optimizers and loggers, and this package's callbacks with what they recorded.

    Args:
        model: The network, in the mode that it is to run in.
    """

    def __init__(self, model: nn.Module) -> None:
        self._namespaces: dict[int, tuple[Namespace, dict[str, Any]]] = {}
        self._mutable: list[tuple[Namespace, str, Any]] = []
        self._slots: list[tuple[Namespace, str, Tensor]] = []
        self._scripted: list[tuple[Any, str, Tensor]] = []
        self._look_into_modules(model)

    def _look_into_modules(self, root: nn.Module) -> None:
        for module in root.modules():
            if id(module.__dict__) in self._namespaces:
                continue
            if isinstance(module, torch.jit.ScriptModule):
                self._scripted += _scripted_slots(module)
                continue
            for registry in _OWN_OF_MODULES:
                if isinstance(module.__dict__.get(registry), dict):
                    self._keep(module.__dict__[registry])
            for registry in ("_parameters", "_buffers"):
                named = module.__dict__[registry]
                self._slots += [(named, name, tensor) for name, tensor in named.items() if tensor is not None]
            self._look_into(module.__dict__, _OWN_OF_MODULES, DEPTH)

    def _keep(self, namespace: Namespace) -> None:
        self._namespaces[id(namespace)] = namespace, dict(namespace)

    def _look_into(self, namespace: Namespace, left_out: frozenset[str], depth: int) -> None:
        self._keep(namespace)
        for name, value in namespace.items():
            if name in left_out or isinstance(value, _IMMUTABLE):
                continue
            if self._is_copied(value, depth):
                self._mutable.append((namespace, name, value))
            self._objects_in(value, depth)

    @staticmethod
    def _is_copied(value: Any, depth: int) -> bool:
        if isinstance(value, np.ndarray):
            return value.size <= _TOO_LARGE
        return isinstance(value, (Tensor, torch.Generator, *_GENERATORS)) or (
            depth > 0 and isinstance(value, (*_CONTAINERS, tuple))
        )

    def _objects_in(self, value: Any, depth: int) -> None:
        """Find modules and other objects with attributes, in containers too."""
        if depth == 0 or isinstance(value, (*_IMMUTABLE, Tensor, np.ndarray)):
            return
        if isinstance(value, nn.Module):
            self._look_into_modules(value)
        elif isinstance(value, (dict, list, tuple, deque)):
            for entry in _entries(value):
                self._objects_in(entry, depth - 1)
        elif _has_state(value) and id(value.__dict__) not in self._namespaces:
            self._look_into(value.__dict__, frozenset(), depth - 1)

    @contextmanager
    def replaced(self, tensors: Mapping[int, Tensor]) -> Iterator[None]:
        """Let a run work on other parameters and buffers, and on copies of the rest.

        Every place of a parameter gets its stand-in, however many names it has and wherever attributes refer to it.

        Args:
            tensors: What stands in for parameters and buffers, by the ``id`` of these; they may be these themselves.
        """
        memo: dict[int, tuple[Any, Any]] = {}

        def stand_in(value: Tensor) -> Tensor:
            if id(value) in tensors:
                return tensors[id(value)]
            base = value._base
            if base is not None and id(base) in tensors:
                return _same_view(value, base, tensors[id(base)])
            return lazily_cloned(value.detach())

        try:
            for registry, name, original in self._slots:
                registry[name] = _copied(original, DEPTH, memo, stand_in)
            for scripted, name, original in self._scripted:
                if tensors.get(id(original)) is not original:
                    scripted.setattr(name, stand_in(original).detach())
            for namespace, name, value in self._mutable:
                namespace[name] = _copied(value, DEPTH, memo, stand_in)
            yield
        finally:
            self._put_back()

    def _put_back(self) -> None:
        for scripted, name, original in self._scripted:
            scripted.setattr(name, original)
        for namespace, before in self._namespaces.values():
            if (namespace or before) and _differ(namespace, before):
                namespace.clear()
                namespace.update(before)


def _differ(namespace: Namespace, before: dict[str, Any]) -> bool:
    return list(namespace) != list(before) or not all(map(operator.is_, namespace.values(), before.values()))


def _same_view(view: Tensor, base: Tensor, other: Tensor) -> Tensor:
    """The part of another tensor that a view is of its base."""
    if other.stride() != base.stride():
        return lazily_cloned(view.detach())
    offset = other.storage_offset() + view.storage_offset() - base.storage_offset()
    part = other.as_strided(view.size(), view.stride(), offset)
    return part if view.requires_grad else part.detach()


def _scripted_slots(module: torch.jit.ScriptModule) -> list[tuple[Any, str, Tensor]]:
    """The parameters and buffers of a scripted module, which does not keep them in Python."""
    named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return [(module._c, name, tensor) for name, tensor in named]


def _entries(container: Any) -> Iterator[Any]:
    if len(container) > _TOO_MANY:
        return
    yield from container.values() if isinstance(container, dict) else container


def _has_state(value: Any) -> bool:
    module = type(value).__module__
    is_tool = module.partition(".")[0] in _TOOLS or module.startswith(_OWN_TOOLS)
    return not is_tool and isinstance(getattr(value, "__dict__", None), dict)


def _copied(value: Any, depth: int, memo: dict[int, tuple[Any, Any]], stand_in: Callable[[Tensor], Tensor]) -> Any:
    """A copy of what can be written to, once for each object; anything else as it is."""
    if type(value) in _PLAIN or isinstance(value, _IMMUTABLE):
        return value
    if id(value) not in memo:
        memo[id(value)] = value, _copy_of(value, depth, memo, stand_in)
    return memo[id(value)][1]


def _copy_of(value: Any, depth: int, memo: dict[int, tuple[Any, Any]], stand_in: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return stand_in(value)
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, np.ndarray):
        return value.copy() if value.size <= _TOO_LARGE else value
    if isinstance(value, _GENERATORS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # copies of counters, from Python 3.12 on
            return copy.deepcopy(value)
    if depth == 0 or not isinstance(value, (*_CONTAINERS, tuple)):
        return value
    return _container_copy(value, lambda entry: _copied(entry, depth - 1, memo, stand_in))


def _container_copy(value: Any, function: Callable[[Any], Any]) -> Any:
    entries = value.values() if isinstance(value, dict) else value
    is_shallow = len(value) > _TOO_MANY or _PLAIN.issuperset(map(type, entries))
    if isinstance(value, tuple):
        return value if is_shallow else _tuple_copy(value, function)
    new = copy.copy(value)
    if is_shallow:
        return new
    if isinstance(value, dict):
        for key, entry in value.items():
            dict.__setitem__(new, key, function(entry))
    elif isinstance(value, list):
        list.__setitem__(new, slice(None), [function(entry) for entry in value])
    elif isinstance(value, deque):
        new.clear()
        new.extend(function(entry) for entry in value)
    return new


def _tuple_copy(value: tuple[Any, ...], function: Callable[[Any], Any]) -> Any:
    entries = [function(entry) for entry in value]
    if all(map(operator.is_, entries, value)):
        return value
    return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
