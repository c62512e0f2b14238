"""Folders as trainings leave them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_complexity.recording import Measurement, append

NORM, COUNT, GAP = "complexity/parameter_norm", "complexity/parameter_count", "probe/accuracy_gap"
ACCURACY, VALIDATION, LOSS = "probe/train_accuracy", "probe/val_accuracy", "probe/train_loss"


def write_run(
    folder: Path,
    rows: Iterable[tuple[int, Mapping[str, float]]],
    settings: Mapping[str, Any] | None = None,
    name: str = "complexity.jsonl",
) -> Path:
    """A record, in the order in which rows come, and its settings."""
    for step, values in rows:
        append(folder / name, Measurement(step, step // 10, 1e9 + step, dict(values)))
    if settings is not None:
        (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def training(width: int, seed: int, steps: int = 5, *, gap: float | None = None) -> list[tuple[int, dict[str, float]]]:
    """A network whose norm and gap grow with its width and its steps; wider ones are fitted at the end."""
    rows = []
    for i in range(steps):
        share = i / (steps - 1)
        grown = (0.01 * math.log2(width) if gap is None else gap) * share
        accuracy = 1.0 if width >= 16 and share == 1 else 0.5 + 0.4 * share
        values = {
            NORM: width * (1 + share) + seed,
            COUNT: 10.0 * width,
            LOSS: 2.0 * 0.5**i + 0.01 * seed,
            ACCURACY: accuracy,
            VALIDATION: accuracy - grown - 0.01 * seed,
            GAP: grown + 0.01 * seed,
        }
        rows.append((10 * i, values))
    return rows


def write_sweep(folder: Path, widths: Iterable[int] = (8, 16, 32), seeds: int = 2) -> Path:
    """A run for each width and seed."""
    for width in widths:
        for seed in range(seeds):
            write_run(folder / f"width={width},seed={seed}", training(width, seed), {"width": width, "seed": seed})
    return folder
