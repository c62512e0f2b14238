"""Read the records of many networks into a pandas frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_complexity.recording import RECORD_NAME, Measurement, read_record

OVERHEAD = "complexity/overhead"  # of the monitor, which is no measure
FOLDER, STEP, EPOCH = "record.folder", "record.step", "record.epoch"


def read_records(folder: str | Path, *, settings: str = "settings.json", at: float | None = None) -> pd.DataFrame:
    """One row a network: its hyper-parameters, and what was measured at one moment of its training.

    Args:
        folder: Holds, at any depth, a record ``complexity.jsonl`` for each network.
        settings: Name of the JSON with its hyper-parameters: beside the record, or in a folder above it up to
            ``folder``. If there is none of this name but one other JSON beside the record, that one. Entries of
            an object in it get names such as ``optimizer.lr``; lists become text, but those of objects are left out;
            ``null`` becomes the word None.
        at: The share of the training, by steps, at which to look, between 0 and 1; the last measurement at
            or before that. The end if not given. What was not measured at that moment is missing.

    Returns:
        Columns of the JSON, log keys, and ``record.folder``, ``record.step``, ``record.epoch``. A network
        without a JSON has no hyper-parameters. Networks that have no measurement yet are passed over.

    Raises:
        FileNotFoundError: If there is no record, or no JSON beside any of them.
        ValueError: If a JSON is none or holds no object, if a name is both in it and measured, or if ``at`` is not
            between 0 and 1.
    """
    if at is not None and not 0 <= at <= 1:
        raise ValueError(f"at must be a share of the training, between 0 and 1, got {at!r}.")
    rows = []
    for found, history in _networks(Path(folder), settings):
        limit = history[-1].step * (1.0 if at is None else at)
        moment = next((m for m in reversed(history) if m.step <= limit), history[0])
        rows.append(found | _row(moment))
    return pd.DataFrame(rows)


def read_series(folder: str | Path, *, settings: str = "settings.json") -> pd.DataFrame:
    """One row a measurement: as :func:`read_records`, for all moments of every training.

    Args:
        folder: As there.
        settings: As there.
    """
    return pd.DataFrame([found | _row(m) for found, history in _networks(Path(folder), settings) for m in history])


def _row(moment: Measurement) -> dict[str, Any]:
    return {STEP: moment.step, EPOCH: moment.epoch, **moment.values}


def _networks(folder: Path, settings: str) -> Iterator[tuple[dict[str, Any], list[Measurement]]]:
    paths = sorted(folder.rglob(RECORD_NAME))
    if not paths:
        raise FileNotFoundError(
            f"no {RECORD_NAME} in {folder} or in folders below it; "
            "ComplexityMonitor writes one where a logger has its files."
        )
    jsons = {path: _settings_of(path, folder, settings) for path in paths}
    if not any(jsons.values()):
        raise FileNotFoundError(f"no {settings} with hyper-parameters beside any of {len(paths)} records in {folder}.")
    for path, found in jsons.items():
        history = read_record(path)
        values = {} if found is None else _flat(_parsed(found))
        measured = {key for m in history for key in m.values}
        if both := measured & values.keys():
            raise ValueError(f"{min(both)!r} is both in {found} and measured in {path}; rename it in the JSON.")
        if history:
            yield {FOLDER: str(path.parent.relative_to(folder)), **values}, history


def _settings_of(record: Path, folder: Path, settings: str) -> Path | None:
    for parent in record.parents:
        if (parent / settings).is_file():
            return parent / settings
        if parent == folder:
            break
    others = list(record.parent.glob("*.json"))
    return others[0] if len(others) == 1 else None


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON, got: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold an object with hyper-parameters, got a {type(found).__name__}.")
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            if not any(isinstance(entry, dict) for entry in value):
                flat[prefix + name] = json.dumps(value)
        else:
            flat[prefix + name] = "None" if value is None else value
    return flat
