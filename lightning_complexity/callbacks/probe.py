"""The fixed batch that a network is measured on during a run."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from lightning_complexity.callbacks.base import LightningModule, Trainer, from_rank_zero, move_batch, validating
from lightning_complexity.network import Batches, Task, map_tensors, num_samples, observe
from lightning_complexity.network.running.batches import batch_size, can_be_cut, chunks, tensors_in
from lightning_complexity.network.running.state import PythonState
from lightning_complexity.recording.drawing import DrawingError, draw_samples

ProbeSource = int | tuple[Any, Any] | list[Any] | DataLoader[Any]
KEPT_BYTES = 2**20
"""How large a probe may be to be kept in checkpoints; a larger one is drawn again."""


class Probe(NamedTuple):
    """Batches, and how a network is run and judged on them."""

    batches: Batches
    task: Task

    @property
    def inputs(self) -> Any:
        """What the network is called with."""
        return self.task.read(self.batches).inputs

    @property
    def targets(self) -> Any:
        """The targets; ``None`` where there are none."""
        return self.task.read(self.batches).targets


def check_probe(source: ProbeSource) -> None:
    """Raise an error if ``source`` cannot be a probe."""
    if isinstance(source, bool) or not isinstance(source, (int, tuple, list, DataLoader)):
        raise TypeError(
            "probe must be a number of training samples, a pair (inputs, targets), a list of batches or a DataLoader, "
            f"got {type(source).__name__}."
        )
    if isinstance(source, list) and not source:
        raise ValueError("probe is an empty list; give it at least one batch.")
    if isinstance(source, int) and source < 1:
        raise ValueError(f"probe must be at least 1 sample, got {source}.")
    if isinstance(source, tuple):
        if len(source) != 2:
            raise ValueError(f"probe must be a pair (inputs, targets), got a tuple of length {len(source)}.")
        if num_samples(source) == 0:
            raise ValueError("probe has no samples; give it at least one.")


def evenly_spaced(candidates: Sequence[int], count: int) -> list[int]:
    """Choose ``count`` of ``candidates``, evenly spaced from the first to the last; all if there are fewer.

    Example:
        >>> evenly_spaced(range(10), 4)
        [0, 3, 6, 9]
    """
    if count >= len(candidates):
        return list(candidates)
    return [int(candidates[round(i)]) for i in np.linspace(0, len(candidates) - 1, count)]


def first_loader(loaders: Any) -> Any:
    """The only loader, or the first of a list or mapping; ``None`` where there is none."""
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, (list, tuple)):
        return first_loader(loaders[0]) if loaders else None
    return loaders


def can_be_indexed(loader: Any) -> bool:
    """Whether samples can be taken from the loader's dataset without iterating the loader."""
    is_known = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    return is_known and loader.batch_size is not None


def draw(
    loader: Any, count: int | None, trainer: Trainer, module: LightningModule, limit: int | None = None
) -> Batches:
    """Take evenly spaced samples of a loader, or its first batches; its dataset stays as it is.

    See :func:`lightning_complexity.recording.draw_samples` for how. Global random states start from a fixed seed
    and are then put back.

    Args:
        loader: Of a dataset that cannot be indexed, or with a batch sampler, the first batches are taken.
        count: Number of samples at most; ``None`` for all, and for the first batch of a stream.
        trainer: Converts the batches and moves them to the device.
        module: Whose transfer hooks are run.
        limit: How many batches of the loader are used, where not all of them.

    Raises:
        DrawingError: If no samples could be drawn.
        ValueError: If the dataset is empty.
    """
    with unchanged(module, trainer):
        indices = _indices(loader, count, limit)
        drawn = draw_samples(loader, indices, 1 if count is None and _is_a_stream(loader) else count)
        if not drawn.batches:
            raise ValueError("the dataset of the probe is empty; a measure needs at least one sample.")
        return _moved(drawn, trainer)


def _indices(loader: Any, count: int | None, limit: int | None) -> list[int] | None:
    if not can_be_indexed(loader):
        return None
    candidates = getattr(loader.sampler, "indices", None)
    if candidates is None:
        candidates = range(_length(loader.dataset))
        if limit is not None and isinstance(loader.sampler, SequentialSampler):
            candidates = candidates[: limit * (loader.batch_size or 1)]  # the rest is never seen
    if len(candidates) == 0:
        raise ValueError("the dataset of the probe is empty; a measure needs at least one sample.")
    return evenly_spaced(candidates, len(candidates) if count is None else count)


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except Exception as error:
        raise DrawingError(f"len(dataset) raised {type(error).__name__}: {error}") from error


@contextmanager
def unchanged(module: LightningModule, trainer: Trainer | None = None) -> Iterator[None]:
    """Let hooks of the module, and of the trainer's data module, run inside, and put back what they change.

    The parameters are the real ones, which hooks do not write to.
    """
    as_they_are = nn.Parameter, UninitializedBuffer
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers()) if isinstance(t, as_they_are)}
    with observe(module), PythonState(module, [getattr(trainer, "datamodule", None)]).replaced(tensors):
        yield


def _moved(drawn: Batches, trainer: Trainer) -> Batches:
    return dataclasses.replace(drawn, batches=tuple(move_batch(trainer, batch) for batch in drawn.batches))


def first_samples(batch: Any, count: int | None) -> Batches:
    """Copy the first samples of a batch that is already on the training device, or all where it cannot be cut."""
    if count is not None and can_be_cut(batch) and num_samples(batch) > count:
        batch = next(chunks(batch, count))
    return copied(Batches.of(batch))


def training_probe(source: ProbeSource, trainer: Trainer, module: LightningModule, batch: Any) -> Batches:
    """The probe that ``source`` asks for, once training has started: that of rank zero on all ranks, on the CPU.

    Where no samples can be drawn, a warning says so and the first samples of the batch are taken.

    Args:
        source: As a callback was given it, see :func:`check_probe`.
        trainer: Whose training data are taken, where a number of samples is asked for.
        module: Whose transfer hooks are run.
        batch: The first batch, for a dataset that cannot be indexed.
    """
    probe: Batches = from_rank_zero(trainer, lambda: copied(_training_probe(source, trainer, module, batch), "cpu"))
    return probe


def _training_probe(source: ProbeSource, trainer: Trainer, module: LightningModule, batch: Any) -> Batches:
    if isinstance(source, (tuple, list)):
        batches = [source] if isinstance(source, tuple) else source
        given = Batches(tuple(batches), tuple(batch_size(b) for b in batches))
        with unchanged(module, trainer):
            return _moved(copied(given), trainer)
    count = source if isinstance(source, int) else None
    loader = _only_loader(trainer) if isinstance(source, int) else source
    if loader is None or (isinstance(source, int) and _is_a_stream(loader)):
        return first_samples(batch, count)
    limit = trainer.num_training_batches if isinstance(source, int) else None
    try:
        return draw(loader, count, trainer, module, limit if isinstance(limit, int) else None)
    except DrawingError as error:
        warnings.warn(
            "The probe is taken from the first training batch, as no samples could be drawn from the dataset: "
            f"{error} Give the samples themselves, probe=(inputs, targets), to choose them.",
            stacklevel=2,
        )
        return first_samples(batch, count)


def _only_loader(trainer: Trainer) -> Any:
    """The training loader; ``None`` where there are several, whose batches come together."""
    loaders = trainer.train_dataloader
    return None if isinstance(loaders, (list, tuple, Mapping)) else loaders


def _is_a_stream(loader: Any) -> bool:
    """Whether nothing but a pass through the data gives samples."""
    return not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset)


def validation_probe(loader: Any, count: int, trainer: Trainer, module: LightningModule) -> Batches:
    """Samples of a validation loader: those of rank zero on all ranks, on the CPU; raises what :func:`draw` does."""

    def drawn() -> Batches:
        limit = next(iter(trainer.num_val_batches), None)
        with validating(trainer):
            return copied(draw(loader, count, trainer, module, limit if isinstance(limit, int) else None), "cpu")

    probe: Batches = from_rank_zero(trainer, drawn)
    return probe


def copied(batches: Batches, device: torch.device | str | None = None) -> Batches:
    """Copy of batches, on a device; what is no tensor in them stays as it is."""
    copies: Batches = map_tensors(lambda t: t.detach().to(device or t.device, copy=True), batches)
    return copies


def kept(batches: Batches | None) -> dict[str, Any] | None:
    """Batches for a checkpoint: ``None`` where they are large, or hold what cannot be loaded without its package."""
    if batches is None or not all(map(_is_plain, batches.batches)):
        return None
    if sum(t.nbytes for t in tensors_in(batches)) > KEPT_BYTES:
        return None
    on_cpu = copied(batches, "cpu")
    return {"batches": list(on_cpu.batches), "sizes": list(on_cpu.sizes), "at_once": on_cpu.at_once}


def from_checkpoint(state: dict[str, Any] | None) -> Batches | None:
    """What :func:`kept` kept."""
    return None if state is None else Batches(tuple(state["batches"]), tuple(state["sizes"]), state["at_once"])


def _is_plain(data: Any) -> bool:
    if type(data) is dict:
        return all(isinstance(key, (str, int)) and _is_plain(value) for key, value in data.items())
    if type(data) in (list, tuple):
        return all(map(_is_plain, data))
    return type(data) is Tensor or data is None or type(data) in (str, int, float, bool)
