"""Spaces for tests of searches: a table whose best is known, networks that break, that diverge, and that wait."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import nn

from lightning_complexity.selection.searching import tables
from lightning_complexity.selection.spaces.base import NetworkSpace, Structure, TableSpace


class SmallTable(TableSpace):
    """Sixteen networks with three trainings each."""

    def __init__(self, size: int = 4) -> None:
        self.size = size

    def suggest(self, trial: optuna.trial.BaseTrial) -> Structure:
        return trial.suggest_int("a", 0, self.size - 1), trial.suggest_int("b", 0, self.size - 1)

    def parameters(self, structure: Structure) -> dict[str, Any]:
        return dict(zip("ab", structure, strict=True))

    def outcome(self, structure: Structure, seed: int | None = None) -> dict[str, float]:
        a, b = structure
        assert isinstance(a, int)
        assert isinstance(b, int)
        if seed is not None and seed > 2:
            raise KeyError(seed)
        shift = 0.0 if seed is None else 0.01 * (seed - 1)
        return {"error": 0.5 - 0.1 * a + 0.02 * b + shift, "parameters": float(100 * (a + 1) + b)}


class WaitingTable(SmallTable):
    """The first trial of all workers waits, until its worker is killed by the number that it leaves."""

    def __init__(self, folder: str) -> None:
        super().__init__(size=8)
        self.folder = Path(folder)

    def outcome(self, structure: Structure, seed: int | None = None) -> dict[str, float]:
        if seed == 0 and sys.argv[1:2] == ["worker"]:
            with contextlib.suppress(FileExistsError), (self.folder / "waiting").open("x") as file:
                file.write(str(os.getpid()))
                file.flush()
                time.sleep(120)
        return super().outcome(structure, seed)


class Broken(NetworkSpace):
    """Networks of one layer, of which those with ``kind`` not ``fine`` cannot be used."""

    def __init__(self, kinds: Sequence[str] = ("fine", "build", "forward", "outputs", "words", "diverges")) -> None:
        self.kinds = list(kinds)

    def suggest(self, trial: optuna.trial.BaseTrial) -> Structure:
        return trial.suggest_categorical("kind", self.kinds), trial.suggest_int("width", 2, 9)

    def parameters(self, structure: Structure) -> dict[str, Any]:
        return dict(zip(("kind", "width"), structure, strict=True))

    def build(self, structure: Structure, input_shape: Sequence[int], num_outputs: int) -> nn.Module:
        kind, width = structure
        assert isinstance(width, int)
        if kind == "build":
            raise RuntimeError("no such layer\nand more")
        inputs = int(torch.tensor(input_shape).prod())
        if kind == "forward":
            return nn.Sequential(nn.Flatten(), nn.Linear(inputs + 1, num_outputs))
        if kind == "nothing":
            return nn.Flatten()
        net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, num_outputs))
        if kind == "outputs":
            return net[:3]
        return (
            nn.Sequential(net, Words()) if kind == "words" else nn.Sequential(net, Nan()) if kind == "diverges" else net
        )


class Words(nn.Module):
    def forward(self, x: torch.Tensor) -> str:
        return "words"


class Nan(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float("nan")


FOR_TESTS = {
    "table": tables.SpaceEntry(f"{__name__}:SmallTable", "for tests"),
    "broken": tables.SpaceEntry(f"{__name__}:Broken", "for tests"),
}
