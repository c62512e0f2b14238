"""One network with its batch, drawn at random and told by names."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_complexity.network import initial_state, map_tensors
from tests.random_networks.layers import COMBINATIONS, LAYERS, Layer, build
from tests.random_networks.tasks import JUDGES, OUTPUTS, PRECISIONS, PROBES, SOURCES, Head


class Network(nn.Module):
    """A reader, layers and a head; the body in a precision of its own where there is one."""

    def __init__(self, reader: nn.Module, layers: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.reader, self.layers, self.head = reader, nn.Sequential(*layers), head
        self.body_dtype: torch.dtype | None = None

    def forward(self, batch: Any) -> Any:
        x = self.reader(batch)
        if self.body_dtype is not None and x.is_floating_point():
            x = self.layers(x.to(self.body_dtype)).to(self.head.linear.weight.dtype)
        else:
            x = self.layers(x)
        return self.head(x)


class Built(NamedTuple):
    """What a case is about, ready to be measured."""

    model: nn.Module
    inputs: Any
    targets: Any
    loss: Any
    initial: Mapping[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A network and its batch by names; ``Case()`` is an ordinary classifier."""

    source: str = "vector"
    layers: tuple[Layer, ...] = ()
    outputs: str = "logits"
    judge: str = "classes"
    probe: str = "random"
    precision: str = "double"
    seed: int = 0

    @property
    def shape(self) -> str:
        """What the layers see."""
        return SOURCES[self.source].shape

    def build(self) -> Built:
        """The network and its batch, the same ones at every call."""
        torch.manual_seed(self.seed)
        source, judge, dtype = SOURCES[self.source], JUDGES[self.judge], PRECISIONS[self.precision]
        layers = [build(layer, self.shape) for layer in self.layers]
        model = Network(source.reader(), layers, Head(self.shape, self.outputs))
        if dtype is None:
            model.layers.to(torch.bfloat16)
            model.body_dtype, dtype = torch.bfloat16, torch.float64
        else:
            model.to(dtype)
        initial = initial_state(model)
        with torch.no_grad():
            for p in model.parameters():
                if p.is_floating_point():
                    p.add_(0.1 * torch.randn_like(p))
        count, change = PROBES[self.probe]
        samples = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, source.samples(count))
        targets = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, judge.targets(count))
        return Built(model, map_tensors(change, samples), targets, judge.loss, initial)

    def simpler(self) -> Iterator[Case]:
        """Cases with one thing less, or with one thing more ordinary."""
        for field in ("probe", "precision", "judge", "outputs"):
            if getattr(self, field) != getattr(Case, field):
                yield replace(self, **{field: getattr(Case, field)})
        for index, layer in enumerate(self.layers):
            before, after = self.layers[:index], self.layers[index + 1 :]
            yield replace(self, layers=before + after)
            if isinstance(layer, tuple):
                yield replace(self, layers=before + layer[1:] + after)
                for inner in range(1, len(layer)):
                    if len(layer) > 2:
                        yield replace(self, layers=(*before, layer[:inner] + layer[inner + 1 :], *after))
        if self.source != "vector" and all(name in LAYERS["vector"] for name in self.layers):
            yield replace(self, source="vector")
        if self.seed:
            yield replace(self, seed=0)


def drawn(seed: int) -> Case:
    """The case of a seed: most of it is ordinary, and a few things are not."""
    draw = random.Random(seed)

    def odd(names: Mapping[str, Any], ordinary: str, share: float) -> str:
        return draw.choice(list(names)) if draw.random() < share else ordinary

    source = draw.choice(list(SOURCES))
    names = list(LAYERS[SOURCES[source].shape])

    def layer() -> Layer:
        if draw.random() < 0.15:
            return (draw.choice(list(COMBINATIONS)), *draw.choices(names, k=draw.randint(1, 3)))
        return draw.choice(names)

    return Case(
        source=source,
        layers=tuple(layer() for _ in range(draw.randint(0, 5))),
        outputs=odd(OUTPUTS, "logits", 0.4),
        judge=odd(JUDGES, "classes", 0.4),
        probe=odd(PROBES, "random", 0.4),
        precision=odd(PRECISIONS, "double", 0.3),
        seed=seed,
    )
