"""Which part of a batch goes into a network, and which are the targets."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.running.batches import TARGET_KEYS, entry_of

IGNORED = -100
"""The class index that torch's losses leave out, unless they are told another."""


@dataclass(frozen=True)
class Reading:
    """How a batch is read.

    Args:
        positions: How many entries of a tuple or list go in by position; the next, if it is the last, is the target.
            With 0 the batch goes in as it is.
        target: Which entry is the target, where there are several more.
        names: Entries of a mapping, or attributes of an object, that go in by keyword. The target is the entry under
            ``targets``, ``target``, ``labels``, ``label`` or ``y``.
        of_first: Whether the names are those of the first entry of a tuple.
        next_token: Whether outputs at a position are for the target at the next one, as those of language models are.

    Example:
        >>> Reading(positions=1).split((1, 2))
        (1, 2)
        >>> Reading(names=("a", "b")).split({"a": 1, "b": 2, "c": 3, "y": 4})
        ({'a': 1, 'b': 2}, 4)
    """

    positions: int = 0
    target: int | None = None
    names: tuple[str, ...] = ()
    of_first: bool = False
    next_token: bool = False

    def split(self, batch: Any) -> tuple[Any, Any]:
        """What goes into the network, and the targets; ``None`` where there are none."""
        inputs, targets = self._split(batch)
        if self.next_token and isinstance(targets, Tensor):
            targets = torch.cat([targets[:, 1:], torch.full_like(targets[:, :1], IGNORED)], dim=1)
        return inputs, targets

    def _split(self, batch: Any) -> tuple[Any, Any]:
        if self.positions:
            inputs = batch[0] if self.positions == 1 else tuple(batch[: self.positions])
            target = self.positions if len(batch) == self.positions + 1 else self.target
            return self._named(inputs), None if target is None else batch[target]
        return self._named(batch), entry_of(batch, TARGET_KEYS)

    def _named(self, inputs: Any) -> Any:
        if not self.names:
            return inputs
        values = {name: _entry(inputs, name) for name in self.names}
        only = next(iter(values.values()))
        return only if len(values) == 1 and isinstance(only, Tensor) else values

    def call(self, model: nn.Module, inputs: Any) -> Any:
        """The outputs for what :meth:`split` takes from a batch."""
        if self.names:
            return model(**({self.names[0]: inputs} if isinstance(inputs, Tensor) else inputs))
        return model(*inputs) if self.positions > 1 else model(inputs)

    def __str__(self) -> str:
        """The call, as one would write it."""
        if self.names:
            start = "batch[0]" if self.of_first else "batch"
            return f"model({', '.join(f'{name}={start}[{name!r}]' for name in self.names)})"
        if self.positions:
            return f"model({', '.join(f'batch[{i}]' for i in range(self.positions))})"
        return "model(batch)"


def default_reading(batch: Any) -> Reading:
    """How a batch is read where nothing is known of the network: pairs are inputs and targets, all else is inputs.

    Raises:
        MeasureError: If the batch is a tuple or list of more than two.
    """
    if not _is_tuple(batch):
        return Reading()
    if len(batch) in (1, 2):
        return Reading(positions=1)
    raise MeasureError(
        f"needs batches that are a pair (inputs, targets), a mapping or a tensor, got a {type(batch).__name__} of "
        f"length {len(batch)}. Say how the network is run on one with forward=lambda module, batch: ...."
    )


def readings(model: nn.Module, batch: Any) -> Iterator[Reading]:
    """Ways in which a network may take a batch, by the parameters that its ``forward`` names; the likeliest first."""
    parameters = _Parameters(model)
    if isinstance(batch, Tensor):
        yield Reading()
        return
    if _is_tuple(batch):
        count = max(len(parameters.required), 1)
        if batch and len(batch) >= count:
            yield Reading(positions=count)
            for names in parameters.names_in(batch[0]):
                yield Reading(positions=1, names=names, of_first=True)
        yield Reading()
        return
    found = list(parameters.names_in(batch))
    if found and (parameters.required or parameters.takes_any):
        yield from (Reading(names=names) for names in found)
        yield Reading()
        return
    yield Reading()
    yield from (Reading(names=names) for names in found)


class _Parameters:
    """The parameters of a ``forward``."""

    def __init__(self, model: nn.Module) -> None:
        try:
            given = list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):
            given = []
        by_name = [p for p in given if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.required = [p.name for p in by_name if p.default is p.empty]
        self._optional = [p.name for p in by_name if p.default is not p.empty]
        self.takes_any = any(p.kind is p.VAR_KEYWORD for p in given)

    def names_in(self, batch: Any) -> Iterator[tuple[str, ...]]:
        """Names of entries that fit: without targets that are not required, then with them."""
        known = _names(batch)
        if not all(name in known for name in self.required):
            return
        rest = known if self.takes_any else [name for name in self._optional if name in known]
        names = dict.fromkeys([*self.required, *rest])
        without = tuple(n for n in names if n in self.required or n.lower() not in TARGET_KEYS)
        if without:
            yield without
        if len(names) > len(without):
            yield tuple(names)


def _is_tuple(batch: Any) -> bool:
    return isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields")


def _names(batch: Any) -> list[str]:
    if isinstance(batch, Mapping):
        return [key for key in batch if isinstance(key, str)]
    if hasattr(batch, "_fields"):
        return list(batch._fields)
    if isinstance(batch, (Tensor, tuple, list)):
        return []
    keys = getattr(batch, "keys", None)
    found = keys() if callable(keys) else keys
    return (
        list(found) if isinstance(found, (list, tuple)) else [n for n in getattr(batch, "__dict__", {}) if n[0] != "_"]
    )


def _entry(batch: Any, name: str) -> Any:
    return batch[name] if isinstance(batch, Mapping) else getattr(batch, name)
