"""Layers that leave the shape of their data as it is, so that any sequence of them is a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

WIDTH, CHANNELS, PIXELS, POSITIONS, TOKENS = 4, 2, 6, 5, 7
SHAPES: dict[str, tuple[int, ...]] = {
    "vector": (WIDTH,),
    "image": (CHANNELS, PIXELS, PIXELS),
    "sequence": (POSITIONS, WIDTH),
}

Layer = str | tuple[str, ...]
"""The name of a layer, or that of a combination with those of its layers."""


class Function(nn.Module):
    """A function that the network's own forward calls."""

    def __init__(self, function: Callable[..., Any], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.inner)


class Holding(nn.Module):
    """A function of the data and of a tensor of the module's own."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], tensor: Tensor) -> None:
        super().__init__()
        self.function = function
        if isinstance(tensor, nn.Parameter):
            self.held = tensor
        else:
            self.register_buffer("held", tensor)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.held)


class Forgetful(nn.Module):
    """Writes to buffers and attributes whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.calls, self.seen = 0, []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x.detach().mean())
        self.mean.lerp_(x.detach().mean().to(self.mean.dtype), 0.1)
        return x - self.mean.to(x.dtype)


def _relu_in_place(x: Tensor) -> Tensor:
    return (x + 0).relu_()


def _maxout(x: Tensor) -> Tensor:
    return torch.maximum(x, x.flip(-1))


def _by_decision(x: Tensor) -> Tensor:
    return x.relu() if x.sum() > 0 else x.tanh()


def _loop_of_changing_shapes(x: Tensor) -> Tensor:
    pooled = x
    total = torch.zeros_like(x)
    while pooled.shape[-1] > 1:
        pooled = pooled[..., 1:].relu()
        total = total + pooled.sum(-1, keepdim=True)
    return total


def _energy(x: Tensor, inner: nn.Module) -> Tensor:
    with torch.enable_grad():
        leaf = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(inner(leaf).square().sum(), leaf, create_graph=True)[0]


def _requires_grad(x: Tensor) -> Tensor:
    return x.requires_grad_()


def _half_body(x: Tensor, inner: nn.Module) -> Tensor:
    return inner(x.to(inner.weight.dtype)).to(x.dtype)


def _fourier(x: Tensor) -> Tensor:
    return torch.fft.fft(x).abs()


def _written(x: Tensor) -> Tensor:
    x = x.clone()
    x[..., 0] = x[..., 1].relu()
    return x


def _first(x: Tensor, inner: nn.Module) -> Tensor:
    return inner(x)[0]


def _attention(x: Tensor, inner: nn.Module) -> Tensor:
    return inner(x, x, x, need_weights=False)[0]


def _by_sample(x: Tensor) -> Tensor:
    return torch.stack([row.relu() for row in x])


def _by_feature(x: Tensor) -> Tensor:
    return torch.stack([column.relu() for column in x.unbind(1)], 1)


def _messages(x: Tensor) -> Tensor:
    """Every sample tells itself and the next, as nodes of a graph do."""
    senders = torch.arange(len(x)).repeat(2)
    receivers = torch.cat([torch.arange(len(x)), torch.arange(len(x)).roll(1)])
    return torch.zeros_like(x).index_add(0, receivers, x[senders].relu())


def _until_small(x: Tensor) -> Tensor:
    for _ in range(3):
        if x.abs().amax() > 1:
            x = (0.5 * x).relu()
    return x


def _kept_rows(x: Tensor) -> Tensor:
    kept = x.flatten(1)[:, 0] > 0
    result = x.clone()
    result[kept] = x[kept].relu()
    return result


def _spatial(x: Tensor, inner: nn.Module) -> Tensor:
    return inner(x.mean((2, 3)))[:, :, None, None] * x


def _noise(x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


def _weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH))


def _empty() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return nn.Sequential(nn.Linear(WIDTH, 0), nn.ReLU(), nn.Linear(0, WIDTH))


def _integer_scale() -> nn.Module:
    return Holding(lambda x, w: x * w.to(x.dtype), nn.Parameter(torch.tensor([2]), requires_grad=False))


def _tied() -> nn.Module:
    first, second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


def _scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(nn.Linear(WIDTH, WIDTH))


def _complex_weight() -> nn.Module:
    weight = nn.Parameter(torch.randn(WIDTH, WIDTH, dtype=torch.complex64))
    return Holding(lambda x, w: (x.to(w.dtype) @ w).real.to(x.dtype), weight)


def _bag() -> nn.Module:
    bag = nn.EmbeddingBag(TOKENS, WIDTH)
    return Function(lambda x, inner: x + inner(x.detach().argmax(1, keepdim=True)), bag)


def _transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, dim_feedforward=6, batch_first=True)


def _of(function: Callable[..., Any], *modules: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Function(function, *(module() for module in modules))


_LINEAR = partial(nn.Linear, WIDTH, WIDTH)
_CONV = partial(nn.Conv2d, CHANNELS, CHANNELS, 3, padding=1)

ELEMENTWISE: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "functional relu": _of(F.relu),
    "relu_": _of(_relu_in_place),
    "leaky": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "rrelu": nn.RReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "hardtanh": nn.Hardtanh,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "relu6": nn.ReLU6,
    "threshold": lambda: nn.Threshold(0.1, 0.0),
    "hardshrink": nn.Hardshrink,
    "softmax": lambda: nn.Softmax(-1),
    "abs": _of(torch.abs),
    "square": _of(torch.square),
    "sqrt": _of(lambda x: x.abs().sqrt()),
    "exp": _of(torch.exp),
    "sign": _of(torch.sign),
    "clamp": _of(lambda x: x.clamp(-1, 1)),
    "where": _of(lambda x: torch.where(x > 0, x, 0.1 * x)),
    "masked": _of(lambda x: x.masked_fill(x < 0, 0)),
    "gate": _of(lambda x: x * x.sigmoid()),
    "normalize": _of(lambda x: F.normalize(x, dim=-1)),
    "maxout": _of(_maxout),
    "sort": _of(lambda x: x.sort(-1).values),
    "cumsum": _of(lambda x: x.cumsum(-1)),
    "flip": _of(lambda x: x.flip(-1)),
    "written": _of(_written),
    "decision": _of(_by_decision),
    "changing shapes": _of(_loop_of_changing_shapes),
    "requires_grad_": _of(_requires_grad),
    "detach": _of(torch.detach),
    "noise": _of(_noise),
    "fourier": _of(_fourier),
    "double inside": _of(lambda x: x.double().tanh().to(x.dtype)),
    "integer inside": _of(lambda x: x + x.long()),
    "nan inside": _of(lambda x: torch.where(x > 1e9, x * torch.nan, x)),
    "divide": _of(lambda x: x / x.flip(-1)),
    "identity": nn.Identity,
    "dropout": nn.Dropout,
    "forgetful": Forgetful,
    "integer parameter": _integer_scale,
    "scalar parameter": lambda: Holding(lambda x, w: x * w, nn.Parameter(torch.tensor(1.5))),
    "unused parameter": lambda: Holding(lambda x, w: x, nn.Parameter(torch.ones(3, 3))),
    "empty parameter": lambda: Holding(lambda x, w: x + w.sum(), nn.Parameter(torch.zeros(0, 4))),
    "integer buffer": lambda: Holding(lambda x, w: x * w, torch.tensor(2)),
    "by sample": _of(_by_sample),
    "by feature": _of(_by_feature),
    "messages": _of(_messages),
    "until small": _of(_until_small),
    "kept rows": _of(_kept_rows),
    "gate by one number": _of(lambda x: x * x.mean().relu()),
    "gate by sample": _of(lambda x: x * x.flatten(1).mean(1).relu().reshape(-1, *[1] * (x.ndim - 1))),
    "mean over batch": _of(lambda x: x - x.mean(0)),
}

LAYERS: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "vector": {
        **ELEMENTWISE,
        "linear": _LINEAR,
        "linear without bias": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
        "zero linear": lambda: _with_zeros(nn.Linear(WIDTH, WIDTH)),
        "weight norm": lambda: parametrizations.weight_norm(_LINEAR()),
        "old weight norm": _weight_normed,
        "spectral norm": lambda: parametrizations.spectral_norm(_LINEAR()),
        "orthogonal": lambda: parametrizations.orthogonal(_LINEAR()),
        "bilinear": _of(lambda x, inner: inner(x, x), lambda: nn.Bilinear(WIDTH, WIDTH, WIDTH)),
        "batch norm": lambda: nn.BatchNorm1d(WIDTH),
        "batch norm without statistics": lambda: nn.BatchNorm1d(WIDTH, track_running_stats=False),
        "functional batch norm": _of(lambda x: F.batch_norm(x, None, None, training=True)),
        "layer norm": lambda: nn.LayerNorm(WIDTH),
        "rms norm": lambda: nn.RMSNorm(WIDTH),
        "group norm": lambda: nn.GroupNorm(2, WIDTH),
        "empty layers": _empty,
        "tied": _tied,
        "scripted": _scripted,
        "complex weight": _complex_weight,
        "embedding bag": _bag,
        "energy": _of(_energy, _LINEAR),
        "half body": _of(_half_body, lambda: _LINEAR(dtype=torch.bfloat16)),
        "einsum": lambda: Holding(lambda x, w: torch.einsum("ni,ij->nj", x, w), nn.Parameter(torch.randn(4, 4))),
        "unbatched conv": _of(lambda x, inner: inner(x.unsqueeze(1)).squeeze(1), lambda: nn.Conv1d(1, 1, 3, padding=1)),
    },
    "image": {
        **ELEMENTWISE,
        "conv": _CONV,
        "grouped conv": partial(_CONV, groups=2),
        "circular conv": partial(_CONV, padding_mode="circular"),
        "transposed conv": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, padding=1),
        "strided conv": lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 2, stride=2), nn.Upsample(scale_factor=2)),
        "max pool": lambda: nn.MaxPool2d(3, stride=1, padding=1),
        "average pool": lambda: nn.AvgPool2d(3, stride=1, padding=1),
        "adaptive pool": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Upsample(scale_factor=2)),
        "bilinear upsampling": lambda: nn.Sequential(
            nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        ),
        "batch norm": lambda: nn.BatchNorm2d(CHANNELS),
        "batch norm without statistics": lambda: nn.BatchNorm2d(CHANNELS, track_running_stats=False),
        "instance norm": lambda: nn.InstanceNorm2d(CHANNELS),
        "group norm": lambda: nn.GroupNorm(1, CHANNELS),
        "linear on rows": lambda: nn.Linear(PIXELS, PIXELS),
        "channels last": _of(lambda x: x.contiguous(memory_format=torch.channels_last)),
        "squeeze and excite": _of(_spatial, lambda: nn.Sequential(nn.Linear(CHANNELS, CHANNELS), nn.Hardsigmoid())),
        "dropout 2d": nn.Dropout2d,
    },
    "sequence": {
        **ELEMENTWISE,
        "linear": _LINEAR,
        "layer norm": lambda: nn.LayerNorm(WIDTH),
        "lstm": _of(_first, lambda: nn.LSTM(WIDTH, WIDTH, batch_first=True)),
        "gru": _of(_first, lambda: nn.GRU(WIDTH, WIDTH, batch_first=True)),
        "time first rnn": _of(_first, lambda: nn.RNN(WIDTH, WIDTH)),
        "attention": _of(_attention, lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True)),
        "transformer": _transformer,
        "conv over time": lambda: nn.Conv1d(POSITIONS, POSITIONS, 3, padding=1),
        "attention function": _of(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
        "transposed": _of(lambda x, inner: inner(x.transpose(0, 1)).transpose(0, 1), _LINEAR),
        "positions": lambda: Holding(lambda x, w: x + w, nn.Parameter(torch.randn(POSITIONS, WIDTH))),
    },
}


def _with_zeros(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Checkpointed(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


class Twice(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


class Hidden(nn.Module):
    """Its layers are in a list, where ``parameters()`` does not find them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.hidden = list(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = layer(x)
        return x


def _frozen(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).requires_grad_(False)


def _switched(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).eval()


COMBINATIONS: dict[str, Callable[..., nn.Module]] = {
    "block": nn.Sequential,
    "residual": Residual,
    "checkpointed": Checkpointed,
    "twice": Twice,
    "hidden": Hidden,
    "frozen": _frozen,
    "in evaluation mode": _switched,
}


def build(layer: Layer, shape: str) -> nn.Module:
    """The module of a name."""
    if isinstance(layer, str):
        return LAYERS[shape][layer]()
    kind, *inner = layer
    return COMBINATIONS[kind](*(build(name, shape) for name in inner))
