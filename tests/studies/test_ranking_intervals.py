"""Intervals over seeds, correlation within a training, and pairs of measures."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr
from scipy.stats import t as student

from lightning_complexity import studies
from lightning_complexity.studies import Ranking
from lightning_complexity.studies.ranking import partial_rank_correlation
from lightning_complexity.studies.ranking.design import Design
from lightning_complexity.studies.ranking.intervals import bootstrap, num_seeds
from tests.studies.trained_tables import HYPERPARAMETERS, table

COLUMNS: dict[str, Any] = {"hyperparameters": HYPERPARAMETERS, "measures": ["norm", "margin"], "gap": "gap"}


def design(frame: pd.DataFrame, seed: str | None = "seed") -> Design:
    return Design.of(studies.read_table(frame, **COLUMNS, seed=seed))


def test_an_interval_is_what_tables_with_drawn_seeds_give() -> None:
    frame = table(3, missing=False)
    kinds = ("tau_b", "Psi", "K", "sign_error")
    runs, gap = frame[["norm", "margin"]].to_numpy(), frame["gap"].to_numpy()
    found = bootstrap(design(frame), runs, gap, kinds, draws=5, min_effective_samples=1, random_seed=3)
    drawn = np.random.default_rng(3).multinomial(3, np.full(3, 1 / 3), size=5)
    tables = []
    for times in drawn:
        again = frame.loc[np.repeat(frame.index, times[frame["seed"]])]
        ranking = studies.rank(again, **COLUMNS, min_effective_samples=1, draws=0)
        tables.append(ranking.frame.loc[["norm", "margin"], list(kinds)].to_numpy(float))
    factor = student.ppf(0.975, 2) * np.sqrt(3 / 2)
    expected = factor * np.std(tables, axis=0, ddof=1)
    for column, kind in enumerate(kinds):
        np.testing.assert_allclose(found[kind], expected[:, column], rtol=1e-9, err_msg=kind)


def test_seeds_that_configurations_do_not_share_are_drawn_by_their_order() -> None:
    frame = table(3, missing=False)
    own = frame.assign(seed=np.arange(len(frame)))
    assert num_seeds(design(frame)) == num_seeds(design(own)) == num_seeds(design(own, None)) == 3
    ranking = studies.rank(own, **COLUMNS, seed="seed", draws=20, min_effective_samples=1)
    assert any("share no seeds" in note for note in ranking.notes)
    assert ranking.psi_by_seed.shape == (2, 0)
    assert (ranking.intervals["low"] < ranking.intervals["estimate"]).all()


def test_networks_that_do_not_depend_on_the_seed_have_no_interval_to_speak_of() -> None:
    frame = table(1, missing=False)
    again = pd.concat([frame.assign(seed=seed) for seed in range(3)], ignore_index=True)
    ranking = studies.rank(again, **COLUMNS, seed="seed", draws=20, min_effective_samples=1)
    np.testing.assert_allclose(ranking.intervals["low"], ranking.intervals["high"], atol=1e-12)
    np.testing.assert_allclose(ranking.intervals["low"], ranking.intervals["estimate"], atol=1e-12)


def test_intervals_need_two_seeds() -> None:
    frame = table(1, missing=False)
    with pytest.raises(ValueError, match="need at least two seeds, got 1: train configurations again"):
        studies.rank(frame, **COLUMNS, seed="seed", draws=100)
    ranking = studies.rank(frame, **COLUMNS, seed="seed")
    assert ranking.intervals.empty
    assert any("each configuration was trained once" in note for note in ranking.notes)
    assert any("no sign error (all pairs): no two configurations have 12" in note for note in ranking.notes)
    assert "sign_error" not in ranking.intervals


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    return studies.rank(table(), **COLUMNS, seed="seed", test_samples=5000, min_effective_samples=4, draws=20)


def test_the_printed_ranking(ranking: Ranking) -> None:
    text = str(ranking)
    norm, low, high = ranking.intervals.loc[("norm", "Psi")]
    assert f"{norm:.3f} [{low:.3f}, {high:.3f}]" in text
    assert "K does not see the sign" in text
    assert "falls" in next(line for line in text.splitlines() if line.startswith("margin"))
    assert "The sign error has the noise filter." in text
    assert "psi optimizer" in text
    assert all(len(line) < 120 for line in text.splitlines())


def test_intervals_are_those_of_the_filtered_error_where_there_is_a_filter(ranking: Ranking) -> None:
    assert set(ranking.intervals.index.get_level_values("statistic")) == {"tau_b", "Psi", "robust_sign_error"}
    assert ranking.intervals["low"].min() >= -1
    assert ranking.intervals["high"].max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval_of": ["psi"]}, "interval_of: 'psi' has no interval; choose from tau_b, Psi, K, sign_error"),
        ({"test_samples": 0}, "test_samples must be positive, got 0"),
        ({"draws": 1}, "draws must be at least 2, got 1"),
        ({"confidence": 95}, "confidence must be between 0 and 1, got 95"),
        ({"gap": ""}, "rank needs hyperparameters= and gap="),
    ],
)
def test_wrong_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        studies.rank(table(), **(COLUMNS | {"seed": "seed"} | changes))


def test_gaps_and_grids_that_cannot_be_ranked() -> None:
    frame = table()
    with pytest.raises(ValueError, match=r"gap of accuracies as fractions, but 'gap' reaches 1[0-9]"):
        studies.rank(frame.assign(gap=100 * frame["gap"]), **COLUMNS, test_samples=100)
    with pytest.raises(ValueError, match="the gap 'gap' is the same in all 41 rows"):
        studies.rank(frame.assign(gap=0.5), **COLUMNS)
    diagonal = pd.DataFrame({"a": [1, 2, 3], "b": [1, 2, 3], "norm": [1.0, 2.0, 3.0], "gap": [0.1, 0.2, 0.3]})
    with pytest.raises(ValueError, match=r"no two of the 3 configurations differ in one hyper-parameter only \(a, b\)"):
        studies.rank(diagonal, hyperparameters=["a", "b"], measures=["norm"], gap="gap")
    with pytest.raises(ValueError, match="columns and filters are those of the table"):
        studies.rank(studies.read_table(frame, **COLUMNS), seed="seed")


def test_a_hyperparameter_that_never_changes_alone_is_named() -> None:
    frame = pd.DataFrame({"a": [1, 2, 3, 3], "b": [1, 1, 2, 2], "c": [1, 1, 1, 2], "norm": [1.0, 2, 3, 4]})
    frame["gap"] = frame["norm"] / 10
    ranking = studies.rank(frame, hyperparameters=["a", "b", "c"], measures=["norm"], gap="gap")
    assert ranking.psi.loc["norm"].isna().to_dict() == {"a": False, "b": True, "c": False}
    assert ranking.frame.loc["norm", "Psi"] == 1
    assert any("differ in 'b' only" in note for note in ranking.notes)


def test_partial_correlation_is_the_formula_of_three_correlations() -> None:
    random = np.random.default_rng(0)
    time = np.arange(12.0)
    measure, gap = (np.round(time + 4 * random.normal(size=12)) for _ in range(2))
    mg, mt, gt = (spearmanr(a, b).statistic for a, b in ((measure, gap), (measure, time), (gap, time)))
    expected = (mg - mt * gt) / np.sqrt((1 - mt**2) * (1 - gt**2))
    assert partial_rank_correlation(measure, gap, time) == pytest.approx(expected, abs=1e-12)
    assert partial_rank_correlation(np.exp(measure), gap**3, time**2) == pytest.approx(expected, abs=1e-12)
    assert partial_rank_correlation(measure, gap, time, degree=0) == pytest.approx(mg, abs=1e-12)
    squares = np.vander(rankdata(time), 3)
    left = [r - squares @ np.linalg.lstsq(squares, r, rcond=None)[0] for r in (rankdata(measure), rankdata(gap))]
    second = partial_rank_correlation(measure, gap, time, degree=2)
    assert second == pytest.approx(np.corrcoef(left)[0, 1], abs=1e-9)


def test_partial_correlation_where_there_is_none() -> None:
    time = np.arange(8.0)
    wave = np.sin(time)
    assert np.isnan(partial_rank_correlation(time**2, wave, time))
    assert np.isnan(partial_rank_correlation(np.ones(8), wave, time))
    assert np.isnan(partial_rank_correlation(wave[:3], wave[:3], time[:3]))


def trainings() -> pd.DataFrame:
    """The gap and one measure share ups and downs and a level; another only grows, as both do."""
    random = np.random.default_rng(1)
    parts = []
    for run in range(6):
        time, common, level = np.arange(30.0), random.normal(size=30), 5 * random.normal()
        follows, gap = time + level + 3 * common, time + level + 3 * common**3
        grows = time + 3 * random.normal(size=30)
        values = {"follows": follows, "grows": grows, "level": time + level, "gap": gap}
        parts.append(pd.DataFrame({"run": run, "time": time, **values}))
    return pd.concat(parts, ignore_index=True)


def over_time(series: pd.DataFrame) -> pd.DataFrame:
    return studies.rank_over_time(series, measures=["follows", "grows", "level"], gap="gap", time="time", run="run")


def test_time_is_held_within_trainings_and_between_them() -> None:
    series = trainings()
    series.loc[3, "grows"] = np.nan
    found = over_time(series)
    assert found.loc["follows", ["pooled_low", "within_low"]].min() > 0.3
    for kind in ("pooled", "within"):
        assert found.loc["grows", f"{kind}_low"] < 0 < found.loc["grows", f"{kind}_high"]
    assert found.loc["grows", "alone"] > 0.5
    assert found.loc["level", "pooled"] > 0.3
    assert np.isnan(found.loc["level", "within"])
    assert found["moments"].to_dict() == {"follows": 180, "grows": 179, "level": 180}
    assert found["trainings"].to_dict() == {"follows": 6, "grows": 6, "level": 0}
    assert set(found["all_trainings"]) == {6}


def test_over_time_of_one_training_and_of_none() -> None:
    series = trainings()
    one = over_time(series[series["run"] == 0]).loc["follows"]
    assert one["pooled"] == one["within"] > 0.3
    assert one[["pooled_low", "within_high"]].isna().all()
    nothing = over_time(series.assign(gap=np.nan))
    assert nothing[["pooled", "within", "alone"]].isna().all(axis=None)
    assert (nothing["moments"] == 0).all()
    with pytest.raises(ValueError, match=r"there is no column 'record.folder'; there are run, time"):
        studies.rank_over_time(series, measures=["grows"], gap="gap", time="time")


def two_halves(noise: float = 0.01) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(list(product(range(5), range(5), range(3))), columns=["a", "b", "seed"])
    frame["first"], frame["second"] = np.exp(frame.a), -(frame.b.astype(float) ** 3)
    frame["noise"], frame["same"] = random.normal(size=len(frame)), 7 * frame["first"]
    frame["constant"] = 1.0
    frame["gap"] = (frame.a + frame.b) / 10 + noise * random.normal(size=len(frame))
    return frame


def pairs(frame: pd.DataFrame, measures: list[str], **options: Any) -> pd.DataFrame:
    read = studies.read_table(frame, hyperparameters=["a", "b"], measures=measures, gap="gap", seed="seed")
    return studies.rank_pairs(read, **options)


def test_two_measures_explain_what_neither_does_alone() -> None:
    found = pairs(two_halves(), ["noise", "first", "second", "same", "constant"]).set_index(["first", "second"])
    assert len(found) == 10
    assert found.index[0] == ("first", "second")
    best = found.loc[("first", "second")]
    assert best["r2_together"] > 0.9
    assert best["r2_first"] < 0.6
    assert best["gain"] == pytest.approx(best["r2_together"] - max(best["r2_first"], best["r2_second"]))
    assert 0.2 < best["low"] < best["gain"] < best["high"]
    assert found.loc[("first", "same"), "gain"] == pytest.approx(0, abs=1e-9)
    assert found.loc[("first", "constant"), "gain"] == pytest.approx(0, abs=1e-9)
    assert found.loc[("noise", "first"), "gain"] < 0.05


def ranks(seen: pd.DataFrame, frame: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """Shares of what was seen that are smaller, and ones."""
    own = [[((seen[c] < v).mean() + (seen[c] <= v).mean()) / 2 for v in frame[c]] for c in columns]
    return np.column_stack([np.ones(len(frame)), *own])


def slow(frame: pd.DataFrame, columns: list[str], hold_out: str) -> float:
    errors, baseline = 0.0, 0.0
    for value in frame[hold_out].unique():
        held = (frame[hold_out] == value).to_numpy()
        seen, other = frame[~held], frame[held]
        design, new = ranks(seen, seen, columns), ranks(seen, other, columns)
        weights = np.linalg.lstsq(design, seen["gap"], rcond=None)[0]
        errors += float(((other["gap"] - new @ weights) ** 2).sum())
        baseline += float(((other["gap"] - seen["gap"].mean()) ** 2).sum())
    return 1 - errors / baseline


def test_a_hyperparameter_is_held_out() -> None:
    frame = two_halves(0.1)
    found = pairs(frame, ["first", "noise"], hold_out="b").iloc[0]
    assert found["r2_first"] == pytest.approx(slow(frame, ["first"], "b"), abs=1e-9)
    assert found["r2_second"] == pytest.approx(slow(frame, ["noise"], "b"), abs=1e-9)
    assert found["r2_together"] == pytest.approx(slow(frame, ["first", "noise"], "b"), abs=1e-9)


def test_no_configuration_is_in_both_parts() -> None:
    # A measure that names the configuration, and nothing else, explains nothing that was not seen.
    frame = two_halves(0.0)
    random = np.random.default_rng(5)
    frame["gap"] = random.normal(size=25)[frame.a * 5 + frame.b]
    frame["name"], frame["other"] = random.normal(size=25)[frame.a * 5 + frame.b], random.normal(size=len(frame))
    found = pairs(frame, ["name", "other"], folds=25, repeats=1)
    assert found["r2_first"][0] < 0.1


def test_wrong_pairs() -> None:
    frame = two_halves()
    with pytest.raises(ValueError, match="pairs need at least two measures, got 1"):
        pairs(frame, ["first"])
    with pytest.raises(ValueError, match="folds must be between 2 and the number of configurations, 25, got 26"):
        pairs(frame, ["first", "second"], folds=26)
    with pytest.raises(ValueError, match="hold_out must be one of a, b, got 'seed'"):
        pairs(frame, ["first", "second"], hold_out="seed")
