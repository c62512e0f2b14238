"""Modules that do what ordinary modules do besides computing outputs: write, cache, count, share, draw, recompute.

Each entry of ``ZOO`` builds one with a batch, small and in double precision.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.networks import conv_net, mlp


@dataclass
class Specimen:
    """A module with a batch."""

    model: nn.Module
    inputs: Any
    targets: Any
    loss: Callable[[Any, Any], Tensor] | None = None


ZOO: dict[str, Callable[[], Specimen]] = {}
CHECKPOINTED: dict[str, Callable[[bool | None], Specimen]] = {}
"""Modules by whether activation checkpointing is reentrant; without any for ``None``."""

Build = Callable[[], nn.Module]


def classes(n: int = 7) -> Tensor:
    return torch.arange(n) % 3


def vectors(build: Build) -> Specimen:
    return Specimen(build(), torch.randn(7, 4), classes())


def tokens(build: Build) -> Specimen:
    return Specimen(build(), torch.arange(28).reshape(7, 4) % 6, classes())


def sequences(build: Build) -> Specimen:
    return Specimen(build(), torch.randn(7, 3, 4), classes())


def images(build: Build) -> Specimen:
    return Specimen(build(), torch.randn(7, 2, 8, 8), classes())


def specimen(of: Callable[[Build], Specimen], name: str | None = None) -> Callable[[Any], Any]:
    """Add a module class, or a function that builds a module."""

    def add(build: Any) -> Any:
        ZOO[name or build.__name__] = lambda: of(build)
        return build

    return add


class Body(nn.Module):
    """Two layers, which the others do something with."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu())


# Sharing ----------------------------------------------------------------------------------------


@specimen(vectors)
def shared_in_sequential() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 3))


@specimen(vectors)
class SharedUnderThreeNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.b = self.a
        self.c = nn.ModuleDict({"again": self.a, "inner": self.a[0]})
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c["inner"](self.b(self.a(x))).relu())


@specimen(vectors)
class TiedAcrossModules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = nn.Linear(4, 5), nn.Linear(5, 4, bias=False), nn.Linear(4, 3)
        self.decoder.weight = nn.Parameter(torch.randn(4, 5))
        self.mirror = nn.Linear(5, 4)
        self.mirror.weight = self.decoder.weight
        self.list = nn.ParameterList([self.decoder.weight, self.head.bias])

    def forward(self, x: Tensor) -> Tensor:
        x = self.decoder(self.encoder(x).relu()) + self.mirror(self.encoder(x).relu()) + x @ self.list[0] @ self.list[0].T
        return F.linear(x, self.head.weight, self.list[1])


@specimen(vectors)
class ReferredToByPython(Body):
    """Lists and dictionaries refer to parameters, and a list hides a module that is registered too."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [self.first.weight, self.head.weight]
        self.by_name = {"first": {"bias": self.first.bias}, "heads": (self.head.bias,)}
        self.modules_seen = [self.head]

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weights[0], self.by_name["first"]["bias"]).relu()
        return F.linear(x, self.modules_seen[0].weight, self.by_name["heads"][0])


@specimen(vectors)
class ViewsOfOneParameter(nn.Module):
    """Attributes that are views of a parameter, taken once."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Parameter(torch.randn(35))
        self.first = self.flat[:20].view(5, 4)
        self.parts = {"head": self.flat[20:].view(3, 5)}

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.first).relu(), self.parts["head"])


@specimen(vectors)
def parameters_of_one_storage() -> nn.Module:
    model, flat = Body(), torch.randn(35)
    model.first.weight = nn.Parameter(flat[:20].view(5, 4))
    model.head.weight = nn.Parameter(flat[20:].view(3, 5))
    return model


@specimen(vectors)
class HiddenModule(Body):
    """A teacher that a list keeps from the parameters; its BatchNorm is in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))]
        self.others = {"memory": nn.Embedding(3, 3, max_norm=0.1)}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.teacher[0](x).detach() + self.others["memory"].weight.mean(0).detach()


# Writing to parameters, inputs, targets, buffers ------------------------------------------------


@specimen(tokens)
def embedding_with_max_norm() -> nn.Module:
    return nn.Sequential(nn.Embedding(6, 4, max_norm=0.5), nn.Flatten(), nn.Linear(16, 3))


@specimen(tokens)
def embedding_bag_with_max_norm() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(6, 4, max_norm=0.5, mode="sum"), nn.Linear(4, 3))


@specimen(vectors)
class RenormalisedUnderNoGrad(Body):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.head.weight.div_(2 * self.head.weight.norm(dim=1, keepdim=True))
        return super().forward(x)


@specimen(vectors)
class RenormalisedThroughData(Body):
    def forward(self, x: Tensor) -> Tensor:
        self.head.weight.data = F.normalize(self.head.weight.data, dim=1) / 2
        self.first.weight.data.clamp_(-0.2, 0.2)
        return super().forward(x)


@specimen(vectors)
class WritesToInputs(Body):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(x.mean(1, keepdim=True))
        x[:, 0] = 0
        return super().forward(x)


@specimen(vectors)
def first_relu_in_place() -> nn.Module:
    return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))


class WritesToMapping(Body):
    def forward(self, batch: dict[str, Any]) -> Tensor:  # type: ignore[override]
        batch["x"].mul_(0.5)
        batch["more"][0].add_(1)
        batch["new"] = batch.pop("more")
        return super().forward(batch["x"] + batch["new"][0])


ZOO["inputs_in_a_mapping"] = lambda: Specimen(
    WritesToMapping(), {"x": torch.randn(7, 4), "more": [torch.randn(7, 4)]}, classes()
)


def _loss_that_writes(outputs: Tensor, targets: Tensor) -> Tensor:
    targets.clamp_(max=1)
    return F.cross_entropy(outputs.mul_(0.5), targets)


ZOO["loss_writes_to_targets"] = lambda: Specimen(mlp(4, 5, 3), torch.randn(7, 4), classes(), _loss_that_writes)
ZOO["regression"] = lambda: Specimen(mlp(4, 5, 1), torch.randn(7, 4), torch.randn(7, 1), F.mse_loss)


@specimen(vectors)
class BuffersWrittenAndReplaced(Body):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("average", torch.zeros(5))
        self.register_buffer("codebook", torch.randn(5, 5))
        self.register_buffer("last", torch.zeros(1), persistent=False)
        self.register_buffer("later", None)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        self.calls += 1
        self.average.lerp_(h.detach().mean(0), 0.1)
        self.codebook[int(self.calls) % 5] = h.detach()[0]
        self.last = h.detach()
        self.later = h.detach() if self.later is None else self.later + 1
        return self.head(h + 0.1 * self.codebook.mean(0) + self.average)


@specimen(vectors)
class RegistersInForward(Body):
    def forward(self, x: Tensor) -> Tensor:
        if "scale" not in self._buffers:
            self.register_buffer("scale", x.detach().std())
        if not hasattr(self, "lazy"):
            self.lazy = nn.Linear(3, 3, bias=False)
        self.register_forward_hook(lambda *_: None)
        return super().forward(x / self.scale)


# Python state -----------------------------------------------------------------------------------


class Statistics:
    def __init__(self) -> None:
        self.count, self.sums, self.inner = 0, [0.0], {"last": None}


@specimen(vectors)
class PythonContainers(Body):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.history: list[Tensor] = []
        self.cache: dict[Any, Any] = {}
        self.nested: dict[str, list[Any]] = {"states": [torch.zeros(3), torch.ones(3)]}
        self.by_kind: defaultdict[str, list[int]] = defaultdict(list)
        self.recent: deque[Tensor] = deque([torch.zeros(3)], maxlen=2)
        self.seen: set[int] = set()
        self.array, self.arrays = np.zeros(3), [np.zeros(3)]
        self.statistics = Statistics()
        self.observers = [Statistics()]
        self.queued = deque([Statistics()])

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.calls += 1
        self.history.append(y.detach())
        self.cache[tuple(x.shape)] = y.detach()
        self.nested["states"][0].add_(1)
        self.nested["states"][1] = y
        self.nested["new"] = [1]
        self.by_kind["forward"].append(self.calls)
        self.recent[0].add_(1)
        self.recent.append(y)
        self.seen.add(len(x))
        self.array += 1
        self.arrays[0][0] = self.calls
        for statistics in (self.statistics, self.observers[0], self.queued[0]):
            statistics.count += 1
            statistics.sums.append(1.0)
            statistics.inner["last"] = y  # type: ignore[assignment]
        return y + self.calls + len(self.history) + float(self.nested["states"][0].sum()) + self.queued[0].count


@specimen(vectors)
class AttributesComeAndGo(Body):
    def __init__(self) -> None:
        super().__init__()
        self.first_call, self.mode = True, "start"

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "first_call"):
            del self.first_call
            self.scale = x.detach().abs().max()
        self.mode = "running"
        self.last_output = super().forward(x / self.scale)
        return self.last_output


@specimen(sequences)
class HiddenStateReplaced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)
        self.hidden: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        hidden = None if self.hidden is None or self.hidden.shape[1] != len(x) else self.hidden
        outputs, last = self.rnn(x, hidden)
        self.hidden = last.detach()
        return self.head(outputs[:, -1])


@specimen(sequences)
class HiddenStateWritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(4, 5), nn.Linear(5, 3)
        self.hidden = torch.zeros(5)
        self.states = [torch.zeros(5), torch.zeros(5)]

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden.clone().expand(len(x), -1)
        for step in x.unbind(1):
            h = self.cell(step, h)
        self.hidden.copy_(h.detach().mean(0))
        self.states[1].copy_(self.states[0])
        self.states[0].copy_(self.hidden)
        return self.head(h + self.states[1].clone())


@specimen(vectors)
class TorchMetricsInside(Body):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torchmetrics.MeanMetric()
        self.cat = torchmetrics.CatMetric()
        self.plain = [torchmetrics.SumMetric()]

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.mean.update(y.detach())
        self.cat(y.detach())
        self.plain[0].update(y.detach())
        return y + self.mean.compute() + self.plain[0].compute()


@specimen(vectors)
class OwnGenerators(Body):
    def __init__(self) -> None:
        super().__init__()
        self.torch_generator = torch.Generator().manual_seed(1)
        self.numpy_generator, self.numpy_state = np.random.default_rng(1), np.random.RandomState(1)
        self.python_random, self.counter = random.Random(1), itertools.count()
        self.more = {"generators": [torch.Generator().manual_seed(2), random.Random(2)]}

    def forward(self, x: Tensor) -> Tensor:
        torch_more, python_more = self.more["generators"]
        drawn = self.numpy_generator.normal() + self.numpy_state.rand() + self.python_random.random()
        noise = torch.randn(4, generator=self.torch_generator) + torch.randn(4, generator=torch_more)
        return super().forward(x + 0.01 * (noise + drawn + python_more.random() + next(self.counter)))


@specimen(vectors)
class DrawsInEvaluation(Body):
    """As a variational autoencoder, with dropout that is always on."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.1 * torch.randn_like(x) + 0.1 * random.random() + 0.1 * np.random.rand()
        return self.head(F.dropout(self.first(x).relu(), 0.2, training=True))


# Reparametrized weights, hooks, modes -----------------------------------------------------------


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
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3))
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


# Memory and precision ---------------------------------------------------------------------------


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


# Activation checkpointing -----------------------------------------------------------------------


def checkpointed(of: Callable[[Build], Specimen]) -> Callable[[Any], Any]:
    def add(cls: Any) -> Any:
        CHECKPOINTED[cls.__name__] = lambda reentrant: of(lambda: cls(reentrant))
        for reentrant in (False, True):
            ZOO[f"{cls.__name__}_{'reentrant' if reentrant else 'not_reentrant'}"] = lambda r=reentrant: of(lambda: cls(r))
        return cls

    return add


class Checkpointing(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant

    def checkpoint(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        return function(*args) if self.reentrant is None else checkpoint(function, *args, use_reentrant=self.reentrant)


@checkpointed(vectors)
class WholeNetwork(Checkpointing):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__(reentrant)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        # Reentrant checkpoints give gradients only where an input requires one.
        return self.checkpoint(self.net, x.clone().requires_grad_() if not x.requires_grad else x)


@checkpointed(vectors)
class Nested(Checkpointing):
    """A checkpoint within another, with state that the recomputation writes again."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__(reentrant)
        self.first, self.middle, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(5)
        self.calls, self.seen = 0, [torch.zeros(())]
        self.register_buffer("average", torch.zeros(5))

    def _inner(self, h: Tensor) -> Tensor:
        self.calls += 1
        self.seen[0].add_(1)
        self.average.lerp_(h.detach().mean(0), 0.1)
        return F.softplus(self.norm(self.middle(h)))

    def _outer(self, h: Tensor) -> Tensor:
        return h + self.checkpoint(self._inner, h.sin())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.checkpoint(self._outer, self.first(x)))


@checkpointed(vectors)
class Sequence(Checkpointing):
    """Of segments, with weight normalization and functional dropout inside."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__(reentrant)
        spectral = parametrizations.spectral_norm(nn.Linear(5, 5))
        layers = nn.Linear(4, 5), nn.Tanh(), spectral, nn.LayerNorm(5), nn.Dropout(), nn.Tanh(), nn.Linear(5, 3)
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.net(x)
        x = x if x.requires_grad else x.clone().requires_grad_()
        return checkpoint_sequential(self.net, 3, x, use_reentrant=self.reentrant)
