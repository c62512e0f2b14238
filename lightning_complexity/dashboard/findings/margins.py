"""Margins of training samples that no longer grow."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_complexity.dashboard.findings.evidence import Evidence, number
from lightning_complexity.dashboard.findings.finding import Finding
from lightning_complexity.dashboard.runs import TRAIN_ACCURACY

STALLED = 0.05
"""Growth over the last third, as a share of the value: less than that moves no bound."""
FITTED = 0.99


def margins_stall(evidence: Evidence) -> Iterator[Finding]:
    """Normalised margins stopped growing once the training samples were fitted.

    Needs ``probe/train_accuracy`` and ``complexity/margin_over_spectral_product`` (suite ``"full"``), or
    ``complexity/margin_percentile`` and ``complexity/log_spectral_product``, which do not say it as clearly.
    """
    accuracy = evidence.curve(TRAIN_ACCURACY)
    name = "margin_over_spectral_product"
    margin = evidence.curve(f"complexity/{name}")
    if not len(margin):
        name, margin = "margin_percentile", evidence.curve("complexity/margin_percentile")
    fitted = accuracy.steps[accuracy.values >= FITTED]
    if len(fitted) == 0 or accuracy.last < FITTED:
        return
    margin = margin.since(float(fitted[0]))
    later = (
        margin.since(float(margin.steps[0] + (evidence.last_step - margin.steps[0]) * 2 / 3)) if len(margin) else margin
    )
    if len(margin) < 6 or len(later) < 3 or margin.last <= 0:
        return
    growth = later.last - later.first
    if growth > max(STALLED * margin.last, 2 * margin.noise):
        return
    yield Finding(
        "margins_stall",
        "note",
        f"Margins no longer grow: {name} is {number(later.first)} at step {int(later.steps[0])} and "
        f"{number(later.last)} at the end.",
        f"A change of {number(growth)} +- {number(margin.noise)}; samples are fitted since step {int(fitted[0])}.",
        value=growth,
        standard_error=margin.noise,
        confidence=0.7,
        next_step="Training longer changes little; to widen margins, try weight decay or "
        "ComplexityPenalty(regularizers.SmoothMarginLoss(0.1)).",
        step=int(later.steps[0]),
    )
