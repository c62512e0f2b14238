"""What modules hold in Python besides parameters and buffers, and how a run is kept from changing it."""

from __future__ import annotations

import operator
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_complexity.network.running.copies import (
    DEPTH,
    IMMUTABLE,
    LargeCopy,
    Memo,
    Namespace,
    StandIn,
    copied,
    entries_of,
    is_a,
    is_copied,
    namespaces_of,
)
from lightning_complexity.network.running.memory import lazily_cloned

_OWN_OF_MODULES = frozenset(nn.Module().__dict__) - {"training"}


class PythonState:
    """The attributes of a network's modules while it is observed.

    A run works on copies: of tensors and arrays that are attributes, of random generators, and of lists, dictionaries,
    sets and queues, through ``DEPTH`` levels of containers and of the attributes of other objects found there. Modules
    that are found so, hidden from the network's own, are kept as well; they run in the mode that they are in.
    Afterwards each attribute is the object that it was, added attributes and hooks are gone, and deleted ones are
    back. Iterators that cannot be copied, such as generators and those of loaders, give nothing during a run: asking
    for their next is an error, as it would be missing afterwards. Not seen are changes that lie deeper, what closures
    and ``functools.partial`` refer to, other objects with neither ``__dict__`` nor ``__slots__``, sets of objects,
    containers of more than 10,000 entries, arrays of more than a million, files other than those that are attributes
    and open for writing alone, trainers, optimizers and loggers, and this package's callbacks with what they recorded.

    Args:
        model: The network, in the mode that it is to run in.
        beside: Other objects whose attributes are kept.
    """

    def __init__(self, model: nn.Module, beside: Iterable[Any] = ()) -> None:
        self._namespaces: dict[int, tuple[Namespace, dict[str, Any]]] = {}
        self._mutable: list[tuple[Namespace, str, Any]] = []
        self._slots: list[tuple[Namespace, str, Tensor]] = []
        self._scripted: list[tuple[Any, str, Tensor]] = []
        self._seen: dict[int, Any] = {}
        self._large: dict[int, LargeCopy] = {}
        self._look_into_modules(model)
        for other in beside:
            self._objects_in(other, DEPTH)

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
            if name in left_out or (is_a(value, IMMUTABLE) and type(value) is not types.MethodType):
                continue
            if is_copied(value, depth):
                self._mutable.append((namespace, name, value))
            self._objects_in(value, depth)

    def _objects_in(self, value: Any, depth: int) -> None:
        """Find modules and other objects with attributes, in containers too, and those that methods are bound to."""
        if type(value) is types.MethodType:
            value = value.__self__
        if depth == 0 or is_a(value, (*IMMUTABLE, Tensor, np.ndarray)):
            return
        if is_a(value, nn.Module):
            self._look_into_modules(value)
        elif is_a(value, (dict, list, tuple, deque)):
            for entry in entries_of(value):
                self._objects_in(entry, depth - 1)
        elif id(value) not in self._seen:
            self._seen[id(value)] = value
            for namespace in namespaces_of(value):
                self._look_into(namespace, frozenset(), depth - 1)

    @contextmanager
    def replaced(self, tensors: Mapping[int, Tensor]) -> Iterator[None]:
        """Let a run work on other parameters and buffers, and on copies of the rest.

        Every place of a parameter gets its stand-in, however many names it has and wherever attributes refer to it.

        Args:
            tensors: What stands in for parameters and buffers, by the ``id`` of these; they may be these themselves.
        """
        memo: Memo = {}

        def stand_in(value: Tensor) -> Tensor:
            if id(value) in tensors:
                return tensors[id(value)]
            with torch._C.DisableTorchFunction() if type(value) is Tensor else nullcontext():  # no mode need see this
                base = value._base
                if base is None or id(base) not in tensors:
                    return lazily_cloned(value.detach())
            return _same_view(value, base, tensors[id(base)])

        try:
            for registry, name, original in self._slots:
                registry[name] = copied(original, DEPTH, memo, stand_in)
            for scripted, name, original in self._scripted:
                if tensors.get(id(original)) is not original:
                    scripted.setattr(name, stand_in(original).detach())
            for namespace, name, value in self._mutable:
                namespace[name] = self._copied(value, memo, stand_in, tensors)
            yield
        finally:
            self._put_back()

    def _copied(self, value: Any, memo: Memo, stand_in: StandIn, tensors: Mapping[int, Tensor]) -> Any:
        """A copy of an attribute for one run; of a large one that of an earlier run, if that has not changed it."""
        kept = self._large.get(id(value))
        if kept is not None and kept.is_as_made():
            memo.update(kept.memo)
            return kept.made
        own: Memo = {}
        made = copied(value, DEPTH, own, stand_in)
        if own.keys() & memo.keys():  # others refer to parts of it
            return copied(value, DEPTH, memo, stand_in)
        memo.update(own)
        if LargeCopy.is_worth_keeping(own, tensors):
            self._large[id(value)] = LargeCopy(made, own)
        return made

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
