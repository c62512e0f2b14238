"""Quantities of a snapshot that are computed once, however many measures ask."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from lightning_complexity.network.snapshot import Snapshot

P = ParamSpec("P")
Result = TypeVar("Result")
_NOT_IN_KEY = "warm_start"  # it changes what a quantity costs, not what it is


class Shared(Generic[P, Result]):
    """A function of a snapshot that is computed once, see :func:`shared`."""

    def __init__(self, function: Callable[Concatenate[Snapshot, P], Result]) -> None:
        self._function, self._signature = function, inspect.signature(function)
        update_wrapper(self, function)

    def _key(self, snapshot: Snapshot, *args: Any, **kwargs: Any) -> Hashable:
        bound = self._signature.bind(snapshot, *args, **kwargs)
        bound.apply_defaults()
        _, *arguments = bound.arguments.items()
        return (self._function, *((name, value) for name, value in arguments if name != _NOT_IN_KEY))

    def __call__(self, snapshot: Snapshot, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Compute it, or recall what was computed."""
        key = self._key(snapshot, *args, **kwargs)
        return snapshot.remember(key, lambda: self._function(snapshot, *args, **kwargs))

    def is_known(self, snapshot: Snapshot, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether it was computed already."""
        return snapshot.remembers(self._key(snapshot, *args, **kwargs))

    def note(self, snapshot: Snapshot, result: Result) -> None:
        """Keep the result, for the default arguments, that came with something else."""
        snapshot.remember(self._key(snapshot), lambda: result)


def shared(function: Callable[Concatenate[Snapshot, P], Result]) -> Shared[P, Result]:
    """Compute a function of a snapshot once for equal arguments, however many measures ask.

    The other arguments must be hashable, but for one named ``warm_start``, which is not compared.

    Example:
        >>> @shared
        ... def largest_output(snapshot):
        ...     print("computed")
        ...     return snapshot.run(lambda model: model(snapshot.inputs)).max()
        >>> import torch
        >>> snapshot = Snapshot(torch.nn.Identity(), torch.ones(2, 3))
        >>> largest_output(snapshot), largest_output(snapshot)
        computed
        (tensor(1.), tensor(1.))
    """
    return Shared(function)
