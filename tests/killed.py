"""Train a network, get killed, go on from the last checkpoint, until the training is over. A program of its own.

Arguments: a folder, the number of kills, a seed. Prints the folders of the trainings that were killed and, first, that
of one that was not.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, metrics

STEPS = 30
X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


class BySteps(pl.LightningModule):
    """What it trains on is decided by the step: the position of the loader is not in checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any) -> Tensor:
        rows = torch.randperm(40, generator=torch.Generator().manual_seed(self.global_step))[:8]
        return F.cross_entropy(self(X[rows]), Y[rows])

    def validation_step(self, batch: Any) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def newest(folder: Path) -> str | None:
    found = sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    return str(found[-1]) if found else None


def train(folder: Path) -> None:
    """Train from the last checkpoint, or from the start, to the end."""
    torch.manual_seed(0)
    monitor = ComplexityMonitor(
        ["StableRank", "JacobianNorm", "DistanceFromInitialization"], every_n_steps=1, budget=None
    )
    constraint = ComplexityConstraint(metrics.ParameterNorm(), at_most=1.0, every_n_steps=2)
    saving = ModelCheckpoint(folder / "checkpoints", "{step}", every_n_train_steps=3, save_top_k=-1)
    fit = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        callbacks=[saving, monitor, constraint],
        logger=TensorBoardLogger(folder, name="", version="run"),
        val_check_interval=2,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(TensorDataset(X, Y), batch_size=8)
    fit.fit(BySteps(), loader, loader, ckpt_path=newest(folder / "checkpoints"))


def run(folder: Path, patience: float | None) -> bool:
    """Train in a process that is killed after some seconds; whether it came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(folder)
            code = 0
        finally:
            os._exit(code)
    if patience is not None:
        time.sleep(patience)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f"training in {folder} failed")
    return os.WIFEXITED(status)


def main(folder: Path, kills: int, seed: int) -> None:
    """Print the folders."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    started = time.perf_counter()
    run(folder / "whole", None)
    seconds = time.perf_counter() - started
    rng, folders = random.Random(seed), [folder / "whole"]
    while kills > 0:
        folders.append(folder / f"killed_{len(folders)}")
        while not run(folders[-1], rng.uniform(0, seconds) if kills > 0 else None):
            kills -= 1
    sys.stdout.write(json.dumps([str(path) for path in folders]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
