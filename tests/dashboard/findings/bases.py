"""Data and networks of several kinds, and trainings that are as they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_friedman1
from torch import Tensor, nn

from tests.dashboard.findings.trainings import Data, Training


def split(x: Tensor, y: Tensor, num_training: int, num_validation: int) -> Data:
    order = torch.randperm(len(x))[: num_training + num_validation]
    x, y = x[order], y[order]
    return x[:num_training], y[:num_training], x[num_training:], y[num_training:]


def standardized(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-6)


def digits(num_training: int = 800, num_validation: int = 500, *, images: bool = False) -> Data:
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32) / 8 - 1
    return split(x.reshape(-1, 1, 8, 8) if images else x, torch.tensor(data.target), num_training, num_validation)


def cancer(num_training: int = 350, num_validation: int = 200) -> Data:
    data = load_breast_cancer()
    return split(standardized(torch.tensor(data.data).float()), torch.tensor(data.target), num_training, num_validation)


def wine() -> Data:
    data = load_wine()
    return split(standardized(torch.tensor(data.data).float()), torch.tensor(data.target), 110, 60)


def blobs(distance: float = 3.0, num_training: int = 600, classes: int = 5, dim: int = 10) -> Data:
    centers = F.normalize(torch.randn(classes, dim), dim=1) * distance
    y = torch.randint(classes, (num_training + 400,))
    return split(centers[y] + torch.randn(len(y), dim), y, num_training, 400)


def friedman(noise: float = 1.0, num_training: int = 600) -> Data:
    x, y = make_friedman1(num_training + 400, noise=noise, random_state=int(torch.randint(10**6, ())))
    return split(
        standardized(torch.tensor(x).float()), standardized(torch.tensor(y).float()[:, None]), num_training, 400
    )


def taught(noise: float = 0.3, num_training: int = 600) -> Data:
    x = torch.randn(num_training + 400, 8)
    y = torch.tanh(x @ torch.randn(8, 3) / 2).sum(1, keepdim=True)
    return split(x, y + noise * torch.randn_like(y), num_training, 400)


def tokens(num_training: int = 700, length: int = 12, classes: int = 3) -> Data:
    """Which third of the vocabulary of 30 most tokens are from."""
    y = torch.randint(classes, (num_training + 400,))
    favoured = torch.rand(len(y), length) < 0.6
    kind = torch.where(favoured, y[:, None], torch.randint(classes, (len(y), length)))
    return split(kind * 10 + torch.randint(10, (len(y), length)), y, num_training, 400)


def mlp(
    *sizes: int, activation: Callable[[], nn.Module] = nn.ReLU, dropout: float = 0.0, norm: bool = False
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if norm else []), activation()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def cnn(channels: int = 8, *, norm: bool = False, classes: int = 10) -> nn.Sequential:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, padding=1),
            *([nn.BatchNorm2d(outputs)] if norm else []),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]

    return nn.Sequential(
        *block(1, channels), *block(channels, 2 * channels), nn.Flatten(), nn.Linear(8 * channels, classes)
    )


class Bag(nn.Module):
    def __init__(self, dim: int = 16, classes: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, dim)
        self.head = mlp(dim, 32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x).mean(1))


class Transformer(nn.Module):
    def __init__(self, dim: int = 16, classes: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, dim)
        self.attention = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.feedforward = mlp(dim, 32, dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        h = self.norm(h + self.attention(h, h, h, need_weights=False)[0])
        return self.head((h + self.feedforward(h)).mean(1))


class Residual(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int, depth: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.blocks = nn.ModuleList([mlp(width, width, width) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = h + 0.5 * block(h)
        return self.last(F.relu(h))


def adam(rate: float = 1e-3, weight_decay: float = 0.0) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    return partial(torch.optim.AdamW, lr=rate, weight_decay=weight_decay)


def sgd(rate: float = 0.1, momentum: float = 0.0) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    return partial(torch.optim.SGD, lr=rate, momentum=momentum)


# Those that rules were developed with, by name; and others that they are graded on.

DEVELOPMENT: dict[str, Callable[[], Training]] = {
    "digits, MLP": lambda: Training(digits(), mlp(64, 64, 64, 10), sgd(0.1), 8),
    "digits, CNN": lambda: Training(digits(images=True), cnn(8), adam(2e-3), 8),
    "blobs, tanh": lambda: Training(blobs(4.0), mlp(10, 32, 5, activation=nn.Tanh), sgd(0.05), 8),
    "friedman, MLP": lambda: Training(friedman(), mlp(10, 32, 32, 1), adam(3e-3), 10, loss=F.mse_loss),
    "tokens, bag": lambda: Training(tokens(), Bag(), adam(5e-3), 8),
    "digits, MLP, Adam": lambda: Training(digits(1200), mlp(64, 100, 10), adam(2e-3), 6),
    "cancer, MLP": lambda: Training(cancer(), mlp(30, 16, 2), sgd(0.05), 8),
    "digits, dropout": lambda: Training(digits(), mlp(64, 96, 96, 10, dropout=0.2), adam(2e-3), 8),
    "digits, BatchNorm": lambda: Training(digits(), mlp(64, 64, 10, norm=True), sgd(0.05), 6),
    "taught, tanh": lambda: Training(taught(), mlp(8, 32, 1, activation=nn.Tanh), sgd(0.05), 12, loss=F.mse_loss),
}
GRADING: dict[str, Callable[[], Training]] = {
    "digits, wide MLP, Adam": lambda: Training(digits(900), mlp(64, 128, 128, 10), adam(1e-3), 8),
    "digits, CNN, SGD": lambda: Training(digits(images=True), cnn(12), sgd(0.1, 0.9), 6, batch_size=64),
    "digits, CNN, BatchNorm": lambda: Training(digits(images=True), cnn(8, norm=True), adam(2e-3), 6),
    "digits, ELU": lambda: Training(digits(), mlp(64, 48, 48, 10, activation=nn.ELU), sgd(0.05, 0.9), 8, batch_size=64),
    "digits, residual": lambda: Training(digits(900), Residual(64, 32, 10), adam(2e-3), 6),
    "digits, deep MLP": lambda: Training(digits(900), mlp(64, 64, 64, 64, 64, 10), adam(1e-3), 8),
    "digits, linear": lambda: Training(digits(), mlp(64, 10), sgd(0.05), 8),
    "digits, weight decay": lambda: Training(digits(900), mlp(64, 64, 10), adam(2e-3, 0.01), 8),
    "digits, GELU, dropout": lambda: Training(
        digits(), mlp(64, 96, 10, activation=nn.GELU, dropout=0.3), adam(3e-3), 8
    ),
    "digits, one epoch": lambda: Training(digits(1200), mlp(64, 64, 10), sgd(0.1, 0.9), 1, batch_size=8),
    "wine, MLP": lambda: Training(wine(), mlp(13, 16, 3), sgd(0.1), 15, batch_size=16),
    "cancer, leaky": lambda: Training(cancer(), mlp(30, 24, 24, 2, activation=nn.LeakyReLU), adam(1e-3), 10),
    "cancer, BatchNorm": lambda: Training(cancer(), mlp(30, 24, 2, norm=True), sgd(0.05), 8),
    "blobs, MLP": lambda: Training(blobs(3.5, classes=6, dim=12), mlp(12, 40, 6), adam(3e-3), 10),
    "blobs, far": lambda: Training(blobs(7.0, classes=4), mlp(10, 24, 4), sgd(0.1), 8),
    "friedman, deep": lambda: Training(friedman(0.5, 800), mlp(10, 48, 48, 1), adam(2e-3), 10, loss=F.mse_loss),
    "friedman, SGD": lambda: Training(friedman(2.0), mlp(10, 24, 1), sgd(0.03, 0.9), 8, loss=F.mse_loss),
    "taught, MLP": lambda: Training(taught(0.2, 800), mlp(8, 40, 1), adam(3e-3), 10, loss=F.mse_loss),
    "tokens, transformer": lambda: Training(tokens(900), Transformer(), adam(2e-3), 6),
    "tokens, wide bag": lambda: Training(tokens(900, 16), Bag(32), sgd(0.5), 12),
}
