"""Findings in words: what happened in runs, how sure it is, and what to try next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from lightning_complexity.dashboard.findings import constraints, cost, explained, fit, learning, margins, scale, units
from lightning_complexity.dashboard.findings.evidence import Evidence
from lightning_complexity.dashboard.findings.finding import SEVERITIES, Finding, ranked
from lightning_complexity.dashboard.runs import Run

__all__ = ["RULES", "SEVERITIES", "Finding", "findings", "ranked"]

Rule = Callable[[Evidence], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    units.dead_units,
    learning.wrong_sign,
    learning.divergence,
    constraints.out_of_reach,
    constraints.too_tight,
    constraints.penalties,
    scale.shrunk_weights,
    scale.large_start,
    units.frozen_layer,
    learning.restless,
    learning.constant_prediction,
    learning.no_progress,
    scale.exploding_gradient,
    learning.evaluation_differs,
    fit.validation_differs,
    fit.memorised_labels,
    fit.leaking_validation,
    fit.noisy_training_labels,
    fit.overfitting,
    units.collapsed_features,
    fit.generalization_gap,
    margins.margins_stall,
    scale.edge_of_stability,
    constraints.idle_constraint,
    cost.thinned,
    cost.dear,
)
"""Causes before their consequences: of findings that are equally sure, the first comes first."""


def findings(runs: Sequence[Run]) -> list[Finding]:
    """What happened in runs, what matters most first.

    Each rule says in its docstring what it needs; where that was not measured it finds nothing. Values that are not
    finite are evidence of divergence where they are a loss or the norm of the parameters, and passed over elsewhere.

    Args:
        runs: Of :func:`~lightning_complexity.dashboard.reading.read_runs`; their measurements in any order.

    Returns:
        By severity, then by confidence. Runs in which nothing stands out are named together in one finding
        ``"nothing_unusual"``.

    Example:
        >>> from pathlib import Path
        >>> from lightning_complexity.recording import Measurement
        >>> losses = [1.0, 0.6, 0.4, 0.5, 0.7, 0.9]
        >>> run = Run("a", Path("a"), [
        ...     Measurement(10 * i, i, 0.0, {"probe/train_loss": 0.5**i, "probe/val_loss": loss})
        ...     for i, loss in enumerate(losses)
        ... ])
        >>> print(findings([run])[0].headline)
        Overfitting begins at step 20: the validation loss rises from 0.4 to 0.9, while the training loss falls on.
    """
    evidences = [Evidence(run) for run in runs]
    found: list[Finding] = []
    quiet: list[str] = []
    with np.errstate(all="ignore"):
        for evidence in evidences:
            own = _without_consequences(
                [replace(_sound(f), run=evidence.name) for rule in RULES for f in rule(evidence)]
            )
            found += own
            if evidence.is_measured and all(f.severity == "note" for f in own):
                quiet.append(evidence.name)
        found += explained.gap_explained(evidences)
    if quiet or not found:
        found.append(_nothing_unusual(quiet, len(runs)))
    return ranked(found)


CONSEQUENCES = {
    "divergence": {"not_learning", "underfitting", "learning_rate_too_large"},
    "dead_units": {
        "not_learning",
        "learning_rate_too_small",
        "underfitting",
        "constant_prediction",
        "collapsed_features",
    },
    "vanishing_gradient": {"constant_prediction", "collapsed_features"},
    "learning_rate_too_small": {"constant_prediction"},
    "frozen_layer": {"underfitting"},
    "too_strong_penalty": {"not_learning", "underfitting", "constant_prediction", "collapsed_features"},
    "constraint_too_tight": {"not_learning", "underfitting", "dead_units", "collapsed_features"},
    "constraint_out_of_reach": {
        *("not_learning", "underfitting", "collapsed_features"),
        *("dead_units", "learning_rate_too_large", "exploding_gradient", "divergence"),
    },
    "learning_rate_too_large": {"not_learning", "underfitting"},
    "memorised_labels": {"generalization_gap"},
    "validation_differs": {"overfitting", "generalization_gap", "memorised_labels"},
    "overfitting": {"generalization_gap"},
}
"""Findings that go without saying where another one, as severe or more, was made."""


def _without_consequences(found: list[Finding]) -> list[Finding]:
    def follows(f: Finding) -> bool:
        return any(f.name in CONSEQUENCES.get(g.name, ()) and _weight(f) >= _weight(g) for g in found)

    return [f for f in found if not follows(f)]


def _weight(finding: Finding) -> int:
    return SEVERITIES.index(finding.severity)


def _sound(finding: Finding) -> Finding:
    """Without numbers that are none, of which records of diverged runs make some."""
    value, error, interval = finding.value, finding.standard_error, finding.interval
    return replace(
        finding,
        value=value if value is None or math.isfinite(value) else None,
        standard_error=error if error is None or math.isfinite(error) else None,
        interval=interval if interval is None or all(map(math.isfinite, interval)) else None,
    )


def _nothing_unusual(names: list[str], total: int) -> Finding:
    if not names:
        return Finding("nothing_unusual", "note", f"Nothing was measured in {_counted(total)}.", confidence=0.0)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return Finding(
        "nothing_unusual",
        "note",
        f"Nothing unusual in {_counted(len(names))}.",
        f"No rule found a fault or gave a warning in {shown}; rules see only what was measured.",
        confidence=0.5,
        run=names[0] if len(names) == 1 else None,
    )


def _counted(number: int) -> str:
    return "one run" if number == 1 else f"{number} runs"
