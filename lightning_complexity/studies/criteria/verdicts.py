"""Whether a measure is on the right side: pass, fail or inconclusive, with an effect and its interval over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Outcome = Literal["pass", "fail", "inconclusive"]
Scale = Literal["ratio", "standard deviations"]
CONFIDENCE = 0.95
_DIFFERENT_SIDES = "the mean and most pairs are on different sides"


class Pair(NamedTuple):
    """One measure of two networks of the same seed, of which one is expected to be less complex.

    Attributes:
        seed: Of both.
        group: What is compared, such as ``"400 samples"``; pairs of a group differ in their seeds alone.
        lower: The value where it is expected to be lower.
        higher: The value where it is expected to be higher.
    """

    seed: int
    group: str
    lower: float
    higher: float


@dataclass(frozen=True)
class Verdict:
    """What the seeds say together.

    Attributes:
        outcome: ``"pass"``, ``"fail"`` or ``"inconclusive"``.
        effect: Mean over seeds: how much higher the measure is where it should be. With ``scale="ratio"`` a factor,
            above 1 on the right side; otherwise a difference in standard deviations of all values, above 0.
        low: Lower end of its interval, at 95 % by Student's t over seeds; ``nan`` for a single seed.
        high: Upper end.
        scale: ``"ratio"`` for logarithms and for what is always positive.
        agreement: Share of pairs that are on the right side, minus those on the wrong one.
        num_seeds: Seeds that have a pair.
        num_pairs: Pairs with two finite values.
        reason: Why it is not a pass.
        is_by_pairs: Whether that is not to be seen from the interval.
    """

    outcome: Outcome
    effect: float
    low: float
    high: float
    scale: Scale
    agreement: float
    num_seeds: int
    num_pairs: int
    reason: str = ""
    is_by_pairs: bool = False


def judge(pairs: Iterable[Pair], *, is_logarithm: bool = False, every_group: bool = False) -> Verdict:
    r"""Judge a measure by its pairs.

    The differences of a seed, of logarithms where all values allow that, are averaged, so that seeds are independent
    and alone make the interval. It passes if the interval is above zero and more pairs are on the right side than on
    the wrong one; fails if the interval is below zero and more are on the wrong side, or if it never differs. All else,
    and fewer than two seeds, is inconclusive.

    Args:
        pairs: Those with a value that is not finite are left out.
        is_logarithm: Whether values are logarithms, whose difference is that of a ratio already.
        every_group: Whether, to pass, each group has to be on the right side in the mean over its seeds, and one that
            is on the wrong side beyond its own interval is a fail.

    Example:
        >>> verdict = judge([Pair(seed, "", 1.0, 2.0 + 0.1 * seed) for seed in range(3)])
        >>> verdict.outcome, round(verdict.effect, 2), round(verdict.low, 2), round(verdict.high, 2)
        ('pass', 2.1, 1.86, 2.36)
    """
    usable = [pair for pair in pairs if math.isfinite(pair.lower) and math.isfinite(pair.higher)]
    scale, differences = _differences(usable, is_logarithm)
    if not usable:
        return Verdict(
            "inconclusive", math.nan, math.nan, math.nan, scale, math.nan, 0, 0, "no two networks to compare"
        )
    by_seed: dict[int, list[float]] = defaultdict(list)
    by_group: dict[str, list[float]] = defaultdict(list)
    for pair, difference in zip(usable, differences, strict=True):
        by_seed[pair.seed].append(difference)
        by_group[pair.group].append(difference)
    mean, low, high = interval([sum(values) / len(values) for values in by_seed.values()])
    agreement = sum((d > 0) - (d < 0) for d in differences) / len(differences)
    outcome, reason = _outcome(differences, low, high, agreement, len(by_seed))
    by_interval = outcome, reason
    if every_group and outcome != "inconclusive":
        outcome, reason = _of_groups(outcome, reason, by_group)
    is_by_pairs = reason == _DIFFERENT_SIDES or (outcome, reason) != by_interval
    mean, low, high = (math.exp(min(value, 700.0)) if scale == "ratio" else value for value in (mean, low, high))
    return Verdict(outcome, mean, low, high, scale, agreement, len(by_seed), len(usable), reason, is_by_pairs)


def _differences(pairs: Sequence[Pair], is_logarithm: bool) -> tuple[Scale, list[float]]:
    values = [value for pair in pairs for value in (pair.lower, pair.higher)]
    if is_logarithm:
        return "ratio", [pair.higher - pair.lower for pair in pairs]
    if all(value > 0 for value in values):
        return "ratio", [math.log(pair.higher / pair.lower) for pair in pairs]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return "standard deviations", [(pair.higher - pair.lower) / (deviation or 1.0) for pair in pairs]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of independent values and its interval at 95 %, by Student's t.

    Args:
        values: At least one; the ends are ``nan`` for a single one.

    Example:
        >>> interval([1.0, 2.0, 3.0])
        (2.0, -0.484..., 4.484...)
    """
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    from scipy.stats import t

    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = float(t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * math.sqrt(variance / len(values))
    return mean, mean - half, mean + half


def _outcome(
    differences: Sequence[float], low: float, high: float, agreement: float, num_seeds: int
) -> tuple[Outcome, str]:
    if num_seeds < 2:
        return "inconclusive", "one seed has no interval; at least two are needed"
    if not any(differences):
        return "fail", "it does not differ"
    if low > 0 and agreement > 0:
        return "pass", ""
    if high < 0 and agreement < 0:
        return "fail", "it is on the wrong side"
    if low > 0 or high < 0:
        return "inconclusive", _DIFFERENT_SIDES
    return "inconclusive", "the interval over seeds has both sides"


def _of_groups(outcome: Outcome, reason: str, by_group: dict[str, list[float]]) -> tuple[Outcome, str]:
    found = {group: interval(values) for group, values in by_group.items()}
    wrong = [group for group, (_, _, high) in found.items() if high < 0]
    if wrong:
        return "fail", f"it is on the wrong side with {', '.join(wrong)}"
    behind = [group for group, (mean, _, _) in found.items() if mean <= 0]
    if behind and outcome == "pass":
        return "inconclusive", f"it is not on the right side with {', '.join(behind)}"
    return outcome, reason
