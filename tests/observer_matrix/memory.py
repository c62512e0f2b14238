"""What is alive while a monitor measures many times."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor
from tests.observer_matrix.networks import CLASSES, Checkpointed
from tests.observer_matrix.observers import NO_LIMIT
from tests.training import Classifier, trainer

PAGE = 4096
SAMPLES = 8


class Alive(NamedTuple):
    """Number of tensors, of objects that garbage collection follows, and memory, after so many measurements."""

    measurements: int
    tensors: int
    objects: int
    process_bytes: int


class Counting(Classifier):
    """Counts after some measurements; each step is measured."""

    def __init__(self, monitor: ComplexityMonitor, moments: tuple[int, ...]) -> None:
        super().__init__(Checkpointed())
        self.__dict__["seen"] = monitor, moments, []

    def on_train_batch_end(self, *args: Any) -> None:
        monitor, moments, counts = self.__dict__["seen"]
        if len(monitor.history) in moments:
            counts.append(alive(len(monitor.history)))


def alive(measurements: int) -> Alive:
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(issubclass(type(thing), Tensor) for thing in objects)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    return Alive(measurements, tensors, len(objects), resident)


def measured_many_times(suite: str, moments: tuple[int, ...]) -> list[Alive]:
    """What was alive at some numbers of measurements."""
    pl.seed_everything(5, verbose=False)
    monitor = ComplexityMonitor(suite, every_n_steps=1, budget=NO_LIMIT)
    module = Counting(monitor, moments)
    data = TensorDataset(torch.randn(SAMPLES, 4), torch.arange(SAMPLES) % CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out
        options = {"max_epochs": -1, "max_steps": max(moments) - 1}
        trainer(callbacks=[monitor], **options).fit(module, DataLoader(data, batch_size=SAMPLES // 2))
    return module.__dict__["seen"][2]
