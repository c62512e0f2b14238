"""The smallest network with the same fault."""

from __future__ import annotations

from collections.abc import Callable

from tests.random_networks.cases import Case
from tests.random_networks.checks import Fault, faults
from tests.random_networks.subjects import METRICS, PENALTIES


def shrunk(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Leave out layers and make the rest ordinary, one thing after another, for as long as it still fails."""
    while True:
        simpler = next(filter(fails, case.simpler()), None)
        if simpler is None:
            return case
        case = simpler


def with_same_fault(case: Case, fault: Fault) -> Case:
    """The smallest case on which the same measure has the same kind of fault."""
    name = fault.subject.removeprefix("penalty ").removesuffix(" by chunks")
    is_penalty = fault.subject.startswith("penalty ")
    metrics = list(METRICS) if name not in METRICS else [] if is_penalty else [name]
    penalties = list(PENALTIES) if name not in METRICS else [name] if is_penalty else []

    def fails(other: Case) -> bool:
        found = faults(other, metrics, penalties)
        return any((f.subject, f.kind) == (fault.subject, fault.kind) for f in found)

    return shrunk(case, fails)
