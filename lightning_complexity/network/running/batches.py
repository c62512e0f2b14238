"""Batches of data: what is input, what is target, how many samples, which of them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_complexity.network.running.memory import lazily_cloned

TARGET_KEYS = ("targets", "target", "labels", "label", "y")
_PLAIN = (str, bytes, int, float, bool, type(None))


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches as a loader gives them, each of which a network runs on as it is.

    Attributes:
        batches: Anything: tensors, containers, graphs, objects.
        sizes: Number of samples in each.
        at_once: How many samples of a batch that can be cut a loss is given at once; ``None`` for all.

    Example:
        >>> import torch
        >>> batches = Batches((torch.zeros(5, 2),), (5,), at_once=2)
        >>> [len(batch) for batch, _ in batches.pieces()]
        [2, 3]
    """

    batches: tuple[Any, ...]
    sizes: tuple[int, ...]
    at_once: int | None = None

    @classmethod
    def of(cls, batch: Any) -> Batches:
        """One batch."""
        return cls((batch,), (batch_size(batch),))

    @property
    def num_samples(self) -> int:
        """Number of samples in all of them."""
        return sum(self.sizes)

    def pieces(self) -> Iterator[tuple[Any, int]]:
        """What a loss is given at once, and how many samples that is; a single sample that is left joins the others.

        Normalization over a batch is not defined for one sample.
        """
        for batch, size in zip(self.batches, self.sizes, strict=True):
            if self.at_once is None or size <= self.at_once or not can_be_cut(batch):
                yield batch, size
                continue
            starts = list(range(0, size, self.at_once))
            if size - starts[-1] == 1 < self.at_once:
                starts.pop()
            for start, end in zip(starts, [*starts[1:], size], strict=True):
                yield _cut(batch, start, end), end - start

    def single(self) -> Iterator[Batches]:
        """Each of them alone."""
        for batch, size in zip(self.batches, self.sizes, strict=True):
            yield Batches((batch,), (size,), self.at_once)


def map_tensors(function: Callable[[Tensor], Tensor], data: Any) -> Any:
    """Apply ``function`` to every tensor in nested mappings, tuples, lists, dataclasses and objects with ``logits``.

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
    return _map_leaves(function, lambda other: other, data)


def _map_leaves(of_tensor: Callable[[Tensor], Tensor], of_other: Callable[[Any], Any], data: Any) -> Any:
    if isinstance(data, Tensor):
        return of_tensor(data)
    if isinstance(data, Mapping):
        return _same_mapping(data, {key: _map_leaves(of_tensor, of_other, value) for key, value in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(_map_leaves(of_tensor, of_other, value) for value in data))
    if isinstance(data, (tuple, list)):
        return type(data)(_map_leaves(of_tensor, of_other, value) for value in data)
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        new = copy.copy(data)
        for field in dataclasses.fields(data):
            # Also where the class is frozen.
            object.__setattr__(new, field.name, _map_leaves(of_tensor, of_other, getattr(data, field.name)))
        return new
    if isinstance(getattr(data, "__dict__", {}).get("logits"), Tensor):
        new = copy.copy(data)
        new.__dict__.update({k: _map_leaves(of_tensor, of_other, value) for k, value in vars(data).items()})
        return new
    return of_other(data)


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


def can_be_cut(data: Any) -> bool:
    """Whether a batch can be cut into samples: all that it holds are tensors of one length, and single values.

    Example:
        >>> import torch
        >>> can_be_cut({"x": torch.zeros(2, 3), "y": torch.zeros(2)}), can_be_cut({"x": torch.zeros(2), "text": ["a"]})
        (True, False)
    """
    lengths: set[int] = set()
    return _only_tensors(data, lengths) and len(lengths) == 1


def _only_tensors(data: Any, lengths: set[int]) -> bool:
    if isinstance(data, Tensor):
        lengths.update(data.shape[:1])
        return data.layout == torch.strided and not data.is_nested
    if isinstance(data, _PLAIN):
        return True
    if isinstance(data, Mapping):
        entries = list(data.values())
    elif isinstance(data, (tuple, list)):
        if data and not any(tensors_in(entry) for entry in data):
            return False  # one entry for each sample, perhaps
        entries = list(data)
    elif dataclasses.is_dataclass(data) and not isinstance(data, type):
        entries = [getattr(data, field.name) for field in dataclasses.fields(data)]
    else:
        return False
    return all(_only_tensors(entry, lengths) for entry in entries)


def batch_size(batch: Any) -> int:
    """Number of samples in a batch of any kind, as nearly as can be told.

    That is the length of its tensors if they have one; else what it says of itself (``num_graphs``, ``batch_size``),
    the length of its targets, the length that most of its tensors have, or 1.
    """
    lengths = [t.shape[0] for t in tensors_in(batch) if t.ndim > 0]
    if len(set(lengths)) == 1:
        return lengths[0]
    for entry in (batch, *(batch if isinstance(batch, (tuple, list)) else ())):
        for name in ("num_graphs", "batch_size"):
            said = getattr(entry, name, None)
            if isinstance(said, int) and not isinstance(said, bool):
                return said
    target = entry_of(batch, TARGET_KEYS)
    if isinstance(target, Tensor) and target.ndim > 0:
        return len(target)
    return max(lengths, key=lengths.count) if lengths else 1


def entry_of(batch: Any, names: Sequence[str]) -> Any:
    """The first entry of a mapping, or attribute of an object, that has one of some names, in any case; or ``None``."""
    if isinstance(batch, Mapping):
        entries = {key.lower(): value for key, value in batch.items() if isinstance(key, str)}
    elif isinstance(batch, tuple) and hasattr(batch, "_fields"):
        entries = {name.lower(): getattr(batch, name) for name in batch._fields}
    elif isinstance(batch, (Tensor, tuple, list, *_PLAIN)):
        return None
    else:
        return next((v for v in (getattr(batch, name, None) for name in names) if v is not None), None)
    return next((entries[name] for name in names if entries.get(name) is not None), None)


def owned(data: Any) -> Any:
    """A batch that may be written to: tensors share memory until they are, objects of other kinds are copied."""
    if isinstance(data, _PLAIN):
        return data
    if isinstance(data, (Tensor, Mapping, tuple, list)) or (
        dataclasses.is_dataclass(data) and not isinstance(data, type)
    ):
        return _map_leaves(lazily_cloned, copied, data)
    return copied(data)


class _WithoutHistory(TorchFunctionMode):
    """Lets ``deepcopy`` copy tensors that were computed, which have a gradient graph, as plain ones."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach().clone())


def copied(data: Any, memo: dict[int, Any] | None = None) -> Any:
    """A deep copy, also of what was computed with gradients, such as the output of a frozen encoder in a batch.

    Args:
        data: Anything.
        memo: By ``id``, what stands for objects in the copy.
    """
    with _WithoutHistory():
        return copy.deepcopy(data, memo)


def num_samples(data: Any) -> int:
    """Number of samples: the length of the first dimension of the tensors in ``data``.

    Raises:
        ValueError: If there is no tensor with a first dimension, or the lengths differ.
    """
    if isinstance(data, Batches):
        return data.num_samples
    lengths = {t.shape[0] for t in tensors_in(data) if t.ndim > 0}
    if len(lengths) != 1:
        raise ValueError(
            "inputs and targets must be tensors whose first dimension counts the same samples, "
            f"got lengths {sorted(lengths) or 'of no tensor'}."
        )
    return lengths.pop()


def chunks(data: Any, chunk_size: int) -> Iterator[Any]:
    """Cut ``data`` along the first dimension into parts of at most ``chunk_size`` samples; batches are not cut."""
    if isinstance(data, Batches):
        yield from data.single()
        return
    for start in range(0, num_samples(data), chunk_size):
        yield _cut(data, start, start + chunk_size)


def _cut(data: Any, start: int, end: int) -> Any:
    return map_tensors(lambda t: t[start:end] if t.ndim else t, data)


def joined(parts: Sequence[Any]) -> Any:
    """Join what the parts of a batch gave, tensor by tensor along the first dimension.

    Raises:
        ValueError: If the tensors of different parts do not fit.
    """
    if len(parts) == 1:
        return parts[0]
    columns = list(zip(*(tensors_in(part) for part in parts), strict=True))
    for column in columns:
        shapes = {tuple(t.shape[1:]) for t in column}
        if len(shapes) > 1:
            raise ValueError(f"tensors of the shapes {sorted(shapes)} a sample cannot be joined.")
    whole = iter([torch.cat(column) if column[0].ndim else torch.stack(column) for column in columns])
    return map_tensors(lambda _: next(whole), parts[0])


def joined_if_possible(parts: Sequence[Any]) -> Any | None:
    """Batches as one, where all can be cut and their shapes fit; ``None`` elsewhere."""
    if len(parts) > 1 and not all(map(can_be_cut, parts)):
        return None
    try:
        return joined(parts)
    except ValueError:
        return None
