"""SimCLR as in lightly's tutorial: two views of each image, and no targets."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tests.clients.client import Client, fitted


class Views(Dataset[tuple[list[Tensor], int, str]]):
    """Two noisy views of an image, its label, and the name of its file."""

    def __init__(self, size: int) -> None:
        self.images = torch.randn(size, 3, 8, 8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int, str]:
        image = self.images[index]
        return [image + 0.1 * torch.randn_like(image) for _ in range(2)], index % 3, f"{index}.png"


class SimCLR(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.projection_head = SimCLRProjectionHead(8, 8, 4)
        self.criterion = NTXentLoss()
        self.criterion.memory_bank.bank_ptr.zero_()  # memory that nobody wrote to, where there is no memory bank

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))

    def _loss(self, batch: Any) -> Tensor:
        views = batch[0]
        return self.criterion(self(views[0]), self(views[1]))

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Any, batch_index: int) -> Tensor:
        return self._loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06, momentum=0.9)


def build() -> tuple[Any, ...]:
    return (
        SimCLR(),
        DataLoader(Views(24), batch_size=8, shuffle=True, drop_last=True),
        DataLoader(Views(16), batch_size=8),
    )


CLIENTS = {
    "SimCLR": Client("lightly", fitted(build), "forward=lambda module, batch: module(batch[0][0]), wrt='backbone'")
}
