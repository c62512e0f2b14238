"""What becomes of a training, from its beginning."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from lightning_complexity import cli
from lightning_complexity.recording import RECORD_NAME
from lightning_complexity.studies import early_table, early_verdict
from lightning_complexity.studies.early import design
from lightning_complexity.studies.early.predicting import (
    Encoder,
    HeldOut,
    Ridge,
    divide,
    explained,
    hold_out,
    rank_correlation,
)
from lightning_complexity.studies.training.data import load_data

TARGET = "final/test_accuracy"
SETTINGS = ["setting/width", "setting/size", "setting/rate"]


def table(
    seed: int = 0, *, of_measure: float = 0.0, of_loss: float = 0.5, own: float = 0.5, seeds: int = 2
) -> pd.DataFrame:
    """36 configurations, whose outcome is known to follow width, an early loss and ``of_measure`` times a measure.

    ``own`` is what a configuration has for itself, beyond all that is known.
    """
    random = np.random.default_rng(seed)
    rows = list(product((16, 32, 64, 128), (200, 500, 1000), (0.01, 0.05, 0.1), range(seeds)))
    frame = pd.DataFrame(rows, columns=[*SETTINGS, "setting/seed"])
    group = np.repeat(np.arange(36), seeds)
    frame["setting/optimizer"] = "sgd"
    frame["early/test_loss"] = np.exp(0.3 * random.normal(size=len(frame)))
    for i in range(5):
        frame[f"early/complexity/noise_{i}"] = random.normal(size=36)[group] + random.normal(size=len(frame))
    hidden = random.normal(size=36)[group]
    frame["early/complexity/informed"] = np.exp(hidden + 0.2 * random.normal(size=len(frame)))
    frame[TARGET] = (
        0.3 * np.log(frame["setting/width"])
        + of_loss * np.log(frame["early/test_loss"])
        + of_measure * hidden
        + own * random.normal(size=36)[group]
        + 0.2 * random.normal(size=len(frame))
    )
    return frame


def gain(verdict: pd.DataFrame, features: str = "losses, settings", added: str = "measures") -> pd.Series[float]:
    return next(row for index, row in verdict.iterrows() if index == (TARGET, features, added))


# What is claimed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_measures_that_say_something_are_found(seed: int) -> None:
    verdict = early_verdict(table(seed, of_measure=1.0))
    found = gain(verdict.gains)
    assert found["verdict"] == "helps"
    assert 0 < found["r2_low"] < found["r2"] < found["r2_high"]
    assert found["spearman"] > 0
    assert verdict.offered[TARGET] == "losses, settings, measures"
    assert "early measures help" in str(verdict)


def test_no_gain_is_claimed_for_noise() -> None:
    verdicts = [early_verdict(table(seed), draws=200, repeats=1) for seed in range(20)]
    claimed = [gain(v.gains)["verdict"] == "helps" for v in verdicts]
    assert sum(claimed) <= 2
    assert sum(v.offered[TARGET].endswith("measures") for v in verdicts) <= 2
    assert np.median([gain(v.gains)["r2"] for v in verdicts]) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("of_measure", "least", "most"), [(0.0, 0, 3), (0.5, 30, 48), (1.0, 57, 60)])
def test_how_often_a_gain_is_claimed(of_measure: float, least: int, most: int) -> None:
    verdicts = [early_verdict(table(100 + seed, of_measure=of_measure), draws=300, repeats=2) for seed in range(60)]
    claimed = sum(gain(v.gains)["verdict"] == "helps" for v in verdicts)
    covered = np.mean([v.scores["coverage"].mean() for v in verdicts])
    assert least <= claimed <= most
    assert 0.93 < covered < 0.98


def test_measures_that_repeat_the_settings_gain_nothing_beside_them() -> None:
    frame = table(own=0.1)
    frame["early/complexity/size"] = frame["setting/width"] ** 2 * 7.0
    verdict = early_verdict(frame, measures=["early/complexity/size"])
    assert gain(verdict.gains, "losses")["r2"] > 0.05
    assert gain(verdict.gains)["verdict"] != "helps"
    assert abs(gain(verdict.gains)["r2"]) < 0.02


def test_early_losses_that_say_something_are_offered_and_others_not() -> None:
    offered = early_verdict(table(3, of_loss=1.5)).offered[TARGET]
    assert offered == "losses, settings"
    verdict = early_verdict(table(3, of_loss=0.0))
    assert verdict.offered[TARGET] == "settings"
    assert "nothing that is known early is shown to help" in str(verdict)


# How it is found --------------------------------------------------------------------------------------------


def test_no_configuration_is_in_both_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a configuration has for itself could only be known from its other seeds.
    frame = table(own=5.0, of_loss=0.0, seeds=6)
    for name in SETTINGS:  # features that tell configurations apart
        for value in frame[name].unique()[1:]:
            frame[f"early/complexity/{name[8:]}_{value}"] = (frame[name] == value).astype(float)
    grouped = early_verdict(frame, repeats=2).scores["r2"].max()
    assert grouped < 0.3
    splits: list[tuple[set[int], set[int]]] = []
    fit = Ridge.fit.__func__  # type: ignore[attr-defined]

    def spy(cls: type[Ridge], x: np.ndarray, y: np.ndarray, groups: np.ndarray, *, confidence: float) -> Ridge:
        splits.append((set(y), set(groups)))
        return fit(cls, x, y, groups, confidence=confidence)

    monkeypatch.setattr(Ridge, "fit", classmethod(spy))
    y = np.repeat(np.arange(12.0), 3)  # a value for each configuration
    groups = np.repeat(np.arange(12), 3)
    parts = divide(12, 4, 2, np.random.default_rng(0))
    hold_out(np.random.default_rng(0).normal(size=(36, 2)), y, groups, parts, 0.95)
    assert len(splits) == 8
    for values, seen in splits:  # all of a configuration or nothing, and numbered from 0
        assert len(values) == len(seen) == 9
        assert seen == set(range(9))


def test_networks_without_any_features_of_use_get_the_mean() -> None:
    x, y, groups = np.ones((20, 2)), np.arange(20.0), np.arange(20)
    ridge = Ridge.fit(x, y, groups)
    assert ridge.predict(x) == pytest.approx(np.full(20, y.mean()))


def test_ridge_finds_a_line_and_how_far_it_is_off() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 3)) * [1, 10, 0.1] + [0, 5, 9]
    weights = np.array([1.0, -0.2, 3.0])
    ridge = Ridge.fit(x, x @ weights + 0.5 * random.normal(size=400), np.arange(400))
    assert ridge.weights / ridge.scale == pytest.approx(weights, abs=0.3)
    new = random.normal(size=(4000, 3)) * [1, 10, 0.1] + [0, 5, 9]
    within = np.abs(new @ weights + 0.5 * random.normal(size=4000) - ridge.predict(new)) <= ridge.half_width
    assert within.mean() == pytest.approx(0.95, abs=0.02)
    assert ridge.half_width == pytest.approx(1.96 * 0.5, rel=0.15)


def test_a_network_that_is_far_from_others_is_not_predicted_to_be_anything() -> None:
    x, groups = np.linspace(0, 1, 20)[:, None], np.arange(20)
    ridge = Ridge.fit(x, x[:, 0], groups)
    assert ridge.predict(np.array([[1.25]])) == pytest.approx([1.25], abs=0.05)
    assert ridge.predict(np.array([[1e6]])) == pytest.approx([1.5], abs=0.1)


def test_statistics_of_draws_are_those_of_repeated_rows() -> None:
    random = np.random.default_rng(1)
    y, predicted = random.normal(size=12).round(1), random.normal(size=(2, 12)).round(0)
    held_out = HeldOut(predicted, np.full((2, 12), 0.1), np.ones((2, 12)))
    weights = random.multinomial(12, np.full(12, 1 / 12), size=5).astype(float)
    for row, rank, share in zip(
        weights, rank_correlation(y, held_out, weights), explained(y, held_out, weights), strict=True
    ):
        times = row.astype(int)
        values, guesses = np.repeat(y, times), np.repeat(predicted, times, axis=1)
        assert rank == pytest.approx(np.mean([spearmanr(values, guess).statistic for guess in guesses]))
        shares = [1 - ((values - guess) ** 2).sum() / ((values - 0.1) ** 2).sum() for guess in guesses]
        assert share == pytest.approx(np.mean(shares))


def test_the_mean_of_those_fitted_to_is_no_prediction() -> None:
    y, groups = np.arange(20.0), np.arange(20)
    found = hold_out(np.ones((20, 1)), y, groups, divide(20, 5, 3, np.random.default_rng(0)), 0.95)
    assert rank_correlation(y, found, np.ones((1, 20))) == 0
    assert explained(y, found, np.ones((1, 20))) == 0


def test_columns_as_numbers() -> None:
    frame = pd.DataFrame(
        {"width": [1, 10, 100], "log_path": [1.0, 2.0, 3.0], "margin": [-1.0, 0, 1], "name": ["a", "b", "a"]}
    )
    encoder = Encoder.of(frame, list(frame))
    assert encoder(frame) == pytest.approx(
        np.array([[0, 1, -1, 1, 0], [np.log(10), 2, 0, 0, 1], [np.log(100), 3, 1, 1, 0]])
    )
    new = frame.assign(width=[0, 1, 1], name="c")  # what there was not when it was fitted
    assert np.isfinite(encoder(new)).all()


# Predictions ---------------------------------------------------------------------------------------------------


def test_further_networks_are_within_their_intervals() -> None:
    both = table(5, of_measure=1.0, seeds=4)
    order = np.random.default_rng(0).permutation(36)
    is_new = pd.Series(np.isin(np.repeat(np.arange(36), 4), order[:12]))
    verdict = early_verdict(both[~is_new])
    found = verdict.predict(both[is_new])
    value = both.loc[is_new, TARGET]
    assert ((found[f"{TARGET}/low"] <= value) & (value <= found[f"{TARGET}/high"])).mean() > 0.8
    assert spearmanr(found[TARGET], value).statistic > 0.7
    with pytest.raises(ValueError, match="networks must have the column 'early/test_loss'"):
        verdict.predict(both.drop(columns="early/test_loss"))
    with pytest.raises(ValueError, match="networks must have finite values"):
        verdict.predict(both.assign(**{"early/test_loss": np.nan}))


def test_intervals_cover_as_often_as_they_say() -> None:
    verdicts = [early_verdict(table(seed, of_measure=0.5), draws=2, repeats=1) for seed in range(10)]
    covered = np.mean([v.scores["coverage"].mean() for v in verdicts])
    assert covered == pytest.approx(0.95, abs=0.02)
    one = verdicts[0].predictions
    assert len(one) == 72
    inside = ((one.low <= one.value) & (one.value <= one.high)).mean()
    row = verdicts[0].scores.xs(verdicts[0].offered[TARGET], level="features").iloc[0]
    assert inside == pytest.approx(row["coverage"])


def test_the_same_twice_and_in_any_order_of_rows() -> None:
    frame = table(2, of_measure=0.5)
    first, again = early_verdict(frame), early_verdict(frame)
    assert str(first) == str(again)
    pd.testing.assert_frame_equal(first.scores, again.scores)
    pd.testing.assert_frame_equal(first.predictions, again.predictions)


def test_all_of_a_setting_may_be_held_out() -> None:
    frame = table(of_measure=1.0)
    found = early_verdict(frame, hold_out_by="setting/width")
    assert gain(found.gains)["verdict"] == "helps"
    with pytest.raises(ValueError, match=r"hold_out_by must be one of setting/width, .*, got 'width'"):
        early_verdict(frame, hold_out_by="width")


# What is left out ----------------------------------------------------------------------------------------------


def test_networks_and_columns_that_are_left_out_are_named() -> None:
    frame = table(of_measure=1.0)
    frame.loc[[0, 1], "early/test_loss"] = np.nan  # over before there was anything early
    frame.loc[2, TARGET] = np.inf
    frame.loc[3, "early/complexity/noise_0"] = np.nan
    frame.loc[:20, "early/complexity/noise_1"] = np.nan
    found = early_verdict(frame)
    assert found.rows == 72
    assert found.left_out == {
        "finite 'final/test_accuracy'": 1,
        "finite 'early/test_loss'": 2,
        "finite 'early/complexity/noise_0'": 1,
    }
    assert "setting/optimizer" in found.columns_left_out
    assert found.columns_left_out["early/complexity/noise_1"].startswith("finite in 7")
    assert len(found.predictions) == 68
    assert "68 of 72 networks" in str(found)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda f: f[f["setting/width"] == 16], {}, "10 configurations or more are needed, got 9 of 18 networks"),
        (lambda f: f, {"folds": 1}, "folds must be between 2 and the number of configurations, 36, got 1"),
        (lambda f: f, {"confidence": 1.0}, "confidence must be between 0 and 1"),
        (lambda f: f, {"draws": 1}, "draws must be at least 2"),
        (lambda f: f, {"losses": ["early/loss"]}, "losses: there is no column 'early/loss'"),
        (lambda f: f, {"targets": ["early/test_loss"]}, "column 'early/test_loss' is declared twice"),
        (lambda f: f.drop(columns=TARGET), {}, "targets must name at least one column"),
        (lambda f: f.assign(**{TARGET: 1.0}), {}, "'final/test_accuracy' has one value in all 72 networks"),
        (
            lambda f: f.assign(**{"setting/rare": (f.index == 0) * 1}),
            {"hold_out_by": "setting/rare"},
            "hold_out_by='setting/rare' leaves 1 configurations to learn from; 5 or more are needed",
        ),
        (lambda f: f.assign(**{TARGET: np.nan}), {}, "no network is left; 72 have no finite 'final/test_accuracy'"),
        (lambda f: f.assign(**{"early/test_loss": 1.0}), {}, "no column of losses is left"),
    ],
)
def test_what_makes_no_sense_is_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        early_verdict(change(table()), **options)  # type: ignore[arg-type]


# Folders ----------------------------------------------------------------------------------------------------


def test_a_quick_study_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["study", "early", "--quick", "--seeds", "1", "--epochs", "10", "--metrics", "ParameterNorm", "StableRank"]
    cli.main([*quick, "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "12 of 12 networks, 12 configurations" in printed
    frame = early_table(tmp_path / "networks")
    measures = {name for name in frame.columns if name.startswith("early/complexity/")}
    assert measures == {"early/complexity/parameter_norm", "early/complexity/stable_rank"}
    assert frame.notna().all(axis=None)
    assert (frame["final/train_loss"] < frame["early/train_loss"]).mean() > 0.9
    results = sorted((tmp_path / "networks").rglob("result.json"))
    rows = [json.loads(path.read_text()) for path in results]
    assert [row["test_accuracy"] for row in rows] == frame["final/test_accuracy"].tolist()
    for row in rows:  # all trained to the end, and measured after a tenth
        share = next(moment for moment in row["history"] if "share 0.1" in moment["names"])
        assert share["step"] == round(0.1 * row["step"])
    capsys.readouterr()
    again = ["study", "early", "--records", str(tmp_path / "networks.csv"), "--output", str(tmp_path / "again")]
    cli.main(again)
    assert capsys.readouterr().out.split("Written")[0] == printed.split("Written")[0]
    cli.main([*again, "--hold_out", "num_samples", "--losses", "train_loss"])
    assert "12 of 12 networks" in capsys.readouterr().out


def test_records_of_ones_own(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for index, (width, rate) in enumerate(product((8, 16, 32, 64), (0.1, 0.2, 0.3))):
        folder = tmp_path / str(index)
        folder.mkdir()
        (folder / "settings.json").write_text(json.dumps({"width": width, "lr": rate, "seed": 0}))
        with (folder / RECORD_NAME).open("w") as file:
            for step in (0, 5, 9, 100):
                values = {
                    "complexity/norm": width + step + random.random(),
                    "complexity/norm/0": 1.0,
                    "complexity/overhead": 0.1,
                    "probe/train_loss": 2.0 + random.random(),
                    "probe/generalization_gap": width + random.random(),
                }
                file.write(json.dumps({"step": step, "epoch": 0, "time": 0.0, "values": values, "seconds": {}}) + "\n")
    frame = early_table(tmp_path)
    assert sorted(frame.columns) == [
        *("early/complexity/norm", "early/probe/generalization_gap", "early/probe/train_loss"),
        *("final/probe/generalization_gap", "final/probe/train_loss", "folder"),
        *("setting/lr", "setting/seed", "setting/width"),
    ]
    assert (frame["early/complexity/norm"] - frame["setting/width"]).between(9, 10).all()
    found = early_verdict(tmp_path, folds=3)
    assert found.scores["spearman"].max() > 0.8
    assert early_table(tmp_path, share=0.01)["early/complexity/norm"].isna().all()  # nothing but initializations
    for record in tmp_path.rglob(RECORD_NAME):
        record.write_text("")
    with pytest.raises(ValueError, match=r"no network in .* has been measured yet"):
        early_table(tmp_path)


def test_errors_of_the_command_are_said_in_words(tmp_path: Path) -> None:
    for arguments, message in (
        (["--seeds", "0"], "study early: num_seeds must be at least 1, got 0"),
        (["--records", "nowhere"], "study early: there is neither a folder of trainings nor a CSV 'nowhere'"),
        (["--data", "nowhere"], "study early: there is no data 'nowhere'"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main(["study", "early", *arguments, "--output", str(tmp_path / "unused")])
        assert not (tmp_path / "unused").exists()


def test_the_design_has_each_configuration_with_each_seed() -> None:
    settings = design(load_data("digits"), 3)
    assert len(set(settings)) == 108
    assert {setting.seed for setting in settings[:36]} == {0}
