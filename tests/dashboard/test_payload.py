"""What the page and the report for programs hold."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from lightning_complexity.dashboard.comparing import rankings_of
from lightning_complexity.dashboard.findings import Finding, findings, ranked
from lightning_complexity.dashboard.measured import MOST_KEYS, measures_of, scores_of
from lightning_complexity.dashboard.numbers import rounded, thinned
from lightning_complexity.dashboard.page import SCRIPTS, html_page, static
from lightning_complexity.dashboard.payload import page_data
from lightning_complexity.dashboard.program import MOST_BYTES, report_data, written
from lightning_complexity.dashboard.reading import read_runs
from lightning_complexity.dashboard.runs import Histogram, Picture, Run
from lightning_complexity.recording import Measurement
from tests.dashboard.folders import COUNT, GAP, NORM, VALIDATION, training, write_run, write_sweep


def data_of(folder: Path) -> dict[str, Any]:
    found = read_runs([folder])
    return page_data(found.runs, findings(found.runs), found.notes)


def run(name: str, histories: dict[str, list[float]], **settings: Any) -> Run:
    length = len(next(iter(histories.values())))
    history = [
        Measurement(i, 0, float(i), {key: values[i] for key, values in histories.items()}) for i in range(length)
    ]
    return Run(name, Path(name), history, settings)


def table_with(data: dict[str, Any], place: int, key: str) -> dict[str, Any]:
    return next(table for table in data["runs"][place]["tables"] if key in table["columns"])


def test_thinning_keeps_the_ends_and_the_extremes_of_every_column() -> None:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(3, 5000)).tolist()
    columns[1][1234] = math.inf
    kept = thinned(columns, 50)
    assert 50 <= len(kept) <= 50 + 7
    assert {0, 4999, 1234} <= set(kept)
    for column in columns:
        finite = [value if math.isfinite(value) else math.nan for value in column]
        assert {int(np.nanargmin(finite)), int(np.nanargmax(finite))} <= set(kept)


def test_values_that_are_not_finite_are_null_with_what_they_were(tmp_path: Path) -> None:
    write_run(tmp_path, [(0, {NORM: 1.0}), (1, {NORM: math.inf}), (2, {NORM: math.nan}), (3, {NORM: -math.inf})])
    table = table_with(data_of(tmp_path), 0, NORM)
    assert table["columns"][NORM] == [1, None, None, None]
    assert table["not_finite"] == {NORM: [[1, "Infinity"], [2, "NaN"], [3, "-Infinity"]]}


def test_keys_that_are_measured_at_other_moments_have_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, [(0, {NORM: 1.0, COUNT: 5.0}), (1, {NORM: 2.0}), (2, {NORM: 3.0, COUNT: 6.0})])
    data = data_of(tmp_path)
    assert table_with(data, 0, NORM)["steps"] == [0, 1, 2]
    assert table_with(data, 0, COUNT)["steps"] == [0, 2]


def test_what_is_a_measure_and_what_a_part_of_one() -> None:
    keys = ("complexity/stable_rank", "complexity/stable_rank/net.0", "complexity/log_path_norm", "complexity/own/one")
    more = (
        "complexity/dead_units",
        "complexity/shifted/jacobian_norm",
        "complexity/overhead",
        f"{NORM}/standard_error",
    )
    found = {m.key: m for m in measures_of([run("a", {key: [1.0] for key in (*keys, *more)})])}
    own = {m.key: m.role for m in measures_of([run("a", {"complexity/mine": [1.0], "complexity/mine/net.0": [1.0]})])}
    assert own == {"complexity/mine": "complexity", "complexity/mine/net.0": "part"}
    roles = {key: measure.role for key, measure in found.items()}
    assert roles == dict.fromkeys((*keys[:1], *keys[2:], *more[:2]), "complexity") | {keys[1]: "part"}
    assert (found[keys[2]].is_log, found[keys[0]].is_log) == (True, False)
    assert (found[keys[0]].more_complex, found[more[0]].more_complex) == ("higher", "lower")


def test_scores_are_of_validation_samples_where_there_are_any() -> None:
    assert scores_of(["probe/train_accuracy", "probe/val_loss"]) == {"probe/val_loss": "minimize"}
    assert scores_of(["probe/train_accuracy"]) == {"probe/train_accuracy": "maximize"}


def test_the_front_and_the_choice_are_those_of_means_over_seeds(tmp_path: Path) -> None:
    # By hand: 0.9 - 0.03 - 0.005, 1 - 0.04 - 0.005, 1 - 0.05 - 0.005, where the last term is the mean over seeds.
    data = data_of(write_sweep(tmp_path))
    (front,) = [one for one in data["fronts"] if (one["score"], one["cost"]) == (VALIDATION, COUNT)]
    means = [(model["name"], model["means"][VALIDATION], model["means"][COUNT]) for model in data["models"]]
    assert means == [("width=8", 0.865, 80), ("width=16", 0.955, 160), ("width=32", 0.945, 320)]
    assert sorted(front["front"]) == [0, 1]
    assert (front["chosen"], front["best"]) == (1, 1)
    assert front["standard_error"] == pytest.approx(0.005)
    assert front["bound"] == pytest.approx(0.95)


def test_a_model_whose_cost_is_infinite_in_one_repeat_wins_nothing(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    rows = training(4, 0, gap=-0.5)
    rows[-1][1][NORM] = math.inf
    for seed in (0, 1):
        write_run(tmp_path / f"best{seed}", rows if seed else training(4, 0, gap=-0.5), {"width": 4, "seed": seed})
    data = data_of(tmp_path)
    (front,) = [one for one in data["fronts"] if (one["score"], one["cost"]) == (VALIDATION, NORM)]
    row = [model["name"] for model in data["models"]].index("width=4")
    assert front["left_out"] == [row]
    assert row not in front["front"]
    assert data["models"][front["best"]]["name"] == "width=16"
    assert data["models"][row]["means"][NORM] is None


def test_a_model_one_of_whose_repeats_never_measured_a_cost_has_none(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    rows = [(step, {key: value for key, value in values.items() if key != NORM}) for step, values in training(4, 0)]
    write_run(tmp_path / "a", rows, {"width": 4, "seed": 0})
    write_run(tmp_path / "b", training(4, 1), {"width": 4, "seed": 1})
    (model,) = [model for model in data_of(tmp_path)["models"] if model["name"] == "width=4"]
    assert NORM not in model["means"]
    assert model["means"][COUNT] == 40


def test_runs_of_one_seed_are_no_repeats(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    before = data_of(tmp_path)
    for time in range(4):  # the same training over again says nothing new of what other seeds would give
        write_run(tmp_path / f"again{time}", training(16, 0), {"width": 16, "seed": 0})
    after = data_of(tmp_path)
    assert {m["name"]: m for m in after["models"]} == {m["name"]: m for m in before["models"]}
    assert len(after["groups"][0]["runs"]) == 6
    assert [len(runs) for runs in after["groups"][0]["seeds"]] == [5, 1]
    same = tmp_path / "same"
    for time in range(3):
        write_run(same / str(time), training(16, 0), {"seed": 0})
    data = data_of(same)
    assert data["models"][0]["errors"] == {}
    assert all("chosen" not in front for front in data["fronts"])


@pytest.mark.parametrize("values", [{}, {"complexity/overhead": 0.5}, {"other": 1.0}])
def test_a_run_of_which_nothing_could_be_measured_has_a_page(tmp_path: Path, values: dict[str, float]) -> None:
    write_run(tmp_path, [(0, values), (1, values)])
    data = data_of(tmp_path)
    assert data["measures"] == {}
    assert [(f["name"], f["headline"]) for f in data["findings"]] == [
        ("nothing_unusual", "Nothing was measured in one run.")
    ]
    assert json.loads(written(report_data(data)))["runs"][0]["last"] == {}


def test_without_repeats_no_model_is_chosen(tmp_path: Path) -> None:
    data = data_of(write_sweep(tmp_path, seeds=1))
    assert all("chosen" not in front for front in data["fronts"])
    assert data["fronts"][0]["sentence"] == (
        "No model is chosen: a standard error needs runs that differ in nothing but their seed."
    )


def test_a_best_model_that_was_trained_once_leaves_no_choice(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    write_run(tmp_path / "best", training(64, 0, gap=-1.0), {"width": 64, "seed": 0})
    sentences = {front["sentence"] for front in data_of(tmp_path)["fronts"]}
    assert sentences == {
        "No model is chosen: the best was trained once, so that its standard error is not known: "
        "train it with other seeds."
    }


def test_models_none_of_which_is_finite_have_no_front() -> None:
    runs = [run(f"{i}", {NORM: [math.inf], VALIDATION: [0.5]}, width=i // 2, seed=i % 2) for i in range(4)]
    (front,) = page_data(runs, [])["fronts"]
    assert (front["front"], front["left_out"]) == ([], [0, 1])
    assert front["sentence"] == "No model is chosen: none has a finite score and cost."


def test_rank_correlation_over_runs_is_scipys() -> None:
    rng = np.random.default_rng(1)
    gaps, norms = rng.normal(size=12).round(1), rng.normal(size=12).round(1)
    runs = [run(str(i), {NORM: [9.0, norms[i]], GAP: [5.0, gaps[i]]}) for i in range(12)]
    (row,) = rankings_of(runs, measures_of(runs))["by_gap"][GAP]["rows"]
    assert row["tau"] == pytest.approx(kendalltau(norms, gaps).statistic, abs=1e-6)
    signs = [np.sign(norms[i] - norms[j]) * np.sign(gaps[i] - gaps[j]) for i in range(12) for j in range(i)]
    assert row["sign_error"] == pytest.approx(np.mean([(1 - sign) / 2 for sign in signs]), abs=1e-6)
    assert row["low"] < row["tau"] < row["high"]
    assert row["sign_low"] < row["sign_error"] < row["sign_high"]


def test_an_interval_over_runs_holds_what_it_should() -> None:
    """Of independent measure and gap the true correlation is 0."""
    covered = []
    for seed in range(40):
        values = np.random.default_rng(seed).normal(size=(2, 15))
        runs = [run(str(i), {NORM: [values[0, i]], GAP: [values[1, i]]}) for i in range(15)]
        (row,) = rankings_of(runs, measures_of(runs))["by_gap"][GAP]["rows"]
        covered.append(row["low"] <= 0 <= row["high"])
    assert 34 <= sum(covered) <= 40


def test_runs_that_are_not_finite_are_left_out_of_a_correlation() -> None:
    values = [1.0, 2.0, 3.0, 4.0, math.inf]
    runs = [run(str(i), {NORM: [value], GAP: [0.1 * i if i < 4 else -1.0]}) for i, value in enumerate(values)]
    (row,) = rankings_of(runs, measures_of(runs))["by_gap"][GAP]["rows"]
    assert (row["runs"], row["tau"]) == (4, 1)


def test_runs_of_a_design_are_ranked_as_a_study_ranks_them(tmp_path: Path) -> None:
    found = data_of(write_sweep(tmp_path, widths=(8, 16, 32, 64)))["rankings"]["by_gap"][GAP]
    assert found["method"].startswith("Kendall's tau-b over means of equal settings")
    norm = next(row for row in found["rows"] if row["measure"] == NORM)
    assert (norm["tau"], norm["runs"], norm["sign_error"]) == (1, 8, pytest.approx(0, abs=0.3))


def test_few_runs_have_no_correlation_and_the_reason_is_said(tmp_path: Path) -> None:
    found = data_of(write_sweep(tmp_path, widths=(8,)))["rankings"]
    assert found["by_gap"] == {}
    assert "needs at least 4 runs; there are 2" in found["notes"][0]
    assert "confounded by time" in found["notes"][1]


def test_without_pandas_all_but_the_rankings_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    data = data_of(tmp_path)
    assert data["rankings"]["notes"] == ["Rankings need pandas: pip install lightning-complexity[studies]"]
    assert data["fronts"]


def test_findings_are_ranked() -> None:
    found = [Finding("a", "note", "", confidence=0.9), Finding("b", "fault", "", confidence=0.1)]
    found += [Finding("c", "fault", "", confidence=0.8), Finding("d", "warning", "")]
    assert [finding.name for finding in ranked(found)] == ["c", "b", "d", "a"]


def test_the_report_has_findings_first_and_names_for_places(tmp_path: Path) -> None:
    report = report_data(data_of(write_sweep(tmp_path)))
    assert list(report)[:3] == ["format", "version", "findings"]
    assert report["findings"][0]["name"] == "nothing_unusual"
    choice = next(c for c in report["choices"] if (c["score"], c["cost"]) == (VALIDATION, COUNT))
    assert (choice["chosen"], sorted(choice["front"])) == ("width=16", ["width=16", "width=8"])
    (wide,) = [one for one in report["runs"] if one["name"] == "width=32,seed=0"]
    assert wide["last"][COUNT] == 320
    assert wide["along"][NORM] == [[0, 32], [10, 40], [20, 48], [30, 56], [40, 64]]
    assert wide["fitted_step"] == 40


def test_a_value_that_is_not_finite_is_named_in_the_report(tmp_path: Path) -> None:
    write_run(tmp_path, [(0, {NORM: 1.0}), (1, {NORM: math.inf})])
    report = report_data(data_of(tmp_path))
    assert report["runs"][0]["last"][NORM] == "Infinity"
    assert report["runs"][0]["along"][NORM] == [[0, 1], [1, "Infinity"]]


@pytest.mark.parametrize(("number", "keys", "length"), [(300, 10, 30), (40, 150, 300), (2000, 2, 10)])
def test_the_report_is_bounded_and_says_what_is_left_out(number: int, keys: int, length: int) -> None:
    names = [f"complexity/own_{i}_{'n' * length}" for i in range(keys)] + [GAP]
    runs = [run(f"{i}" + "r" * length, {name: [1.0, 2.0 + i] for name in names}, width=i) for i in range(number)]
    found = [Finding("x", "note", "h" * 5000, run=one.name) for one in runs]
    report = report_data(page_data(runs, found))
    assert len(written(report).encode()) <= MOST_BYTES
    assert any("runs" in text or "settings" in text for text in report["left_out"])
    assert report["findings"]


def test_the_page_has_one_library_its_licence_and_no_way_out(tmp_path: Path) -> None:
    page = html_page(data_of(write_sweep(tmp_path)))
    assert page.count(static("plotly-basic.min.js")) == 1
    assert "Permission is hereby granted, free of charge" in page
    assert len(page) < 2_000_000
    outside = page.replace(static("plotly-basic.min.js"), "")
    assert "http://" not in outside
    assert "https://" not in outside
    assert "default-src 'none'" in page
    assert "unsafe-eval" not in page


@pytest.mark.parametrize(("number", "parts"), [(10, 25), (10, 300), (1, 300)])
def test_ten_runs_are_less_than_two_megabytes(number: int, parts: int) -> None:
    rng = np.random.default_rng(0)
    keys = ["complexity/stable_rank", NORM, GAP, *(f"complexity/stable_rank/layers.{i}.weight" for i in range(parts))]
    png = b"\x89PNG" + bytes(30_000)
    pictures = {key: [Picture(step, png) for step in range(10)] for key in ("complexity/a", "complexity/b")}
    edges = tuple(np.linspace(0, 1, 301).tolist())
    histograms = {key: [Histogram(i, edges, tuple(rng.random(300))) for i in range(50)] for key in keys[:9]}
    runs = []
    for i in range(number):
        values = rng.normal(size=(1000, len(keys))).cumsum(0).tolist()
        history = [Measurement(j, 0, j, dict(zip(keys, row, strict=True))) for j, row in enumerate(values)]
        runs.append(Run(f"{i}", Path(f"{i}"), history, {"lr": i}, "record", histograms, pictures))
    data = page_data(runs, [])
    assert len(html_page(data)) < 2_000_000
    assert {"complexity/stable_rank", NORM, GAP} <= set(data["measures"])
    shown = table_with(data, 0, NORM)
    assert len(shown["steps"]) >= 24
    all_of = runs[0].series(NORM)[1]
    assert {max(shown["columns"][NORM]), min(shown["columns"][NORM])} == {rounded(max(all_of)), rounded(min(all_of))}
    assert data["pictures"]
    assert all(series["moments"][-1]["step"] == 9 for series in data["pictures"])
    assert all(series["moments"][-1]["step"] == 49 for series in data["histograms"])
    if number == 1:
        assert len(data["measures"]) == min(len(keys), MOST_KEYS)
        assert len(shown["steps"]) >= 120
    assert any("log keys are left out" in note for note in data["notes"]) == (parts == 300)


def test_many_bins_become_forty_that_hold_as_much() -> None:
    counts = np.random.default_rng(0).integers(0, 50, size=300).astype(float)
    histogram = Histogram(5, tuple(np.linspace(-1, 2, 301).tolist()), tuple(counts.tolist()))
    one = Run("a", Path("a"), [Measurement(0, 0, 0.0, {NORM: 1.0})], histograms={"complexity/margin": [histogram]})
    ((moment,),) = [series["moments"] for series in page_data([one], [])["histograms"]]
    assert moment["edges"] == pytest.approx(np.linspace(-1, 2, 41), abs=1e-5)
    assert sum(moment["counts"]) == pytest.approx(counts.sum(), rel=0.01)
    assert moment["counts"][0] == pytest.approx(counts[:7].sum() + counts[7] / 2, rel=0.01)


def test_scripts_are_all_that_are_there() -> None:
    folder = Path(__file__).parents[2] / "lightning_complexity" / "dashboard" / "static"
    assert {path.stem for path in folder.glob("*.js")} == {*SCRIPTS, "plotly-basic.min"}


def test_no_text_of_the_data_ends_a_script(tmp_path: Path) -> None:
    write_run(tmp_path, training(8, 0), {"name": "</script><script>alert(1)</script><!--"})
    page = html_page(data_of(tmp_path), title="<b>&")
    assert "<title>&lt;b&gt;&amp;</title>" in page
    start = page.index('<script type="application/json" id="data">') + 42
    text = page[start : page.index("</script>", start)]
    assert "<" not in text
    assert json.loads(text)["runs"][0]["settings"]["name"] == "</script><script>alert(1)</script><!--"
