"""From finished trials, what a number of a trial that is on its way will be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_complexity.selection.stopping.encoding import encode

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Row: TypeAlias = Mapping[str, Any]

LEAST = 5
"""Finished trials that a prediction needs."""
_PENALTIES = np.logspace(-3, 3, 13)  # times the number of trials
_NEAREST = 15  # errors that an interval is taken from, or a quarter of all
_EPSILON = 1e-9


class Prediction(NamedTuple):
    """What a number will be, and between which two numbers."""

    value: float
    low: float
    high: float


class Fitted(NamedTuple):
    """What ridge regression predicts.

    Attributes:
        value: Where it was asked.
        held_out: For each trial, from those of other settings.
    """

    value: float
    held_out: Floats


def predict(
    known: Sequence[Row], targets: Sequence[float], asked: Row, sets: Sequence[Sequence[str]], confidence: float
) -> Prediction | None:
    r"""Predict a number from what is known at one moment, with an interval.

    Ridge regression of the number, or of its logarithm where all are positive. Errors are those for trials that were
    held out, each with all others of its settings. An interval is as wide as a quantile of the absolute errors of the
    trials that were predicted to be nearest, fifteen or a quarter of all: bad trainings end less predictably than good
    ones. Of several sets of features, the one with the smallest such errors predicts.

    Args:
        known: Features of each finished trial.
        targets: What became of each; trials for which it is not finite are passed over.
        asked: Features of the trial in question. What it has not is passed over.
        sets: Beginnings of the names of features, for each set.
        confidence: Of the interval, which is a point with zero.

    Returns:
        ``None`` if fewer than five settings have a target, if all targets are the same, or if no feature tells.
    """
    y = np.asarray(targets, dtype=float)
    kept = np.flatnonzero(np.isfinite(y)).tolist()
    rows, y = [known[i] for i in kept], y[kept]
    groups = _groups(rows)
    if not len(y) or groups.max() + 1 < LEAST or np.ptp(y) == 0:
        return None
    logarithmic = bool(y.min() > 0)
    y = np.log(y) if logarithmic else y
    x, new, names = encode(rows, asked)
    best: tuple[float, Prediction] | None = None
    for beginnings in sets:
        columns = [i for i, name in enumerate(names) if name.split("/", 1)[0] in beginnings]
        if not columns:
            continue
        fitted = ridge(x[:, columns], y, groups, new[columns])
        nearest = np.argsort(np.abs(fitted.held_out - fitted.value), kind="stable")[: max(_NEAREST, len(y) // 4)]
        errors = np.sort(np.abs(y - fitted.held_out)[nearest])
        size = float((errors**2).mean())
        if best is None or size < best[0]:
            half = quantile(errors, confidence)
            best = size, Prediction(fitted.value, fitted.value - half, fitted.value + half)
    if best is None:
        return None
    return Prediction(*np.exp(np.clip(best[1], -700, 700)).tolist()) if logarithmic else best[1]


def quantile(ordered: Floats, confidence: float) -> float:
    r"""The :math:`\lceil (n + 1) c \rceil`-th of errors, which a further one exceeds with probability :math:`1 - c`.

    Args:
        ordered: Absolute errors, from the smallest.
        confidence: :math:`c`; 0 for zero.

    References:
        Lei et al., J. American Statistical Association 113, 2018, on conformal prediction.
    """
    place = int(np.ceil((len(ordered) + 1) * confidence - _EPSILON))
    return float(ordered[min(place, len(ordered)) - 1]) if place > 0 else 0.0


def ridge(x: Floats, y: Floats, groups: Ints, asked: Floats) -> Fitted:
    r"""Ridge regression of standardized features, with the penalty that predicts trials held out best.

    With :math:`H` the matrix that gives fitted values, the errors of a group :math:`g` that is held out are
    :math:`(1 - H_{gg})^{-1} (y - H y)_g`. Where it is asked, features count as no further outside of those of
    the trials than half of their range.

    Args:
        x: Shape ``(trials, features)``.
        y: Shape ``(trials,)``.
        groups: Of each trial, from 0.
        asked: Shape ``(features,)``.
    """
    centre, scale, mean, count = x.mean(0), x.std(0), y.mean(), len(y)
    scale = np.where(scale > _EPSILON * np.maximum(np.abs(centre), 1.0), scale, np.inf)
    u, s, v = np.linalg.svd((x - centre) / scale, full_matrices=False)
    products = u.T @ (y - mean)
    shrunk = s**2 / (s**2 + count * _PENALTIES[:, None])
    errors = y - mean - (shrunk * products) @ u.T
    errors = _held_out(y - mean - (shrunk * products) @ u.T, u, shrunk, groups)
    best = int((errors**2).sum(1).argmin())
    weights = v.T @ (s / (s**2 + count * _PENALTIES[best]) * products)
    half = (x.max(0) - x.min(0)) / 2
    inside = np.clip(asked, x.min(0) - half, x.max(0) + half)
    return Fitted(float(mean + (inside - centre) / scale @ weights), y - errors[best])


def _held_out(errors: Floats, u: Floats, shrunk: Floats, groups: Ints) -> Floats:
    """Errors without each group, for each penalty; shape ``(penalties, trials)``."""
    share = 1 / errors.shape[1]  # of the mean
    found = errors / np.maximum(1 - shrunk @ (u.T**2) - share, _EPSILON)
    for group in np.flatnonzero(np.bincount(groups) > 1):
        rows = np.flatnonzero(groups == group)
        for k, one in enumerate(shrunk):
            rest = np.eye(len(rows)) - (u[rows] * one) @ u[rows].T - share
            found[k, rows] = np.linalg.lstsq(rest, errors[k, rows], rcond=None)[0]
    return found


def _groups(rows: Sequence[Row]) -> Ints:
    """Which trials have the same settings."""
    places: dict[Any, int] = {}
    settings = [tuple(sorted((n, repr(v)) for n, v in row.items() if n.startswith("settings/"))) for row in rows]
    same = all(not one for one in settings)  # a study without parameters: each trial is its own
    return np.array(
        [i if same else places.setdefault(one, len(places)) for i, one in enumerate(settings)], dtype=np.int64
    )
