"""A small Lightning training that has everything a measurement might disturb."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, Dataset


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Random data, with augmentation that draws from torch, numpy and python."""

    def __init__(self, n: int = 24) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(n, 2, 4, 4, generator=generator, dtype=torch.float32)
        self.y = torch.randint(0, 3, (n,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn((), dtype=torch.float32) + np.random.rand() + random.random()
        return self.x[index] + 0.1 * noise.float(), self.y[index]


class Delicate(pl.LightningModule):
    """BatchNorm, a frozen BatchNorm in evaluation mode, dropout, spectral norm, in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(2)
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Flatten(),
            parametrizations.spectral_norm(nn.Linear(64, 8)),
            nn.ReLU(inplace=True),
            nn.Linear(8, 3),
        )
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.frozen(x))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.frozen.eval()
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Classifier(pl.LightningModule):
    """The plainest thing a user has: any network, cross-entropy, SGD."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options: Any) -> pl.Trainer:
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{**defaults, **options})


def loader(n: int = 24, batch_size: int = 8, **options: Any) -> DataLoader[Any]:
    return DataLoader(Augmented(n), batch_size=batch_size, **options)
