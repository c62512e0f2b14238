"""What is alive while a monitor measures many times."""

from __future__ import annotations

import gc
import warnings
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor
from lightning_complexity.metrics import ComplexityMetric
from tests.observer_matrix.networks import CLASSES, WIDTH
from tests.observer_matrix.observers import NO_LIMIT
from tests.training import Classifier, trainer

PAGE = 4096
SAMPLES = 8


class Alive(NamedTuple):
    """Number of new tensors, of objects that garbage collection follows, and memory, after so many measurements."""

    measurements: int
    tensors: int
    objects: int
    process_bytes: int


class Counter:
    """Counts what is alive at some numbers of measurements.

    Args:
        monitor: Whose measurements count; tensors that are there now do not.
        moments: Numbers of measurements.
    """

    def __init__(self, monitor: ComplexityMonitor, moments: tuple[int, ...]) -> None:
        self.monitor, self.moments, self.counts = monitor, moments, list[Alive]()
        gc.collect()
        # Tensors that other tests have left in this process may go at any time.
        self.earlier = {id(t): weakref.ref(t) for t in _tensors(gc.get_objects())}

    def count(self) -> None:
        """Do so if it is time."""
        if len(self.monitor.history) in self.moments:
            self.counts.append(alive(len(self.monitor.history), self.earlier))


def _tensors(objects: list[Any]) -> list[Tensor]:
    return [thing for thing in objects if issubclass(type(thing), Tensor)]


def alive(measurements: int, earlier: dict[int, weakref.ref[Tensor]]) -> Alive:
    gc.collect()
    objects = gc.get_objects()
    new = [t for t in _tensors(objects) if id(t) not in earlier or earlier[id(t)]() is not t]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    return Alive(measurements, len(new), len(objects), resident)


def plain() -> nn.Module:
    """Running statistics and dropout, and nothing that is computed again."""
    hidden = nn.Linear(4, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(inplace=True), nn.Dropout(0.2)
    return nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))


def measured_many_times(
    network: nn.Module, chosen: str | list[str] | list[ComplexityMetric], moments: tuple[int, ...]
) -> list[Alive]:
    """What was alive at some numbers of measurements."""
    pl.seed_everything(5, verbose=False)
    monitor = ComplexityMonitor(chosen, every_n_steps=1, budget=NO_LIMIT)
    module, counter = Classifier(network), Counter(monitor, moments)
    # By a closure, since what a module holds is copied for each run.
    module.on_train_batch_end = lambda *_: counter.count()  # type: ignore[method-assign]
    data = TensorDataset(torch.randn(SAMPLES, 4), torch.arange(SAMPLES) % CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out
        options = {"max_epochs": -1, "max_steps": max(moments) - 1}
        trainer(callbacks=[monitor], **options).fit(module, DataLoader(data, batch_size=SAMPLES // 2))
    return counter.counts
