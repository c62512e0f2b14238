"""The networks that costs are measured on, each with one fixed batch of synthetic data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_CLASSES = 10


@dataclass(frozen=True)
class Workload:
    """A network and the batch that it is trained and measured on; ``small`` if all its units can be looked at."""

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    small: bool = False


def mlp(width: int = 512, batch: int = 256, depth: int = 2) -> Workload:
    """A multilayer perceptron on flat 28x28 images.

    Args:
        width: Units in each of the hidden layers.
        batch: Number of samples.
        depth: Number of hidden layers.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for fan_in in [784, *[width] * (depth - 1)]:
        layers += [nn.Linear(fan_in, width), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, NUM_CLASSES))
    hidden = "-".join([str(width)] * depth)
    return _workload(f"MLP 784-{hidden}-{NUM_CLASSES}", model, batch, 784, small=True)


def resnet18(width: float = 1.0, batch: int = 32, blocks: int = 2) -> Workload:
    """A ResNet-18 for 32x32 images: 3x3 stem, no max pooling before the blocks.

    Args:
        width: Factor on the usual 64, 128, 256 and 512 channels.
        batch: Number of samples; with more, the graphs of second derivatives take many gigabytes.
        blocks: Number of blocks at each of the four sizes.
    """
    torch.manual_seed(0)
    name = f"ResNet-{8 * blocks + 2}{'' if width == 1 else f' of width {width:g}'}"
    return _workload(name, ResNet(width, blocks), batch, 3, 32, 32)


def transformer(dim: int = 128, batch: int = 16) -> Workload:
    """A transformer encoder of 4 layers that classifies sequences of 64 vectors.

    Args:
        dim: Size of the vectors, in the input too.
        batch: Number of sequences.
    """
    torch.manual_seed(0)
    return _workload(f"Transformer, 4 layers, d={dim}", Transformer(dim), batch, 64, dim)


def _workload(name: str, model: nn.Module, batch: int, *shape: int, small: bool = False) -> Workload:
    inputs, targets = torch.randn(batch, *shape), torch.randint(NUM_CLASSES, (batch,))
    return Workload(f"{name}, batch {batch}", model, inputs, targets, small)


class ResidualBlock(nn.Module):
    """Two convolutions around a skip connection."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(channels_in, channels_out, 3, stride)
        self.second = _convolution(channels_out, channels_out, 3, 1)
        same_shape = stride == 1 and channels_in == channels_out
        self.skip = nn.Identity() if same_shape else _convolution(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's change to its input."""
        return F.relu(self.second(F.relu(self.first(x))) + self.skip(x))


class ResNet(nn.Module):
    """He et al., CVPR 2016, with the stem that is usual for small images."""

    def __init__(self, width: float, blocks_each: int) -> None:
        super().__init__()
        channels = [int(width * c) for c in (64, 128, 256, 512)]
        self.stem = _convolution(3, channels[0], 3, 1)
        blocks = []
        for previous, current in zip(channels[:1] + channels, channels, strict=False):
            stride = 1 if previous == current else 2
            blocks += [ResidualBlock(previous, current, stride)]
            blocks += [ResidualBlock(current, current, 1) for _ in range(blocks_each - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels[-1], NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits for images of shape ``(n, 3, height, width)``."""
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class Transformer(nn.Module):
    """Encoder layers on projected vectors, and a linear head on their mean."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim)
        # Without dropout a training step and a measurement run the same operations.
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(dim, 4, 4 * dim, dropout=0.0, batch_first=True) for _ in range(4))
        )
        self.head = nn.Linear(dim, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits for sequences of shape ``(n, length, dim)``."""
        return self.head(self.layers(self.project(x)).mean(1))


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))
