"""An audit as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from lightning_complexity.studies.audit.grading import Audit

_MEANING = (
    "+ with the gap, - against it; ! moves, and the gap does not say which way; ~ turns: opposite signs at",
    "two levels of another factor; 0 flat; ? inconclusive. Over all factors a measure turns if it has + and -, or a ~,",
    "and is stable if it goes one way wherever the gap is stable.",
    "Intervals are over seeds, at 95 %.",
)


def printed(audit: Audit) -> str:
    """The grades of all measures, and their slopes in the training-set size beside that of the gap.

    Args:
        audit: What was found.
    """
    lost = "; ".join(f"{count} left out: {reason}" for reason, count in audit.left_out.items())
    summary = audit.summary.drop(columns=["with", "against", "unclear", "reason"])
    lines = [
        f"{audit.gap} of {audit.rows} networks" + (f" ({lost})" if lost else ""),
        "",
        _text(summary.assign(measure=summary["measure"].str.removeprefix("complexity/"))),
        "",
        *_MEANING,
        "",
        _factors(audit),
    ]
    if audit.size is not None:
        lines += ["", f"Slopes in {audit.size} (exponents, or standard deviations per factor of e):", "", _sizes(audit)]
    return "\n".join(lines)


def _factors(audit: Audit) -> str:
    """What the gap does in each factor."""
    own = audit.slopes[audit.slopes["measure"] == audit.gap]
    rows = [
        {
            "factor": row.factor,
            "over": row.factor_scale,
            "verdict": row.verdict,
            "slope of the gap": _slope(row),
            "why": row.reason,
        }
        for row in own.itertuples()
    ]
    return _text(pd.DataFrame(rows))


def _sizes(audit: Audit) -> str:
    found = audit.slopes[audit.slopes["factor"] == audit.size]
    rows = [
        {
            "measure": row.measure.removeprefix("complexity/"),
            "normalisation": "" if row.measure == audit.gap else row.normalisation,
            "verdict": row.verdict,
            "slope": _slope(row) + ("" if row.measure_scale == "log" else " sd"),
            "": "" if row.measure == audit.gap else row.relation,
            "why": row.reason,
        }
        for row in found.itertuples()
    ]
    return _text(pd.DataFrame(rows))


def _slope(row: object) -> str:
    from lightning_complexity.studies.audit.trends import Interval

    return str(Interval(*(getattr(row, name) for name in ("slope", "low", "high"))))


def _text(table: pd.DataFrame) -> str:
    """A table with its columns to the left, without an index."""
    cells = [[str(name) for name in table.columns], *table.fillna("").astype(str).values.tolist()]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)
