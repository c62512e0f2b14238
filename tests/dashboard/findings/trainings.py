"""Trainings with a planted fault, and healthy ones, each measured as a user would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor
from lightning_complexity.dashboard.runs import Run
from lightning_complexity.recording import Measurement

Data = tuple[Tensor, Tensor, Tensor, Tensor]
"""Training inputs and targets, validation inputs and targets."""
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Training:
    """All that a training needs."""

    data: Data
    network: nn.Module
    optimizer: Optimizer
    epochs: int = 10
    batch_size: int = 32
    shuffle: bool = True
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    callbacks: tuple[pl.Callback, ...] = ()
    trained: Callable[[nn.Module], Iterable[nn.Parameter]] = nn.Module.parameters


class Module(pl.LightningModule):
    def __init__(self, training: Training) -> None:
        super().__init__()
        self.net, self.training_of = training.network, training

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.training_of.loss(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.training_of.loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.training_of.optimizer(self.training_of.trained(self.net))


class Scalars(DummyLogger):
    """Keeps what constraints and penalties log."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}
        self._folder = folder

    @property
    def save_dir(self) -> str:
        return self._folder

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        kept = {k: float(v) for k, v in metrics.items() if k.split("/")[0] in ("constraint", "penalty", "loss")}
        if kept:
            self.rows.setdefault(step or 0, {}).update(kept)


METRICS = ("standard", "DeadUnits", "FeatureEffectiveRank", "HessianTrace")
"""The last three are in the suite ``"full"``; all of it would take ten times as long."""


def run(make: Callable[[], Training], name: str, seed: int, num_moments: int = 20) -> Run:
    """Train, and give the run as a report reads it."""
    pl.seed_everything(seed, verbose=False)
    training = make()
    x, y, val_x, val_y = training.data
    loader = DataLoader(TensorDataset(x, y), batch_size=training.batch_size, shuffle=training.shuffle)
    validation = DataLoader(TensorDataset(val_x, val_y), batch_size=256)
    every = max(1, training.epochs * len(loader) // num_moments)
    monitor = ComplexityMonitor(METRICS, every_n_steps=every, every_n_epochs=None, per_layer=True, budget=None)
    with TemporaryDirectory() as folder:
        logger = Scalars(folder)
        trainer = pl.Trainer(
            max_epochs=training.epochs,
            callbacks=[monitor, *training.callbacks],
            logger=logger,
            default_root_dir=folder,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=every,
            num_sanity_val_steps=0,
        )
        trainer.fit(Module(training), loader, validation)
    return Run(name, Path(name), _together(monitor.history, logger.rows))


def _together(history: list[Measurement], rows: dict[int, dict[str, float]]) -> list[Measurement]:
    by_step = {m.step: m for m in history}
    for step, values in rows.items():
        old = by_step.get(step, Measurement(step, 0, 0.0, {}))
        by_step[step] = replace(old, values={**old.values, **values})
    return [by_step[step] for step in sorted(by_step)]
