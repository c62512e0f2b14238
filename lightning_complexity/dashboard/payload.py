"""What the page draws: all that was measured, as much of it as the eye can use."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np

from lightning_complexity.dashboard.comparing import fronts_of, models_of, rankings_of
from lightning_complexity.dashboard.findings import Finding
from lightning_complexity.dashboard.measured import MOST_KEYS, Measure, measures_of
from lightning_complexity.dashboard.numbers import marks, rounded, thinned
from lightning_complexity.dashboard.runs import (
    STANDARD_ERROR,
    Group,
    Histogram,
    Run,
    by_seed,
    grouped,
    varied_settings,
)

VERSION = 1
_NUMBERS, _NUMBERS_MORE = 45_000, 1_000  # for ten runs, and for each beyond these
_POINTS = (1000, 700, 500, 350, 250, 180, 120, 90, 60, 40, 24)
_TOGETHER = 8
_PICTURE_BYTES, _PICTURES = 150_000, 10
_HISTOGRAMS, _BINS, _HISTOGRAM_NUMBERS = 20, 40, 12_000


def page_data(runs: Sequence[Run], found: Sequence[Finding], notes: Sequence[str] = ()) -> dict[str, Any]:
    """What ``render`` of the page takes; JSON can hold it.

    Numbers have six digits. Those that are not finite are ``null``, and ``not_finite`` beside them has their place and
    name. Curves keep the first and the last value, the extremes, and up to 1000 others, evenly; as many as a page of
    two megabytes for ten runs can hold, which is 45,000 numbers altogether, and 1000 for each further run. If even 24
    points a curve are too many, parts of measures, such as those of layers, are left out, and that is noted.

    Args:
        runs: At least one.
        found: Findings, what matters most first.
        notes: What the reader should know, such as what could not be read.
    """
    groups, measures, notes = grouped(list(runs)), measures_of(runs), list(notes)
    tables = {number: _tables_of(run) for number, run in enumerate(runs)}
    measures, most = _fitting(measures, tables, notes)
    models = models_of(runs, groups, measures)
    histograms, pictures = _histograms(runs, notes), _pictures(runs, notes)
    return {
        "version": VERSION,
        "findings": [finding_row(finding) for finding in found],
        "notes": notes,
        "measures": {measure.key: asdict(measure) for measure in measures},
        "varied": varied_settings(runs),
        "groups": [
            {"name": group.name, "runs": group.runs, "seeds": by_seed(runs, group), "settings": group.settings}
            for group in groups
        ],
        "runs": _runs(runs, groups, measures, tables, most),
        "models": [_model(model) for model in models],
        "fronts": fronts_of(models, measures),
        "rankings": rankings_of(runs, measures),
        "histograms": histograms,
        "pictures": pictures,
    }


def finding_row(finding: Finding) -> dict[str, Any]:
    """A finding as JSON has it."""
    row = asdict(finding)
    row["value"], row["standard_error"] = rounded(finding.value), rounded(finding.standard_error)
    row["confidence"] = rounded(finding.confidence)
    row["interval"] = None if finding.interval is None else [rounded(end) for end in finding.interval]
    return row


def _model(model: dict[str, Any]) -> dict[str, Any]:
    means, errors = model["means"], model["errors"]
    return {
        "name": model["name"],
        "means": {key: rounded(value) for key, value in means.items()},
        "errors": {key: rounded(value) for key, value in errors.items() if rounded(value) is not None},
    }


_Tables: TypeAlias = "list[tuple[tuple[int, ...], list[str]]]"
"""Log keys that were measured at the same moments, with these: rows of the history."""


def _tables_of(run: Run) -> _Tables:
    found: dict[str, list[int]] = {}
    for row, measurement in enumerate(run.history):
        for key in measurement.values:
            found.setdefault(key, []).append(row)
    together: dict[tuple[int, ...], list[str]] = {}
    for key, rows in found.items():
        together.setdefault(tuple(rows), []).append(key)
    return list(together.items())


def _of_keys(tables: _Tables, keys: set[str]) -> _Tables:
    """Those of some keys, few in each, so that a table's extremes stay few as well."""
    found: _Tables = []
    for rows, names in tables:
        kept = [name for name in names if name in keys]
        found += [(rows, kept[start : start + _TOGETHER]) for start in range(0, len(kept), _TOGETHER)]
    return found


def _with_errors(measures: Sequence[Measure]) -> set[str]:
    return {name for measure in measures for name in (measure.key, measure.key + STANDARD_ERROR)}


def _fitting(measures: list[Measure], tables: Mapping[int, _Tables], notes: list[str]) -> tuple[list[Measure], int]:
    """The measures, without those parts for which there is no room, and how many points each curve can have."""
    room = _NUMBERS + _NUMBERS_MORE * max(len(tables) - 10, 0)
    kept = measures[:MOST_KEYS]

    def numbers(points: int) -> int:
        keys = _with_errors(kept)
        found = [table for own in tables.values() for table in _of_keys(own, keys)]
        return sum((len(names) + 3) * min(len(rows), points + 2 * len(names)) for rows, names in found)

    while kept and kept[-1].role == "part" and numbers(_POINTS[-1]) > room:
        parts = sum(measure.role == "part" for measure in kept)
        kept = kept[: -max(1, parts // 4)]
    if len(kept) < len(measures):
        notes.append(
            f"{len(measures) - len(kept)} of {len(measures)} log keys are left out for the page's size, parts of "
            "measures first"
        )
    return kept, next((points for points in _POINTS if numbers(points) <= room), _POINTS[-1])


def _runs(
    runs: Sequence[Run], groups: Sequence[Group], measures: Sequence[Measure], tables: Mapping[int, _Tables], most: int
) -> list[dict[str, Any]]:
    keys = _with_errors(measures)
    place = {run: number for number, group in enumerate(groups) for run in group.runs}
    return [
        {
            "name": run.name,
            "path": str(run.path),
            "source": run.source,
            "settings": run.settings,
            "group": place[number],
            "fitted_step": run.fitted_step,
            "measurements": len(run.history),
            "steps": run.history[-1].step,
            "tables": [_table(run, rows, names, most) for rows, names in _of_keys(tables[number], keys)],
        }
        for number, run in enumerate(runs)
    ]


def _table(run: Run, rows: tuple[int, ...], keys: list[str], most: int) -> dict[str, Any]:
    history = run.history
    # What is measured is thinned by its own extremes, not by those of its standard errors.
    own = [key for key in keys if not key.endswith(STANDARD_ERROR)]
    kept = [rows[place] for place in thinned([[history[row].values[key] for row in rows] for key in own or keys], most)]
    columns = {key: [history[row].values[key] for row in kept] for key in keys}
    return {
        "steps": [history[row].step for row in kept],
        "epochs": [history[row].epoch for row in kept],
        "seconds": [rounded(history[row].time - history[0].time) for row in kept],
        "columns": {key: [rounded(value) for value in column] for key, column in columns.items()},
        "not_finite": {key: found for key, column in columns.items() if (found := marks(column))},
    }


def _evenly(length: int, most: int) -> list[int]:
    return sorted({int(place) for place in np.linspace(0, length - 1, min(length, most)).round()})


def _histograms(runs: Sequence[Run], notes: list[str]) -> list[dict[str, Any]]:
    series = [(run, key, moments) for run, one in enumerate(runs) for key, moments in one.histograms.items()]
    most = _HISTOGRAMS
    while most > 2 and 2 * _BINS * sum(min(len(moments), most) for *_, moments in series) > _HISTOGRAM_NUMBERS:
        most -= 1
    found, left = [], _HISTOGRAM_NUMBERS
    for run, key, moments in series:
        rows = [_bins(moments[place]) for place in _evenly(len(moments), most)]
        left -= sum(2 * len(row["counts"]) for row in rows)
        if left >= 0:
            found.append({"run": run, "key": key, "moments": rows})
    if len(found) < len(series):
        notes.append(
            f"{len(series) - len(found)} of {len(series)} series of histograms are left out for the page's size"
        )
    return found


def _bins(histogram: Histogram) -> dict[str, Any]:
    """At most 40 of equal width."""
    edges = np.asarray(histogram.edges)
    totals = np.concatenate([[0.0], np.cumsum(histogram.counts)])
    if len(histogram.counts) > _BINS and edges[-1] > edges[0]:
        new = np.linspace(edges[0], edges[-1], _BINS + 1)
        totals, edges = np.interp(new, edges, totals), new
    counts = np.diff(totals)
    return {
        "step": histogram.step,
        "edges": [rounded(edge) for edge in edges.tolist()],
        "counts": [rounded(float(f"{count:.3g}")) for count in counts.tolist()],
    }


def _pictures(runs: Sequence[Run], notes: list[str]) -> list[dict[str, Any]]:
    """Of every series a few, the last one first, until the page would be too large."""
    series = [(run, key, pictures) for run, one in enumerate(runs) for key, pictures in one.pictures.items()]
    most = _PICTURES
    while most > 1 and sum(_size(pictures, most) for *_, pictures in series) > _PICTURE_BYTES:
        most -= 1
    found, left, left_out = [], _PICTURE_BYTES, 0
    for run, key, pictures in series:
        size = _size(pictures, most)
        if size > left:
            left_out += 1
            continue
        left -= size
        kept = [pictures[place] for place in _last_evenly(len(pictures), most)]
        moments = [{"step": p.step, "png": base64.b64encode(p.png).decode()} for p in kept]
        found.append({"run": run, "key": key, "moments": moments})
    if left_out:
        notes.append(f"{left_out} of {len(series)} series of pictures are left out for the page's size")
    return found


def _last_evenly(length: int, most: int) -> list[int]:
    return [length - 1] if most == 1 else _evenly(length, most)


def _size(pictures: Sequence[Any], most: int) -> int:
    return sum(len(pictures[place].png) for place in _last_evenly(len(pictures), most)) * 4 // 3
