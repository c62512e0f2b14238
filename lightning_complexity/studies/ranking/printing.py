"""A ranking as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import pandas as pd

_MEANING = (
    "tau_b, Psi, psi: 1 if the measure always rises with the gap, -1 if it always falls.",
    "K does not see the sign: a measure that falls where the gap rises has a K as high as one that rises.",
    "direction: the signs of all psi; such a measure falls, rises, or turns with the hyper-parameter.",
    "sign error: share of pairs that the measure orders against the gap; 0.5 is chance; max: the worst environment.",
)


def printed(
    frame: pd.DataFrame,
    psi: pd.DataFrame,
    sign_error: pd.DataFrame,
    intervals: pd.DataFrame,
    gap: str,
    rows: int,
    left_out: Mapping[str, int],
    notes: Sequence[str],
) -> str:
    """Three tables, what their columns mean, and what a reader must know.

    Args:
        frame: A row a measure.
        psi: Measures by hyper-parameters.
        sign_error: By measure, weights and environments.
        intervals: By measure and statistic; may be empty.
        gap: Name of the gap.
        rows: How many were read.
        left_out: How many were left out, by reason.
        notes: Sentences.
    """
    error = "robust_sign_error" if frame["robust_sign_error"].notna().any() else "sign_error"
    table = pd.DataFrame(index=frame.index)
    for name in ("tau_b", "Psi"):
        table[name] = _with_interval(frame, intervals, name)
    table["direction"] = frame["direction"]
    table["K (no sign)"] = frame["K"].map(_number)
    table["sign error"] = _with_interval(frame, intervals, error)
    table["p90"], table["max"] = frame[f"{error}_p90"].map(_number), frame[f"{error}_max"].map(_number)
    if frame["networks"].nunique() > 1:
        table.insert(0, "networks", frame["networks"])
    errors = _by_hyperparameter(sign_error, psi, "noise filter" if error.startswith("robust") else "all pairs")
    kept = f"{frame['networks'].max()} of {rows} networks, {frame['configurations'].max()} configurations"
    lost = "; ".join(f"{count} left out: {reason}" for reason, count in left_out.items())
    lines = [
        f"{gap} of {kept}" + (f" ({lost})" if lost else ""),
        "",
        _text(table),
        "",
        _text(psi.map(_number).add_prefix("psi ")),
        "",
        *([_text(errors.map(_number).add_prefix("error ")), ""] if errors.notna().any(axis=None) else []),
        *_MEANING,
        "The sign error has the noise filter." if error.startswith("robust") else "The sign error has no noise filter.",
        *(f"Note: {note}." for note in notes),
    ]
    return "\n".join(lines)


def _by_hyperparameter(sign_error: pd.DataFrame, psi: pd.DataFrame, weights: str) -> pd.DataFrame:
    means = sign_error["mean"].xs(weights, level="weights").unstack("environments")
    return means.loc[psi.index, [*psi.columns, "weak_family"]]


def _text(table: pd.DataFrame) -> str:
    return table.rename_axis(index=None, columns=None).to_string(max_colwidth=None)


def _number(value: float) -> str:
    return f"{value:.3f}" if isfinite(value) else "-"


def _with_interval(frame: pd.DataFrame, intervals: pd.DataFrame, name: str) -> list[str]:
    found = []
    ends = {} if intervals.empty else intervals[["low", "high"]].T.to_dict("list")
    for measure, value in zip(frame.index, frame[name].to_numpy(float), strict=True):
        text = _number(value)
        if (measure, name) in ends:
            low, high = ends[measure, name]
            text += f" [{_number(low)}, {_number(high)}]"
        found.append(text)
    return found
