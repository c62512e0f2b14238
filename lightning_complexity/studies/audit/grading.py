"""How fragile a measure is: whether its trends keep sign and slope when a knob is turned that should not matter."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from lightning_complexity.studies.audit.trends import (
    BY_ROOT,
    CONFIDENCE,
    RAW,
    Column,
    Floats,
    Interval,
    Trend,
    interval,
    is_positive,
    scaled,
    trends,
)
from lightning_complexity.studies.tables import Filters, Source, read_table

Verdict = Literal["stable", "turns", "flat", "inconclusive"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Relation = Literal["with the gap", "against the gap", "unclear"]
FLAT = 0.05


@dataclass(frozen=True)
class Audit:
    """What a table says about the stability of measures. Printing it shows the grades and the slopes in the size.

    Attributes:
        summary: A row a measure and normalisation: ``verdict`` over all factors, ``with``, ``against`` and ``unclear``
            (how many factors move it as the gap), a mark for each factor, ``reason``.
        slopes: A row a measure, factor and normalisation: ``verdict``, ``slope`` with ``low`` and ``high``, ``seeds``,
            ``agreement`` (share of seeds whose slope has the sign of the mean), ``gap_slope`` with ``gap_low`` and
            ``gap_high``, ``gap_verdict``, ``relation``, the scales of factor and measure, ``reason``.
        levels: The slope in each factor at each level of another one, with intervals that hold for all levels of a
            measure together.
        gap: The column of the gap.
        size: The factor that is the training-set size; ``None`` without.
        rows: How many networks were compared.
        left_out: How many were not, by reason.
    """

    summary: pd.DataFrame
    slopes: pd.DataFrame
    levels: pd.DataFrame
    gap: str
    size: str | None
    rows: int
    left_out: dict[str, int]

    def __str__(self) -> str:
        from lightning_complexity.studies.audit.printing import printed

        return printed(self)

    def at_levels(self, measure: str, factor: str, given: str, normalisation: str = RAW) -> dict[Any, Interval]:
        """Slopes of a measure in a factor, by the level of another one.

        Args:
            measure: Its column, or that of the gap.
            factor: That the slope is in.
            given: The other one.
            normalisation: ``"raw"`` or ``"/ sqrt(n)"``.
        """
        asked = {"measure": measure, "factor": factor, "given": given, "normalisation": normalisation}
        found = self.levels
        for column, value in asked.items():
            found = found[found[column] == value]
        rows: list[Any] = found.to_dict("records")
        return {row["level"]: Interval(row["slope"], row["low"], row["high"]) for row in rows}


def audit(
    source: Source,
    *,
    factors: Sequence[str],
    gap: str,
    seed: str,
    measures: Sequence[str] | None = None,
    size: str | None = None,
    filters: Filters = (),
    logarithms: Collection[str] | None = None,
    lower: Collection[str] = (),
    flat: float = FLAT,
) -> Audit:
    r"""Grade measures by the stability of the sign and slope of their trends.

    Networks are compared that differ in one factor only, seed by seed: the slope of :math:`\log m` in the logarithm
    of the factor is an exponent, so that 0.5 says that the measure grows as its root. Measures that are not always
    positive count in standard deviations, and factors that are not, over their range. Values of a factor that are no
    numbers are compared with the most frequent one: the slope is then the difference.

    Verdicts on a measure and a factor: ``"flat"`` if the interval, and the mean at each level of another factor, is
    within ``flat``; ``"turns"`` if at two of these levels the slopes have opposite signs, beyond their intervals;
    ``"stable"`` if the interval is on one side of 0 and the mean slope is on the same side at each level;
    ``"inconclusive"`` else, and with one seed. Where both are stable, a measure goes with the gap or against it. Over
    all factors it turns if it goes with the gap in one and against it in another, and is stable if it goes the same way
    in each in which the gap is.

    Args:
        source: A pandas frame, a CSV or a folder of records, as for
            :func:`~lightning_complexity.studies.tables.read_table`.
        factors: Columns that were varied.
        gap: Column of the gap.
        seed: Column of the seed.
        measures: Columns of measures.
        size: The factor that is the training-set size :math:`n`: measures are audited raw and divided by
            :math:`\sqrt n`, as bounds have them.
        filters: Rows to keep.
        logarithms: Measures that are logarithms already; those that are called so if not given.
        lower: Measures that are lower where a network is more complex.
        flat: Slopes below this are none.

    Raises:
        ValueError: If columns do not fit, if the size is no factor of positive numbers, or if no two networks of a
            seed differ in one factor only.

    Example:
        >>> grid = [(n, w, s) for n in (100, 400) for w in (8, 16) for s in (0, 1)]
        >>> frame = pd.DataFrame(grid, columns=["n", "width", "seed"])
        >>> frame["norm"], frame["gap"] = frame.n**0.5 * (1 + frame.seed / 100), frame.n**-0.6
        >>> found = audit(frame, factors=["n", "width"], gap="gap", seed="seed", measures=["norm"], size="n")
        >>> found.slopes[["measure", "factor", "normalisation", "verdict", "relation"]].values.tolist()[:3]
        [['gap', 'n', 'raw', 'stable', 'with the gap'], ['norm', 'n', 'raw', 'stable', 'against the gap'],
         ['norm', 'n', '/ sqrt(n)', 'flat', 'unclear']]
    """
    table = read_table(
        source, hyperparameters=factors, measures=measures, gap=gap, seed=seed, filters=filters, missing="measure"
    )
    if size is not None and (size not in factors or not is_positive(table.frame[size])):
        raise ValueError(f"size must be one of factors and hold positive numbers, got {size!r}.")
    if logarithms is None:
        logarithms = [name for name in table.measures if name.rpartition("/")[2].startswith("log_")]
    values = scaled(table, logarithms, size)
    rows: list[dict[str, Any]] = []
    levels: list[dict[str, Any]] = []
    for factor in factors:
        kept = [column for column in values if factor == size or column.normalisation == RAW]
        for name, trend in trends(table, factor, kept):
            judged = _judged(name, trend, kept, lower, flat)
            rows, levels = rows + judged[0], levels + judged[1]
    if not rows:
        raise ValueError(f"no two networks of a seed differ in one of {', '.join(factors)} only.")
    slopes, by_level = pd.DataFrame(rows), pd.DataFrame(levels, columns=_LEVEL_COLUMNS)
    return Audit(_summary(slopes, gap, size), slopes, by_level, gap, size, len(table.frame), table.left_out)


_LEVEL_COLUMNS = ["measure", "factor", "normalisation", "given", "level", "slope", "low", "high"]


def _judged(
    name: str, trend: Trend, values: Sequence[Column], lower: Collection[str], flat: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of slopes and of levels, for the gap, which is the first of the values, and all measures."""
    rows: list[dict[str, Any]] = []
    levels: list[dict[str, Any]] = []
    *others, seed = trend.cases.columns
    gaps = interval(_by_seed(trend.cases[seed], trend.slopes[:, 0]))
    of_gap = _verdict(gaps, _at_levels(trend.cases, others, seed, trend.slopes[:, 0]), flat)[0]
    for column, slopes in zip(values, trend.slopes.T, strict=True):
        per_seed = _by_seed(trend.cases[seed], slopes)
        overall, found = interval(per_seed), _at_levels(trend.cases, others, seed, slopes)
        verdict, reason = _verdict(overall, found, flat)
        both = verdict == of_gap == "stable"
        signs = overall.sign * gaps.sign * (-1 if column.measure in lower else 1) if both else 0
        known = {"measure": column.measure, "factor": name, "normalisation": column.normalisation}
        rows.append(
            {
                **known,
                "verdict": verdict,
                "slope": overall.mean,
                "low": overall.low,
                "high": overall.high,
                "seeds": len(per_seed),
                "agreement": float((np.sign(per_seed) == np.sign(overall.mean)).mean()) if len(per_seed) else math.nan,
                "gap_slope": gaps.mean,
                "gap_low": gaps.low,
                "gap_high": gaps.high,
                "gap_verdict": of_gap,
                "relation": _RELATIONS[signs],
                "factor_scale": trend.scale,
                "measure_scale": column.scale,
                "reason": reason,
            }
        )
        levels += [
            {**known, "given": given, "level": level, "slope": at.mean, "low": at.low, "high": at.high}
            for (given, level), at in found.items()
        ]
    return rows, levels


_RELATIONS: dict[int, Relation] = {1: "with the gap", -1: "against the gap", 0: "unclear"}


def _by_seed(seeds: pd.Series[Any], slopes: Floats) -> Floats:
    """Means over the contexts of each seed, of those that have one."""
    means = pd.Series(slopes).groupby(seeds.to_numpy()).mean().to_numpy(float)
    return means[np.isfinite(means)]


def _at_levels(
    cases: pd.DataFrame, others: Sequence[str], seed: str, slopes: Floats
) -> dict[tuple[str, Any], Interval]:
    """Slopes by the level of each other factor, with intervals that hold for all of them together."""
    levels = [(g, level) for g in others if cases[g].nunique() > 1 for level in sorted(set(cases[g]), key=_order)]
    found = {}
    for given, level in levels:
        here = (cases[given] == level).to_numpy(bool)
        found[given, level] = interval(
            _by_seed(cases[seed][here], slopes[here]), 1 - (1 - CONFIDENCE) / max(len(levels), 1)
        )
    return found


def _order(level: Any) -> tuple[str, float, str]:
    is_number = isinstance(level, (int, float, np.number))
    return ("", float(level), "") if is_number else ("word", 0.0, str(level))


def _verdict(overall: Interval, levels: Mapping[tuple[str, Any], Interval], flat: float) -> tuple[Verdict, str]:
    if not math.isfinite(overall.low):
        return "inconclusive", "one seed has no interval" if math.isfinite(overall.mean) else "no slope is finite"
    if overall.within(flat) and all(abs(at.mean) < flat for at in levels.values()):
        return "flat", ""
    for given in dict.fromkeys(given for given, _ in levels):
        decided = [(level, at) for (name, level), at in levels.items() if name == given and at.sign]
        signs = {at.sign: (level, at) for level, at in sorted(decided, key=lambda case: abs(case[1].mean))}
        if len(signs) > 1:
            return "turns", f"with {given}: " + ", ".join(f"{level} {at}" for level, at in signs.values())
    if not overall.sign:
        return "inconclusive", "the interval over seeds has both sides"
    other = [f"{name} {level} {at}" for (name, level), at in levels.items() if at.mean * overall.sign <= 0]
    if other:
        return "inconclusive", f"on the other side, within its interval, with {', '.join(other)}"
    return "stable", ""


_MARKS = {"with the gap": "+", "against the gap": "-"}


def _summary(slopes: pd.DataFrame, gap: str, size: str | None) -> pd.DataFrame:
    rows = []
    measured = slopes[slopes["measure"] != gap]
    for measure, found in measured.groupby("measure", sort=False):
        for normalisation in (RAW, BY_ROOT) if size is not None else (RAW,):
            own = (found["factor"] == size) & (found["normalisation"] == normalisation)
            kept = found[own | ((found["factor"] != size) & (found["normalisation"] == RAW))]
            rows.append({"measure": measure, "normalisation": normalisation, **_grade(kept)})
    return pd.DataFrame(rows)


def _grade(found: pd.DataFrame) -> dict[str, Any]:
    """The verdict over all factors."""
    by_relation = {r: found["factor"][found["relation"] == r].tolist() for r in get_args(Relation)}
    rising, falling, unclear = by_relation.values()
    turning = found["factor"][found["verdict"] == "turns"].tolist()
    missed = found["factor"][(found["gap_verdict"] == "stable") & (found["relation"] == "unclear")].tolist()
    if turning or (rising and falling):
        verdict: Verdict = "turns"
    elif (found["verdict"] == "flat").all():
        verdict = "flat"
    else:
        verdict = "stable" if (rising or falling) and not missed else "inconclusive"
    alone = found["factor"][(found["verdict"] == "stable") & (found["gap_verdict"] != "stable")].tolist()
    parts = {
        "with the gap": rising,
        "against it": falling,
        "turns": turning,
        "not seen": missed,
        "moves without it": alone,
    }
    rows: list[Any] = found.to_dict("records")
    words = {"turns": "~", "flat": "0", "stable": "!", "inconclusive": "?"}
    marks = {row["factor"]: _MARKS.get(row["relation"]) or words[row["verdict"]] for row in rows}
    return {
        "verdict": verdict,
        "with": len(rising),
        "against": len(falling),
        "unclear": len(unclear),
        **marks,
        "reason": "; ".join(f"{name}: {', '.join(names)}" for name, names in parts.items() if names),
    }
