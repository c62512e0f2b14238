"""Activation checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.zoo.base import (
    CHECKPOINTED,
    ZOO,
    Build,
    Specimen,
    vectors,
)


def checkpointed(of: Callable[[Build], Specimen]) -> Callable[[Any], Any]:
    def add(cls: Any) -> Any:
        CHECKPOINTED[cls.__name__] = lambda reentrant: of(lambda: cls(reentrant))
        for reentrant in (False, True):
            ZOO[f"{cls.__name__}_{'reentrant' if reentrant else 'not_reentrant'}"] = lambda r=reentrant: of(
                lambda: cls(r)
            )
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
        x = x if x.requires_grad else x.clone().requires_grad_()
        if self.reentrant is None:
            return self.net(x)
        return checkpoint_sequential(self.net, 3, x, use_reentrant=self.reentrant)
