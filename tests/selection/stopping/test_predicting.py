"""Predictions from finished trials, against refits, exact relations and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_complexity.selection.stopping.encoding import encode
from lightning_complexity.selection.stopping.predicting import LEAST, predict, quantile, ridge

BOTH = [("settings", "losses")]


def test_errors_held_out_are_those_of_refits_without_the_group() -> None:
    random = np.random.default_rng(0)
    x, y, groups = random.normal(size=(12, 3)), random.normal(size=12), np.array([0, 0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8])
    found = ridge(x, y, groups, x[0]).held_out
    z = np.c_[(x - x.mean(0)) / x.std(0), np.ones(12)]  # the mean is a feature without a penalty
    refits = []
    for penalty in np.logspace(-3, 3, 13) * 12:
        held_out = np.empty(12)
        for group in range(9):
            inside = groups != group
            # Features stay centred on all trials, so that a refit is of the same penalized problem.
            gram = z[inside].T @ z[inside] + np.diag([penalty] * 3 + [0])
            held_out[~inside] = z[~inside] @ np.linalg.solve(gram, z[inside].T @ y[inside])
        refits.append(held_out)
    best = min(refits, key=lambda h: ((y - h) ** 2).sum())
    np.testing.assert_allclose(found, best, atol=1e-9)


def test_a_power_law_is_predicted_exactly() -> None:
    rows = [{"settings/width": w, "losses/error": e} for w in (4, 8, 16, 64, 128, 256) for e in (0.1, 0.2, 0.4)]
    ends = [row["losses/error"] ** 0.5 * row["settings/width"] ** -0.25 for row in rows]
    found = predict(rows, ends, {"settings/width": 32, "losses/error": 0.3}, BOTH, 0.9)
    assert found is not None
    assert found.value == pytest.approx(0.3**0.5 * 32**-0.25, rel=0.01)
    assert found.low <= found.value <= found.high < 1.05 * found.low


def test_numbers_that_may_be_negative_are_predicted_as_they_are() -> None:
    rows = [{"settings/offset": float(v)} for v in range(-5, 6)]
    found = predict(rows, [3 * row["settings/offset"] for row in rows], {"settings/offset": 2.5}, [("settings",)], 0.5)
    assert found is not None
    assert found.value == pytest.approx(7.5, abs=0.1)


def test_the_set_of_features_that_tells_predicts() -> None:
    random = np.random.default_rng(0)
    rows = [{"settings/a": random.uniform(1, 2), "losses/b": random.uniform(1, 2)} for _ in range(40)]
    for name in ("settings/a", "losses/b"):
        found = predict(
            rows,
            [row[name] for row in rows],
            {"settings/a": 1.2, "losses/b": 1.8},
            [("settings",), ("losses",)],
            0.9,
        )
        assert found is not None
        assert found.value == pytest.approx({"settings/a": 1.2, "losses/b": 1.8}[name], rel=0.02)


def test_intervals_hold_what_they_say() -> None:
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        early = random.uniform(-1, 1, size=41)
        ends = np.exp(early + random.normal(scale=0.3, size=41))
        rows = [{"losses/log_error": float(value)} for value in early]
        found = predict(rows[:-1], ends[:-1].tolist(), rows[-1], [("losses",)], 0.8)
        assert found is not None
        inside += found.low <= ends[-1] <= found.high
    assert 0.74 < inside / 400 < 0.86


def test_bad_trainings_have_wider_intervals_than_good_ones() -> None:
    random = np.random.default_rng(0)
    early = np.linspace(0, 1, 200)
    ends = 10 + early + random.normal(size=200) * np.where(early > 0.5, 0.2, 0.002)
    rows = [{"losses/early": float(value)} for value in early]
    widths = []
    for value in (0.1, 0.9):
        found = predict(rows, ends.tolist(), {"losses/early": value}, [("losses",)], 0.8)
        assert found is not None
        widths.append(found.high - found.low)
    assert widths[1] > 3 * widths[0]


@pytest.mark.parametrize(("confidence", "place"), [(0, None), (0.1, 0), (0.5, 2), (0.8, 3), (0.99, 3)])
def test_quantile_is_the_conformal_one(confidence: float, place: int | None) -> None:
    errors = np.array([1.0, 2.0, 4.0, 8.0])  # the ceil(5 c)-th
    assert quantile(errors, confidence) == (0 if place is None else errors[place])


@pytest.mark.parametrize(
    "ends", [[0.1] * 9, [0.1, 0.2] + [math.nan] * 7, [0.1, 0.2, 0.3, 0.4] + [math.inf] * 5], ids=["same", "few", "four"]
)
def test_nothing_is_predicted_from_nothing(ends: list[float]) -> None:
    rows = [{"settings/width": w} for w in range(1, 10)]
    assert predict(rows, ends, {"settings/width": 3}, [("settings",)], 0.5) is None


def test_one_setting_tried_often_is_one_setting() -> None:
    rows = [{"settings/width": 8, "losses/error": e} for e in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    assert len(rows) > LEAST
    assert predict(rows, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], rows[0], BOTH, 0.5) is None


def test_far_outside_a_prediction_stays_within_reason() -> None:
    rows = [{"losses/early": float(value)} for value in range(1, 11)]
    found = predict(rows, [math.log(r["losses/early"]) for r in rows], {"losses/early": 1e9}, [("losses",)], 0.5)
    assert found is not None
    assert found.value < 4


def test_what_a_trial_lacks_is_the_mean_of_the_others_and_said() -> None:
    known = [{"rate": 1.0}, {"rate": math.e**2}, {}]
    x, asked, names = encode(known, {"rate": math.e})
    assert names == ["rate", "rate"]
    np.testing.assert_allclose(x, [[0, 0], [2, 0], [1, 1]])
    np.testing.assert_allclose(asked, [1, 0])


def test_numbers_that_are_not_finite_and_truth_values() -> None:
    x, asked, names = encode([{"a": math.nan, "b": True}, {"a": 3.0, "b": False}], {"a": -1.0, "b": True})
    assert names == ["a", "a", "b", "b"]
    np.testing.assert_allclose(x, [[3, 1, 0, 1], [3, 0, 1, 0]])
    np.testing.assert_allclose(asked, [-1, 0, 0, 1])
