"""Ridge regression whose penalty, errors and intervals come from configurations that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

_PENALTIES = np.logspace(-3, 3, 13)  # times the number of networks
_INNER_FOLDS = 5


@dataclass(frozen=True)
class Encoder:
    """Columns as numbers for a regression.

    Positive columns are taken as logarithms, unless they are such by their name (``log_...``); words are 0 or 1 each.

    Attributes:
        logarithms: The least value of each column that is taken as a logarithm; lower ones count as that.
        plain: Columns that are taken as they are.
        words: The values of each column of words.
    """

    logarithms: dict[str, float]
    plain: tuple[str, ...]
    words: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Sequence[str]) -> Encoder:
        """What suits the columns of a frame.

        Args:
            frame: Without missing values in these columns.
            columns: Which.
        """
        logarithms, plain, words = {}, [], {}
        for name in columns:
            if not is_number(frame[name]):
                words[name] = tuple(sorted({str(value) for value in frame[name]}))
            elif frame[name].min() > 0 and not name.rsplit("/", 1)[-1].startswith("log_"):
                logarithms[name] = float(frame[name].min())
            else:
                plain.append(name)
        return cls(logarithms, tuple(plain), words)

    def __call__(self, frame: pd.DataFrame) -> Floats:
        """Shape ``(networks, features)``."""
        columns = [np.log(np.maximum(frame[name].to_numpy(float), least)) for name, least in self.logarithms.items()]
        columns += [frame[name].to_numpy(float) for name in self.plain]
        for name, values in self.words.items():
            columns += [(frame[name].astype(str) == value).to_numpy(float) for value in values]
        return np.stack(columns, axis=1)


def is_number(column: pd.Series[Any]) -> bool:
    """Whether a column holds numbers, and not truth values or words."""
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


@dataclass(frozen=True)
class Ridge:
    r"""Least squares with a penalty on squared weights, of standardized features, for one target.

    Attributes:
        centre: Of the features.
        scale: Of the features.
        least: Of the features, less half of their range: what is lower counts as that.
        most: Of the features, and half of their range more: what is higher counts as that. Without, a network that is
            far from all others would be predicted to be anything.
        intercept: The mean of the target.
        weights: Of standardized features.
        half_width: Of an interval around a prediction: the quantile of absolute errors for configurations
            that were held out one part after the other.
    """

    centre: Floats
    scale: Floats
    least: Floats
    most: Floats
    intercept: float
    weights: Floats
    half_width: float

    @classmethod
    def fit(cls, x: Floats, y: Floats, groups: Ints, *, confidence: float = 0.95) -> Ridge:
        r"""Fit, with the penalty, between :math:`10^{-3}` and :math:`10^3`, that predicts held-out groups best.

        Args:
            x: Features, shape ``(networks, features)``.
            y: Target, shape ``(networks,)``.
            groups: Of each network, from 0; at least two. In their order they are dealt to five parts.
            confidence: Of the interval.
        """
        errors = np.empty((len(_PENALTIES), len(y)))
        part = groups % min(_INNER_FOLDS, int(groups.max()) + 1)
        for k in np.unique(part):
            held = part == k
            centre, scale, mean, weights = _solutions(x[~held], y[~held])
            inside = np.clip(x[held], *_limits(x[~held]))
            errors[:, held] = y[held] - mean - weights @ ((inside - centre) / scale).T
        best = int((errors**2).sum(1).argmin())
        ordered = np.sort(np.abs(errors[best]))
        place = min(int(np.ceil((len(y) + 1) * confidence)), len(y)) - 1
        centre, scale, mean, weights = _solutions(x, y)
        return cls(centre, scale, *_limits(x), mean, weights[best], float(ordered[place]))

    def predict(self, x: Floats) -> Floats:
        """Shape ``(networks,)``.

        Args:
            x: Features, shape ``(networks, features)``.
        """
        inside = np.clip(x, self.least, self.most)
        return self.intercept + (inside - self.centre) / self.scale @ self.weights


def _limits(x: Floats) -> tuple[Floats, Floats]:
    half = (x.max(0) - x.min(0)) / 2
    return x.min(0) - half, x.max(0) + half


def _solutions(x: Floats, y: Floats) -> tuple[Floats, Floats, float, Floats]:
    """Centre and scale of the features, mean of the target, and weights for each penalty."""
    centre, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-12 * np.maximum(np.abs(centre), 1e-300), scale, 1.0)
    standardized, mean = (x - centre) / scale, float(y.mean())
    values, vectors = np.linalg.eigh(standardized.T @ standardized)
    products = vectors.T @ (standardized.T @ (y - mean))
    return centre, scale, mean, (products / (values + len(y) * _PENALTIES[:, None])) @ vectors.T


@dataclass(frozen=True)
class HeldOut:
    """What was predicted for networks of configurations that were held out, for one target and set of features.

    Attributes:
        predicted: Shape ``(divisions, networks)``.
        mean: Of the target, among networks fitted to; same shape.
        half_width: Of intervals; same shape.
    """

    predicted: Floats
    mean: Floats
    half_width: Floats


def hold_out(x: Floats, y: Floats, groups: Ints, divisions: Sequence[Ints], confidence: float) -> HeldOut:
    """Predict each part of each division from the other parts.

    Args:
        x: Features, shape ``(networks, features)``.
        y: Target, shape ``(networks,)``.
        groups: Configuration of each network, from 0.
        divisions: For each, the part of each configuration.
        confidence: Of intervals.
    """
    found = np.empty((3, len(divisions), len(y)))
    for d, parts in enumerate(divisions):
        for part in np.unique(parts):
            held = (parts == part)[groups]
            seen_groups = np.unique(groups[~held], return_inverse=True)[1]
            ridge = Ridge.fit(x[~held], y[~held], seen_groups, confidence=confidence)
            found[0, d, held] = ridge.predict(x[held])
            found[1, d, held], found[2, d, held] = ridge.intercept, ridge.half_width
    return HeldOut(*found)


def divide(count: int, folds: int, repeats: int, generator: np.random.Generator) -> list[Ints]:
    """Deal configurations to parts of equal size, several times.

    Args:
        count: How many configurations.
        folds: How many parts.
        repeats: How often.
        generator: Of random numbers.
    """
    return [generator.permutation(np.arange(count) % folds) for _ in range(repeats)]


def explained(y: Floats, held_out: HeldOut, weights: Floats) -> Floats:
    r"""The share :math:`R^2 = 1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`, the mean over divisions.

    :math:`\bar y` is the mean of those fitted to. Negative where predictions are worse than that.

    Args:
        y: What was to be predicted.
        held_out: What was.
        weights: How often each network counts, shape ``(draws, networks)``.

    Returns:
        Shape ``(draws,)``; ``nan`` where all values are one.
    """
    errors, whole = (y - held_out.predicted) ** 2 @ weights.T, (y - held_out.mean) ** 2 @ weights.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, 1 - errors / whole, np.nan).mean(0)


def rank_correlation(y: Floats, held_out: HeldOut, weights: Floats) -> Floats:
    """Spearman's correlation between what was and what was predicted, the mean over divisions.

    Predictions count as differences from the mean of those fitted to. That is low where the values held out are
    high, so that a prediction of nothing but the mean would seem to be misleading.

    Args:
        y: What was to be predicted.
        held_out: What was.
        weights: How often each network counts, shape ``(draws, networks)``.

    Returns:
        Shape ``(draws,)``; 0 where all predictions are one; ``nan`` where all values are.
    """
    total = weights.sum(1, keepdims=True)
    first = _ranks(y, weights) - (total + 1) / 2
    found = []
    for predicted in held_out.predicted - held_out.mean:
        second = _ranks(predicted, weights) - (total + 1) / 2
        products, a, b = ((weights * u * v).sum(1) for u, v in ((first, second), (first, first), (second, second)))
        size = np.sqrt(a * b)
        found.append(np.where(a > 0, np.divide(products, size, out=np.zeros_like(size), where=size > 0), np.nan))
    return np.mean(found, axis=0)


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Ranks among values that count several times, means of ties; shape ``(draws, networks)``."""
    distinct, place = np.unique(values, return_inverse=True)
    counts = np.zeros((len(distinct), len(weights)))
    np.add.at(counts, place, weights.T)
    return (counts.cumsum(0) - (counts - 1) / 2)[place].T
