"""What is run, in which order, and the table that keeps it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.generalization.data import Split, split
from benchmarks.generalization.training import MEASURES, NONE, Outcome, rounded, scales, trained


class Run(NamedTuple):
    """What tells one row of the table from all others.

    ``phase`` is ``"pilot"`` (its ``strength`` is the method's scale there), ``"tuning"`` or ``"final"``.
    """

    phase: str
    data: str
    noise: float
    method: str
    strength: float
    seed: int


Runs = dict[Run, Outcome]
MEASURED = [f"measure of {name}" for name in MEASURES]
COLUMNS = [*Run._fields, *Outcome._fields[:-1], *MEASURED]


@dataclass(frozen=True)
class Plan:
    """What is run. No seed serves two phases."""

    data: tuple[str, ...] = ("digits", "MNIST")
    noises: tuple[float, ...] = (0.0, 0.2)
    methods: tuple[str, ...] = tuple(MEASURES)
    factors: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
    steps: int = 1000
    pilot_seed: int = 200
    tuning_seeds: tuple[int, ...] = (100, 101, 102)
    final_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    @property
    def conditions(self) -> list[tuple[str, float]]:
        """Each data set with each share of noise."""
        return [(data, noise) for data in self.data for noise in self.noises]


QUICK = Plan(
    data=("digits",),
    methods=("weight decay", "PathNorm"),
    factors=(0.1, 1),
    steps=200,
    tuning_seeds=(100,),
    final_seeds=(0, 1, 2),
)


@dataclass
class Study:
    """A plan and the runs that are done, in a table on disk if there is a path."""

    plan: Plan
    path: Path | None = None
    runs: Runs = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.exists():
            self.runs = read(self.path)

    def keep(self, run: Run, outcome: Outcome) -> None:
        """Note a run, on disk at once."""
        self.runs[run] = outcome
        if self.path is None:
            return
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerow([*run, *outcome[:-1], *outcome.measures.values()])

    def scale(self, data: str, noise: float, method: str) -> float:
        """The strength that the factors multiply."""
        return next(run.strength for run in self.runs if run[:4] == ("pilot", data, noise, method))

    def grid(self, data: str, noise: float, method: str) -> list[float]:
        """The strengths that are tried, in ascending order."""
        if method == NONE:
            return [0.0]
        scale = self.scale(data, noise, method)
        return [rounded(factor * scale, 3) for factor in self.plan.factors]

    def validation(self, data: str, noise: float, method: str, strength: float) -> float:
        """Mean validation accuracy in tuning."""
        runs = (Run("tuning", data, noise, method, strength, seed) for seed in self.plan.tuning_seeds)
        return fmean(self.runs[run].val_accuracy for run in runs)

    def chosen(self, data: str, noise: float, method: str) -> float:
        """The strength of the highest mean validation accuracy; of equal ones the smallest."""
        return max(self.grid(data, noise, method), key=lambda strength: self.validation(data, noise, method, strength))

    def find_scales(self, data: str, noise: float) -> None:
        """Run the pilot, whose network is trained without a penalty."""
        plan, seed = self.plan, self.plan.pilot_seed
        known = {run.method for run in self.runs if run[:3] == ("pilot", data, noise)}
        if known.issuperset(plan.methods):
            return
        parts = split(data, noise, seed)
        outcome = trained(parts, seed, plan.steps, NONE, 0.0)
        for method, scale in scales(parts, seed, plan.steps).items():
            if method in plan.methods and method not in known:
                self.keep(Run("pilot", data, noise, method, scale, seed), outcome)

    def finish(self, runs: Iterator[Run]) -> None:
        """Do those runs that are not done."""
        parts: dict[int, Split] = {}
        for run in runs:
            if run in self.runs:
                continue
            if run.seed not in parts:
                parts = {run.seed: split(run.data, run.noise, run.seed)}
            outcome = trained(parts[run.seed], run.seed, self.plan.steps, run.method, run.strength)
            self.keep(run, outcome)
            print(*run, f"{outcome.val_accuracy:.3f}", f"{outcome.seconds:.1f} s", file=sys.stderr, flush=True)

    def complete(self) -> None:
        """Do everything: scales, tuning, and what the tuning led to."""
        for data, noise in self.plan.conditions:
            self.find_scales(data, noise)
            self.finish(self._tuning(data, noise))
            self.finish(self._final(data, noise))

    def _tuning(self, data: str, noise: float) -> Iterator[Run]:
        for seed in self.plan.tuning_seeds:
            for method in (NONE, *self.plan.methods):
                for strength in self.grid(data, noise, method):
                    yield Run("tuning", data, noise, method, strength, seed)

    def _final(self, data: str, noise: float) -> Iterator[Run]:
        strengths = {method: self.chosen(data, noise, method) for method in (NONE, *self.plan.methods)}
        for seed in self.plan.final_seeds:  # all methods of a seed in a row, so that their times can be compared
            for method, strength in strengths.items():
                yield Run("final", data, noise, method, strength, seed)


def read(path: Path) -> Runs:
    """The runs in a table."""
    runs = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = (row["phase"], row["data"], float(row["noise"]), row["method"], float(row["strength"]))
            measures = {name: float(row[column]) for name, column in zip(MEASURES, MEASURED, strict=True)}
            numbers = (float(row[column]) for column in Outcome._fields[:-1])
            runs[Run(*key, int(row["seed"]))] = Outcome(*numbers, measures)
    return runs
