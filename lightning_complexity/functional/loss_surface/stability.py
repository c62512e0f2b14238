"""How far a step may go before the loss is higher than at its start."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["CriticalStep", "critical_step"]

# Times what rounding hides: steps from there on are told from none.
_VISIBLE = 16


class CriticalStep(NamedTuple):
    """Where along a line the loss comes back to its start.

    Attributes:
        step: How far, in units of the line's direction; 0 where the loss rises from the start on.
        converged: Whether it is known; if not, the loss is still below its start at ``step``, or the place is not known
            to the tolerance.
        evaluations: How many losses were computed.
    """

    step: float
    converged: bool
    evaluations: int


def critical_step(
    loss_at: Callable[[float], float],
    start: float,
    slope: float,
    *,
    first: float = 1.0,
    tolerance: float = 1e-5,
    rounding: float | None = None,
    max_evaluations: int = 8,
) -> CriticalStep:
    r"""The step at which the loss along a line exceeds the one at its start.

    Looks for the zero of the mean slope :math:`(L(s) - L(0)) / s` by secants, inside a bracket as soon as there is one.
    The mean slope of a quadratic is linear in ``s``, so that two losses are enough. What is not finite counts as
    higher. Where the loss comes back to its start several times, one of these places is found. No step is looked at
    that is so short that rounding hides what it changes.

    Args:
        loss_at: The loss at a step.
        start: The loss at 0.
        slope: Its derivative there.
        first: Where to look first.
        tolerance: Of the step, relative; not below what rounding leaves.
        rounding: How far off losses may be by rounding; default what single precision leaves of the start.
        max_evaluations: Of losses.

    Returns:
        The step; ``nan`` where start or slope are not finite or the slope is zero.

    Example:
        >>> critical_step(lambda s: 1 - 2 * s + 0.5 * s * s, start=1.0, slope=-2.0)
        CriticalStep(step=4.0, converged=True, evaluations=2)
    """
    if not (math.isfinite(start) and math.isfinite(slope)) or slope == 0:
        return CriticalStep(math.nan, False, 0)
    if slope > 0:
        return CriticalStep(0.0, True, 0)
    hidden = (4e-7 * abs(start) if rounding is None else rounding) / abs(slope)  # a step that changes no more than this
    known = [(0.0, slope)]  # steps and mean slopes, the latest last
    high = math.inf
    step = max(first, _VISIBLE * hidden)
    for evaluations in range(1, max_evaluations + 1):
        mean_slope = (loss_at(step) - start) / step
        if mean_slope == 0:
            return CriticalStep(step, hidden <= 0.01 * step, evaluations)
        known.append((step, mean_slope))
        high = high if mean_slope < 0 else min(high, step)
        low = max(s for s, y in known if y < 0 and s < high)
        following = _next(known, low, high, tolerance)
        if following < _VISIBLE * hidden:
            return CriticalStep(following, False, evaluations)
        close = max(tolerance, min(hidden / max(step, following), 0.01))
        if 0 < high - low <= close * low or abs(following - step) <= close * step:
            return CriticalStep(following, True, evaluations)
        step = following
    return CriticalStep(step if math.isfinite(high) else low, False, max_evaluations)


def _next(known: list[tuple[float, float]], low: float, high: float, tolerance: float) -> float:
    """Where to look: at the zero of the curve through the latest points, kept inside the bracket."""
    secant = _zero_through(known[-3:]) or _zero_through(known[-2:]) or math.nan
    latest = known[-1][0]
    if abs(secant - latest) <= tolerance * latest:  # found, on whichever side rounding has it
        return secant
    if not math.isfinite(high):
        return min(secant, low * 8.0 ** (len(known) - 1)) if secant > low else low * 4.0 ** (len(known) - 1)
    if low < secant < high:
        return secant
    ends = [next(point for point in reversed(known) if point[0] == s) for s in (low, high)]
    inside = _zero_through(ends) or math.nan
    if low > 0 and high > 4 * low and not 1.5 * low < inside < high / 1.5:  # bent so much that it would hardly move
        return math.sqrt(low * high)
    return inside if low < inside < high else (low + high) / 2 if low > 0 else high / 8


def _zero_through(points: list[tuple[float, float]]) -> float | None:
    """Where the step, as a polynomial of the mean slope through these points, is at slope zero."""
    slopes = [y for _, y in points]
    if not all(map(math.isfinite, slopes)) or len(set(slopes)) < len(slopes) or len(points) < 2:
        return None
    total = 0.0
    for i, (step, slope) in enumerate(points):
        share = 1.0
        for other in slopes[:i] + slopes[i + 1 :]:
            share *= other / (other - slope)
        total += share * step
    return total
