"""What a network takes, what it returns, and how that becomes a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.random_networks.layers import POSITIONS, SHAPES, TOKENS

CLASSES = 3


# What it takes ---------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """An embedding before the network."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, SHAPES["sequence"][-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x)


class FromMapping(nn.Module):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["x"] + batch["scale"].unsqueeze(1)


class Source(NamedTuple):
    """A kind of inputs: samples, the module that takes them, and the shape that the layers then see."""

    samples: Callable[[int], Any]
    reader: Callable[[], nn.Module]
    shape: str


SOURCES: dict[str, Source] = {
    "vector": Source(lambda n: torch.randn(n, *SHAPES["vector"]), nn.Identity, "vector"),
    "image": Source(lambda n: torch.randn(n, *SHAPES["image"]), nn.Identity, "image"),
    "sequence": Source(lambda n: torch.randn(n, *SHAPES["sequence"]), nn.Identity, "sequence"),
    "tokens": Source(lambda n: torch.randint(0, TOKENS, (n, POSITIONS)), Tokens, "sequence"),
    "mapping": Source(
        lambda n: {"x": torch.randn(n, *SHAPES["vector"]), "scale": torch.randn(n)}, FromMapping, "vector"
    ),
}


# What it returns -------------------------------------------------------------------------------------


@dataclass
class Output:
    first: Tensor
    second: Tensor


@dataclass
class WithLogits:
    logits: Tensor
    hidden: Tensor


class Opaque:
    """An object that nothing is known about."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


class Head(nn.Module):
    """Turns what the layers give into outputs of a form."""

    def __init__(self, shape: str, outputs: str) -> None:
        super().__init__()
        self.form = OUTPUTS[outputs]
        self.linear = nn.Linear(torch.Size(SHAPES[shape]).numel(), CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.form(self.linear(x.flatten(1)), x)


OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "logits": lambda y, x: y,
    "(n, 1)": lambda y, x: y[:, :1],
    "(n,)": lambda y, x: y[:, 0],
    "scalar": lambda y, x: y.sum(),
    "one number": lambda y, x: y.sum().reshape(1),
    "(n, classes, 2)": lambda y, x: torch.stack([y, -y], 2),
    "(n, 2, classes)": lambda y, x: torch.stack([y, -y], 1),
    "no outputs": lambda y, x: y[:, :0],
    "tuple": lambda y, x: (y, x.flatten(1)),
    "tuple of one": lambda y, x: (y,),
    "list": lambda y, x: [y, y.exp()],
    "empty tuple": lambda y, x: (),
    "mapping with logits": lambda y, x: {"logits": y, "hidden": x},
    "mapping": lambda y, x: {"first": y, "second": x.flatten(1)},
    "nested": lambda y, x: {"out": (y, {"n": 3, "mean": y.mean()})},
    "dataclass": lambda y, x: Output(y, y.square()),
    "dataclass with logits": lambda y, x: WithLogits(y, x),
    "opaque": lambda y, x: Opaque(y),
    "none": lambda y, x: None,
    "number": lambda y, x: float(y.detach().sum()),
    "classes": lambda y, x: y.argmax(1),
    "truth values": lambda y, x: y > 0,
    "complex": lambda y, x: torch.complex(y, y),
    "probabilities": lambda y, x: y.softmax(1),
    "log probabilities": lambda y, x: y.log_softmax(1),
    "half": lambda y, x: y.to(torch.bfloat16),
    "double": lambda y, x: y.double(),
    "samples last": lambda y, x: y.T,
    "expanded": lambda y, x: y[:, :1].expand(-1, CLASSES),
    "constant": lambda y, x: torch.ones_like(y).detach(),
    "infinite": lambda y, x: torch.cat([y[:, :-1], torch.full_like(y[:, :1], -torch.inf)], 1),
}


# How it is judged ------------------------------------------------------------------------------------


def _first_tensor(outputs: Any) -> Tensor:
    while not isinstance(outputs, Tensor):
        values = outputs.values() if isinstance(outputs, dict) else outputs if isinstance(outputs, tuple | list) else ()
        outputs = next(iter(values), None) if values else vars(outputs)[next(iter(vars(outputs)))]
    return outputs


def _any_loss(outputs: Any, targets: Any) -> Tensor:
    return _first_tensor(outputs).square().mean()


def _summed(outputs: Any, targets: Any) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum")


class Judge(NamedTuple):
    """Targets for a number of samples, and the loss; ``None`` for the default."""

    targets: Callable[[int], Any]
    loss: Callable[[Any, Any], Any] | None = None


def _classes(n: int) -> Tensor:
    return torch.randint(0, CLASSES, (n,))


def _floats(n: int) -> Tensor:
    return torch.rand(n, CLASSES)


JUDGES: dict[str, Judge] = {
    "classes": Judge(_classes),
    "no targets": Judge(lambda n: None),
    "floats": Judge(_floats),
    "small integers": Judge(lambda n: _classes(n).to(torch.uint8)),
    "one class": Judge(lambda n: torch.zeros(n, dtype=torch.long)),
    "unknown classes": Judge(lambda n: _classes(n) + 2),
    "some ignored": Judge(lambda n: torch.where(torch.arange(n) % 2 == 0, _classes(n), -100)),
    "all ignored": Judge(lambda n: torch.full((n,), -100)),
    "probabilities": Judge(lambda n: _floats(n).softmax(1)),
    "a target too few": Judge(lambda n: _classes(n)[1:]),
    "classes as column": Judge(lambda n: _classes(n)[:, None]),
    "targets in a mapping": Judge(lambda n: {"y": _classes(n)}),
    "classes of positions": Judge(lambda n: torch.randint(0, CLASSES, (n, 2))),
    "squared error": Judge(_floats, F.mse_loss),
    "squared error of (n, 1)": Judge(lambda n: torch.rand(n, 1), F.mse_loss),
    "squared error of (n,)": Judge(torch.rand, F.mse_loss),
    "truth of (n, 1)": Judge(lambda n: torch.rand(n, 1).round(), F.binary_cross_entropy_with_logits),
    "truth of (n,)": Judge(lambda n: torch.rand(n).round(), F.binary_cross_entropy_with_logits),
    "cross-entropy of (n, 1)": Judge(lambda n: torch.rand(n, 1).round(), F.cross_entropy),
    "sum": Judge(_classes, _summed),
    "of the first tensor": Judge(lambda n: None, _any_loss),
    "of the first tensor with targets": Judge(_classes, _any_loss),
    "not a number for the batch": Judge(_classes, lambda outputs, targets: _first_tensor(outputs).square()),
    "a number of Python": Judge(_classes, lambda outputs, targets: float(_first_tensor(outputs).detach().sum())),
    "nothing": Judge(_classes, lambda outputs, targets: None),
    "constant": Judge(_classes, lambda outputs, targets: torch.ones(())),
    "an error": Judge(_classes, lambda outputs, targets: {}["missing"]),
    "not finite": Judge(_classes, lambda outputs, targets: _first_tensor(outputs).sum() * torch.inf),
}


# Probes ----------------------------------------------------------------------------------------------


def _where_float(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda t: change(t) if t.is_floating_point() else t


def _with(value: float, *where: Any) -> Callable[[Tensor], Tensor]:
    def change(t: Tensor) -> Tensor:
        t = t.clone()
        t[where if len(t) else slice(0)] = value
        return t

    return _where_float(change)


def _strided(t: Tensor) -> Tensor:
    return torch.stack([t, t], -1)[..., 0]


SAMPLES = 7
PROBES: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "random": (SAMPLES, lambda t: t),
    "empty": (0, lambda t: t),
    "one sample": (1, lambda t: t),
    "two samples": (2, lambda t: t),
    "a nan": (SAMPLES, _with(torch.nan, 1)),
    "an inf": (SAMPLES, _with(torch.inf, 2)),
    "all nan": (SAMPLES, _where_float(lambda t: t * torch.nan)),
    "all inf": (SAMPLES, _where_float(lambda t: t.abs() * torch.inf)),
    "zeros": (SAMPLES, torch.zeros_like),
    "constant": (SAMPLES, torch.ones_like),
    "duplicated": (SAMPLES, lambda t: t[:1].expand_as(t)),
    "pairs of duplicates": (SAMPLES, lambda t: t[torch.arange(len(t)) // 2]),
    "huge": (SAMPLES, _where_float(lambda t: 1e30 * t)),
    "large": (SAMPLES, _where_float(lambda t: 1e4 * t)),
    "tiny": (SAMPLES, _where_float(lambda t: 1e-30 * t)),
    "integers": (SAMPLES, _where_float(lambda t: t.round().long())),
    "bytes": (SAMPLES, _where_float(lambda t: t.abs().to(torch.uint8))),
    "truth values": (SAMPLES, _where_float(lambda t: t > 0)),
    "not contiguous": (SAMPLES, _strided),
    "double": (SAMPLES, _where_float(torch.Tensor.double)),
    "half": (SAMPLES, _where_float(torch.Tensor.bfloat16)),
    "complex": (SAMPLES, _where_float(lambda t: t.to(torch.complex64))),
    "requires grad": (SAMPLES, _where_float(lambda t: t.clone().requires_grad_())),
    "with a graph": (SAMPLES, _where_float(lambda t: t.clone().requires_grad_() * 1)),
    "flat": (SAMPLES, lambda t: t.flatten()),
    "one dimension more": (SAMPLES, lambda t: t.unsqueeze(1)),
    "sparse": (SAMPLES, _where_float(lambda t: t.to_sparse())),
}

PRECISIONS = {
    "single": torch.float32,
    "double": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "half body": None,
}
