"""Small networks that tests measure, in double precision."""

from __future__ import annotations

import copy
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.network import LiveSteps, Snapshot, WeightTrajectory, gradients


def mlp(*widths: int, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class ConvNet(nn.Module):
    """Convolution, BatchNorm, a skip connection and pooling, half of it by functional calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.second_norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(x + self.second_norm(self.second(x)))
        x = F.max_pool2d(x, 2)
        x = F.adaptive_avg_pool2d(x, 2)
        return self.head(torch.flatten(x, 1))


def randomize_batch_norm(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)


def conv_net() -> ConvNet:
    model = ConvNet()
    randomize_batch_norm(model)
    return model


class Attending(nn.Module):
    """Attention by a module and by a function, over sequences of four features."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.MultiheadAttention(4, 2, batch_first=True)
        self.second = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x, x, x, need_weights=False)[0]
        return self.head(self.second(x).mean(1))


def gradient_vector(snapshot: Snapshot) -> Tensor:
    """The gradient of the loss for the trained parameters as one vector."""
    return torch.cat([g.flatten() for g in gradients(snapshot).values()])


def live_steps(model: nn.Module) -> LiveSteps:
    """What was read off twelve steps of a copy of a network, with losses that fall below 0.1.

    Of a network of half precision in single precision, as a half-precision step is another one.
    """
    copied = copy.deepcopy(model)
    if next(copied.parameters()).element_size() < 4:
        copied.float()
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.1)
    live = LiveSteps(copied, every=1, trajectory=WeightTrajectory()).follow([optimizer])
    generator = torch.Generator().manual_seed(0)
    for loss in (1.0, 0.2, 0.05, *(0.04,) * 9):
        for p in copied.parameters():
            p.grad = p.detach() * torch.rand(p.shape, generator=generator, dtype=torch.float64).to(p)
        optimizer.step()
        live.losses.add(loss + 0 * sum(p.detach().sum() for p in copied.parameters()))
    live.release()
    return live
