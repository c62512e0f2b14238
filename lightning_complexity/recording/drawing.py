"""Take samples from a loader's dataset, and leave the dataset as it is."""

from __future__ import annotations

import copy
import os
import pickle
import random
import select
import signal
import stat
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset, default_collate
from torch.utils.data._utils import worker

from lightning_complexity.network.running.batches import Batches, batch_size, can_be_cut, num_samples

_PATIENCE = 120.0  # seconds without a sample, after which a process counts as stuck
_LARGE = 2**20  # bytes
_READ_SIZE = 2**20


class DrawingError(RuntimeError):
    """Samples could not be drawn from a dataset; the message says why in one line."""


def draw_samples(loader: Any, indices: list[int] | None, count: int | None = None) -> Batches:
    """Take samples from a loader's dataset, without iterating the loader and without a trace in the dataset.

    The samples are drawn

    1. from the dataset itself, where that can only read: tensors, and subsets and concatenations of them, with
       torch's own ``collate_fn``;
    2. on Linux, in a forked process, as the workers of a ``DataLoader`` are. Generators, counters, caches, iterators
       and files that the dataset opens change in that process only; files that are open already are opened a
       second time there, so that positions in them are not shared. ``worker_init_fn`` runs if the loader has workers;
    3. elsewhere, or where the dataset holds what a forked process cannot use (CUDA tensors), from a deep copy.
       Arrays above 1 MiB and memory maps are not copied but shared. State outside the dataset's objects, such as
       a generator in a module or in a closure, is not copied.

    State in shared memory, and files that the dataset writes to, are outside of any of these. The global random
    states of Python, NumPy and torch start from a fixed seed, and the caller must put them back.

    Args:
        loader: Whose ``dataset`` and ``collate_fn`` are used; without indices anything that gives batches.
        indices: Of the samples; ``None`` takes the first batches that the loader would give.
        count: How many samples to take batches for, where there are no indices; ``None`` for all.

    Returns:
        What ``collate_fn`` makes of the samples: of all at once where that can be cut into samples again, else in
        batches of the loader's size.

    Raises:
        DrawingError: If the dataset raises an error, or cannot be isolated.

    Example:
        >>> dataset = TensorDataset(torch.arange(6))
        >>> draw_samples(DataLoader(dataset), [0, 5]).batches
        ([tensor([0, 5])],)
    """
    if indices is not None and loader.collate_fn is default_collate and _only_reads(loader.dataset):
        return _taken(loader, indices, count)
    if sys.platform != "linux":
        return _from_copy(loader, indices, count)
    in_worker = isinstance(loader, DataLoader) and loader.num_workers > 0
    try:
        return _in_forked_process(lambda tick: _taken(loader, indices, count, in_worker=in_worker, tick=tick))
    except _CannotIsolateError:
        return _from_copy(loader, indices, count)


class _CannotIsolateError(DrawingError):
    """A forked process cannot draw from this dataset."""


def _only_reads(dataset: Any) -> bool:
    if type(dataset) is Subset:
        return _only_reads(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(map(_only_reads, dataset.datasets))
    return type(dataset) is TensorDataset


def _taken(
    loader: Any,
    indices: list[int] | None,
    count: int | None,
    *,
    in_worker: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Batches:
    """Samples as a loader without workers takes them; ``tick`` is called after each."""
    dataset: Any = getattr(loader, "dataset", None)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the state users' augmentations draw from)
    torch.default_generator.manual_seed(0)
    if in_worker:
        worker._worker_info = worker.WorkerInfo(id=0, num_workers=loader.num_workers, seed=0, dataset=dataset)
        if loader.worker_init_fn is not None:
            loader.worker_init_fn(0)
    if indices is None:
        return _first_batches(loader, count, tick)
    if getattr(dataset, "__getitems__", None):
        return _collated(loader, dataset.__getitems__(indices))
    samples = []
    for index in indices:
        samples.append(dataset[index])
        tick()
    return _collated(loader, samples)


def _first_batches(loader: Any, count: int | None, tick: Callable[[], None]) -> Batches:
    batches: list[Any] = []
    sizes: list[int] = []
    for batch in _without_workers(loader):
        batches.append(batch)
        sizes.append(batch_size(batch))
        tick()
        if count is not None and sum(sizes) >= count:
            break
    return Batches(tuple(batches), tuple(sizes))


def _collated(loader: DataLoader[Any], samples: list[Any]) -> Batches:
    size = loader.batch_size or len(samples)
    first = loader.collate_fn(samples[:size])
    if len(samples) <= size:
        return Batches((first,), (len(samples),), size)
    if can_be_cut(first):
        whole = _all_at_once(loader, samples)
        if whole is not None:
            return Batches((whole,), (len(samples),), size)
    parts = [samples[start : start + size] for start in range(0, len(samples), size)]
    batches = (first, *(loader.collate_fn(part) for part in parts[1:]))
    return Batches(batches, tuple(map(len, parts)), size)


def _all_at_once(loader: DataLoader[Any], samples: list[Any]) -> Any | None:
    """One batch of all samples, where they fit into one."""
    try:
        whole = loader.collate_fn(samples)
    except Exception:  # of batches of other sizes only
        return None
    return whole if can_be_cut(whole) and num_samples(whole) == len(samples) else None


def _without_workers(loader: Any) -> Iterable[Any]:
    if not isinstance(loader, DataLoader):
        return loader  # anything else that gives batches
    options: dict[str, Any]
    if isinstance(loader.dataset, IterableDataset):
        options = {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    elif loader.batch_sampler is not None:
        options = {"batch_sampler": loader.batch_sampler}
    else:
        options = {"batch_size": None, "sampler": loader.sampler}
    return DataLoader(loader.dataset, collate_fn=loader.collate_fn, generator=loader.generator, **options)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


# In a forked process ------------------------------------------------------------------------------


def _in_forked_process(function: Callable[[Callable[[], None]], Any]) -> Any:
    """What a function returns, computed in a copy of this process that ends with it."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads; the copy uses none of them
        child = os.fork()
    if child == 0:
        _run_and_exit(function, writing)
    os.close(writing)
    try:
        answer = _received(reading)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not answer:
        raise _CannotIsolateError("the process that drew samples ended without an answer or gave no sign of life.")
    try:
        error, samples = pickle.loads(answer)
    except Exception as failure:
        raise _CannotIsolateError(_one_line(failure)) from failure
    if error is None:
        return samples
    raise (_CannotIsolateError if error.isolation else DrawingError)(error.message)


class _Failure:
    """Why a forked process has no samples, and whether that is because it is one."""

    def __init__(self, error: BaseException, *, isolation: bool) -> None:
        self.message, self.isolation = _one_line(error), isolation or "CUDA" in str(error)


def _run_and_exit(function: Callable[[Callable[[], None]], Any], writing: int) -> None:
    """Run in the forked process, write the answer, and end without the parent's clean-up."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(1)  # the threads of the parent do not exist here
        _write(writing, _answer(function, lambda: _write(writing, b".")))
    finally:
        os._exit(0)


def _answer(function: Callable[[Callable[[], None]], Any], tick: Callable[[], None]) -> bytes:
    try:
        _separate_open_files()
    except OSError as error:
        return pickle.dumps((_Failure(error, isolation=True), None))
    try:
        samples = function(tick)
    except BaseException as error:
        return pickle.dumps((_Failure(error, isolation=False), None))
    try:
        return pickle.dumps((None, samples), protocol=5)
    except Exception as error:
        return pickle.dumps((_Failure(error, isolation=True), None))


def _separate_open_files() -> None:
    """Open all files that can be read a second time, so that the parent's positions in them stay as they are."""
    import fcntl

    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        try:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        except OSError:  # that of the listing itself
            continue
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND)
        is_standard_stream = descriptor <= 2
        if is_file and not is_standard_stream and mode & os.O_ACCMODE != os.O_WRONLY:
            position = os.lseek(descriptor, 0, os.SEEK_CUR)
            again = os.open(f"/proc/self/fd/{descriptor}", mode)
            os.lseek(again, position, os.SEEK_SET)
            os.dup2(again, descriptor)
            os.close(again)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _received(descriptor: int) -> bytes:
    """All that is written to a pipe, without the signs of life before it; nothing if those stop coming."""
    parts: list[bytes] = []
    while select.select([descriptor], [], [], _PATIENCE)[0]:
        part = os.read(descriptor, _READ_SIZE)
        if not part:
            return b"".join(parts).lstrip(b".")
        parts.append(part)
    return b""


# From a copy --------------------------------------------------------------------------------------


def _from_copy(loader: Any, indices: list[int] | None, count: int | None) -> Batches:
    try:
        twin = _twin(loader)
    except Exception as error:
        raise DrawingError(f"the dataset cannot be copied. {_one_line(error)}") from error
    try:
        return _taken(twin, indices, count)
    except Exception as error:
        raise DrawingError(_one_line(error)) from error


def _twin(loader: Any) -> Any:
    """A loader of a copy of the dataset."""
    if not isinstance(loader, DataLoader):
        return copy.deepcopy(loader, _large_arrays(loader))
    parts = {name: getattr(loader, name) for name in ("dataset", "collate_fn", "sampler", "batch_sampler", "generator")}
    parts = copy.deepcopy(parts, _large_arrays(parts))
    twin = copy.copy(loader)
    for name, part in parts.items():
        object.__setattr__(twin, name, part)
    return twin


def _large_arrays(root: Any) -> dict[int, Any]:
    """A memo for ``deepcopy`` in which large arrays and memory maps stand for themselves."""
    memo: dict[int, Any] = {}
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, (Tensor, np.ndarray)):
            if isinstance(value, np.memmap) or value.nbytes > _LARGE:
                memo[id(value)] = value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            waiting.extend(value)
        else:
            waiting.append(getattr(value, "__dict__", {}))
    return memo
