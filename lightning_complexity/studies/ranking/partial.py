"""Whether a measure follows the gap within a training, beyond that both change with time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from scipy.stats import t as student

from lightning_complexity.studies.ranking.design import Floats
from lightning_complexity.studies.records import FOLDER, STEP


def partial_rank_correlation(measure: Floats, gap: Floats, time: Floats, *, degree: int = 1) -> float:
    r"""Correlation of the ranks of two series of one training, given its time.

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


def rank_within_training(
    series: pd.DataFrame,
    *,
    measures: Sequence[str],
    gap: str,
    time: str = STEP,
    run: str | Sequence[str] = FOLDER,
    degree: int = 1,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Mean partial rank correlation of measures with the gap over trainings, given training time.

    Most measures grow while a network trains, and so does the gap: by itself their correlation says little. See
    :func:`partial_rank_correlation`.

    Args:
        series: One row a measurement, as :func:`~lightning_complexity.studies.read_series` returns.
        measures: Columns of measures.
        gap: Column of the gap.
        time: Column of time.
        run: Column, or columns, that tell trainings apart.
        degree: Of the polynomial of time.
        confidence: Of the intervals over trainings (Student's).

    Returns:
        A row a measure: ``partial``, its mean over trainings; ``low`` and ``high``, ``nan`` for fewer than two
        trainings; ``alone``, the mean Spearman correlation with time not held; ``trainings`` that it is defined for,
        and ``moments``, their rows where measure and gap are finite.

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
        found = []
        for _, part in used.groupby(runs, sort=False):
            m, g, t = (part[c].to_numpy(float) for c in (name, gap, time))
            value = partial_rank_correlation(m, g, t, degree=degree)
            if np.isfinite(value):
                found.append((value, partial_rank_correlation(m, g, t, degree=0), len(part)))
        rows.append({"measure": name, **_mean(found, confidence)})
    return pd.DataFrame(rows).set_index("measure")


def _mean(found: list[tuple[float, float, int]], confidence: float) -> dict[str, float]:
    partial = np.array([value for value, _, _ in found])
    mean = float(partial.mean()) if len(found) else np.nan
    half = np.nan
    if len(found) > 1:
        half = student.ppf((1 + confidence) / 2, len(found) - 1) * partial.std(ddof=1) / np.sqrt(len(found))
    return {
        "partial": mean,
        "low": max(mean - half, -1.0) if len(found) > 1 else np.nan,
        "high": min(mean + half, 1.0) if len(found) > 1 else np.nan,
        "alone": float(np.mean([value for _, value, _ in found])) if found else np.nan,
        "trainings": len(found),
        "moments": sum(count for _, _, count in found),
    }
