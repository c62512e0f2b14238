"""What modules hold in Python besides parameters and buffers, and how a run is kept from changing it."""

from __future__ import annotations

import copy
import io
import itertools
import operator
import random
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_complexity.network.errors import MeasureError
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
_FILES_IN_MEMORY = (io.StringIO, io.BytesIO)
_COPIED_ITERATORS = tuple(map(type, (iter([]), iter(()), iter(range(0)), iter(""), reversed([]))))
# Objects of these packages are tools around the network, such as trainers, optimizers and loggers.
_TOOLS = frozenset({"torch", "pytorch_lightning", "lightning", "lightning_fabric", "logging", "threading", "weakref"})
_OWN_TOOLS = ("lightning_complexity.callbacks.", "lightning_complexity.recording.")
_MANY = 64  # objects, beyond which a copy of them serves several runs
_TOO_MANY = 10_000  # entries of a container, beyond which they are not looked into one by one
_TOO_LARGE = 1_000_000  # entries of an array, beyond which it is not copied

Namespace = MutableMapping[str, Any]
Memo = dict[int, tuple[Any, Any]]
StandIn = Callable[[Tensor], Tensor]


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
        self._large: dict[int, _Large] = {}
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
            if name in left_out or (_is(value, _IMMUTABLE) and type(value) is not types.MethodType):
                continue
            if self._is_copied(value, depth):
                self._mutable.append((namespace, name, value))
            self._objects_in(value, depth)

    @staticmethod
    def _is_copied(value: Any, depth: int) -> bool:
        if _is(value, np.ndarray):
            return value.size <= _TOO_LARGE
        return (
            _is(value, (Tensor, torch.Generator, *_GENERATORS))
            or (depth > 0 and _is(value, (*_CONTAINERS, tuple)))
            or _is(value, (io.IOBase, *_COPIED_ITERATORS))
            or _is_used_up(value)
        )

    def _objects_in(self, value: Any, depth: int) -> None:
        """Find modules and other objects with attributes, in containers too, and those that methods are bound to."""
        if type(value) is types.MethodType:
            value = value.__self__
        if depth == 0 or _is(value, (*_IMMUTABLE, Tensor, np.ndarray)):
            return
        if _is(value, nn.Module):
            self._look_into_modules(value)
        elif _is(value, (dict, list, tuple, deque)):
            for entry in _entries(value):
                self._objects_in(entry, depth - 1)
        elif id(value) not in self._seen:
            self._seen[id(value)] = value
            for namespace in _namespaces_of(value):
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
                registry[name] = _copied(original, DEPTH, memo, stand_in)
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
        made = _copied(value, DEPTH, own, stand_in)
        if own.keys() & memo.keys():  # others refer to parts of it
            return _copied(value, DEPTH, memo, stand_in)
        memo.update(own)
        if len(own) > _MANY and _Large.can_be_kept(own, tensors):
            self._large[id(value)] = _Large(made, own)
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


def _entries(container: Any) -> Iterator[Any]:
    if len(container) > _TOO_MANY:
        return
    yield from container.values() if isinstance(container, dict) else container


def _is(value: Any, kinds: type | tuple[Any, ...]) -> bool:
    """Whether a value is of some kinds, without asking it: proxies may raise an error, or answer for another."""
    return issubclass(type(value), kinds)


class _Slots(MutableMapping[str, Any]):
    """The attributes that an object has in ``__slots__``, as a namespace."""

    def __init__(self, owner: Any, names: list[str]) -> None:
        self._owner, self._names = owner, names

    def __getitem__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self._owner, name)
        except AttributeError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        object.__setattr__(self._owner, name, value)  # also of a frozen dataclass

    def __delitem__(self, name: str) -> None:
        object.__delattr__(self._owner, name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: Any) -> bool:
        return hasattr(self._owner, name)


def _namespaces_of(value: Any) -> Iterator[Namespace]:
    """Where an object has its attributes; nowhere for tools."""
    module = type(value).__module__
    if module.partition(".")[0] in _TOOLS or module.startswith(_OWN_TOOLS):
        return
    try:
        attributes = value.__dict__
    except Exception:  # it has none, or is a proxy for nothing
        attributes = None
    if isinstance(attributes, dict):
        yield attributes
    classes = (cls for cls in type(value).__mro__ if "__slots__" in cls.__dict__)
    names = [name for cls in classes for name, kind in vars(cls).items() if type(kind) is types.MemberDescriptorType]
    if names:
        yield _Slots(value, names)


class _Unasked:
    """Stands in for an iterator, of which nobody may ask the next."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __iter__(self) -> _Unasked:
        return self

    def __next__(self, *_: Any) -> Any:
        raise MeasureError(
            f"the module takes the next of a {type(self._iterator).__name__} that it keeps, which training would then "
            "miss. Let the loader give it with the batch, as a CombinedLoader does; or give loss=lambda module, batch: "
            "... without it."
        )

    send = __next__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def _nowhere(file: Any) -> Any:
    """What stands for a file that is open for writing alone; any other as it is."""
    if file.closed or file.readable() or not file.writable():
        return file
    return io.StringIO() if _is(file, io.TextIOBase) else io.BytesIO()


def _is_used_up(value: Any) -> bool:
    """Whether it is an iterator that cannot be copied: asked for its next, it has one less."""
    if not hasattr(type(value), "__next__") or _is(value, (*_GENERATORS, *_COPIED_ITERATORS, nn.Module, io.IOBase)):
        return False
    return next(_namespaces_of(value), None) is None


def _copied(value: Any, depth: int, memo: Memo, stand_in: StandIn) -> Any:
    """A copy of what can be written to, once for each object; anything else as it is."""
    if type(value) in _PLAIN or _is(value, _IMMUTABLE):
        return value
    if id(value) not in memo:
        memo[id(value)] = value, _copy_of(value, depth, memo, stand_in)
    return memo[id(value)][1]


def _copy_of(value: Any, depth: int, memo: Memo, stand_in: StandIn) -> Any:
    if _is(value, Tensor):
        return stand_in(value)
    if _is(value, torch.Generator):
        return value.clone_state()
    if _is(value, np.ndarray):
        return value.copy() if value.size <= _TOO_LARGE else value
    if type(value) in _COPIED_ITERATORS:
        return copy.copy(value)
    if _is(value, io.IOBase) and not _is(value, _FILES_IN_MEMORY):
        return _nowhere(value)
    if _is(value, (*_GENERATORS, *_FILES_IN_MEMORY)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # copies of counters, from Python 3.12 on
            return copy.deepcopy(value)
    if depth > 0 and _is(value, (*_CONTAINERS, tuple)):
        return _container_copy(value, lambda entry: _copied(entry, depth - 1, memo, stand_in))
    return _Unasked(value) if _is_used_up(value) else value


class _Large:
    """A copy of containers with many tensors, which takes long to make, and how it was made.

    Args:
        made: The copy.
        memo: Originals and copies of all that is in it.
    """

    def __init__(self, made: Any, memo: Memo) -> None:
        self.made, self.memo = made, memo
        copies = [copied for original, copied in memo.values() if copied is not original]
        self._tensors = [copied for copied in copies if _is(copied, Tensor)]
        self._addresses = list(map(_address, self._tensors))
        self._entries = [(copied, _parts(copied)) for copied in copies if not _is(copied, (Tensor, tuple))]

    @staticmethod
    def can_be_kept(memo: Memo, tensors: Mapping[int, Tensor]) -> bool:
        """Whether each run has the same in it, and writing shows: containers, and tensors that share memory until then.

        What stands for ``tensors``, and for views of them, is another in each run.
        """
        own = all(id(o) not in tensors and id(o._base) not in tensors for o, _ in memo.values() if _is(o, Tensor))
        return (
            own
            and _address is not None
            and all(
                _shares_memory(original, copied)
                if _is(copied, Tensor)
                else _is(copied, (dict, list, set, deque, tuple))
                for original, copied in memo.values()
                if copied is not original
            )
        )

    def is_as_made(self) -> bool:
        """Whether nothing in it was written to, or replaced."""
        with torch._C.DisableTorchFunction():  # of modes that watch the network
            return (
                not any(map(_version, self._tensors))
                and not any(map(_requires_grad, self._tensors))
                and list(map(_address, self._tensors)) == self._addresses
                and all(_same(_parts(container), parts) for container, parts in self._entries)
            )


_address: Any = getattr(torch._C, "_data_address", None)
_version, _requires_grad = operator.attrgetter("_version"), operator.attrgetter("requires_grad")


def _shares_memory(original: Tensor, clone: Tensor) -> bool:
    is_plain = type(clone) is Tensor and clone.layout is torch.strided and not clone.is_inference()
    return is_plain and not clone.requires_grad and _address(original) == _address(clone)


def _parts(container: Any) -> list[Any]:
    return [*container, *container.values()] if isinstance(container, dict) else list(container)


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(map(operator.is_, a, b))


def _container_copy(value: Any, function: Callable[[Any], Any]) -> Any:
    entries = value.values() if isinstance(value, dict) else value
    is_shallow = len(value) > _TOO_MANY or _PLAIN.issuperset(map(type, entries))
    if isinstance(value, tuple):
        return value if is_shallow else _tuple_copy(value, function)
    new = _shallow_copy(value)
    if is_shallow or new is value:
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
    try:
        new = tuple.__new__(type(value), entries)  # whatever arguments the class takes
    except TypeError:  # those of C, such as torch's return types
        return type(value)(entries)
    if hasattr(value, "__dict__"):
        vars(new).update(vars(value))
    return new


def _shallow_copy(value: Any) -> Any:
    """A copy of a container; of a class that cannot be copied from its entries alone, or else the container itself."""
    try:
        return copy.copy(value)
    except Exception:  # whatever a class of the user raises, such as one that cannot be written to
        kind: Any = next((kind for kind in _FILLED if _is(value, kind)), None)
    if kind is None:
        return value
    new = kind.__new__(type(value))
    _FILLED[kind](new, value)
    vars(new).update(vars(value))
    return new


_FILLED: dict[type, Callable[[Any, Any], None]] = {dict: dict.update, list: list.extend, set: set.update}
