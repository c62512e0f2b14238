"""The Pareto front of points with several objectives, its hypervolume, and its knee. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

DIRECTIONS = ("minimize", "maximize")
_ON_THE_CHORD = 1e-12
"""Distances, of objectives scaled to [0, 1], that are rounding errors of zero."""


@dataclass(frozen=True)
class Front:
    """Points that no other point dominates.

    Attributes:
        points: Shape ``(points, objectives)``, from the best to the worst first objective.
        rows: For each, which row of what was given it is.
        directions: ``"minimize"`` or ``"maximize"``, for each objective.
        left_out: Rows that had an entry that is not finite.
    """

    points: Floats
    rows: tuple[int, ...]
    directions: tuple[str, ...]
    left_out: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)


def pareto_front(
    points: ArrayLike, directions: str | Sequence[str] = "minimize", *, not_finite: str = "leave_out"
) -> Front:
    r"""Find the points that no other point dominates.

    With all objectives minimized, :math:`a` dominates :math:`b` if :math:`a_i \le b_i` for all :math:`i` and
    :math:`a_i < b_i` for one. A point that ties with another in one objective and is worse in the others is therefore
    no part of the front; equal points do not dominate each other, so that all copies of a point are on it or none is.
    No points have an empty front. Equal points keep the order in which they came.

    Args:
        points: Shape ``(points, objectives)``.
        directions: ``"minimize"`` or ``"maximize"``, for all objectives or for each.
        not_finite: What is done with rows that have an entry that is NaN or infinite, such as a diverged training:
            ``"leave_out"`` or ``"refuse"``.

    Raises:
        ValueError: If the shape, a direction or ``not_finite`` is another; if an entry is not finite and shall be
            refused.
        TypeError: If an entry is no number.

    References:
        Deb, Multi-Objective Optimization using Evolutionary Algorithms, Wiley 2001, section 2.4.

    Example:
        >>> front = pareto_front([[0.10, 900], [0.08, 2000], [0.10, 1000], [float("nan"), 10]])
        >>> front.rows, front.left_out
        ((1, 0), (3,))
    """
    if not_finite not in ("leave_out", "refuse"):
        raise ValueError(f"not_finite must be 'leave_out' or 'refuse', got {not_finite!r}.")
    values, signs, names = _checked(points, directions)
    finite = np.isfinite(values).all(axis=1)
    left_out = tuple(np.flatnonzero(~finite).tolist())
    if left_out and not_finite == "refuse":
        raise ValueError(f"points must be finite, got {values[left_out[0]].tolist()} in row {left_out[0]}.")
    kept = np.flatnonzero(finite)
    rows = kept[_not_dominated(values[kept] * signs)]
    return Front(values[rows], tuple(rows.tolist()), names, left_out)


def hypervolume(points: ArrayLike, reference: ArrayLike, directions: str | Sequence[str] = "minimize") -> float:
    r"""Volume of what the points dominate, up to a reference point.

    With all objectives minimized it is the Lebesgue measure of :math:`\bigcup_a \prod_i [a_i, r_i]` over the points
    :math:`a` that are no worse than :math:`r` in any objective. Others add nothing, and neither do dominated or
    repeated points and rows that are not finite: without any point that adds, it is zero. Computed by Optuna.

    Args:
        points: Shape ``(points, objectives)``.
        reference: What is just acceptable, for each objective. Only volumes with the same reference can be compared.
        directions: ``"minimize"`` or ``"maximize"``, for all objectives or for each.

    Raises:
        ImportError: Without Optuna.
        ValueError: If shapes do not fit, a direction is another, or the reference is not finite.
        TypeError: If an entry is no number.

    References:
        Zitzler and Thiele, IEEE Trans. Evolutionary Computation 3(4), 1999. While, Bradstreet and Barone, "A fast way
        of calculating exact hypervolumes", IEEE Trans. Evolutionary Computation 16(1), 2012, for more than three
        objectives.

    Example:
        >>> hypervolume([[1.0, 2.0], [2.0, 1.0]], [3.0, 3.0])  # 2 + 2 - 1
        3.0
    """
    values, signs, _ = _checked(points, directions)
    bound = numbers_of(reference, "reference")
    if bound.ndim != 1 or not len(bound):
        raise ValueError(f"reference must be one number for each objective, got shape {bound.shape}.")
    if not len(values):
        return 0.0
    if len(bound) != values.shape[1]:
        raise ValueError(f"reference must have {values.shape[1]} numbers, as points have, got {len(bound)}.")
    if not np.isfinite(bound).all():
        raise ValueError(f"reference must be finite, got {bound.tolist()}.")
    losses = (values * signs)[np.isfinite(values).all(axis=1)]
    losses = losses[(losses <= bound * signs).all(axis=1)]
    if not len(losses):
        return 0.0
    try:
        from optuna._hypervolume import compute_hypervolume
    except ModuleNotFoundError as error:
        raise ImportError("hypervolumes need Optuna 5: pip install lightning-complexity[selection]") from error
    return float(compute_hypervolume(losses, bound * signs))


def knee(points: ArrayLike, directions: str | Sequence[str] = "minimize") -> int | None:
    r"""Find the point of a front where giving up more of one objective begins to gain little of the other.

    Both objectives are scaled over the front to [0, 1], with 0 the best. The ends of the front are then :math:`(0, 1)`
    and :math:`(1, 0)`; the knee is the point farthest from the chord between them, on the side of the ideal
    :math:`(0, 0)`:

    .. math:: \arg\max_a \frac{1 - a_1 - a_2}{\sqrt 2}.

    There is none, and ``None`` is returned, if the front has fewer than three different points, or if no point is on
    that side of the chord. Of points equally far, the one with the better first objective. Scaling is linear, so that
    dominated points change nothing but the ends of the front do; give the logarithm of a cost that spans magnitudes.

    Args:
        points: Shape ``(points, 2)``; those that are dominated or not finite are passed over.
        directions: ``"minimize"`` or ``"maximize"``, for both objectives or for each.

    Returns:
        The row of the point.

    Raises:
        ValueError: If there are not two objectives, or a direction is another.
        TypeError: If an entry is no number.

    References:
        Das, "On characterizing the knee of the Pareto curve based on normal-boundary intersection", Structural
        Optimization 18, 1999. Satopää et al., "Finding a kneedle in a haystack", ICDCS Workshops 2011, for curves.

    Example:
        >>> knee([[0.30, 1e3], [0.12, 2e3], [0.11, 8e3], [0.10, 9e3]])
        1
    """
    values, signs, names = _checked(points, directions)
    if values.shape[1] != 2 and len(values):
        raise ValueError(f"a knee needs two objectives, got {values.shape[1]}; choose two columns.")
    front = pareto_front(values, names)
    if len({tuple(point) for point in front.points.tolist()}) < 3:
        return None
    losses = front.points * signs
    losses = losses / np.abs(losses).max(axis=0)  # so that differences of huge numbers stay finite
    best, worst = losses.min(axis=0), losses.max(axis=0)
    if (best == worst).any():  # different, but not in the precision of what they were divided by
        return None
    distances = 1 - ((losses - best) / (worst - best)).sum(axis=1)
    if distances.max() <= _ON_THE_CHORD:
        return None
    return front.rows[int(np.argmax(distances >= distances.max() - _ON_THE_CHORD))]


def _checked(points: ArrayLike, directions: str | Sequence[str]) -> tuple[Floats, Floats, tuple[str, ...]]:
    """Points as numbers; 1 for objectives to minimize and -1 for others; a direction for each."""
    values = numbers_of(points, "points")
    if values.ndim == 1 and not len(values):
        values = values.reshape(0, 1 if isinstance(directions, str) else len(directions))
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"points must have shape (points, objectives), got {values.shape}.")
    if not isinstance(directions, Sequence):
        raise TypeError(f"directions must be 'minimize', 'maximize' or a sequence of these, got {directions!r}.")
    names = (directions,) * values.shape[1] if isinstance(directions, str) else tuple(directions)
    if len(names) != values.shape[1]:
        raise ValueError(f"directions must be one for each of {values.shape[1]} objectives, got {len(names)}.")
    for name in names:
        check_direction(name)
    return values, np.array([1.0 if name == "minimize" else -1.0 for name in names]), names


def check_direction(direction: str) -> None:
    """Refuse what is neither ``"minimize"`` nor ``"maximize"``."""
    if direction not in DIRECTIONS:
        raise ValueError(f"a direction must be 'minimize' or 'maximize', got {direction!r}.")


def numbers_of(values: ArrayLike, name: str) -> Floats:
    """An array of doubles from numbers."""
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        if "inhomogeneous" in str(error):
            raise ValueError(f"{name} must have as many numbers in each row.") from error
        raise TypeError(f"{name} must be numbers, got {values!r:.200}.") from error


def _not_dominated(losses: Floats) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Rows of the front. The first of what is left, in lexicographic order, is never dominated by the rest."""
    left = np.lexsort(losses.T[::-1])
    found: list[np.ndarray[Any, np.dtype[np.intp]]] = []
    while len(left):
        first, rest = losses[left[0]], losses[left]
        found.append(left[(rest == first).all(axis=1)])
        left = left[~(first <= rest).all(axis=1)]
    return np.concatenate(found) if found else np.array([], dtype=np.intp)
