"""Reparametrized weights, hooks, modes, kinds of layers, memory and precision."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.networks import conv_net
from tests.zoo.base import (
    ZOO,
    Body,
    images,
    sequences,
    specimen,
    vectors,
)


@specimen(vectors)
def parametrized() -> nn.Module:
    layers = [nn.Linear(4, 4) for _ in range(3)]
    wrap = parametrizations.spectral_norm, parametrizations.weight_norm, parametrizations.orthogonal
    hidden = [nn.Sequential(f(layer), nn.ReLU()) for f, layer in zip(wrap, layers, strict=True)]
    return nn.Sequential(*hidden, nn.Linear(4, 3))


@specimen(vectors)
def old_style_hooks() -> nn.Module:
    layers = nn.utils.spectral_norm(nn.Linear(4, 5)), nn.ReLU(), nn.utils.weight_norm(nn.Linear(5, 3))
    return nn.Sequential(*layers)


class Hooked(Body):
    """Hooks on parameters and modules, which scale gradients and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first.weight.register_hook(lambda g: 2 * g)
        self.first.weight.register_post_accumulate_grad_hook(lambda p: None)
        self.head.register_forward_hook(lambda module, args, output: output * 2)
        self.head.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


ZOO["hooks"] = lambda: vectors(Hooked)


@specimen(vectors)
def frozen_and_mixed_modes() -> nn.Module:
    model = nn.Sequential(
        nn.BatchNorm1d(4), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3)
    )
    model[1].requires_grad_(False)
    model[0].eval()
    model[4].eval()
    return model


@specimen(images)
def convolutions() -> nn.Module:
    return conv_net()


@specimen(vectors)
def batch_norm_without_statistics() -> nn.Module:
    norm = nn.BatchNorm1d(5, track_running_stats=False)
    return nn.Sequential(nn.Linear(4, 5), norm, nn.ReLU(), nn.Linear(5, 3))


@specimen(vectors)
class BatchNormAlwaysTraining(Body):
    """Updates running statistics in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        self.norm.training = True
        return self.head(self.norm(self.first(x)).relu())


@specimen(sequences)
class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 3, batch_first=True, num_layers=2, dropout=0.1), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@specimen(sequences)
class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


@specimen(vectors)
def parameter_of_numpy() -> nn.Module:
    model = Body()
    model.first.weight = nn.Parameter(torch.from_numpy(np.random.default_rng(0).normal(size=(5, 4))))
    return model


@specimen(vectors)
def parameters_in_shared_memory() -> nn.Module:
    return Body().share_memory()


@specimen(vectors)
class HalfPrecisionBody(Body):
    def __init__(self) -> None:
        super().__init__()
        self.first.bfloat16()
        self.head.float()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x.bfloat16()).relu().float())


@specimen(vectors)
class IntegerParameter(Body):
    def __init__(self) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.tensor([2, 0, 1, 3]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, self.order])
