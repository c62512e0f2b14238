"""The modules that Lightning has for demonstrations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.demos.boring_classes import BoringModel, DemoModel, ManualOptimBoringModel, RandomDataset
from pytorch_lightning.demos.lstm import LightningLSTM
from pytorch_lightning.demos.transformer import LightningTransformer
from torch import Tensor
from torch.utils.data import DataLoader

from tests.clients.client import Client, fitted

TOKENS, LENGTH = 20, 5


class Text(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Random tokens, and those that follow them."""

    def __init__(self, size: int) -> None:
        self.tokens = torch.randint(TOKENS, (size, LENGTH + 1))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.tokens[index, :-1], self.tokens[index, 1:]


class Transformer(LightningTransformer):
    """The demo's transformer, smaller, without its download, and with the validation that it lacks."""

    def __init__(self) -> None:
        super().__init__(vocab_size=TOKENS)
        small = type(self.model)
        self.model = small(vocab_size=TOKENS, ninp=16, nhead=2, nhid=16, nlayers=2)

    def prepare_data(self) -> None:
        """The data are here."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, target = batch
        self.log("val_loss", F.nll_loss(self(inputs, target), target.view(-1)))


class LSTM(LightningLSTM):
    """The demo's LSTM, smaller and without its download."""

    def __init__(self) -> None:
        super().__init__(vocab_size=TOKENS)
        self.model = type(self.model)(vocab_size=TOKENS, ninp=8, nhid=8, nlayers=2)

    def prepare_data(self) -> None:
        """The data are here."""


def random(module: type) -> tuple[Any, ...]:
    return module(), DataLoader(RandomDataset(32, 16), batch_size=4), DataLoader(RandomDataset(32, 8), batch_size=4)


def without_validation(module: type) -> tuple[Any, ...]:
    return random(module)[:2]


def transformer() -> tuple[Any, ...]:
    return Transformer(), DataLoader(Text(16), batch_size=4, shuffle=True), DataLoader(Text(8), batch_size=4)


def lstm() -> tuple[Any, ...]:
    return LSTM(), DataLoader(Text(16), batch_size=4, drop_last=True)


CLIENTS = {
    "BoringModel": Client("pytorch-lightning", fitted(lambda: random(BoringModel))),
    "ManualOptimBoringModel": Client(
        "pytorch-lightning", fitted(lambda: random(ManualOptimBoringModel)), automatic=False
    ),
    "DemoModel": Client("pytorch-lightning", fitted(lambda: without_validation(DemoModel)), validates=False),
    "LightningTransformer": Client(
        "pytorch-lightning",
        fitted(transformer),
        "forward=lambda module, batch: module(*batch).unflatten(0, batch[1].shape), wrt='model.pos_encoder'",
    ),
    "LightningLSTM": Client(
        "pytorch-lightning",
        fitted(lstm),
        "forward=lambda module, batch: module.model(batch[0], module.model.init_hidden(len(batch[0])))[0]"
        '.view(len(batch[0]), -1), wrt="model.rnn"',
        validates=False,
    ),
}
