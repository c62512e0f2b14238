"""The fixed batch that a network is measured on during a run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_complexity.callbacks.base import LightningModule, Trainer, from_rank_zero, move_batch, validating
from lightning_complexity.network import map_tensors, num_samples, observe, split_batch
from lightning_complexity.recording.drawing import DrawingError, draw_samples

ProbeSource = int | tuple[Any, Any] | DataLoader[Any]


class Probe(NamedTuple):
    """Inputs and targets; targets are ``None`` where a batch has none."""

    inputs: Any
    targets: Any


def check_probe(source: ProbeSource) -> None:
    """Raise an error if ``source`` cannot be a probe."""
    if isinstance(source, bool) or not isinstance(source, (int, tuple, DataLoader)):
        raise TypeError(
            "probe must be a number of training samples, a pair (inputs, targets) or a DataLoader, "
            f"got {type(source).__name__}."
        )
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


def first_loader(loaders: Any) -> DataLoader[Any] | None:
    """The only loader, or the first of a list; ``None`` where there is none or it is something else."""
    if isinstance(loaders, (list, tuple)) and loaders:
        return first_loader(loaders[0])
    return loaders if isinstance(loaders, DataLoader) else None


def can_be_indexed(loader: DataLoader[Any]) -> bool:
    """Whether samples can be taken from the loader's dataset without iterating the loader."""
    return not isinstance(loader.dataset, IterableDataset) and loader.batch_size is not None


def draw(loader: DataLoader[Any], count: int | None, trainer: Trainer, module: LightningModule) -> Probe:
    """Take evenly spaced samples of a loader; its dataset stays as it is.

    See :func:`lightning_complexity.recording.draw_samples` for how. Global random states start from a fixed seed
    and are then put back.

    Args:
        loader: With a dataset that can be indexed; of another the first batch is taken.
        count: Number of samples at most; ``None`` for all.
        trainer: Converts the batch and moves it to the device.
        module: Whose transfer hooks are run.

    Raises:
        DrawingError: If no samples could be drawn.
        ValueError: If the dataset is empty.
    """
    with observe(module):
        return _moved(draw_samples(loader, _indices(loader, count)), trainer)


def _indices(loader: DataLoader[Any], count: int | None) -> list[int] | None:
    if not can_be_indexed(loader):
        return None
    candidates = getattr(loader.sampler, "indices", None)
    if candidates is None:
        candidates = range(_length(loader.dataset))
    if len(candidates) == 0:
        raise ValueError("the dataset of the probe is empty; a measure needs at least one sample.")
    return evenly_spaced(candidates, len(candidates) if count is None else count)


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except Exception as error:
        raise DrawingError(f"len(dataset) raised {type(error).__name__}: {error}") from error


def _moved(batch: Any, trainer: Trainer) -> Probe:
    return Probe(*split_batch(move_batch(trainer, batch)))


def first_samples(batch: Any, count: int | None) -> Probe:
    """Copy the first samples, or all, of a batch that is already on the training device."""
    inputs, targets = split_batch(batch)
    return copied(Probe(*(map_tensors(lambda t: t[:count] if t.ndim else t, part) for part in (inputs, targets))))


def training_probe(source: ProbeSource, trainer: Trainer, module: LightningModule, batch: Any) -> Probe:
    """The probe that ``source`` asks for, once training has started: that of rank zero on all ranks, on the CPU.

    Where no samples can be drawn, a warning says so and the first samples of the batch are taken.

    Args:
        source: As a callback was given it, see :func:`check_probe`.
        trainer: Whose training data are taken, where a number of samples is asked for.
        module: Whose transfer hooks are run.
        batch: The first batch, for a dataset that cannot be indexed.
    """
    probe: Probe = from_rank_zero(trainer, lambda: copied(_training_probe(source, trainer, module, batch), "cpu"))
    return probe


def _training_probe(source: ProbeSource, trainer: Trainer, module: LightningModule, batch: Any) -> Probe:
    if isinstance(source, tuple):
        with observe(module):
            return _moved(tuple(copied(Probe(*source))), trainer)
    count = source if isinstance(source, int) else None
    loader = first_loader(trainer.train_dataloader) if isinstance(source, int) else source
    if loader is None or (isinstance(source, int) and not can_be_indexed(loader)):
        return first_samples(batch, count)
    try:
        return draw(loader, count, trainer, module)
    except DrawingError as error:
        warnings.warn(
            "The probe is taken from the first training batch, as no samples could be drawn from the dataset: "
            f"{error} Give the samples themselves, probe=(inputs, targets), to choose them.",
            stacklevel=2,
        )
        return first_samples(batch, count)


def validation_probe(loader: DataLoader[Any], count: int, trainer: Trainer, module: LightningModule) -> Probe:
    """Samples of a validation loader: those of rank zero on all ranks, on the CPU; raises what :func:`draw` does."""

    def drawn() -> Probe:
        with validating(trainer):
            return copied(draw(loader, count, trainer, module), "cpu")

    probe: Probe = from_rank_zero(trainer, drawn)
    return probe


def copied(probe: Probe, device: torch.device | str | None = None) -> Probe:
    """Copy of a probe, on a device."""
    return Probe(*(map_tensors(lambda t: t.detach().to(device or t.device, copy=True), part) for part in probe))
