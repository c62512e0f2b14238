"""The report for programs: bounded, ranked, versioned."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

MOST_BYTES = 256 * 1024
_CLIPPED = 200
_SETTINGS = {"varied": "settings that are the same in all runs", "none": "all settings"}


def report_data(page: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the page's data that programs read, in at most 256 KB as JSON.

    What matters most comes first: findings, what one would pick, which measures go with the gap, runs. If it is too
    large, it is cut from its end: points along runs become fewer, then settings are those that vary, then runs, models
    and findings are left out from the last; ``left_out`` says of what.

    Args:
        page: Of :func:`~lightning_complexity.dashboard.payload.page_data`.

    Returns:
        ``format``, ``version``, ``findings``, ``choices``, ``rankings``, ``models``, ``runs``, ``notes``, ``left_out``.
    """
    for attempt in _ATTEMPTS:
        report: dict[str, Any] = _clipped(attempt(page))
        if len(written(report).encode()) <= MOST_BYTES:
            return report
    raise AssertionError("the smallest report is bounded")


def written(report: Mapping[str, Any]) -> str:
    """As the file has it."""
    return json.dumps(report, indent=1, allow_nan=False)


def _report(page: Mapping[str, Any], points: int, runs: int, settings: str, listed: int) -> dict[str, Any]:
    names = page["varied"]
    main = [key for key, measure in page["measures"].items() if measure["role"] != "part"][:listed]
    shown = page["runs"][:runs]
    rows = [_run(run, main, points, {"all": None, "varied": names, "none": []}[settings]) for run in shown]
    left_out = [_SETTINGS[settings]] if settings in _SETTINGS else []
    for what, all_of, most in (
        ("runs", page["runs"], runs),
        ("findings", page["findings"], listed),
        ("models", page["models"], runs),
        ("choices", page["fronts"], listed),
    ):
        if len(all_of) > most:
            left_out.append(f"{len(all_of) - most} of {len(all_of)} {what}")
    models = [{part: _of(model[part], main) for part in ("means", "errors")} for model in page["models"][:runs]]
    return {
        "format": "lightning-complexity report",
        "version": page["version"],
        "findings": page["findings"][:listed],
        "choices": [_choice(front, page["models"], listed) for front in page["fronts"][:listed]],
        "rankings": {
            "notes": page["rankings"]["notes"],
            "by_gap": {
                gap: found | {"rows": found["rows"][:listed]} for gap, found in page["rankings"]["by_gap"].items()
            },
        },
        "models": [
            {"name": model["name"], **found} for model, found in zip(page["models"][:runs], models, strict=True)
        ],
        "runs": rows,
        "notes": page["notes"][:20],
        "left_out": left_out,
    }


def _of(values: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}


def _choice(front: Mapping[str, Any], models: list[dict[str, Any]], listed: int) -> dict[str, Any]:
    """With names for places."""
    named = {key: models[front[key]]["name"] for key in ("chosen", "best") if key in front}
    numbers = {key: front[key] for key in ("bound", "standard_error") if key in front}
    parts = {key: front[key] for key in ("score", "cost", "directions", "sentence")}
    return {**parts, **named, **numbers, "front": [models[row]["name"] for row in front["front"]][:listed]}


def _run(run: Mapping[str, Any], keys: list[str], points: int, settings: list[str] | None) -> dict[str, Any]:
    chosen = run["settings"] if settings is None else _of(run["settings"], settings)
    row = {key: run[key] for key in ("name", "path", "source", "steps", "measurements", "fitted_step")}
    last, along = {}, {}
    for table in run["tables"]:
        places = _places(len(table["steps"]), points)
        for key in keys:
            if key in table["columns"]:
                column, strange = table["columns"][key], dict(table["not_finite"].get(key, []))
                last[key] = _number(column, strange, len(column) - 1)
                along[key] = [[table["steps"][place], _number(column, strange, place)] for place in places]
            if (error := f"{key}/standard_error") in table["columns"]:
                last[error] = table["columns"][error][-1]
    return {**row, "settings": chosen, "last": last} | ({"along": along} if points else {})


def _number(column: list[float | None], strange: Mapping[int, str], place: int) -> float | str | None:
    """One that is not finite by its name, as in a record."""
    return strange.get(place, column[place])


def _places(length: int, points: int) -> list[int]:
    if length <= points:
        return list(range(length))
    return sorted({round(place * (length - 1) / max(points - 1, 1)) for place in range(points)})


def _clipped(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= 4 * _CLIPPED else value[: 4 * _CLIPPED] + " ..."
    if isinstance(value, Mapping):
        return {str(key)[:_CLIPPED]: _clipped(entry) for key, entry in value.items()}
    return [_clipped(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _attempt(points: int, runs: int, settings: str, listed: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda page: _report(page, points, runs, settings, listed)


_ATTEMPTS = [
    _attempt(*limits)
    for limits in (
        (20, 1000, "all", 200),
        (8, 1000, "all", 200),
        (8, 1000, "varied", 200),
        (0, 1000, "varied", 200),
        (0, 300, "varied", 100),
        (0, 100, "varied", 50),
        (0, 50, "none", 50),
        (0, 20, "none", 20),
        (0, 5, "none", 5),
    )
]
