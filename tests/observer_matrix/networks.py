"""Eight small networks with their data: each kind has something that a measurement could disturb."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset

WIDTH, CLASSES, VOCABULARY = 8, 3, 6


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Random samples, with augmentation that draws from torch, numpy and python."""

    def __init__(self, n: int, shape: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(n)
        self.x = torch.randn(n, *shape, generator=generator, dtype=torch.float32)
        self.y = torch.randint(0, CLASSES, (n,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def noise(self) -> float:
        return torch.randn((), dtype=torch.float32).item() + np.random.rand() + random.random()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + 0.1 * self.noise(), self.y[index]

    def states(self) -> dict[str, Any]:
        """Those of its own generators."""
        return {}


class OfTokens(Augmented):
    """Sequences of tokens, shifted at random."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        tokens = (3 * self.x[index]).long() + int(10 * self.noise())
        return tokens % VOCABULARY, self.y[index]


class WithOwnGenerators(Augmented):
    """Draws from generators of its own, and counts how often."""

    def __init__(self, n: int, shape: tuple[int, ...]) -> None:
        super().__init__(n, shape)
        self.torch, self.numpy, self.python = torch.Generator(), np.random.default_rng(1), random.Random(1)
        self.draws = 0

    def noise(self) -> float:
        self.draws += 1
        drawn = torch.randn((), generator=self.torch, dtype=torch.float32).item()
        return drawn + self.numpy.random() + self.python.random() + super().noise()

    def states(self) -> dict[str, Any]:
        numpy = self.numpy.bit_generator.state
        return {
            "draws": self.draws,
            "torch": self.torch.get_state(),
            "numpy": numpy,
            "python": self.python.getstate(),
        }


class CNN(nn.Module):
    """BatchNorm and dropout, behind a BatchNorm that stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(2)
        self.net = nn.Sequential(
            nn.Conv2d(2, WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(16 * WIDTH, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        self.frozen.eval()
        return self.net(self.frozen(x))


def spectral() -> nn.Module:
    first, second = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH)
    return nn.Sequential(
        parametrizations.spectral_norm(first),
        nn.ReLU(inplace=True),
        parametrizations.spectral_norm(second),
        nn.ReLU(),
        nn.Linear(WIDTH, CLASSES),
    )


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, WIDTH, batch_first=True, num_layers=2, dropout=0.1)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(4, WIDTH)
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, dropout=0.1, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(x)).mean(1))


class Shared(nn.Module):
    """One block under three names, and one weight of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, WIDTH)
        self.a = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())
        self.b = self.a
        self.c = nn.ModuleDict({"again": self.a, "inner": self.a[0]})
        self.tied = nn.Linear(WIDTH, WIDTH)
        self.tied.weight = self.a[0].weight
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a(self.stem(x)))
        return self.head(self.tied(self.c["inner"](h).relu()).relu())


class MaxNorm(nn.Module):
    """Looking up an embedding rescales its rows in place."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH, max_norm=0.5)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x))


class Checkpointed(nn.Module):
    """Two recomputed blocks, without and with reentry; running statistics are updated by the recomputation too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(inplace=True), nn.Dropout(0.2))
            for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for block, reentrant in zip(self.blocks, (False, True), strict=True):
            h = checkpoint(block, h, use_reentrant=reentrant)
        return self.head(h)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], type[Augmented], tuple[int, ...]]] = {
    "cnn": (CNN, Augmented, (2, 4, 4)),
    "spectral": (spectral, Augmented, (4,)),
    "lstm": (LSTM, Augmented, (3, 4)),
    "transformer": (Transformer, Augmented, (3, 4)),
    "shared": (Shared, Augmented, (4,)),
    "max_norm": (MaxNorm, OfTokens, (3,)),
    "checkpointed": (Checkpointed, Augmented, (4,)),
    "own_generator": (mlp, WithOwnGenerators, (4,)),
}
"""Each network with its dataset and the shape of a sample."""
