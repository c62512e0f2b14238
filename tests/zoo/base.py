"""How a module joins the zoo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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
