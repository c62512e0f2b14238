"""Are the findings right: trainings with planted faults and healthy ones, and what is found in each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lightning_complexity.dashboard.findings import findings
from lightning_complexity.dashboard.runs import Run
from lightning_complexity.recording import Measurement
from tests.dashboard.findings.bases import GRADING
from tests.dashboard.findings.faults import FAULTS
from tests.dashboard.findings.trainings import run

SEED = 20261
FIRST = 3
"""Among how many of the first findings the right one has to be."""
STANDARD = {
    *("distance_from_initialization", "log_path_norm", "log_spectral_product", "margin_percentile"),
    *("parameter_norm", "stable_rank", "geometric_complexity", "jacobian_norm", "gradient_norm"),
}


@dataclass(frozen=True)
class Grade:
    """What was found, faults and warnings only, in one training."""

    fault: str
    base: str
    found: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        if not self.fault:
            return not self.found
        return any(name in FAULTS[self.fault].names for name in self.found[:FIRST])


def trained() -> Iterator[tuple[str, str, Run]]:
    """Fault, base and run of the twenty healthy trainings and the twenty others."""
    for place, (base, make) in enumerate(GRADING.items()):
        yield "", base, run(make, base, SEED + place)
    for place, (name, fault) in enumerate(FAULTS.items()):
        make = GRADING[fault.grading]
        yield name, fault.grading, run(lambda f=fault, m=make: f.plant(m()), name, SEED + len(GRADING) + place)


def graded(runs: Iterable[tuple[str, str, Run]]) -> list[Grade]:
    return [
        Grade(fault, base, tuple(f.name for f in findings([run]) if f.severity != "note")) for fault, base, run in runs
    ]


def score(grades: Iterable[Grade]) -> tuple[int, int]:
    """How many faults were found, and in how many healthy runs something was."""
    grades = list(grades)
    return sum(g.is_right for g in grades if g.fault), sum(not g.is_right for g in grades if not g.fault)


def table(grades: Iterable[Grade]) -> str:
    rows = [(g.fault or "-", g.base, ", ".join(g.found) or "-", "yes" if g.is_right else "NO") for g in grades]
    return "\n".join("| " + " | ".join(row) + " |" for row in [("planted", "training", "found", "right"), *rows])


def standard_only(run: Run, *, per_layer: bool) -> Run:
    """The run as the suite ``"standard"`` would have recorded it."""

    def kept(key: str) -> bool:
        family, *rest = key.split("/")
        return family != "complexity" or (rest[0] in STANDARD and (per_layer or len(rest) == 1))

    def less(values: Mapping[str, float]) -> dict[str, float]:
        return {key: value for key, value in values.items() if kept(key)}

    history = [Measurement(m.step, m.epoch, m.time, less(m.values), m.seconds) for m in run.history]
    return Run(run.name, run.path, history, run.settings)
