"""What is varied, and cases that cover it.

The product of all levels has 3,456 cases, of which each takes 0.3 to 4 seconds: more than an hour. Instead, for any few
factors every combination of their levels occurs in some case: of two factors in ``make test`` (24 cases), of four in
``make test-slow`` (263 cases). So a fault is seen if no more than four levels have to come together for it, such as
LBFGS with accumulated gradients on a checkpointed network in two processes; which of them it was, the failing cases
tell. Of the 8 of the 24 cases that are on two processes ``make test`` has three, for time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np


class Setting(NamedTuple):
    """A training, without an observer."""

    optimizer: str
    precision: str
    accumulate: int
    network: str
    processes: int
    workers: int


class Case(NamedTuple):
    """A training, and when a monitor measures what."""

    optimizer: str
    precision: str
    accumulate: int
    network: str
    processes: int
    workers: int
    suite: str
    cadence: str

    @property
    def setting(self) -> Setting:
        """The training alone."""
        return Setting(*self[: len(Setting._fields)])

    def __str__(self) -> str:
        return (
            f"{self.network}, {self.optimizer}, {self.precision}, accumulating {self.accumulate}, "
            f"{self.processes} process(es), {self.workers} worker(s): {self.suite} per {self.cadence}"
        )


NETWORKS = "cnn", "spectral", "lstm", "transformer", "shared", "max_norm", "checkpointed", "own_generator"
FACTORS: dict[str, tuple[Any, ...]] = {
    "optimizer": ("sgd", "adamw", "lbfgs"),
    "precision": ("32-true", "bf16-mixed", "64-true"),
    "accumulate": (1, 3),
    "network": NETWORKS,
    "processes": (1, 2),
    "workers": (0, 2),
    "suite": ("fast", "standard", "full"),
    "cadence": ("epoch", "step"),
}


@cache
def covering(strength: int) -> tuple[Case, ...]:
    """Few cases in which, for any ``strength`` factors, every combination of their levels occurs.

    Greedy: the next case is the first of those with the most combinations that are still missing.
    """
    rows = list(itertools.product(*(range(len(levels)) for levels in FACTORS.values())))
    table = np.stack([_combinations(np.array(rows), chosen) for chosen in _choices(strength)], axis=1)
    missing = np.zeros(table.max() + 1, dtype=bool)
    missing[table] = True
    found = []
    while missing.any():
        best = missing[table].sum(1).argmax()
        missing[table[best]] = False
        found.append(Case(*(levels[i] for levels, i in zip(FACTORS.values(), rows[best], strict=True))))
    return tuple(found)


def _choices(strength: int) -> Iterable[tuple[int, tuple[int, ...]]]:
    return enumerate(itertools.combinations(range(len(FACTORS)), strength))


def _combinations(rows: np.ndarray, chosen: tuple[int, tuple[int, ...]]) -> np.ndarray:
    """A number for the levels of the chosen factors in each row, another for each choice."""
    number, factors = chosen
    code = np.full(len(rows), number)
    for factor in factors:
        code = code * max(map(len, FACTORS.values())) + rows[:, factor]
    return code


def settings(cases: Iterable[Case]) -> Iterator[tuple[Setting, list[Case]]]:
    """The cases of each training, which then is run only once without an observer."""
    ordered = sorted(cases)
    for setting, group in itertools.groupby(ordered, key=lambda case: case.setting):
        yield setting, list(group)
