"""Numbers as a page needs them: as many as the eye can use, and those that are not finite named."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lightning_complexity.recording.record import to_json

DIGITS = 6


def rounded(value: float | None) -> float | None:
    """Six digits; ``None`` for what is not finite, since JSON has no such numbers.

    Example:
        >>> rounded(1234567.0), rounded(2.0), rounded(float("inf"))
        (1234570.0, 2, None)
    """
    if value is None or not math.isfinite(value):
        return None
    if float(value).is_integer() and abs(value) < 10**DIGITS:
        return int(value)
    return float(f"{value:.{DIGITS}g}")


def marks(values: Sequence[float]) -> list[list[int | str]]:
    """Places and names of the values that are not finite.

    Example:
        >>> marks([1.0, float("inf"), float("nan")])
        [[1, 'Infinity'], [2, 'NaN']]
    """
    return [[place, str(to_json(value))] for place, value in enumerate(values) if not math.isfinite(value)]


def thinned(columns: Sequence[Sequence[float]], most: int) -> list[int]:
    """Places to keep of columns that belong together: first, last and extremes of each column, and others evenly.

    Args:
        columns: Of equal length.
        most: How many evenly spaced places to keep; the extremes come on top.

    Example:
        >>> thinned([[0.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0]], 3)
        [0, 1, 3, 6]
    """
    length = len(columns[0]) if columns else 0
    if length <= most:
        return list(range(length))
    kept = set(np.linspace(0, length - 1, max(most, 2)).round().astype(int).tolist())
    for column in columns:
        values = np.asarray(column, dtype=float)
        finite = np.flatnonzero(np.isfinite(values))
        if len(finite):
            kept |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
        strange = np.flatnonzero(~np.isfinite(values))
        kept |= {int(strange[0]), int(strange[-1])} if len(strange) else set()
    return sorted(kept)
