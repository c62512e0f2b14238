"""The networks that studies train."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.callbacks.base import pytorch_lightning as pl
from lightning_complexity.studies.training.optimizers import build_optimizer
from lightning_complexity.studies.training.settings import Setting


def perceptron(
    sizes: list[int], *, dropout: float = 0.0, batch_norm: bool = False, dtype: torch.dtype | None = None
) -> nn.Sequential:
    """Linear layers with ReLU between them.

    Args:
        sizes: Of the inputs, of each hidden layer and of the outputs.
        dropout: Share of hidden activations that are dropped in training.
        batch_norm: Whether hidden layers are normalized before ReLU.
        dtype: Of the weights; torch's default with ``None``.

    Example:
        >>> perceptron([4, 3, 2])
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): ReLU()
          (2): Linear(in_features=3, out_features=2, bias=True)
        )
    """
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(inputs, outputs, dtype=dtype))
        if index < len(sizes) - 2:
            layers += [nn.BatchNorm1d(outputs, dtype=dtype)] if batch_norm else []
            layers.append(nn.ReLU())
            layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)


class Perceptron(pl.LightningModule):
    """A multilayer perceptron of a setting, with its optimizer and cross-entropy.

    Args:
        setting: What to build and how to train it.
        num_inputs: Entries of a sample.
        num_classes: Number of outputs.
        dtype: Of the weights.
    """

    def __init__(self, setting: Setting, num_inputs: int, num_classes: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        sizes = [num_inputs, *[setting.width] * setting.depth, num_classes]
        self.net = perceptron(sizes, dropout=setting.dropout, batch_norm=setting.batch_norm, dtype=dtype)
        self.setting, self.example = setting, torch.zeros(1, num_inputs, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape ``(n, classes)``."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy."""
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        if self.setting.optimizer == "lbfgs" and self.setting.weight_decay:  # which has none of its own
            squares = torch.stack([p.square().sum() for p in self.net.parameters()])
            loss = loss + 0.5 * self.setting.weight_decay * squares.sum()
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy."""
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """That of the setting."""
        setting = self.setting
        return build_optimizer(
            setting.optimizer,
            self.net,
            self.example.to(self.device),
            learning_rate=setting.learning_rate,
            weight_decay=setting.weight_decay,
        )


class TensorBatches:
    """Batches of samples in memory, shuffled anew for each pass, without an end.

    A loader that copies samples one by one takes longer than a step of a small network.

    Args:
        x: Inputs.
        y: Targets.
        batch_size: ``None`` for all samples at once, in their order.
        seed: Of the order.
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int | None, seed: int) -> None:
        self.x, self.y, self.batch_size, self.seed = x, y, batch_size, seed

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass."""
        return 1 if self.batch_size is None else -(-len(self.y) // self.batch_size)

    def __iter__(self) -> Any:
        """Batches ``(x, y)``."""
        if self.batch_size is None:
            yield from itertools.repeat((self.x, self.y))
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            for indices in torch.randperm(len(self.y), generator=generator).split(self.batch_size or 1):
                yield self.x[indices], self.y[indices]
