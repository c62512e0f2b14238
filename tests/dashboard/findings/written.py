"""Runs written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_complexity.dashboard.findings import Finding, findings
from lightning_complexity.dashboard.runs import Run
from lightning_complexity.recording import Measurement

ALIASES = {
    "train": "probe/train_loss",
    "val": "probe/val_loss",
    "train_accuracy": "probe/train_accuracy",
    "val_accuracy": "probe/val_accuracy",
    "moved": "complexity/distance_from_initialization",
    "norm": "complexity/parameter_norm",
    "gradient": "complexity/gradient_norm",
    "jacobian": "complexity/geometric_complexity",
}


def run(
    curves: Mapping[str, Sequence[float]],
    *,
    per_epoch: int = 1,
    every: int = 10,
    name: str = "run",
    settings: dict[str, Any] | None = None,
) -> Run:
    """A run whose curves begin at step 0; a moment every ``every`` steps, ``per_epoch`` of them an epoch."""
    longest = max(map(len, curves.values()), default=0)
    history = [
        Measurement(
            every * i,
            i // per_epoch,
            float(i),
            {ALIASES.get(key, key): values[i] for key, values in curves.items() if i < len(values)},
        )
        for i in range(longest)
    ]
    return Run(name, Path(name), history, settings or {})


def found(curves: Mapping[str, Sequence[float]], **options: Any) -> dict[str, Finding]:
    """The findings of one run by their names."""
    return {finding.name: finding for finding in findings([run(curves, **options)])}


def loud(found: Mapping[str, Finding]) -> list[str]:
    return [name for name, finding in found.items() if finding.severity != "note"]


FALLING = [2.3, 1.6, 1.1, 0.8, 0.6, 0.45, 0.35, 0.28, 0.22, 0.18]
FLAT = [2.3, 2.31, 2.29, 2.3, 2.305, 2.3, 2.29, 2.3, 2.31, 2.3]
STILL = [0.0] * 10
GROWING = [0.0, 0.5, 0.9, 1.2, 1.4, 1.6, 1.7, 1.8, 1.9, 2.0]
CORRECT = [0.1, 0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96]
CHANCE = [0.1, 0.11, 0.09, 0.1, 0.105, 0.1, 0.095, 0.1, 0.11, 0.1]
