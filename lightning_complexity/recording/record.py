"""What was measured, and the file it is kept in."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECORD_NAME = "complexity.jsonl"
VERSION = 1
"""Of the format; a line without one is of version 1."""
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NO_MEASUREMENT = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What comes of a line that is none: not JSON, nested without end, or with entries missing or of another kind."""


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


def to_json(value: float) -> float | str:
    """A number as records hold it: one that is not finite by its name, since JSON has none.

    Example:
        >>> to_json(1.5), to_json(math.inf)
        (1.5, 'Infinity')
    """
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _encoded(measurement: Measurement) -> str:
    row = {"version": VERSION, **asdict(measurement)}
    row["values"] = {key: to_json(value) for key, value in measurement.values.items()}
    return json.dumps(row, allow_nan=False)


def from_json(value: float | str) -> float:
    """The number that :func:`to_json` wrote.

    Raises:
        KeyError: At a name that is none of a number.
    """
    return _NOT_FINITE[value] if isinstance(value, str) else float(value)


class NewerRecordError(ValueError):
    """A record is of a format that a later version of this library writes."""


def _decoded(row: dict[str, Any]) -> Measurement:
    if row.get("version", VERSION) > VERSION:
        raise NewerRecordError(f"format {row['version']}; this version of lightning-complexity reads {VERSION}")
    values = {key: from_json(value) for key, value in row["values"].items()}
    return Measurement(int(row["step"]), int(row["epoch"]), float(row["time"]), values, dict(row["seconds"]))


def append(path: Path, measurement: Measurement) -> None:
    """Add one line to a record, in a single write.

    A line that an earlier run left unfinished is taken out, and so is what is written before the disk is full.

    Args:
        path: The file; its folder is created.
        measurement: What to add. Numbers keep all their digits; ``nan`` and infinities become strings, since
            JSON has none.

    Raises:
        OSError: If the file cannot be written; it then holds what it held before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _repair(path)
    data = _encoded(measurement).encode() + b"\n"
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, "no space left for a whole line", str(path))
        except OSError:
            file.truncate(end)
            raise


def _repair(path: Path) -> None:
    """Close the last line if it is whole, and take it out if it is not."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() == b"\n":
            return
    data = path.read_bytes()
    whole, _, last = data.rpartition(b"\n")
    if not _is_json(last):
        os.truncate(path, len(whole) + 1 if whole else 0)
    else:
        with path.open("ab", buffering=0) as file:
            file.write(b"\n")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def continue_record(
    path: Path, history: list[Measurement], replaced: Measurement | None = None, *, shared: bool = False
) -> None:
    """Bring a record to the state of a run that begins, or goes on from a checkpoint.

    What the run measured after the checkpoint, before it was interrupted, is taken out, since it will be measured
    again; so are lines that are no measurements. What the checkpoint has and the file lacks is put in. The file is
    replaced in one step. A file of another run is set aside under a name such as ``complexity.before-1.jsonl``.

    Args:
        path: The file; need not exist.
        history: All that the run measured, with its first measurement since it begins or goes on.
        replaced: A measurement that is no longer part of it.
        shared: Whether another monitor of the same run has already brought it to this state.

    Raises:
        OSError: If the file cannot be written.
    """
    lines = _lines_here(path)
    own = {(m.step, m.time) for m in [*history, *([] if replaced is None else [replaced])]}
    if not (shared or any((m.step, m.time) in own for m in lines)):
        if path.exists() and path.stat().st_size:
            _set_aside(path)
        lines = []
    # A monitor that shares the file puts its own lines back.
    last = math.inf if shared else (history[-2].step if len(history) > 1 else -1)
    others = [m for m in lines if m.step <= last and (m.step, m.time) not in own]
    rows = sorted([*others, *history], key=lambda m: m.step)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text("".join(f"{_encoded(row)}\n" for row in rows))
    os.replace(unfinished, path)


def _lines_here(path: Path) -> list[Measurement]:
    """What a file has that can be gone on with."""
    try:
        return read_lines(path)[0] if path.exists() else []
    except NewerRecordError:  # it is set aside, as that of another run
        return []


def _set_aside(path: Path) -> None:
    number = 1
    while (other := path.with_name(f"{path.stem}.before-{number}{path.suffix}")).exists():
        number += 1
    path.rename(other)


def _parsed(line: str) -> Measurement | None:
    try:
        return _decoded(json.loads(line))
    except NewerRecordError:
        raise
    except _NO_MEASUREMENT:
        return None


def read_lines(path: Path) -> tuple[list[Measurement], int]:
    """Read all measurements of a record, in the order of lines, and count the lines that are no complete measurement.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        NewerRecordError: If a later version of this library wrote it.
    """
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    try:
        parsed = [_parsed(line) for line in lines]
    except NewerRecordError as error:
        raise NewerRecordError(f"{path} is of {error}: update it.") from None
    found = [measurement for measurement in parsed if measurement is not None]
    return found, len(parsed) - len(found)


def merged(measurements: Iterable[Measurement]) -> list[Measurement]:
    """One measurement a step, in the order of steps; what comes later wins.

    Example:
        >>> found = merged([Measurement(5, 0, 0.0, {"a": 1.0}), Measurement(5, 0, 1.0, {"a": 2.0, "b": 3.0})])
        >>> found[0].values
        {'a': 2.0, 'b': 3.0}
    """
    by_step: dict[int, Measurement] = {}
    for new in measurements:
        old = by_step.get(new.step)
        values, seconds = (
            ({**old.values, **new.values}, {**old.seconds, **new.seconds}) if old else (new.values, new.seconds)
        )
        by_step[new.step] = Measurement(new.step, new.epoch, new.time, values, seconds)
    return [by_step[step] for step in sorted(by_step)]


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
        NewerRecordError: If a later version of this library wrote it, a ``ValueError``.
    """
    path = Path(path)
    path = path / RECORD_NAME if path.is_dir() else path
    return merged(read_lines(path)[0])


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
