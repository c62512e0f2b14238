"""The hyper-parameters of a run: from the files that lie beside what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_complexity.dashboard.runs import Setting

FILES = ("settings.json", "hparams.yaml", "result.json")
"""In this order; the first that has something is read."""

_MAX_SETTINGS, _MAX_LENGTH = 100, 200


# Unknown tags, such as those of Python objects, are passed over; nothing of them is run.
_Loader: Any = type("_Loader", (yaml.SafeLoader,), {})
_Loader.add_multi_constructor("", lambda *_: None)


def read_settings(folder: Path, root: Path) -> tuple[dict[str, Setting], list[str]]:
    """Read hyper-parameters beside a run; ``settings.json`` may also be in a folder above it, up to the root.

    Args:
        folder: Of the run.
        root: The folder that was asked for.

    Returns:
        The settings, at most 100 of them, texts cut at 200 characters; and what could not be read, a line each.
    """
    above = [parent / FILES[0] for parent in folder.parents if parent == root or root in parent.parents]
    notes = []
    for path in [*(folder / name for name in FILES), *above]:
        if not path.is_file():
            continue
        try:
            settings = flattened(_parsed(path))
        except (ValueError, OSError, yaml.YAMLError) as error:
            notes.append(f"{path} is not read: {' '.join(str(error).split())[:200]}")
            continue
        if settings:
            return dict(list(settings.items())[:_MAX_SETTINGS]), notes
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


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    """Entries of objects by names with dots; lists as text.

    Example:
        >>> flattened({"optimizer": {"lr": 0.1}, "widths": [8, 8], "data": None})
        {'optimizer.lr': 0.1, 'widths': '[8, 8]', 'data': None}
    """
    flat: dict[str, Setting] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"[:_MAX_LENGTH]
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{key}.")
        elif value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            flat[key] = value
        else:
            flat[key] = str(value)[:_MAX_LENGTH]
    return flat
