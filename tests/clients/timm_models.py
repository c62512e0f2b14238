"""Networks of timm with random weights, as textbook classifiers."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tests.clients.client import Client, fitted


class Classifier(pl.LightningModule):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y, label_smoothing=0.1)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y, label_smoothing=0.1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def loader(size: int, *, shuffle: bool) -> Any:
    return DataLoader(TensorDataset(torch.randn(size, 3, 32, 32), torch.randint(3, (size,))), 8, shuffle=shuffle)


def build(name: str, **options: Any) -> tuple[Any, ...]:
    module = Classifier(timm.create_model(name, num_classes=3, **options))
    return module, loader(16, shuffle=True), loader(8, shuffle=False)


CLIENTS = {
    "ResNet": Client("timm", fitted(lambda: build("test_resnet", drop_path_rate=0.1))),
    "ViT": Client("timm", fitted(lambda: build("test_vit", img_size=32, drop_rate=0.1))),
}
