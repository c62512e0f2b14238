"""Across runs: which measure goes along with the generalization gap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lightning_complexity.dashboard.findings.evidence import Evidence, certainty, number
from lightning_complexity.dashboard.findings.finding import Finding
from lightning_complexity.dashboard.runs import GAPS, OVERHEAD, STANDARD_ERROR

FEWEST_RUNS = 8
"""With fewer, no rank correlation has an interval that says anything."""
LEVEL = 0.05
"""Of the test, over all measures that were looked at."""


def gap_explained(runs: Sequence[Evidence]) -> Iterator[Finding]:
    r"""The measure whose last values rank runs most as their gaps do.

    Spearman's :math:`\rho` with the interval of :math:`\mathrm{artanh} \rho \pm z \sqrt{(1 + \rho^2 / 2) / (n - 3)}`,
    :math:`z` such that it holds for all measures at once (Bonferroni). Needs a gap and a measure in eight runs.

    References:
        Bonett and Wright, Sample size requirements for estimating Pearson, Kendall and Spearman correlations,
        Psychometrika 65, 2000.
    """
    found = next((f for gap in GAPS if (f := _most_correlated(runs, gap)) is not None), None)
    if found is None:
        return
    gap, name, rho, count, tried = found
    z = _quantile(1 - LEVEL / (2 * tried))
    deviation = math.sqrt((1 + rho * rho / 2) / (count - 3))
    center = math.atanh(max(min(rho, 0.999999), -0.999999))
    low, high = math.tanh(center - z * deviation), math.tanh(center + z * deviation)
    if low <= 0 <= high:
        return
    what = "grows" if rho > 0 else "falls"
    yield Finding(
        "gap_explained",
        "note",
        f"Across {count} runs, the gap ({gap}) {what} with {name}: rank correlation {number(rho)}.",
        f"Between {number(low)} and {number(high)}, for the best of {tried} measures at once.",
        value=rho,
        interval=(low, high),
        confidence=certainty(abs(center) / deviation),
        next_step="Correlation over runs is no cause: see whether it holds for each hyper-parameter "
        f"(`lightning-complexity study`), then limit {name} by a penalty or a constraint.",
    )


def _most_correlated(runs: Sequence[Evidence], gap: str) -> tuple[str, str, float, int, int] | None:
    gaps = {i: curve.last for i, run in enumerate(runs) if len(curve := run.curve(gap))}
    if len(gaps) < FEWEST_RUNS:
        return None
    keys = sorted({key for i in gaps for key in runs[i].keys if _is_measure(key)})
    found = []
    for key in keys:
        both = [(curve.last, gaps[i]) for i in gaps if len(curve := runs[i].curve(key))]
        rho = _spearman(np.array(both)) if len(both) >= FEWEST_RUNS else math.nan
        if math.isfinite(rho):
            found.append((abs(rho), len(both), key, rho))
    if not found:
        return None
    _, count, key, rho = max(found, key=lambda f: (f[0], f[1], f[2]))
    return gap, key.removeprefix("complexity/"), rho, count, len(found)


def _is_measure(key: str) -> bool:
    return (
        key.startswith("complexity/") and key.count("/") == 1 and key != OVERHEAD and not key.endswith(STANDARD_ERROR)
    )


def _spearman(pairs: np.ndarray) -> float:
    ranks = np.stack([_ranks(column) for column in pairs.T])
    if np.ptp(ranks, axis=1).min() == 0:
        return math.nan
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks of ties."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse.reshape(-1)]


def _quantile(probability: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)
