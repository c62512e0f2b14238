"""One thing that happened in a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SEVERITIES = ("fault", "warning", "note")
"""From what matters most."""


@dataclass(frozen=True)
class Finding:
    """One thing that happened.

    Attributes:
        name: Of the kind of finding, such as ``"overfitting"``.
        severity: ``"fault"``, ``"warning"`` or ``"note"``.
        headline: What happened, in one sentence.
        evidence: The numbers that say so, in words.
        value: The number that it is about, if there is one.
        standard_error: Of the value, if it is known.
        interval: Of the value, if it is known.
        confidence: How sure it is, between 0 and 1.
        next_step: What to try.
        step: When it began, in completed optimizer steps, if that can be said.
        run: Name of the run; ``None`` for all of them.
    """

    name: str
    severity: str
    headline: str
    evidence: str = ""
    value: float | None = None
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    confidence: float = 1.0
    next_step: str = ""
    step: int | None = None
    run: str | None = None


def ranked(found: Sequence[Finding]) -> list[Finding]:
    """By severity, and then by how sure they are.

    Example:
        >>> [f.name for f in ranked([Finding("a", "note", ""), Finding("b", "fault", ""), Finding("c", "fault", "")])]
        ['b', 'c', 'a']
    """
    return sorted(found, key=lambda finding: (SEVERITIES.index(finding.severity), -finding.confidence))
