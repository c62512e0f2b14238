"""The fixed batch that a network is measured on during a run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_complexity.callbacks.base import LightningModule, Trainer, move_batch
from lightning_complexity.network import map_tensors, num_samples, observe, split_batch

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


def draw(loader: DataLoader[Any], count: int, trainer: Trainer, module: LightningModule) -> Probe:
    """Take evenly spaced samples from a loader's dataset, without iterating the loader.

    Random augmentation in the dataset draws from a fixed seed, and the random state is then put back.

    Args:
        loader: With a dataset that can be indexed.
        count: Number of samples at most.
        trainer: Moves the batch to the device.
        module: Whose transfer hooks are run.

    Raises:
        ValueError: If the dataset is empty.
    """
    candidates = getattr(loader.sampler, "indices", None)
    if candidates is None:
        candidates = range(len(loader.dataset))  # type: ignore[arg-type]
    if len(candidates) == 0:
        raise ValueError("the dataset of the probe is empty; a measure needs at least one sample.")
    with observe(module):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 (the state users' augmentations draw from)
        torch.default_generator.manual_seed(0)
        batch = loader.collate_fn([loader.dataset[i] for i in evenly_spaced(candidates, count)])
        return Probe(*split_batch(move_batch(trainer, batch)))


def first_samples(batch: Any, count: int) -> Probe:
    """Copy the first samples of a batch that is already on the training device."""
    inputs, targets = split_batch(batch)
    return copied(Probe(*(map_tensors(lambda t: t[:count] if t.ndim else t, part) for part in (inputs, targets))))


def training_probe(source: ProbeSource, trainer: Trainer, module: LightningModule, batch: Any) -> Probe:
    """The probe that ``source`` asks for, once training has started.

    Args:
        source: As a callback was given it, see :func:`check_probe`.
        trainer: Whose training data are taken, where a number of samples is asked for.
        module: Whose transfer hooks are run.
        batch: The first batch, for a dataset that cannot be indexed.
    """
    if isinstance(source, tuple):
        return Probe(*source)
    if isinstance(source, int):
        loader = first_loader(trainer.train_dataloader)
        if loader is not None and can_be_indexed(loader):
            return draw(loader, source, trainer, module)
        return first_samples(batch, source)
    if can_be_indexed(source):
        return draw(source, len(source.dataset), trainer, module)  # type: ignore[arg-type]
    with observe(module):
        return Probe(*split_batch(move_batch(trainer, next(iter(source)))))


def copied(probe: Probe, device: torch.device | str | None = None) -> Probe:
    """Copy of a probe, on a device."""
    return Probe(*(map_tensors(lambda t: t.detach().to(device or t.device, copy=True), part) for part in probe))
