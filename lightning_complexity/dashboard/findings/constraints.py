"""Limits that cannot be met, and limits and penalties that do nothing."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_complexity.dashboard.findings.evidence import Curve, Evidence, number, percent
from lightning_complexity.dashboard.findings.finding import Finding
from lightning_complexity.dashboard.findings.learning import NO_PROGRESS

TOLERATED = 0.05
"""Violation, as a share of the limit, that a constraint that is met on the average has at times."""
FALLING = 0.5
"""Violation at the end over that at two thirds of the training: it is on its way."""
NEGLIGIBLE = 1e-3
"""Penalty over the loss of the task."""


def out_of_reach(evidence: Evidence) -> Iterator[Finding]:
    """The measure stays above its limit while the multiplier rises.

    Needs ``constraint/<name>/violation``, which ``ComplexityConstraint`` logs; says ``/multiplier`` and ``/value``.
    """
    for name, violation in _constrained(evidence):
        later = violation.since(evidence.last_step * 2 / 3)
        if len(later) < 2 or later.values.min() <= TOLERATED or later.last < FALLING * later.first:
            continue
        value, multiplier = (evidence.curve(f"constraint/{name}/{what}") for what in ("value", "multiplier"))
        words = f" It is {number(value.last)} at the end." if len(value) else ""
        rising = f" The multiplier went up to {number(multiplier.last)}." if len(multiplier) else ""
        yield Finding(
            "constraint_out_of_reach",
            "fault",
            f"The limit on {name} is out of reach: it is exceeded by {number(later.last)}, as a share of the limit "
            "(for a logarithm, as a difference).",
            f"Over the last third of training it was never exceeded by less than {number(float(later.values.min()))}."
            f"{words}{rising}",
            value=later.last,
            standard_error=later.error,
            confidence=0.95 if later.last >= 0.9 * later.first else 0.8,
            next_step="Raise the limit (at_most=..., or at_most_relative_to_init=... to say it in terms of the start), "
            "train longer, or start from a network that meets it.",
            step=int(violation.steps[0]),
        )


def too_tight(evidence: Evidence) -> Iterator[Finding]:
    """A limit that is met, by a network that learned nothing.

    Needs ``constraint/<name>/violation`` and ``/multiplier``, and ``probe/train_loss``.
    """
    if evidence.progress is None or evidence.progress >= NO_PROGRESS:
        return
    for name, violation in _constrained(evidence):
        multiplier = evidence.curve(f"constraint/{name}/multiplier")
        if not len(multiplier) or multiplier.values.max() <= 0 or violation.last > TOLERATED:
            continue
        yield Finding(
            "constraint_too_tight",
            "fault",
            f"The limit on {name} is met by a network that learned nothing.",
            f"The multiplier went up to {number(float(multiplier.values.max()))}; {percent(evidence.progress)} of the "
            "training loss is gone.",
            value=float(multiplier.values.max()),
            confidence=0.9,
            next_step="Raise the limit (at_most=...), or lower max_multiplier=...",
        )


def idle_constraint(evidence: Evidence) -> Iterator[Finding]:
    """A limit that was never exceeded. Needs ``constraint/<name>/violation`` at three moments."""
    for name, violation in _constrained(evidence):
        if len(violation) >= 3 and violation.values.max() <= 0:
            yield Finding(
                "constraint_without_effect",
                "note",
                f"The limit on {name} was never exceeded: training was as without it.",
                f"No violation at {len(violation)} moments.",
                value=0.0,
                confidence=0.9,
                next_step="Lower the limit (at_most=...) if it is to hold the network down.",
            )


def penalties(evidence: Evidence) -> Iterator[Finding]:
    """Penalties next to the loss of the task: far below it, or above it where nothing is learned.

    Needs ``penalty/<name>`` and ``loss/task``, which ``ComplexityPenalty`` logs.
    """
    task = evidence.curve("loss/task")
    for key in sorted(key for key in evidence.keys if key.startswith("penalty/")):
        penalty, name = evidence.curve(key), key.removeprefix("penalty/")
        if len(penalty) < 3 or len(task) < 3 or task.last <= 0:
            continue
        share = penalty.last / task.last
        constrained = any(name == limited for limited, _ in _constrained(evidence))
        if share > 1 and evidence.progress is not None and not evidence.learned and not constrained:
            yield Finding(
                "too_strong_penalty",
                "fault",
                f"The penalty on {name} is {number(share)} times the loss of the task, of which "
                f"{percent(1 - evidence.progress)} is left.",
                f"{number(penalty.last)} and {number(task.last)} at the end.",
                value=share,
                confidence=0.85,
                next_step=f"Lower the strength of {name} by ten, or raise it slowly (schedule=callbacks.Warmup(...)).",
            )
        elif 0 <= share < NEGLIGIBLE and abs(penalty.first) < NEGLIGIBLE * abs(task.first) and not constrained:
            yield Finding(
                "penalty_without_effect",
                "note",
                f"The penalty on {name} is {percent(share)} of the loss: it hardly changes training.",
                f"{number(penalty.last)} and {number(task.last)} at the end.",
                value=share,
                confidence=0.7,
                next_step=f"Raise the strength of {name} by ten or a hundred.",
            )


def _constrained(evidence: Evidence) -> Iterator[tuple[str, Curve]]:
    start, end = "constraint/", "/violation"
    for key in sorted(key for key in evidence.keys if key.startswith(start) and key.endswith(end)):
        curve = evidence.curve(key)
        if len(curve):
            yield key[len(start) : -len(end)], curve
