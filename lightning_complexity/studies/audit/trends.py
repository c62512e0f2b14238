"""Trends over a table of trained networks: slopes of measures within networks that differ in one factor only."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_complexity.studies.tables import Table

RAW, BY_ROOT = "raw", "/ sqrt(n)"
CONFIDENCE = 0.95
Floats: TypeAlias = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean over seeds and its interval, by Student's t; the ends are ``nan`` for a single seed."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 if it is on one side of 0; 0 if it is on both, or if there is none."""
        return int(self.low > 0) - int(self.high < 0)

    def within(self, limit: float) -> bool:
        """Whether all of it is closer to 0."""
        return abs(self.low) < limit and abs(self.high) < limit

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]" if math.isfinite(self.low) else "one seed"


def interval(values: Floats, confidence: float = CONFIDENCE) -> Interval:
    """Mean of independent values with its interval.

    Example:
        >>> print(interval(np.array([1.0, 2.0, 3.0])))
        +2.00 [-0.48, +4.48]
    """
    from scipy.stats import t

    values = values[np.isfinite(values)]
    if len(values) < 2:
        return Interval(float(values[0]) if len(values) else math.nan, math.nan, math.nan)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(t.ppf(0.5 + confidence / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def is_positive(column: pd.Series[Any]) -> bool:
    """Whether all are positive numbers."""
    return pd.api.types.is_numeric_dtype(column) and bool((column > 0).all())


class Column(NamedTuple):
    """A measure, or the gap, on the scale that its slopes are taken on: logarithms or standard deviations."""

    measure: str
    normalisation: str
    scale: str
    values: Floats


def scaled(table: Table, logarithms: Collection[str], size: str | None) -> list[Column]:
    """The gap and all measures as logarithms or in standard deviations, raw and over the root of the size."""
    columns = []
    for name in (table.gap, *table.measures):
        raw = table.frame[name].to_numpy(float)
        columns.append(Column(name, RAW, *_scale(raw, name in logarithms)))
        if size is None or name == table.gap:
            continue
        roots = np.sqrt(table.frame[size].to_numpy(float))
        by_root = raw - np.log(roots) if name in logarithms else raw / roots
        columns.append(Column(name, BY_ROOT, *_scale(by_root, name in logarithms)))
    return columns


def _scale(values: Floats, is_logarithm: bool) -> tuple[str, Floats]:
    values = np.where(np.isfinite(values), values, np.nan)
    if is_logarithm:
        return "log", values
    if (values[~np.isnan(values)] > 0).all():
        return "log", np.log(values)
    deviation = float(np.nanstd(values))
    return "standard deviations", values / (deviation or 1.0)


class Trend(NamedTuple):
    """Slopes in one factor: contexts and seeds as columns of ``cases``, a column of ``slopes`` for each value."""

    scale: str
    cases: pd.DataFrame
    slopes: Floats


def trends(table: Table, factor: str, values: Sequence[Column]) -> list[tuple[str, Trend]]:
    """The trend in a factor of numbers; one for each other value of a factor of words."""
    frame, seed = table.frame, str(table.seed)
    others = [name for name in table.hyperparameters if name != factor]
    y = np.column_stack([column.values for column in values])
    column = frame[factor]
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        numbers = column.to_numpy(float)
        is_log = bool((numbers > 0).all())
        x = np.log(numbers) if is_log else numbers / float(np.ptp(numbers))
        found = [(factor, _slopes(frame, others, seed, x, y, "log" if is_log else "range"))]
    else:
        reference = column.value_counts().sort_index(kind="stable").idxmax()
        found = []
        for level in sorted(set(column) - {reference}, key=str):
            kept = column.isin([reference, level]).to_numpy(bool)
            x = (column[kept] == level).to_numpy(float)
            part = frame[kept].reset_index(drop=True)
            found.append((f"{factor}: {level} - {reference}", _slopes(part, others, seed, x, y[kept], "difference")))
    return [(name, trend) for name, trend in found if len(trend.cases)]


def _slopes(frame: pd.DataFrame, others: list[str], seed: str, x: Floats, y: Floats, scale: str) -> Trend:
    """Least squares within each context and seed that has all of the context's levels."""
    cases, slopes = [], []
    groups = frame.groupby(others, sort=True).indices.values() if others else [np.arange(len(frame))]
    for context in groups:
        levels = np.unique(x[context])
        if len(levels) < 2:
            continue
        seeds = frame[seed].to_numpy()[context]
        for one in pd.unique(seeds):
            rows = context[seeds == one]
            if len(np.unique(x[rows])) < len(levels):
                continue
            centred = x[rows] - x[rows].mean()
            slopes.append(centred @ y[rows] / float(centred @ centred))
            cases.append({**{name: frame[name].iloc[rows[0]] for name in others}, seed: one})
    return Trend(scale, pd.DataFrame(cases, columns=[*others, seed]), np.array(slopes).reshape(len(cases), y.shape[1]))
