"""How well the end of trainings was predicted, and what is gained by knowing more."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lightning_complexity.studies.early.predicting import Floats, HeldOut, Ints, explained, rank_correlation

_STATISTICS = {"r2": explained, "spearman": rank_correlation}
_COMPARED = (
    ("settings", "losses", "losses, settings"),
    ("losses", "measures", "losses, measures"),
    ("losses, settings", "measures", "losses, settings, measures"),
    ("settings", "losses, measures", "losses, settings, measures"),
)


def offered_features(gains: pd.DataFrame, target: str) -> str:
    """The set of features to predict from: settings, with losses and with measures only where these help.

    Args:
        gains: Of :func:`judge`.
        target: What is predicted.
    """
    helps = {(less, added) for name, less, added in gains.index[gains["verdict"] == "helps"] if name == target}
    if {("losses, settings", "measures"), ("settings", "losses, measures")} <= helps:
        return "losses, settings, measures"
    return "losses, settings" if ("settings", "losses") in helps else "settings"


def drawn_weights(groups: Ints, draws: int, random_seed: int) -> Floats:
    """How often each network counts: once in the first row, then in draws of configurations.

    Args:
        groups: Configuration of each network, from 0.
        draws: How many.
        random_seed: Of the draws.
    """
    count = int(groups.max()) + 1
    drawn = np.random.default_rng(random_seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return np.concatenate([np.ones((1, len(groups))), drawn[:, groups]])


def judge(
    values: Mapping[str, Floats], found: Mapping[tuple[str, str], HeldOut], weights: Floats, confidence: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of all sets of features, and what is gained by adding to them.

    Args:
        values: By target.
        found: What was predicted, by target and set of features.
        weights: How often each network counts, once in the first row.
        confidence: Of intervals.
    """
    drawn = {
        (*key, statistic): function(values[key[0]], held_out, weights)
        for key, held_out in found.items()
        for statistic, function in _STATISTICS.items()
    }
    scores: dict[tuple[str, str], dict[str, float]] = {}
    gains: dict[tuple[str, str, str], dict[str, float]] = {}
    for (target, name), held_out in found.items():
        row: dict[str, float] = {}
        for statistic in _STATISTICS:
            row |= _with_interval(statistic, drawn[target, name, statistic], confidence)
        row["coverage"] = float((np.abs(values[target] - held_out.predicted) <= held_out.half_width).mean())
        row["half_width"] = float(held_out.half_width.mean())
        scores[target, name] = row
    for target, (less, added, more) in product(values, _COMPARED):
        gains[target, less, added] = {}
        for statistic in _STATISTICS:
            difference = drawn[target, more, statistic] - drawn[target, less, statistic]
            gains[target, less, added] |= _with_interval(statistic, difference, confidence)
    of_scores, of_gains = _frame(scores, "target", "features"), _frame(gains, "target", "features", "added")
    of_gains["verdict"] = [
        "helps" if low > 0 else "harms" if high < 0 else "no gain shown"
        for low, high in zip(of_gains["r2_low"], of_gains["r2_high"], strict=True)
    ]
    return of_scores, of_gains


def _frame(rows: Mapping[Any, dict[str, float]], *names: str) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(list(rows), names=names)
    return pd.DataFrame(list(rows.values()), index=index)


def _with_interval(name: str, drawn: Floats, confidence: float) -> dict[str, float]:
    low, high = np.nanquantile(drawn[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return {name: float(drawn[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
