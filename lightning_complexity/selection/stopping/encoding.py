"""Settings, losses and measures of trials as numbers for a regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
_SMALLEST = 1e-9


def encode(known: Sequence[Mapping[str, Any]], asked: Mapping[str, Any]) -> tuple[Floats, Floats, list[str]]:
    """Features as numbers: of finished trials, shape ``(trials, features)``; of one that is asked about; their names.

    Numbers that are positive in all trials are taken as logarithms. What a trial has not, such as a parameter that
    another one decides about, is the mean of the others, with a feature that says so. Words and truth values are 0 or 1
    each.

    Args:
        known: By name, of finished trials.
        asked: By name; what it has not is passed over.

    Example:
        >>> encode([{"rate": 1.0, "kind": "a"}, {"rate": np.e, "kind": "b"}], {"rate": np.e**2, "kind": "a"})[0]
        array([[1., 0., 0.],
               [0., 1., 1.]])
    """
    rows = [*known, asked]
    columns: list[Floats] = []
    names: list[str] = []
    for name in sorted(asked):
        values = [row.get(name) for row in rows]
        if all(value is None or _is_number(value) for value in values):
            columns += _numbers(values)
        else:
            words = [str(value) for value in values]
            columns += [np.array([float(word == one) for word in words]) for one in sorted(set(words))]
        names += [name] * (len(columns) - len(names))
    table = np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0))
    return table[:-1], table[-1], names


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _numbers(values: Sequence[Any]) -> list[Floats]:
    column = np.array([np.nan if value is None else value for value in values], dtype=float)
    missing = ~np.isfinite(column)
    if missing[:-1].all():
        return []
    if (column[~missing] > 0).all():
        column[~missing] = np.log(np.maximum(column[~missing], _SMALLEST))
    column[missing] = column[:-1][~missing[:-1]].mean()
    return [column, missing.astype(float)] if missing.any() else [column]
