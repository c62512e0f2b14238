"""Batches of data: what is input, what is target, how many samples, which of them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

TARGET_KEYS = ("targets", "target", "labels", "label", "y")


def map_tensors(function: Callable[[Tensor], Tensor], data: Any) -> Any:
    """Apply ``function`` to every tensor in nested mappings, tuples, lists and dataclasses.

    Args:
        function: Takes and returns a tensor.
        data: A tensor, or containers of tensors and other objects.

    Returns:
        The same structure; what is not a tensor is passed on as it is.

    Example:
        >>> import torch
        >>> map_tensors(lambda t: t + 1, {"x": torch.tensor([1, 2]), "name": "a"})
        {'x': tensor([2, 3]), 'name': 'a'}
    """
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, Mapping):
        return _same_mapping(data, {key: map_tensors(function, value) for key, value in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(map_tensors(function, value) for value in data))
    if isinstance(data, (tuple, list)):
        return type(data)(map_tensors(function, value) for value in data)
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        new = copy.copy(data)
        for field in dataclasses.fields(data):
            # Also where the class is frozen.
            object.__setattr__(new, field.name, map_tensors(function, getattr(data, field.name)))
        return new
    return data


def _same_mapping(data: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    if type(data) is dict:
        return entries
    new: Any = copy.copy(data)
    try:
        for key, value in entries.items():
            new[key] = value
    except TypeError:  # cannot be written to
        return entries
    return new


def tensors_in(data: Any) -> list[Tensor]:
    """All tensors in nested mappings, tuples, lists and dataclasses, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, data)
    return found


def num_samples(data: Any) -> int:
    """Number of samples: the length of the first dimension of the tensors in ``data``.

    Raises:
        ValueError: If there is no tensor with a first dimension, or the lengths differ.
    """
    lengths = {t.shape[0] for t in tensors_in(data) if t.ndim > 0}
    if len(lengths) != 1:
        raise ValueError(
            "inputs and targets must be tensors whose first dimension counts the same samples, "
            f"got lengths {sorted(lengths) or 'of no tensor'}."
        )
    return lengths.pop()


def chunks(data: Any, chunk_size: int) -> Iterator[Any]:
    """Cut ``data`` along the first dimension into parts of at most ``chunk_size`` samples."""
    for start in range(0, num_samples(data), chunk_size):
        part = slice(start, start + chunk_size)
        yield map_tensors(lambda t, part=part: t[part] if t.ndim else t, data)  # type: ignore[misc]


def joined(parts: list[Any]) -> Any:
    """Join what the parts of a batch gave, tensor by tensor along the first dimension."""
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(tensors_in(part) for part in parts), strict=True)
    whole = iter([torch.cat(column) for column in columns])
    return map_tensors(lambda _: next(whole), parts[0])


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Split a batch, as a ``DataLoader`` gives it, into inputs and targets.

    A pair is ``(inputs, targets)``. A mapping is the input as a whole, since a ``forward`` that takes
    mappings takes them so; its targets are found under the first of ``TARGET_KEYS`` that it has.
    A tensor, or a list of one, has no targets.

    Args:
        batch: What the loader yields.

    Returns:
        Inputs and targets; targets are ``None`` where there are none.

    Raises:
        TypeError: If the batch has another form.

    Example:
        >>> import torch
        >>> split_batch([torch.zeros(2, 3), torch.tensor([0, 1])])[1]
        tensor([0, 1])
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        return batch, next((batch[key] for key in TARGET_KEYS if key in batch), None)
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return batch[0], None
    size = f" of length {len(batch)}" if isinstance(batch, (tuple, list)) else ""
    raise TypeError(
        "a batch must be a pair (inputs, targets), a mapping or a tensor, "
        f"got {type(batch).__name__}{size}. Pass inputs and targets yourself: probe=(inputs, targets)."
    )
