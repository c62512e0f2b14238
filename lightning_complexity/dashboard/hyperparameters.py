"""The hyper-parameters of a run: from the files that lie beside what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_complexity.dashboard.runs import Setting

FILES = ("settings.json", "hparams.yaml", "result.json")
"""In this order; the first that has something is read."""

_MAX_SETTINGS, _MAX_LENGTH, _MAX_ENTRIES = 100, 200, 1000


# Unknown tags, such as those of Python objects, are passed over; nothing of them is run.
_Loader: Any = type("_Loader", (yaml.SafeLoader,), {})
_Loader.add_multi_constructor("", lambda *_: None)


def settings_files(folder: Path, root: Path) -> list[Path]:
    """Files that may have the hyper-parameters of a run, in the order in which they are looked at."""
    above = [parent / FILES[0] for parent in folder.parents if parent == root or root in parent.parents]
    return [*(folder / name for name in FILES), *above]


def read_settings(folder: Path, root: Path) -> tuple[dict[str, Setting], list[str]]:
    """Read hyper-parameters beside a run; ``settings.json`` may also be in a folder above it, up to the root.

    Args:
        folder: Of the run.
        root: The folder that was asked for.

    Returns:
        The settings, at most 100 of them, texts cut at 200 characters; and what could not be read, a line each.
    """
    notes = []
    for path in settings_files(folder, root):
        if not path.is_file():
            continue
        try:
            settings = flattened(_parsed(path))
        except (ValueError, OSError, yaml.YAMLError, RecursionError) as error:
            notes.append(f"{path} is not read: {' '.join(str(error).split())[:200]}")
            continue
        if settings:
            return settings, notes
    return {}, notes


def _parsed(path: Path) -> Mapping[str, Any]:
    text = path.read_text(errors="replace")
    found = yaml.load(text, _Loader) if path.suffix == ".yaml" else json.loads(text)  # a SafeLoader: runs no code
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ValueError(f"it must hold an object, got a {type(found).__name__}.")
    if path.name == "result.json":
        setting = found.get("setting", {})
        return setting if isinstance(setting, dict) else {}
    return found


def flattened(values: Mapping[str, Any]) -> dict[str, Setting]:
    """Entries of objects by names with dots; lists as text.

    A file can name an object many times, also within itself, so that what it holds is much more than the file: at most
    100 settings are taken, of the first 1000 entries.

    Example:
        >>> flattened({"optimizer": {"lr": 0.1}, "widths": [8, 8], "data": None})
        {'optimizer.lr': 0.1, 'widths': '[8, 8]', 'data': None}
    """
    flat: dict[str, Setting] = {}
    waiting = _entries(values)
    for _ in range(_MAX_ENTRIES):
        if not waiting or len(flat) == _MAX_SETTINGS:
            break
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += _entries(value, f"{name}.")
        else:
            flat[name] = _setting(value)
    return flat


def _entries(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """The first one last."""
    return [(f"{above}{name}"[:_MAX_LENGTH], value) for name, value in values.items()][::-1]


def _setting(value: Any) -> Setting:
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return value[:_MAX_LENGTH] if isinstance(value, str) else _text(value)


def _text(value: Any) -> str:
    """As Python writes it, as far as it is shown."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) >= _MAX_LENGTH:
            break
    return text[:_MAX_LENGTH]


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        entries: Iterable[tuple[str, Any]] = ((f"{name!r}: ", entry) for name, entry in value.items())
        ends = "{}"
    elif isinstance(value, (list, tuple)):
        entries, ends = (("", entry) for entry in value), "[]" if isinstance(value, list) else "()"
    else:
        yield repr(value) if isinstance(value, str) else str(value)
        return
    yield ends[0]
    for place, (name, entry) in enumerate(entries):
        yield f"{', ' if place else ''}{name}"
        yield from _pieces(entry)
    yield ends[1]
