"""What was measured, and the file it is kept in."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECORD_NAME = "complexity.jsonl"
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Measurement:
    """Everything measured at one moment of training.

    Attributes:
        step: Completed optimizer steps.
        epoch: Index of the epoch.
        time: Seconds since the epoch of Unix.
        values: Log keys and values.
        seconds: What each metric took; what metrics share counts for the first one.
    """

    step: int
    epoch: int
    time: float
    values: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)


def _name_of(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _encoded(measurement: Measurement) -> str:
    row = asdict(measurement)
    row["values"] = {key: _name_of(value) for key, value in measurement.values.items()}
    return json.dumps(row, allow_nan=False)


def _decoded(row: dict[str, Any]) -> Measurement:
    values = {key: _NOT_FINITE[v] if isinstance(v, str) else float(v) for key, v in row["values"].items()}
    return Measurement(int(row["step"]), int(row["epoch"]), float(row["time"]), values, dict(row["seconds"]))


def append(path: Path, measurement: Measurement) -> None:
    """Add one line to a record, in a single write.

    A line that an earlier run left unfinished is closed first, so that only that one is lost.

    Args:
        path: The file; its folder is created.
        measurement: What to add. Numbers keep all their digits; ``nan`` and infinities become strings, since
            JSON has none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = False
    if path.exists() and path.stat().st_size > 0:
        with path.open("rb") as file:
            file.seek(-1, 2)
            unfinished = file.read() != b"\n"
    with path.open("ab", buffering=0) as file:
        file.write((b"\n" if unfinished else b"") + _encoded(measurement).encode() + b"\n")


def read_record(path: str | Path) -> list[Measurement]:
    """Read a record, in the order of steps.

    Several monitors may write one file: measurements of the same step are merged, a later line winning,
    so that a run continued from a checkpoint replaces what it repeats. Lines that are no complete
    measurement, such as the last one of a killed run, are passed over.

    Args:
        path: The file, or the folder that holds ``complexity.jsonl``.

    Returns:
        One measurement a step.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    path = path / RECORD_NAME if path.is_dir() else path
    by_step: dict[int, Measurement] = {}
    for line in path.read_text().splitlines():
        try:
            new = _decoded(json.loads(line))
        except (ValueError, KeyError, TypeError):
            continue
        old = by_step.get(new.step)
        values, seconds = (
            ({**old.values, **new.values}, {**old.seconds, **new.seconds}) if old else (new.values, new.seconds)
        )
        by_step[new.step] = Measurement(new.step, new.epoch, new.time, values, seconds)
    return [by_step[step] for step in sorted(by_step)]


def curve(history: list[Measurement], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one log key.

    Args:
        history: Measurements in order.
        key: Full log key, such as ``"complexity/stable_rank"``.

    Raises:
        KeyError: If it was never measured.

    Example:
        >>> curve([Measurement(0, 0, 0.0, {"a": 1.0}), Measurement(5, 1, 0.0, {"a": 2.0})], "a")
        ([0, 5], [1.0, 2.0])
    """
    points = [(m.step, m.values[key]) for m in history if key in m.values]
    if not points:
        known = sorted({k for m in history for k in m.values})
        raise KeyError(f"{key!r} was never measured; there are {', '.join(known) or 'no measurements'}.")
    return [step for step, _ in points], [value for _, value in points]
