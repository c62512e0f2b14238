"""A user's module and data, with parameters to search."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 8) -> None:
        super().__init__()
        self.batch_size = batch_size

    def samples(self, count: int, seed: int) -> TensorDataset:
        x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        return TensorDataset(x, (x[:, 0] > 0).long())

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.samples(40, 0), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.samples(30, 1), 30)


class Net(pl.LightningModule):
    def __init__(self, width: int, lr: float = 0.02, optimizer: str = "adam", momentum: float = 0.0) -> None:
        super().__init__()
        if width == 13:
            raise ValueError("thirteen brings bad luck")
        self.width, self.lr, self.optimizer, self.momentum = width, lr, optimizer, momentum
        self.net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2)).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        if self.width == 11:
            raise RuntimeError("eleven is no better")
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss * float("nan") if self.width == 12 else loss

    def validation_step(self, batch: Any, index: int) -> None:
        outputs = self(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(outputs, batch[1]))
        self.log("val_acc", (outputs.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD(self.parameters(), self.lr, self.momentum)
        return torch.optim.Adam(self.parameters(), self.lr)


class Silent(Net):
    """It logs nothing of the validation."""

    def validation_step(self, batch: Any, index: int) -> None:
        pass


NUMBER = 3
