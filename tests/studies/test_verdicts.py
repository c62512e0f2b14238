"""Verdicts on synthetic tables."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from lightning_complexity.studies.criteria import Pair, judge
from lightning_complexity.studies.criteria.verdicts import interval


def pairs(*differences: tuple[int, str, float], base: float = 1.0) -> list[Pair]:
    return [Pair(seed, group, base, base + difference) for seed, group, difference in differences]


def test_interval_is_that_of_the_t_test() -> None:
    values = [0.3, 1.1, 0.7, 2.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((sum(values) / 4, expected.low, expected.high))


def test_a_ratio_of_positive_values_and_of_logarithms_is_the_same() -> None:
    values = [(1.0, 2.0), (1.5, 2.5), (0.5, 1.2)]
    plain = judge([Pair(i, "", a, b) for i, (a, b) in enumerate(values)])
    logs = judge([Pair(i, "", math.log(a), math.log(b)) for i, (a, b) in enumerate(values)], is_logarithm=True)
    assert plain.outcome == logs.outcome == "pass"
    assert (plain.effect, plain.low, plain.high) == pytest.approx((logs.effect, logs.low, logs.high))
    assert plain.effect == pytest.approx((2.0 * 2.5 / 1.5 * 1.2 / 0.5) ** (1 / 3))


def test_values_of_both_signs_are_differences_in_standard_deviations() -> None:
    verdict = judge([Pair(0, "", -1.0, 1.0), Pair(1, "", -1.0, 1.0)])
    assert (verdict.scale, verdict.effect, verdict.outcome) == ("standard deviations", 2.0, "pass")


@pytest.mark.parametrize(
    ("differences", "outcome", "reason"),
    [
        ([0.5, 0.6, 0.55], "pass", ""),
        ([-0.5, -0.6, -0.55], "fail", "wrong side"),
        ([0.5, -0.4, 0.1], "inconclusive", "both sides"),
        ([0.0, 0.0, 0.0], "fail", "does not differ"),
        ([0.5], "inconclusive", "one seed has no interval; at least two"),
        ([], "inconclusive", "no two networks"),
        ([math.nan, math.inf], "inconclusive", "no two networks"),
        ([0.5, math.nan], "inconclusive", "one seed"),
    ],
)
def test_outcomes(differences: list[float], outcome: str, reason: str) -> None:
    verdict = judge(pairs(*((seed, "", difference) for seed, difference in enumerate(differences))))
    assert verdict.outcome == outcome
    assert reason in verdict.reason


def test_pairs_of_a_seed_are_no_further_seeds() -> None:
    many = judge(pairs(*((seed, str(g), 0.5 + 0.3 * seed) for seed in range(2) for g in range(50))))
    few = judge(pairs(*((seed, "", 0.5 + 0.3 * seed) for seed in range(2))))
    assert (many.low, many.high, many.num_seeds) == pytest.approx((few.low, few.high, 2))


def test_a_few_large_differences_do_not_outvote_most_pairs() -> None:
    # In each seed one group is far on the right side, and four are a little on the wrong one.
    groups = {"a": 9.0, "b": -0.1, "c": -0.1, "d": -0.1, "e": -0.1}
    verdict = judge(pairs(*((seed, g, d) for seed in range(3) for g, d in groups.items())))
    assert verdict.low > 1
    assert verdict.agreement == pytest.approx(-0.6)
    assert verdict.outcome == "inconclusive"


def test_published_shapes_over_widths() -> None:
    """Neyshabur et al. 2017, two-layer networks: l2-path and spectral norms pass, l2 and l1-path norms fail."""
    curves = {
        "l2-path": ([1, 0.17, 0.05, 0.02, 0.01], "pass"),
        "spectral": ([1, 0.23, 0.21, 0.205, 0.21], "pass"),
        "l2": ([0.18, 0.001, 0.1, 0.25, 1], "fail"),
        "l1-path": ([0.1, 0.001, 0.11, 0.26, 1], "fail"),
    }
    for values, outcome in curves.values():
        found = [
            Pair(seed, f"{i} {j}", values[j] * (1 + 0.01 * seed), values[i] * (1 + 0.01 * seed))
            for seed in range(3)
            for i in range(5)
            for j in range(i + 1, 5)
        ]
        assert judge(found).outcome == outcome


def test_every_group_must_be_right_where_that_is_asked() -> None:
    mixed = [(seed, g, d * (1 + 0.01 * seed)) for seed in range(3) for g, d in (("small", -0.05), ("large", 3.0))]
    assert judge(pairs(*mixed)).outcome == "inconclusive"  # one of two groups: no majority
    more = [*mixed, *((seed, "larger", 3.0 + 0.1 * seed) for seed in range(3))]
    assert judge(pairs(*more)).outcome == "pass"
    strict = judge(pairs(*more), every_group=True)
    assert (strict.outcome, strict.reason) == ("fail", "it is on the wrong side with small")
    assert strict.is_by_pairs
    assert not judge(pairs(*more)).is_by_pairs


def test_a_group_that_only_leans_to_the_wrong_side_leaves_it_open() -> None:
    found = [(seed, "small", d) for seed, d in enumerate((-0.3, 0.2, -0.1))]
    found += [(seed, g, 3.0 + seed / 10) for seed in range(3) for g in ("large", "larger")]
    assert judge(pairs(*found), every_group=True).outcome == "inconclusive"
