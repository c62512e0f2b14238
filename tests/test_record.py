"""The record: every digit, one line a measurement, readable after a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lightning_complexity.recording import Measurement, append, curve, read_record
from lightning_complexity.recording.record import continue_record, read_lines


def measurement(step: int, **values: float) -> Measurement:
    return Measurement(step, 0, 1.5, values, {"a": 0.25})


def test_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "new" / "complexity.jsonl"
    rows = [measurement(0, a=1 / 3, b=1e-300), measurement(5, a=math.inf, b=-math.inf)]
    for row in rows:
        append(path, row)
    assert read_record(path) == rows
    assert read_record(path.parent) == rows


def test_not_a_number_is_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "complexity.jsonl"
    append(path, measurement(0, a=math.nan))

    def refuse(name: str) -> float:
        raise AssertionError(name)

    assert json.loads(path.read_text(), parse_constant=refuse)["values"] == {"a": "NaN"}
    assert math.isnan(read_record(path)[0].values["a"])


@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_a_killed_run_leaves_a_readable_record_that_can_be_continued(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "complexity.jsonl"
    for step in (0, 1):
        append(path, measurement(step, a=step))
    first, second = path.read_text().splitlines()
    path.write_text(first + "\n" + second[: int(kept * len(second))])
    assert read_record(path) == [measurement(0, a=0)]
    append(path, measurement(2, a=2))
    assert read_record(path) == [measurement(0, a=0), measurement(2, a=2)]


def test_measurements_of_one_step_are_merged_and_repeated_steps_replaced(tmp_path: Path) -> None:
    path = tmp_path / "complexity.jsonl"
    for row in (measurement(3, a=1), measurement(0, a=0), measurement(3, b=2), measurement(3, a=5)):
        append(path, row)
    assert read_record(path) == [measurement(0, a=0), measurement(3, a=5, b=2)]


def test_a_missing_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path)


def test_curve_passes_over_steps_without_the_value() -> None:
    history = [measurement(0, a=0), measurement(1, b=1), measurement(2, a=2)]
    assert curve(history, "a") == ([0, 2], [0, 2])


def test_a_record_says_its_version_and_an_old_one_has_none(tmp_path: Path) -> None:
    path = tmp_path / "complexity.jsonl"
    append(path, Measurement(1, 0, 2.0, {"a": 3.0}))
    row = json.loads(path.read_text())
    assert row.pop("version") == 1
    path.write_text(json.dumps(row) + "\n")
    assert read_record(path) == [Measurement(1, 0, 2.0, {"a": 3.0})]


def test_a_newer_record_is_refused_by_readers_and_set_aside_by_a_run(tmp_path: Path) -> None:
    path = tmp_path / "complexity.jsonl"
    newer = json.dumps({"version": 2, "moment": {}}) + "\n"
    path.write_text(newer)
    with pytest.raises(ValueError, match=r"complexity.jsonl is of format 2; this version .* reads 1: update it"):
        read_record(path)
    continue_record(path, [Measurement(0, 0, 1.0, {"a": 1.0})])
    assert [m.step for m in read_record(path)] == [0]
    assert (tmp_path / "complexity.before-1.jsonl").read_text() == newer


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"step": Infinity, "epoch": 0, "time": 1, "values": {}, "seconds": {}}',
        '{"step": 1, "epoch": 1e999, "time": 1, "values": {}, "seconds": {}}',
        '{"step": 1, "epoch": 0, "time": 1%s, "values": {}, "seconds": {}}' % ("0" * 400),
        '{"step": 1, "epoch": 0, "time": 1, "values": {"a": 1%s}, "seconds": {}}' % ("0" * 400),
        '{"step": 1%s, "epoch": 0, "time": 1, "values": {}, "seconds": {}}' % ("0" * 5000),
        '{"step": 1, "epoch": 0, "time": 1, "values": {"a": null}, "seconds": {}}',
        '{"step": 1, "epoch": 0, "time": 1, "values": {}}',
        "\0" * 100,
    ],
    ids=["deep", "step", "epoch", "time", "value", "digits", "null", "missing", "zeros"],
)
def test_any_line_that_is_no_measurement_is_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "complexity.jsonl"
    append(path, Measurement(0, 0, 1.0, {"a": 2.0}))
    with path.open("a") as file:
        file.write(line)
    assert read_lines(path) == ([Measurement(0, 0, 1.0, {"a": 2.0})], 1)
    append(path, Measurement(1, 0, 1.0, {"a": 3.0}))
    assert [m.values["a"] for m in read_record(path)] == [2, 3]
