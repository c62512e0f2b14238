"""Runs that are found, and what is said of what cannot be read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from lightning_complexity.dashboard.hyperparameters import read_settings
from lightning_complexity.dashboard.measured import measures_of
from lightning_complexity.dashboard.reading import read_runs
from lightning_complexity.dashboard.runs import Run, grouped
from tests.dashboard.folders import ACCURACY, NORM, training, write_run, write_sweep


def write_events(folder: Path, points: list[tuple[str, float, int]], suffix: str = "") -> Path:
    with SummaryWriter(str(folder), filename_suffix=suffix) as writer:
        for tag, value, step in points:
            writer.add_scalar(tag, value, step)
    return folder


def test_runs_of_any_depth_by_name_with_their_settings(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a" / "b", widths=(16, 8), seeds=1)
    write_run(tmp_path / "run_10", training(8, 0))
    write_run(tmp_path / "run_9", training(8, 0))
    found = read_runs([tmp_path])
    names = ["a/b/width=8,seed=0", "a/b/width=16,seed=0", "run_9", "run_10"]
    assert [run.name for run in found.runs] == names
    assert {run.name: run.settings for run in found.runs}["a/b/width=8,seed=0"] == {"width": 8, "seed": 0}
    assert found.notes == []


def test_a_folder_that_is_a_run_has_its_name_and_is_read_once(tmp_path: Path) -> None:
    write_run(tmp_path / "one", training(8, 0))
    assert [run.name for run in read_runs([tmp_path / "one", tmp_path]).runs] == ["one"]


def test_runs_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_run(tmp_path / folder / "run", training(8, 0))
    names = [run.name for run in read_runs([tmp_path / "a", tmp_path / "b"]).runs]
    assert names == [str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run")]


def test_several_monitors_of_a_run_are_one_run_and_a_record_set_aside_is_none(tmp_path: Path) -> None:
    write_run(tmp_path, [(0, {NORM: 1.0}), (5, {NORM: 2.0})])
    other = "complexity/shifted/stable_rank"
    write_run(tmp_path, [(5, {other: 3.0}), (3, {other: 4.0})], name="complexity.shifted.jsonl")
    write_run(tmp_path, [(99, {NORM: 9.0})], name="complexity.before-1.jsonl")
    found = read_runs([tmp_path])
    assert [(m.step, m.values) for m in found.runs[0].history] == [
        *((0, {NORM: 1.0}), (3, {other: 4.0})),
        (5, {NORM: 2.0, other: 3.0}),
    ]
    assert [note.rsplit("/", 1)[-1] for note in found.notes] == [
        "complexity.before-1.jsonl is of an earlier run in the same folder: not read"
    ]


def test_broken_lines_are_counted_and_the_rest_is_read_in_order(tmp_path: Path) -> None:
    write_run(tmp_path, [(20, {NORM: 2.0}), (10, {NORM: math.inf})])
    with (tmp_path / "complexity.jsonl").open("a") as file:
        file.write('{"step": 1\n\nnot a line\n')
    found = read_runs([tmp_path])
    assert found.runs[0].series(NORM) == ([10, 20], [math.inf, 2.0])
    assert len(found.notes) == 1
    assert found.notes[0].endswith("complexity.jsonl has 2 lines that are no measurement: passed over")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "none", "a folder with runs is needed, got {path}/none: there is none."),
        (lambda path: path / "file", "a folder with runs is needed, got {path}/file: it is a file"),
        (lambda path: path, "nothing was measured in {path}: there is no complexity.jsonl with a measurement"),
    ],
)
def test_errors_say_what_is_needed(tmp_path: Path, make: Any, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "complexity.jsonl").write_text("")
    with pytest.raises(FileNotFoundError) as error:
        read_runs([make(tmp_path)])
    assert str(error.value).startswith(message.format(path=tmp_path))
    assert "\n" not in str(error.value)


def test_a_record_that_cannot_be_read_costs_no_other_run(tmp_path: Path) -> None:
    for name in ("good", "gone", "newer"):
        (tmp_path / name).mkdir()
    write_run(tmp_path / "good", [(0, {NORM: 1.0})])
    (tmp_path / "gone" / "complexity.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "newer" / "complexity.jsonl").write_text('{"version": 2}\n')
    found = read_runs([tmp_path])
    assert [run.name for run in found.runs] == ["good"]
    assert [note.removeprefix(f"{tmp_path}/") for note in found.notes] == [
        "gone/complexity.jsonl is not read: No such file or directory",
        "newer/complexity.jsonl is of format 2; this version of lightning-complexity reads 1: update it",
    ]
    with pytest.raises(FileNotFoundError, match=r"is of format 2; this version of .* reads 1: update it\.$"):
        read_runs([tmp_path / "newer"])


LISTS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
OBJECTS = "".join(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}, z: *a{i - 1}}}\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (f"lr: 0.1\na0: &a0 [1, 2]\n{LISTS}", 13),
        (f"lr: 0.1\na0: &a0 3\n{OBJECTS}", 100),
        (f"lr: 0.1\na0: &a0 {{}}\n{OBJECTS}", 1),
        ("lr: 0.1\na: &a {b: *a}", 1),
        ("lr: 0.1\na: &a [*a, *a]", 2),
        ("lr: 0.1\na: {1: [{b: [c, 'd']}]}", 2),
    ],
    ids=["lists", "objects", "empty", "object in itself", "list in itself", "mixed"],
)
def test_settings_that_name_things_many_times_stay_small(tmp_path: Path, text: str, settings: int) -> None:
    (tmp_path / "hparams.yaml").write_text(text)
    found, notes = read_settings(tmp_path, tmp_path)
    assert (len(found), found["lr"], notes) == (settings, 0.1, [])
    assert max(len(str(part)) for entry in found.items() for part in entry) <= 200
    if "a.1" in found:
        assert found["a.1"] == "[{'b': ['c', 'd']}]"


def test_settings_of_yaml_with_objects_of_python_and_of_a_result(tmp_path: Path) -> None:
    text = "lr: 0.1\nnet: !!python/object:os.system {command: echo}\nlimit: .inf\n"
    text += "optimizer:\n  name: adam\nwidths: [1, 2]\n"
    (tmp_path / "hparams.yaml").write_text(text)
    settings, notes = read_settings(tmp_path, tmp_path)
    assert settings == {"lr": 0.1, "net": None, "limit": "inf", "optimizer.name": "adam", "widths": "[1, 2]"}
    assert notes == []
    (tmp_path / "hparams.yaml").write_text("{}")
    (tmp_path / "result.json").write_text(json.dumps({"setting": {"width": 4}, "train_loss": 0.1}))
    assert read_settings(tmp_path, tmp_path)[0] == {"width": 4}
    (tmp_path / "result.json").write_text("[")
    (tmp_path / "below").mkdir()
    (tmp_path / "settings.json").write_text('{"depth": 3}')
    assert read_settings(tmp_path / "below", tmp_path)[0] == {"depth": 3}
    assert read_settings(tmp_path / "below", tmp_path / "below")[0] == {}


def test_settings_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{")
    settings, notes = read_settings(tmp_path, tmp_path)
    assert settings == {}
    assert notes[0].startswith(f"{tmp_path / 'settings.json'} is not read: ")
    (tmp_path / "settings.json").write_text('{"a":' * 100_000)
    (tmp_path / "hparams.yaml").write_text("a: " + "[" * 3000)
    settings, notes = read_settings(tmp_path, tmp_path)
    assert settings == {}
    assert [" is not read: maximum recursion depth" in note for note in notes] == [True, True]


def run(name: str, **settings: Any) -> Run:
    return Run(name, Path(name), [], settings)


def test_groups_are_runs_that_differ_in_their_seed_only() -> None:
    runs = [run("a", width=8, seed=0), run("b", width=16, seed=0), run("c", width=8, seed=1), run("d", width=8, seed=0)]
    assert [(group.name, group.runs) for group in grouped(runs)] == [("width=8", (0, 2, 3)), ("width=16", (1,))]


def test_runs_without_seeds_are_no_repeats_of_each_other() -> None:
    assert [(group.name, group.runs) for group in grouped([run("a"), run("b")])] == [("a", (0,)), ("b", (1,))]


def test_the_step_at_which_the_training_probe_is_fitted(tmp_path: Path) -> None:
    write_run(tmp_path, [(0, {ACCURACY: 0.5}), (10, {ACCURACY: 1.0}), (20, {ACCURACY: 0.9}), (30, {ACCURACY: 1.0})])
    assert read_runs([tmp_path]).runs[0].fitted_step == 10


def test_event_files_of_a_run_without_a_record(tmp_path: Path) -> None:
    points = [(NORM, 3.0, 20), ("epoch", 0.0, 0), (NORM, 1.0, 0), ("epoch", 2.0, 15), (NORM, 2.0, 10), ("loss", 9.0, 0)]
    write_events(tmp_path / "run", points)
    (found,) = read_runs([tmp_path]).runs
    assert found.source == "events"
    assert found.series(NORM) == ([0, 10, 20], [1.0, 2.0, 3.0])
    assert [m.epoch for m in found.history] == [0, 0, 2]
    assert found.keys == (NORM,)


def test_a_record_is_preferred_to_event_files_beside_it(tmp_path: Path) -> None:
    write_events(tmp_path, [(NORM, 9.0, 0)])
    write_run(tmp_path, [(0, {NORM: 1.0})])
    (found,) = read_runs([tmp_path]).runs
    assert (found.source, found.series(NORM)) == ("record", ([0], [1.0]))


def test_penalties_and_limits_are_read_from_event_files_beside_a_record(tmp_path: Path) -> None:
    write_run(tmp_path, [(0, {"complexity/a": 1.0}), (10, {"complexity/a": 2.0})])
    write_events(tmp_path, [("constraint/a/multiplier", 3.0, 5), ("complexity/a", 7.0, 10), ("loss/total", 4.0, 10)])
    (run,) = read_runs([tmp_path]).runs
    assert run.series("constraint/a/multiplier") == ([5], [3.0])
    assert run.series("loss/total") == ([10], [4.0])
    assert run.series("complexity/a") == ([0, 10], [1.0, 2.0])
    assert [measure.key for measure in measures_of([run])] == ["complexity/a"]


def test_a_run_that_was_resumed_has_each_step_once_and_of_its_last_life(tmp_path: Path) -> None:
    write_events(tmp_path, [(NORM, float(step), step) for step in (0, 10, 20, 30)], ".first")
    write_events(tmp_path, [(NORM, step + 0.5, step) for step in (20, 25)], ".second")
    files = sorted(tmp_path.iterdir(), key=lambda path: path.suffix)
    for number, path in enumerate(files):  # both may be of one second
        path.rename(tmp_path / f"events.out.tfevents.{number}")
    assert read_runs([tmp_path]).runs[0].series(NORM) == ([0, 10, 20, 25], [0.0, 10.0, 20.5, 25.5])


def test_an_event_file_that_is_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    write_events(tmp_path, [(NORM, float(step), step) for step in range(5)])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    found = read_runs([tmp_path])
    assert found.runs[0].series(NORM)[0] == [0, 1, 2, 3]
    assert found.notes == [f"{path} is damaged or cut off: read up to there"]


def test_an_event_file_whose_length_is_damaged_is_read_up_to_there(tmp_path: Path) -> None:
    write_events(tmp_path, [(NORM, float(step), step) for step in range(5)])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + (2**50).to_bytes(8, "little") + bytes(100))
    found = read_runs([tmp_path])
    assert found.runs[0].series(NORM)[0] == [0, 1, 2, 3, 4]
    assert len(found.notes) == 1


def test_histograms_and_pictures_of_event_files(tmp_path: Path) -> None:
    values = np.array([0.0, 0.0, 1.0, 4.0])
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar(NORM, 1.0, 0)
        for step in (10, 5):
            writer.add_histogram("complexity/margin", values + step, step)
            writer.add_image("complexity/regions", np.full((3, 2, 2), step, dtype=np.uint8), step)
    (found,) = read_runs([tmp_path]).runs
    first, last = found.histograms["complexity/margin"]
    assert (first.step, last.step) == (5, 10)
    assert (first.edges[0], first.edges[-1]) == (5.0, 9.0)
    assert sum(first.counts) == 4
    assert [picture.step for picture in found.pictures["complexity/regions"]] == [5, 10]
    assert found.pictures["complexity/regions"][0].png.startswith(b"\x89PNG")
