"""A space of hyper-parameters in YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_complexity.selection.spaces.base import Space, Structure

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

_KEYS = {
    "int": ("type", "low", "high", "log", "step", "when"),
    "float": ("type", "low", "high", "log", "step", "when"),
    "categorical": ("type", "choices", "when"),
    "fixed": ("type", "value", "when"),
}
_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


class ParameterSpace(Space):
    """Hyper-parameters that are numbers or words; a structure is a tuple of names and values.

    Args:
        parameters: For each its ``type`` (``int``, ``float``, ``categorical`` or ``fixed``) with ``low``, ``high``,
            ``log`` and ``step``, ``choices``, or ``value``; and ``when``, values of parameters before it with which
            alone it is there.

    Raises:
        ValueError: At a mistake, with the parameter's name.

    Example:
        >>> space = ParameterSpace({"width": {"type": "int", "low": 4, "high": 64, "log": True}})
        >>> space.read({"width": 8})
        (('width', 8),)
    """

    def __init__(self, parameters: Mapping[str, Mapping[str, Any]]) -> None:
        self.definitions = {name: dict(entry) for name, entry in parameters.items()}
        for place, (name, entry) in enumerate(self.definitions.items()):
            check_parameter(name, entry, list(self.definitions.values())[:place], list(self.definitions)[:place])

    def suggest(self, trial: BaseTrial) -> Structure:
        """The hyper-parameters of a trial."""
        found: dict[str, Any] = {}
        for name, entry in self.definitions.items():
            if all(parent in found and found[parent] in values for parent, values in entry.get("when", {}).items()):
                found[name] = _suggested(trial, name, entry)
        return tuple(found.items())

    def parameters(self, structure: Structure) -> dict[str, Any]:
        """Those that are chosen, without the fixed ones."""
        return {name: value for name, value in _pairs(structure) if self.definitions[name]["type"] != "fixed"}

    def arguments(self, structure: Structure) -> dict[str, Any]:
        """All of them, with those that are fixed.

        Args:
            structure: Of this space.
        """
        return dict(_pairs(structure))

    def describe(self, structure: Structure) -> str:
        """Names and values of what is chosen."""
        return ", ".join(
            f"{n}={v:.4g}" if isinstance(v, float) else f"{n}={v}" for n, v in self.parameters(structure).items()
        )


def _pairs(structure: Structure) -> list[tuple[str, Any]]:
    return [pair for pair in structure if isinstance(pair, tuple)]


def _suggested(trial: BaseTrial, name: str, entry: Mapping[str, Any]) -> Any:
    kind = entry["type"]
    if kind == "fixed":
        return entry["value"]
    if kind == "categorical":
        return trial.suggest_categorical(name, entry["choices"])
    if kind == "int":
        return trial.suggest_int(name, entry["low"], entry["high"], step=entry.get("step", 1), log=_log(entry))
    return trial.suggest_float(name, entry["low"], entry["high"], step=entry.get("step"), log=_log(entry))


def _log(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("log", False))


# Mistakes ---------------------------------------------------------------------------------------------


def check_parameter(name: str, entry: dict[str, Any], before: list[dict[str, Any]], names: list[str]) -> None:
    """Check what is said of one parameter, and bring ``when`` to lists of values.

    Args:
        name: Of the parameter.
        entry: What is said of it.
        before: What is said of those before it.
        names: Of those before it.

    Raises:
        ValueError: At a mistake.
    """
    kind = entry.get("type")
    if kind not in _KEYS:
        close = get_close_matches(str(kind), _KEYS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        given = "has no type" if kind is None else f"has the unknown type {kind!r}"
        raise ValueError(f"{name} {given}; types are {', '.join(_KEYS)}.{hint}")
    for key in entry:
        if key not in _KEYS[kind]:
            close = get_close_matches(str(key), _KEYS[kind], n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"{name} has the unknown entry {key!r}; {kind} has {', '.join(_KEYS[kind])}.{hint}")
    if kind == "categorical":
        _check_choices(name, entry)
    elif kind == "fixed":
        if "value" not in entry:
            raise ValueError(f"{name} is fixed and needs a value.")
        _check_json(name, entry["value"])
    else:
        _check_range(name, entry, kind)
    if "when" in entry:
        entry["when"] = _conditions(name, entry["when"], before, names)


def _check_json(name: str, value: Any) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, words, lists or mappings of them, got {value!r}.") from error


def _check_choices(name: str, entry: dict[str, Any]) -> None:
    choices = entry.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"{name} needs choices, a list of at least one, got {choices!r}.")
    entry["choices"] = choices = [_number(choice) for choice in choices]
    if wrong := [choice for choice in choices if not isinstance(choice, (str, int, float, bool, type(None)))]:
        raise ValueError(f"{name}: choices must be numbers, words, true, false or null, got {wrong[0]!r}.")
    kinds = [(type(choice), choice) for choice in choices]
    if twice := [choice for place, (_, choice) in enumerate(kinds) if kinds[place] in kinds[:place]]:
        raise ValueError(f"{name} has the choice {twice[0]!r} twice.")


def _check_range(name: str, entry: dict[str, Any], kind: str) -> None:
    wanted: tuple[type, ...] = (int,) if kind == "int" else (int, float)
    for key in ("low", "high", "step"):
        if key not in entry:
            if key == "step":
                continue
            raise ValueError(f"{name} needs {key}.")
        value = entry[key] = _number(entry[key])
        if kind == "int" and isinstance(value, float) and value.is_integer():
            value = entry[key] = int(value)
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise ValueError(
                f"{name}: {key} must be {'a whole number' if kind == 'int' else 'a number'}, got {value!r}."
            )
    low, high, log = entry["low"], entry["high"], entry.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"{name}: log must be true or false, got {log!r}.")
    if low > high:
        raise ValueError(f"{name}: low {low} is greater than high {high}.")
    if log and low <= 0:
        raise ValueError(f"{name}: with log, low must be greater than 0, got {low}.")
    if "step" in entry and (log or entry["step"] <= 0):
        raise ValueError(
            f"{name} cannot have both log and step."
            if log
            else f"{name}: step must be greater than 0, got {entry['step']}."
        )


def _conditions(name: str, when: Any, before: list[dict[str, Any]], names: list[str]) -> dict[str, list[Any]]:
    if not isinstance(when, dict) or not when:
        raise ValueError(f"{name}: when must be such as {{optimizer: sgd}}, got {when!r}.")
    found = {}
    for parent, values in when.items():
        if parent not in names:
            raise ValueError(f"{name}: when names {parent!r}, which is no parameter before it.")
        found[parent] = values = [_number(v) for v in (values if isinstance(values, list) else [values])]
        choices = before[names.index(parent)].get("choices")
        if choices is not None and (wrong := [value for value in values if value not in choices]):
            raise ValueError(f"{name}: when says {parent}: {wrong[0]}, which is no choice of {parent}.")
    return found


def _number(value: Any) -> Any:
    """A number that YAML takes for a word, such as 1e-3."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


# Reading ----------------------------------------------------------------------------------------------


def read_space(path: str | Path) -> dict[str, dict[str, Any]]:
    """Parameters of a YAML file: ``name: {type: ...}``, ``name: [choices]``, or ``name: value``.

    Args:
        path: The file.

    Raises:
        ValueError: If there is no such file, or at a mistake, with its line and the parameter's name.
    """
    import yaml

    path = Path(path)
    try:
        root = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ValueError(f"space {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"space {path} is no text.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{path}{line}: this is no YAML: {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise ValueError(
            f"{path} must have an entry for each parameter, such as 'width: {{type: int, low: 8, high: 64}}'."
        )
    found: dict[str, dict[str, Any]] = {}
    for key, node in root.value:
        name, line = str(key.value), key.start_mark.line + 1
        try:
            if name in found:
                raise ValueError(f"{name} is there twice.")
            entry = _entry(name, node)
            check_parameter(name, entry, list(found.values()), list(found))
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
        found[name] = entry
    if all(entry["type"] == "fixed" for entry in found.values()):
        raise ValueError(f"{path} has nothing to choose from: all parameters are fixed.")
    return found


def _entry(name: str, node: Any) -> dict[str, Any]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        keys = [str(key.value) for key, _ in node.value]
        if twice := next((key for place, key in enumerate(keys) if key in keys[:place]), None):
            raise ValueError(f"{name} has {twice!r} twice.")
    try:
        value = yaml.SafeLoader("").construct_object(node, deep=True)
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(f"{name} cannot be read: {getattr(error, 'problem', None) or error}.") from error
    if isinstance(value, dict):
        return {str(key): entry for key, entry in value.items()}
    if isinstance(value, list):
        return {"type": "categorical", "choices": value}
    return {"type": "fixed", "value": _number(value)}
