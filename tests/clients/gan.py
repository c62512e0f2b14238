"""A generative adversarial network with manual optimization, as in Lightning's tutorial."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.clients.client import Client, fitted

LATENT, PIXELS = 4, 16


class GAN(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.Linear(LATENT, 16), nn.BatchNorm1d(16), nn.LeakyReLU(0.2), nn.Linear(16, PIXELS), nn.Tanh()
        )
        self.discriminator = nn.Sequential(nn.Linear(PIXELS, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1), nn.Sigmoid())

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)

    def training_step(self, batch: Any) -> None:
        images, _ = batch
        generator, discriminator = self.optimizers()
        real, fake = torch.ones(len(images), 1), torch.zeros(len(images), 1)

        self.toggle_optimizer(generator)
        made = self(torch.randn(len(images), LATENT))
        loss = F.binary_cross_entropy(self.discriminator(made), real)
        self.log("g_loss", loss, prog_bar=True)
        self.manual_backward(loss)
        generator.step()
        generator.zero_grad()
        self.untoggle_optimizer(generator)

        self.toggle_optimizer(discriminator)
        of_real = F.binary_cross_entropy(self.discriminator(images), real)
        of_fake = F.binary_cross_entropy(self.discriminator(self(torch.randn(len(images), LATENT)).detach()), fake)
        self.log("d_loss", (of_real + of_fake) / 2, prog_bar=True)
        self.manual_backward((of_real + of_fake) / 2)
        discriminator.step()
        discriminator.zero_grad()
        self.untoggle_optimizer(discriminator)

    def validation_step(self, batch: Any) -> None:
        """Nothing is to be validated, as in the tutorial."""

    def on_validation_epoch_end(self) -> None:
        self(torch.randn(2, LATENT))

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        parts = (self.generator, self.discriminator)
        return [torch.optim.Adam(part.parameters(), lr=2e-4, betas=(0.5, 0.999)) for part in parts], []


def loader(size: int, *, shuffle: bool) -> Any:
    return DataLoader(TensorDataset(torch.rand(size, PIXELS), torch.randint(3, (size,))), 8, shuffle=shuffle)


def build() -> tuple[Any, ...]:
    return GAN(), loader(24, shuffle=True), loader(8, shuffle=False)


CLIENTS = {
    "GAN": Client(
        "pytorch-lightning",
        fitted(build),
        f'forward=lambda module, batch: module(torch.zeros(len(batch[0]), {LATENT})), wrt="generator"',
        automatic=False,
    )
}
