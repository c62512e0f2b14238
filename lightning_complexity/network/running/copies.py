"""Where objects have their attributes, and copies of what is there, for a run to change in their place."""

from __future__ import annotations

import copy
import io
import itertools
import operator
import random
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_complexity.network.errors import MeasureError

DEPTH = 3
"""How far containers and objects are looked into, from the attribute of a module on."""

IMMUTABLE = (
    *(int, float, complex, bool, str, bytes, range, slice, type, type(None), type(Ellipsis), torch.dtype, torch.device),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, torch.Size),
)
_PLAIN = frozenset(IMMUTABLE)
_SIMPLE = (dict, list, set, deque, tuple)
_CONTAINERS = (dict, list, set, deque, bytearray)
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, itertools.count)
_FILES_IN_MEMORY = (io.StringIO, io.BytesIO)
_COPIED_ITERATORS = tuple(map(type, (iter([]), iter(()), iter(range(0)), iter(""), reversed([]))))
_MANY = 64  # objects, beyond which a copy of them serves several runs
_TOO_MANY = 10_000  # entries of a container, beyond which they are not looked into one by one
_TOO_LARGE = 1_000_000  # entries of an array, beyond which it is not copied

# Objects of these packages are tools around the network, such as trainers, optimizers and loggers.
_TOOLS = frozenset({"torch", "pytorch_lightning", "lightning", "lightning_fabric", "logging", "threading", "weakref"})
_OWN_TOOLS = ("lightning_complexity.callbacks.", "lightning_complexity.recording.")


Namespace = MutableMapping[str, Any]
Memo = dict[int, tuple[Any, Any]]
StandIn = Callable[[Tensor], Tensor]


def is_a(value: Any, kinds: type | tuple[Any, ...]) -> bool:
    """Whether a value is of some kinds, without asking it: proxies may raise an error, or answer for another."""
    return issubclass(type(value), kinds)


def entries_of(container: Any) -> Iterator[Any]:
    """What is in a container; nothing where there is too much to look at one by one."""
    if len(container) > _TOO_MANY:
        return
    yield from container.values() if isinstance(container, dict) else container


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


def namespaces_of(value: Any) -> Iterator[Namespace]:
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


def is_copied(value: Any, depth: int) -> bool:
    """Whether a run works on a copy of an attribute, or on what stands for it."""
    if is_a(value, np.ndarray):
        return value.size <= _TOO_LARGE
    return (
        is_a(value, (Tensor, torch.Generator, *_GENERATORS))
        or (depth > 0 and is_a(value, (*_CONTAINERS, tuple)))
        or is_a(value, (io.IOBase, *_COPIED_ITERATORS))
        or _is_used_up(value)
    )


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
    return io.StringIO() if is_a(file, io.TextIOBase) else io.BytesIO()


def _is_used_up(value: Any) -> bool:
    """Whether it is an iterator that cannot be copied: asked for its next, it has one less."""
    if not hasattr(type(value), "__next__") or is_a(value, (*_GENERATORS, *_COPIED_ITERATORS, nn.Module, io.IOBase)):
        return False
    return next(namespaces_of(value), None) is None


def copied(value: Any, depth: int, memo: Memo, stand_in: StandIn) -> Any:
    """A copy of what can be written to, once for each object; anything else as it is."""
    if type(value) in _PLAIN or is_a(value, IMMUTABLE):
        return value
    if id(value) not in memo:
        memo[id(value)] = value, _copy_of(value, depth, memo, stand_in)
    return memo[id(value)][1]


def _copy_of(value: Any, depth: int, memo: Memo, stand_in: StandIn) -> Any:
    if is_a(value, Tensor):
        return stand_in(value)
    if is_a(value, torch.Generator):
        return value.clone_state()
    if is_a(value, np.ndarray):
        return value.copy() if value.size <= _TOO_LARGE else value
    if type(value) in _COPIED_ITERATORS:
        return copy.copy(value)
    if is_a(value, io.IOBase) and not is_a(value, _FILES_IN_MEMORY):
        return _nowhere(value)
    if is_a(value, (*_GENERATORS, *_FILES_IN_MEMORY)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # copies of counters, from Python 3.12 on
            return copy.deepcopy(value)
    if depth > 0 and is_a(value, (*_CONTAINERS, tuple)):
        return _container_copy(value, lambda entry: copied(entry, depth - 1, memo, stand_in))
    return _Unasked(value) if _is_used_up(value) else value


class LargeCopy:
    """A copy of containers with many tensors, which takes long to make, and how it was made.

    Args:
        made: The copy.
        memo: Originals and copies of all that is in it.
    """

    def __init__(self, made: Any, memo: Memo) -> None:
        self.made, self.memo = made, memo
        copies = [new for old, new in memo.values() if new is not old]
        self._tensors = [new for new in copies if is_a(new, Tensor)]
        self._addresses = list(map(_address, self._tensors))
        self._entries = [(new, _parts(new)) for new in copies if not is_a(new, (Tensor, tuple))]

    @staticmethod
    def is_worth_keeping(memo: Memo, tensors: Mapping[int, Tensor]) -> bool:
        """Whether it has much, the same in each run, and writing shows: in containers, and tensors that share memory.

        What stands for ``tensors``, and for views of them, is another in each run.
        """
        if len(memo) <= _MANY or _address is None:
            return False
        originals = [old for old, _ in memo.values() if is_a(old, Tensor)]
        if any(id(t) in tensors or id(t._base) in tensors for t in originals):
            return False
        changeable = [(old, new) for old, new in memo.values() if new is not old]
        return all(_shares_memory(old, new) if is_a(new, Tensor) else is_a(new, _SIMPLE) for old, new in changeable)

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
        kind: Any = next((kind for kind in _FILLED if is_a(value, kind)), None)
    if kind is None:
        return value
    new = kind.__new__(type(value))
    _FILLED[kind](new, value)
    vars(new).update(vars(value))
    return new


_FILLED: dict[type, Callable[[Any, Any], None]] = {dict: dict.update, list: list.extend, set: set.update}
