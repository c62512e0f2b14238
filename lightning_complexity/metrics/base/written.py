"""How an object is written in code."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from torch import Tensor


def written(thing: object, until: type, *given: str, without: Collection[str] = ()) -> str:
    """The call that makes an object, with the arguments that are not their defaults, as far as attributes keep them.

    Those of a task, such as ``forward``, may be kept in an attribute ``task``. Functions are shown by their names, and
    tensors by their shapes.

    Args:
        thing: The object.
        until: The base class from which on arguments are not of interest.
        given: Arguments that come first, as they are written.
        without: Names of arguments that these say already.

    Example:
        >>> class Square:
        ...     def __init__(self, side: int = 1) -> None:
        ...         self.side = side
        >>> written(Square(), object), written(Square(2), object)
        ('Square()', 'Square(side=2)')
    """
    defaults = {name: d for name, d in _defaults(type(thing), until).items() if name not in without}
    values = {name: _kept(thing, name, default) for name, default in defaults.items()}
    arguments = [f"{name}={in_code(v)}" for name, v in values.items() if not _is_same(v, defaults[name])]
    return f"{type(thing).__name__}({', '.join([*given, *arguments])})"


def _defaults(cls: type, until: type) -> dict[str, Any]:
    """Of the arguments of all constructors that pass theirs on."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if base is until:
            break
        if "__init__" in base.__dict__:
            parameters = inspect.signature(base.__dict__["__init__"]).parameters.values()
            found = {p.name: p.default for p in parameters if p.default is not p.empty} | found
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return found


def _kept(thing: object, name: str, default: Any) -> Any:
    return getattr(thing, name, getattr(getattr(thing, "task", None), name, default))


def in_code(value: Any) -> str:
    """A value in one line, without addresses and long numbers.

    Example:
        >>> import torch
        >>> in_code([1, torch.zeros(2, 3)]), in_code((len,))
        ('[1, <tensor of shape (2, 3)>]', '(len,)')
    """
    if isinstance(value, Tensor):
        return f"<tensor of shape {tuple(value.shape)}>"
    if inspect.isroutine(value):
        return str(value.__qualname__)
    if type(value) is list:
        return f"[{', '.join(map(in_code, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(in_code, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))
