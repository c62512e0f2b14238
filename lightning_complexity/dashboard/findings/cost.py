"""What measuring cost, and what the budget thinned out."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_complexity.dashboard.findings.evidence import Evidence, number, percent
from lightning_complexity.dashboard.findings.finding import Finding
from lightning_complexity.dashboard.runs import OVERHEAD

THINNED = 0.5
"""Moments of a measure over those of the one most often measured."""
DEAR = 1.0
"""Time spent measuring over the rest of the time."""


def thinned(evidence: Evidence) -> Iterator[Finding]:
    """Measures that came at half of the moments or fewer. Needs ten moments."""
    if len(evidence.history) < 10:
        return
    keys = [key for key in evidence.keys if key.startswith("complexity/") and key.count("/") == 1 and key != OVERHEAD]
    measured = {key: sum(key in m.values for m in evidence.history) for key in keys}
    most = max(measured.values(), default=0)
    rare = sorted(key.removeprefix("complexity/") for key, n in measured.items() if n <= THINNED * most)
    if not rare:
        return
    shown = ", ".join(rare[:4]) + (f" and {len(rare) - 4} more" if len(rare) > 4 else "")
    yield Finding(
        "thinned_measures",
        "note",
        f"{'1 measure was' if len(rare) == 1 else f'{len(rare)} measures were'} taken at half of the moments or fewer: "
        f"{shown}.",
        f"The most frequent one came at {most} moments.",
        value=float(len(rare)),
        confidence=0.9,
        next_step="For denser curves raise ComplexityMonitor(budget=...), or take fewer metrics and a smaller probe.",
    )


def dear(evidence: Evidence) -> Iterator[Finding]:
    """Measuring took longer than training. Needs ``complexity/overhead``."""
    overhead = evidence.curve(OVERHEAD)
    if not len(overhead) or overhead.last <= DEAR:
        return
    yield Finding(
        "dear_measures",
        "note",
        f"Measuring took {number(overhead.last)} times as long as the rest of training.",
        f"The overhead is {percent(overhead.last)}.",
        value=overhead.last,
        confidence=0.99,
        next_step="Measure more rarely (every_n_steps=...), or set ComplexityMonitor(budget=0.05).",
    )
