"""What the page draws: all that was measured, as much of it as the eye can use."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lightning_complexity.dashboard.comparing import fronts_of, models_of, rankings_of
from lightning_complexity.dashboard.findings import Finding
from lightning_complexity.dashboard.measured import MOST_KEYS, Measure, measures_of
from lightning_complexity.dashboard.numbers import marks, rounded, thinned
from lightning_complexity.dashboard.runs import STANDARD_ERROR, Group, Histogram, Run, grouped, varied_settings

VERSION = 1
_NUMBERS, _FEWEST, _MOST = 40_000, 40, 1000
_PICTURE_BYTES, _PICTURES = 150_000, 10
_HISTOGRAMS, _BINS, _HISTOGRAM_NUMBERS = 20, 40, 8_000


def page_data(runs: Sequence[Run], found: Sequence[Finding], notes: Sequence[str] = ()) -> dict[str, Any]:
    """What ``render`` of the page takes; JSON can hold it.

    Numbers have six digits. Those that are not finite are ``null``, and ``not_finite`` beside them has their place and
    name. Curves keep the first and the last value, the extremes, and as many others, evenly, as a page of two
    megabytes for ten runs can hold: about 40,000 numbers altogether, but at least 40 points a curve.

    Args:
        runs: At least one.
        found: Findings, what matters most first.
        notes: What the reader should know, such as what could not be read.
    """
    groups, measures, notes = grouped(list(runs)), measures_of(runs), list(notes)
    if len(measures) > MOST_KEYS:
        notes.append(f"{len(measures) - MOST_KEYS} of {len(measures)} log keys are left out, parts of measures first")
        measures = measures[:MOST_KEYS]
    models = models_of(runs, groups, measures)
    histograms, pictures = _histograms(runs, notes), _pictures(runs, notes)
    return {
        "version": VERSION,
        "findings": [finding_row(finding) for finding in found],
        "notes": notes,
        "measures": {measure.key: asdict(measure) for measure in measures},
        "varied": varied_settings(runs),
        "groups": [{"name": group.name, "runs": group.runs, "settings": group.settings} for group in groups],
        "runs": _runs(runs, groups, measures),
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


def _runs(runs: Sequence[Run], groups: Sequence[Group], measures: Sequence[Measure]) -> list[dict[str, Any]]:
    keys = {name for measure in measures for name in (measure.key, measure.key + STANDARD_ERROR)}
    tables = [_tables_of(run, keys) for run in runs]
    curves = sum(len(columns) + 3 for found in tables for columns in found.values())
    most = max(_FEWEST, min(_MOST, _NUMBERS // max(curves, 1)))
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
            "tables": [_table(run, rows, names, most) for rows, names in tables[number].items()],
        }
        for number, run in enumerate(runs)
    ]


def _tables_of(run: Run, keys: set[str]) -> dict[tuple[int, ...], list[str]]:
    """Log keys that were measured at the same moments, by these."""
    found: dict[str, list[int]] = {}
    for row, measurement in enumerate(run.history):
        for key in measurement.values:
            if key in keys:
                found.setdefault(key, []).append(row)
    tables: dict[tuple[int, ...], list[str]] = {}
    for key, rows in found.items():
        tables.setdefault(tuple(rows), []).append(key)
    return tables


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
    found, left, left_out = [], _HISTOGRAM_NUMBERS, 0
    for run_place, run in enumerate(runs):
        for key, series in run.histograms.items():
            rows = [_bins(series[place]) for place in _evenly(len(series), _HISTOGRAMS)]
            size = sum(2 * len(row["counts"]) for row in rows)
            if size > left:
                left_out += 1
                continue
            left -= size
            found.append({"run": run_place, "key": key, "moments": rows})
    if left_out:
        notes.append(f"{left_out} of {left_out + len(found)} series of histograms are left out for the page's size")
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
