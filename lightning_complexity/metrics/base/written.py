"""How an object is written in code."""

from __future__ import annotations

import inspect
from typing import Any


def written(thing: object, until: type, *given: str) -> str:
    """The call that makes an object, with the arguments that are not their defaults, as far as attributes keep them.

    Args:
        thing: The object.
        until: The base class from which on arguments are not of interest.
        given: Arguments that come first, as they are written.

    Example:
        >>> class Square:
        ...     def __init__(self, side: int = 1) -> None:
        ...         self.side = side
        >>> written(Square(), object), written(Square(2), object)
        ('Square()', 'Square(side=2)')
    """
    arguments = [
        f"{name}={getattr(thing, name)!r}"
        for name, default in _defaults(type(thing), until).items()
        if hasattr(thing, name) and not _is_same(getattr(thing, name), default)
    ]
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


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(value == default))
