"""Networks that keep state in Python."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict, deque
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn

from tests.zoo.base import (
    Body,
    sequences,
    specimen,
    vectors,
)


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
