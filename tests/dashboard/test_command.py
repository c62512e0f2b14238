"""The command ``report``, and its pictures for papers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_complexity import cli
from lightning_complexity.dashboard.measured import measures_of
from lightning_complexity.dashboard.payload import page_data
from lightning_complexity.dashboard.png import picture_of_choice, picture_of_trajectories
from lightning_complexity.dashboard.reading import read_runs
from tests.dashboard.folders import COUNT, GAP, NORM, VALIDATION, training, write_run, write_sweep


def test_it_writes_a_page_a_report_and_pictures_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path / "runs")
    page = tmp_path / "out" / "sweep.html"
    cli.main(["report", str(tmp_path / "runs"), "-o", str(page), "--png", str(tmp_path / "png")])
    said = capsys.readouterr().out
    assert said == (
        "note: Nothing unusual in 6 runs.\n"
        f"Written of 6 runs: {page}, {page.with_suffix('.json')}, 4 pictures in {tmp_path / 'png'}\n"
    )
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(page.with_suffix(".json").read_text())["format"] == "lightning-complexity report"
    assert {path.name for path in (tmp_path / "png").iterdir()} == {
        *("curves.png", "trajectories-parameter_norm.png"),
        *("front-val_accuracy-parameter_norm.png", "front-val_accuracy-parameter_count.png"),
    }


def test_what_many_runs_have_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcdefg":
        write_run(tmp_path / "runs" / name, training(8, 0, gap=0.4))
    cli.main(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "page.html")])
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("fault: Training labels are memorised")
    assert first.endswith("(a and 6 more like this)")
    assert not [line for line in others if "memorised" in line]


def test_files_can_be_named(tmp_path: Path) -> None:
    write_run(tmp_path / "run", training(8, 0))
    cli.main(["report", str(tmp_path / "run"), "-o", str(tmp_path), "--json", str(tmp_path / "a" / "b.json")])
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "a" / "b.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "report: a folder with runs is needed, got none: there is none."),
        (["."], "report: nothing was measured in .: there is no complexity.jsonl with a measurement"),
        (["run", "-o", "x.json"], "report: --output is the page, and x.json would be the report"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "run":
        write_run(tmp_path / "run", training(8, 0))
    with pytest.raises(SystemExit) as error:
        cli.main(["report", *arguments])
    assert str(error.value.code).startswith(message)
    assert "\n" not in str(error.value.code)


def test_what_was_not_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", training(8, 0))
    with (tmp_path / "run" / "complexity.jsonl").open("a") as file:
        file.write("{\n")
    cli.main(["report", str(tmp_path), "-o", str(tmp_path / "page.html")])
    assert capsys.readouterr().err.endswith("has 1 line that is no measurement: passed over\n")


def test_the_picture_of_trajectories(tmp_path: Path) -> None:
    for seed, end in enumerate((10.0, 12.0, 20.0)):
        rows = [(0, {NORM: 1.0, GAP: 0.0}), (5, {NORM: math.inf, GAP: 0.0}), (10, {NORM: end, GAP: 0.1 * (seed + 1)})]
        write_run(tmp_path / f"{seed}", rows, {"width": 4, "seed": seed})
    runs = read_runs([tmp_path]).runs
    (norm,) = [measure for measure in measures_of(runs) if measure.key == NORM]
    axes = picture_of_trajectories(runs, norm, GAP).axes[0]
    assert axes.get_xscale() == "log"
    lines = [np.asarray(line.get_xydata()).round(6).tolist() for line in axes.lines]
    assert [[1.0, 0.0], [10.0, 0.1]] in lines
    assert any(line[0] == [1, 0] and line[-1] == [12, 0.2] for line in lines)  # the median
    (bars,) = axes.containers
    assert bars.has_xerr
    assert bars.has_yerr


def test_a_picture_has_no_median_where_a_seed_diverged_and_counts_a_seed_once(tmp_path: Path) -> None:
    def bars(*ends: tuple[int, float]) -> list[Any]:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        for place, (seed, end) in enumerate(ends):
            write_run(folder / f"{place}", [(0, {NORM: 1.0, GAP: 0.0}), (9, {NORM: end, GAP: 0.1})], {"seed": seed})
        runs = read_runs([folder]).runs
        (norm,) = [measure for measure in measures_of(runs) if measure.key == NORM]
        return picture_of_trajectories(runs, norm, GAP).axes[0].containers

    def error(found: list[Any]) -> float:
        left, right = found[0].lines[2][0].get_segments()[0][:, 0]
        return float(right - left) / 2

    assert error(bars((0, 10.0), (1, 12.0))) == pytest.approx(1)
    assert error(bars((0, 10.0), (0, 10.0), (0, 10.0), (1, 12.0))) == pytest.approx(1)
    assert not bars((0, 10.0), (0, 10.0))[0].has_xerr
    assert bars((0, 10.0), (1, math.nan)) == []


def test_the_picture_of_the_choice(tmp_path: Path) -> None:
    runs = read_runs([write_sweep(tmp_path)]).runs
    page = page_data(runs, [])
    (front,) = [one for one in page["fronts"] if (one["score"], one["cost"]) == (VALIDATION, COUNT)]
    axes = picture_of_choice(page["models"], front).axes[0]
    stairs, star = (
        next(line for line in axes.lines if line.get_label() == name) for name in ("Pareto front", "the one to pick")
    )
    assert np.asarray(stairs.get_xydata()).tolist() == [[80, 0.865], [160, 0.955]]
    assert np.asarray(star.get_xydata()).tolist() == [[160, 0.955]]
    (band,) = axes.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == (pytest.approx(0.95), pytest.approx(0.955))
