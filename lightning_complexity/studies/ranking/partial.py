"""Whether a measure follows the gap during training, beyond that both change with time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from scipy.stats import t as student

from lightning_complexity.studies.ranking.design import Floats
from lightning_complexity.studies.records import FOLDER, STEP


def partial_rank_correlation(measure: Floats, gap: Floats, time: Floats, *, degree: int = 1) -> float:
    r"""Correlation of the ranks of two series, given time.

    Ranks (means of ties) of both series are fitted by a polynomial in the rank of time; the result is the correlation
    of what is left. For degree 1 it is :math:`(r_{\mu g} - r_{\mu t} r_{g t}) / \sqrt{(1 - r_{\mu t}^2)(1 -
    r_{g t}^2)}` with Spearman's correlations :math:`r`.

    Args:
        measure: Shape ``(n,)``.
        gap: Shape ``(n,)``.
        time: Completed steps, for example, shape ``(n,)``.
        degree: Of the polynomial; 0 gives Spearman's correlation, time not being held.

    Returns:
        Between -1 and 1; ``nan`` if either only follows time, or with fewer than ``degree + 3`` moments.

    Example:
        >>> time = np.arange(6.0)
        >>> wave = np.array([0.0, 3.0, 1.0, 4.0, 2.0, 5.0])
        >>> round(partial_rank_correlation(wave, -wave, time), 6)
        -1.0
    """
    if len(gap) < degree + 3:
        return np.nan
    ranks = rankdata(time)
    basis = np.vander((ranks - ranks.mean()) / max(np.ptp(ranks), 1.0), degree + 1)
    left = [_residual(rankdata(values), basis) for values in (measure, gap)]
    sizes = [float(np.linalg.norm(r)) for r in left]
    if min(sizes) <= 1e-9 * len(gap) ** 1.5:
        return np.nan
    return float(left[0] @ left[1] / (sizes[0] * sizes[1]))


def _residual(values: Floats, basis: Floats) -> Floats:
    return values - basis @ np.linalg.lstsq(basis, values, rcond=None)[0]


def rank_over_time(
    series: pd.DataFrame,
    *,
    measures: Sequence[str],
    gap: str,
    time: str = STEP,
    run: str | Sequence[str] = FOLDER,
    degree: int = 1,
    draws: int = 100,
    confidence: float = 0.95,
    random_seed: int = 0,
) -> pd.DataFrame:
    """Partial rank correlation of measures with the gap during training, given training time.

    Most measures grow while a network trains, and so does the gap: their correlation by itself says little. See
    :func:`partial_rank_correlation`. It is taken in two ways. ``pooled`` is over all moments of all trainings:
    whether, at a given time, the trainings with the greater measure have the greater gap. ``within`` is the mean of
    that of each training by itself: whether the measure follows the ups and downs of the gap. It is undefined for
    trainings in which either only rises or only falls.

    Args:
        series: One row a measurement, as :func:`~lightning_complexity.studies.read_series` returns.
        measures: Columns of measures.
        gap: Column of the gap.
        time: Column of time.
        run: Column, or columns, that tell trainings apart.
        degree: Of the polynomial of time.
        draws: Of trainings, for the interval of ``pooled``.
        confidence: Of the intervals over trainings: Student's, with the deviation over draws, or over trainings.
        random_seed: Of the draws.

    Returns:
        A row a measure: ``pooled``, ``pooled_low``, ``pooled_high``, ``within``, ``within_low``, ``within_high``;
        ``alone``, the correlation of all moments with time not held; ``trainings``, those for which ``within`` is
        defined, of ``all_trainings``; ``moments``, rows where measure, gap and time are finite. What is undefined is
        ``nan``, as are intervals with fewer than two trainings.

    Raises:
        ValueError: If a column is missing.
    """
    runs = [run] if isinstance(run, str) else list(run)
    for name in (*measures, gap, time, *runs):
        if name not in series.columns:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(map(str, series.columns))}.")
    rows = []
    for name in measures:
        used = series[[*runs, time, name, gap]].replace([np.inf, -np.inf], np.nan).dropna()
        parts = [part[[name, gap, time]].to_numpy(float).T for _, part in used.groupby(runs, sort=False)]
        rows.append({"measure": name, **_over_time(parts, degree, draws, confidence, random_seed)})
    return pd.DataFrame(rows).set_index("measure")


def _over_time(parts: list[Floats], degree: int, draws: int, confidence: float, random_seed: int) -> dict[str, float]:
    """Statistics of trainings, each with rows of measure, gap and time."""
    joined = np.concatenate(parts, axis=1) if parts else np.empty((3, 0))
    pooled, count = partial_rank_correlation(*joined, degree=degree), len(parts)
    deviation = np.nan
    if count > 1 and np.isfinite(pooled):
        drawn = np.random.default_rng(random_seed).integers(count, size=(draws, count))
        again = [partial_rank_correlation(*np.concatenate([parts[i] for i in d], axis=1), degree=degree) for d in drawn]
        deviation = float(pd.Series(again).std()) * np.sqrt(count / (count - 1))
    each = np.array([partial_rank_correlation(*part, degree=degree) for part in parts])
    each = each[np.isfinite(each)]
    within = float(each.mean()) if len(each) else np.nan
    error = float(each.std(ddof=1)) / np.sqrt(len(each)) if len(each) > 1 else np.nan
    return {
        **_with_interval("pooled", pooled, deviation, count, confidence),
        **_with_interval("within", within, error, len(each), confidence),
        "alone": partial_rank_correlation(*joined, degree=0),
        "trainings": len(each),
        "all_trainings": count,
        "moments": joined.shape[1],
    }


def _with_interval(name: str, value: float, deviation: float, count: int, confidence: float) -> dict[str, float]:
    half = student.ppf((1 + confidence) / 2, count - 1) * deviation if count > 1 else np.nan
    low, high = np.clip([value - half, value + half], -1.0, 1.0)
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
