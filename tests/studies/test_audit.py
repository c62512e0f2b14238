"""Audits of tables with slopes that are known."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from lightning_complexity.metrics import catalogue
from lightning_complexity.studies.audit.design import (
    AUDITED,
    BASE,
    FACTORS,
    LEARNING_RATES,
    designed,
    directions,
    first_figures,
    with_relative_rates,
)
from lightning_complexity.studies.audit.grading import Audit, audit
from lightning_complexity.studies.audit.trends import BY_ROOT, RAW, Interval, interval
from lightning_complexity.studies.sweeping.sweep import Design

SIZES, SEEDS = (100, 200, 400, 800), 4
SLOPES = {"sgd": 0.4, "momentum": 0.2, "adam": -0.3}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Sizes under three optimizers, and two widths; exponents with a little noise of the seed."""
    grid = [(n, o, 64, s) for n in SIZES for o in SLOPES for s in range(SEEDS)]
    grid += [(400, "momentum", 32, s) for s in range(SEEDS)]
    found = pd.DataFrame(grid, columns=["num_samples", "optimizer", "width", "seed"])
    noise = np.random.default_rng(0).normal(scale=0.02, size=(SEEDS, 6))[found["seed"]]
    n, width = found["num_samples"].astype(float), found["width"].astype(float)
    found["gap"] = n ** (-0.6 + noise[:, 0]) * width**-0.2
    found["complexity/norm"] = n ** (0.3 + noise[:, 1]) * width**0.5
    found["complexity/turning"] = n ** (found["optimizer"].map(SLOPES) + noise[:, 2])
    found["complexity/constant"] = 3.0
    found["complexity/log_norm"] = 0.3 * np.log(n)
    found["complexity/signed"] = np.log(n) - 6 + noise[:, 3]
    found["complexity/chance"] = n ** np.array([0.1, -0.1, 0.2, -0.2])[found["seed"]]
    found["complexity/follows"] = found["gap"] ** 2
    found["complexity/margin"] = 1 / found["gap"]
    return found


@pytest.fixture(scope="module")
def found(frame: pd.DataFrame) -> Audit:
    return audit(
        frame,
        factors=["num_samples", "optimizer", "width"],
        gap="gap",
        seed="seed",
        size="num_samples",
        lower=["complexity/margin"],
    )


def row(found: Audit, measure: str, factor: str = "num_samples", normalisation: str = RAW) -> pd.Series:
    s = found.slopes
    rows = s[(s["measure"] == measure) & (s["factor"] == factor) & (s["normalisation"] == normalisation)]
    assert len(rows) == 1
    return rows.iloc[0]


def grade(found: Audit, measure: str, normalisation: str = RAW) -> pd.Series:
    rows = found.summary[(found.summary["measure"] == measure) & (found.summary["normalisation"] == normalisation)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_exponents_are_those_of_the_formula(found: Audit, frame: pd.DataFrame) -> None:
    gap = row(found, "gap")
    assert gap["verdict"] == "stable"
    assert gap["low"] < -0.6 < gap["high"]
    noise = np.random.default_rng(0).normal(scale=0.02, size=(SEEDS, 6))
    assert gap["slope"] == pytest.approx(-0.6 + noise[:, 0].mean(), abs=1e-9)
    assert (gap["low"] + gap["high"]) / 2 == pytest.approx(gap["slope"])
    from scipy.stats import t

    half = t.ppf(0.975, SEEDS - 1) * noise[:, 0].std(ddof=1) / np.sqrt(SEEDS)
    assert gap["high"] - gap["slope"] == pytest.approx(half)
    norm = row(found, "complexity/norm")
    assert norm["verdict"] == "stable"
    assert norm["slope"] == pytest.approx(0.3 + noise[:, 1].mean(), abs=1e-9)
    assert norm["relation"] == "against the gap"
    assert norm["agreement"] == 1
    assert row(found, "complexity/norm", "width")["slope"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("measure", ["complexity/norm", "complexity/log_norm"])
def test_division_by_the_root_turns_a_slope(found: Audit, measure: str) -> None:
    raw, divided = row(found, measure), row(found, measure, normalisation=BY_ROOT)
    assert divided["slope"] == pytest.approx(raw["slope"] - 0.5)
    assert (raw["relation"], divided["relation"]) == ("against the gap", "with the gap")


def test_a_measure_that_turns_with_the_optimizer(found: Audit) -> None:
    turning = row(found, "complexity/turning")
    assert turning["verdict"] == "turns"
    assert turning["relation"] == "unclear"
    assert turning["reason"].startswith("with optimizer: ")
    assert "adam -0.3" in turning["reason"]
    levels = found.at_levels("complexity/turning", "num_samples", "optimizer")
    assert {name: at.sign for name, at in levels.items()} == {"sgd": 1, "momentum": 1, "adam": -1}
    assert levels["adam"].high - levels["adam"].low > row(found, "complexity/turning")["high"] - turning["low"]
    assert grade(found, "complexity/turning")["verdict"] == "turns"


def test_what_never_moves_is_flat(found: Audit) -> None:
    assert row(found, "complexity/constant")["verdict"] == "flat"
    assert grade(found, "complexity/constant")["verdict"] == "flat"
    assert row(found, "complexity/norm", "optimizer: sgd - momentum")["verdict"] == "flat"


def test_what_the_seeds_do_not_agree_on_is_inconclusive(found: Audit) -> None:
    chance = row(found, "complexity/chance")
    assert chance["verdict"] == "inconclusive"
    assert chance["low"] < 0 < chance["high"]
    assert chance["reason"] == "the interval over seeds has both sides"


def test_a_measure_that_follows_the_gap_is_stable(found: Audit) -> None:
    assert grade(found, "complexity/follows")[["verdict", "with", "against"]].tolist() == ["stable", 2, 0]
    assert grade(found, "complexity/follows")["num_samples"] == "+"
    # Lower where a network is more complex: it rises where the gap falls, and that is right.
    assert row(found, "complexity/margin")["slope"] > 0
    assert row(found, "complexity/margin")["relation"] == "with the gap"


def test_what_does_not_see_all_that_moves_the_gap_is_not_stable(found: Audit) -> None:
    signed = grade(found, "complexity/signed")  # it rises as the gap falls with n, and is the same for all widths
    assert signed[["verdict", "with", "against"]].tolist() == ["inconclusive", 0, 1]
    assert signed["reason"] == "against it: num_samples; not seen: width"


def test_with_in_one_factor_and_against_in_another_is_a_turn(found: Audit) -> None:
    divided = grade(found, "complexity/norm", BY_ROOT)
    assert divided["verdict"] == "turns"
    assert divided["reason"] == "with the gap: num_samples; against it: width"


def test_what_has_both_signs_counts_in_standard_deviations(found: Audit, frame: pd.DataFrame) -> None:
    signed = row(found, "complexity/signed")
    assert signed["measure_scale"] == "standard deviations"
    assert signed["slope"] == pytest.approx(1 / frame["complexity/signed"].std(ddof=0), rel=0.01)


def test_words_are_compared_with_the_most_frequent_one(found: Audit, frame: pd.DataFrame) -> None:
    names = set(found.slopes["factor"])
    assert names == {"num_samples", "width", "optimizer: adam - momentum", "optimizer: sgd - momentum"}
    difference = row(found, "complexity/turning", "optimizer: sgd - momentum")
    assert difference["slope"] == pytest.approx(0.2 * np.mean(np.log(SIZES)))


def test_one_seed_has_no_interval(frame: pd.DataFrame) -> None:
    one = frame[frame["seed"] == 0]
    found = audit(
        one, factors=["num_samples", "optimizer", "width"], gap="gap", seed="seed", measures=["complexity/norm"]
    )
    assert set(found.slopes["verdict"]) == {"inconclusive"}
    assert set(found.slopes["reason"]) == {"one seed has no interval"}
    assert found.slopes["low"].isna().all()
    assert "one seed" in str(found)


def test_a_seed_that_misses_a_level_is_left_out(frame: pd.DataFrame) -> None:
    part = frame[~((frame["seed"] == 3) & (frame["num_samples"] == 800))]
    options = {"factors": ["num_samples", "optimizer", "width"], "gap": "gap", "seed": "seed"}
    found = audit(part, measures=["complexity/norm"], **options)
    kept = audit(frame[frame["seed"] != 3], measures=["complexity/norm"], **options)
    assert row(found, "complexity/norm")["seeds"] == 3
    assert row(found, "complexity/norm")["slope"] == pytest.approx(row(kept, "complexity/norm")["slope"])


def test_a_missing_measure_leaves_others_as_they_are(frame: pd.DataFrame, found: Audit) -> None:
    holes = frame.copy()
    holes.loc[holes["seed"] == 1, "complexity/norm"] = np.inf
    again = audit(holes, factors=["num_samples", "optimizer", "width"], gap="gap", seed="seed", size="num_samples")
    assert row(again, "complexity/norm")["seeds"] == SEEDS - 1
    assert row(again, "complexity/turning")["slope"] == row(found, "complexity/turning")["slope"]


def test_a_share_counts_over_its_range() -> None:
    grid = [(noise, s) for noise in (0.0, 0.1, 0.2) for s in range(3)]
    frame = pd.DataFrame(grid, columns=["label_noise", "seed"])
    frame["gap"] = np.exp(5 * frame["label_noise"] + 0.001 * frame["seed"] * frame["label_noise"])
    frame["norm"] = np.exp(10 * frame["label_noise"])
    found = audit(frame, factors=["label_noise"], gap="gap", seed="seed", measures=["norm"])
    assert row(found, "norm", "label_noise")["slope"] == pytest.approx(2.0)
    assert row(found, "norm", "label_noise")["relation"] == "with the gap"


def test_the_text_says_what_the_numbers_mean(found: Audit) -> None:
    text = str(found)
    assert "turning" in text
    assert "~ turns" in text
    assert "/ sqrt(n)" in text
    assert re.search(r"with optimizer: sgd \+0\.\d+ \[.*\], adam -0\.", text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "optimizer"}, "size must be one of factors and hold positive numbers, got 'optimizer'"),
        ({"size": "epochs"}, "size must be one of factors"),
        ({"factors": ["widht"]}, "there is no column 'widht'"),
        ({"seed": "sed"}, "there is no column 'sed'"),
    ],
)
def test_errors(frame: pd.DataFrame, changes: dict[str, object], message: str) -> None:
    options = {"factors": ["num_samples", "optimizer", "width"], "gap": "gap", "seed": "seed"} | changes
    with pytest.raises(ValueError, match=message):
        audit(frame, **options)


def test_a_table_without_pairs() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [1, 2], "seed": [0, 0], "norm": [1.0, 2.0], "gap": [1.0, 2.0]})
    with pytest.raises(ValueError, match="no two networks of a seed differ in one of a, b only"):
        audit(frame, factors=["a", "b"], gap="gap", seed="seed", measures=["norm"])


def test_intervals() -> None:
    assert interval(np.array([np.nan, 2.0])).mean == 2
    assert Interval(1.0, 0.5, 1.5).sign == 1
    assert Interval(-1.0, -1.5, -0.5).sign == -1
    assert Interval(1.0, float("nan"), float("nan")).sign == 0
    wide, narrow = interval(np.array([1.0, 2.0, 4.0]), 0.99), interval(np.array([1.0, 2.0, 4.0]))
    assert wide.low < narrow.low < narrow.high < wide.high


# The design and the first figures -----------------------------------------------------------------


def test_one_knob_at_a_time_and_sizes_under_each_optimizer() -> None:
    points = designed(2, 1437)
    assert len(points) == 2 * (5 * 3 + 10)
    design = Design(points)
    assert set(design.hyperparameters) == set(FACTORS)
    for point in points:
        changed = [n for n in ("batch_size", "width", "depth", "label_noise") if getattr(point, n) != getattr(BASE, n)]
        rate = point.learning_rate / LEARNING_RATES[point.optimizer]
        assert len(changed) + (rate != 1) <= 1
    assert {p.num_samples for p in designed(1, 300)} == {100, 200, 300}


def test_learning_rates_of_optimizers_compare() -> None:
    frame = pd.DataFrame({"optimizer": list(AUDITED), "learning_rate": [2 * LEARNING_RATES[name] for name in AUDITED]})
    assert with_relative_rates(frame)["learning_rate"].tolist() == [2.0, 2.0, 2.0]


def test_directions_come_from_the_catalogue() -> None:
    lower = next(entry.name for entry in catalogue() if entry.metric.increases_with_complexity is False)
    assert directions([f"complexity/{lower}", "complexity/parameter_norm", "other"]) == [f"complexity/{lower}"]


@pytest.mark.parametrize(("exponent", "expected"), [(-0.59, "confirmed"), (-0.9, "refuted")])
def test_first_figures(exponent: float, expected: str) -> None:
    grid = [(n, o, s) for n in SIZES for o in SLOPES for s in range(SEEDS)]
    frame = pd.DataFrame(grid, columns=["num_samples", "optimizer", "seed"])
    noise = 0.01 * np.array([-1.0, 1.0, 0.5, -0.5])[frame["seed"]]
    n, turning = frame["num_samples"].astype(float), frame["optimizer"].map(SLOPES)
    frame["gap"] = n ** (exponent + noise)
    frame["complexity/parameter_norm"] = n ** (0.2 + noise)
    frame["complexity/geometric_complexity"] = n ** (turning + noise)
    frame["complexity/hessian_trace"] = n ** (turning + noise)
    frame["complexity/relative_flatness"] = n ** (0.1 + noise)
    frame["complexity/jacobian_norm"] = n ** (20 * noise)
    found = audit(frame, factors=["num_samples", "optimizer"], gap="gap", seed="seed", size="num_samples")
    figures = {figure.claim: figure for figure in first_figures(found)}
    assert figures["the gap falls as n^-0.59"].found == expected
    assert figures["the gap falls with n under each optimizer"].found == "confirmed"
    assert figures["parameter_norm rises with n under each optimizer"].found == "confirmed"
    assert figures["geometric_complexity rises with n under each optimizer"].found == "refuted"
    assert "adam -0.30 [" in figures["geometric_complexity rises with n under each optimizer"].why
    assert figures["the slope of hessian_trace in n changes sign with the optimizer"].found == "confirmed"
    assert figures["the slope of relative_flatness in n changes sign with the optimizer"].found == "refuted"
    assert figures["jacobian_norm falls with n under each optimizer"].found == "not decided"
    assert figures["log_path_norm rises with n under each optimizer"].found == "not measured"
