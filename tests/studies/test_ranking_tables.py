"""Tables of trained networks: what is read, what is left out, and what is said about wrong ones."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lightning_complexity import studies
from lightning_complexity.recording import Measurement, append
from tests.studies.trained_tables import HYPERPARAMETERS, table

COLUMNS: dict[str, Any] = {"hyperparameters": HYPERPARAMETERS, "measures": ["norm", "margin"], "gap": "gap"}


def read(frame: Any, **changes: Any) -> studies.Table:
    return studies.read_table(frame, **(COLUMNS | changes))


def test_a_csv_is_read_as_the_frame_that_was_written(tmp_path: Path) -> None:
    frame = table().assign(optimizer=lambda f: f.optimizer.where(f.optimizer == "adam", "None"))
    frame.to_csv(tmp_path / "networks.csv")
    pd.testing.assert_frame_equal(read(tmp_path / "networks.csv").frame, read(frame).frame, check_dtype=False)
    assert set(read(str(tmp_path / "networks.csv")).frame["optimizer"]) == {"adam", "None"}


def test_the_caller_s_frame_stays_as_it_is() -> None:
    frame = table()
    before = frame.copy()
    studies.rank(frame, **COLUMNS, seed="seed", draws=2)
    pd.testing.assert_frame_equal(frame, before)


def test_values_that_agree_to_six_digits_are_one() -> None:
    frame = table()
    frame["lr"] *= 1 + 1e-9 * np.arange(len(frame))
    frame["width"] = frame["width"].astype(float)
    assert read(frame).frame["lr"].nunique() == 2
    zero = frame.assign(lr=np.where(frame.lr > 0.05, 0.0, 1e-9))
    assert read(zero).frame["lr"].nunique() == 2


def test_what_is_not_finite_is_left_out_and_counted() -> None:
    frame = table(missing=False)
    frame.loc[0, "norm"], frame.loc[1, "norm"], frame.loc[2, "gap"], frame.loc[3, "lr"] = (
        np.nan,
        np.inf,
        -np.inf,
        np.nan,
    )
    found = read(frame)
    assert found.rows - len(found.frame) == 4
    assert found.left_out == {
        "'lr' missing or not finite": 1,
        "'norm' missing or not finite": 2,
        "'gap' missing or not finite": 1,
    }
    text = str(studies.rank(found))
    assert "44 of 48 networks" in text
    assert "2 left out: 'norm' missing or not finite" in text


def test_a_measure_that_is_not_finite_need_not_cost_the_others() -> None:
    frame = table(missing=False)
    frame.loc[:9, "norm"] = np.nan
    ranking = studies.rank(frame, **COLUMNS, missing="measure")
    assert ranking.frame["networks"].to_dict() == {"norm": 38, "margin": 48}
    alone = studies.rank(frame, **(COLUMNS | {"measures": ["norm"]}))
    pd.testing.assert_frame_equal(ranking.frame.loc[["norm"]], alone.frame)
    assert "networks" in str(ranking)


def test_filters() -> None:
    frame = table(missing=False).assign(done=lambda f: f.seed != 3, width2=lambda f: f.width)
    assert len(read(frame, filters=["done"]).frame) == 36
    assert read(frame, filters=["done"]).left_out == {"'done' not True": 12}
    assert len(read(frame, filters={"done": False}).frame) == 12
    assert len(read(frame, filters={"seed": [0, 1]}).frame) == 24
    assert len(read(frame, filters={"optimizer": "sgd"}, hyperparameters=["width", "lr"]).frame) == 24
    assert len(read(frame, filters={"width2": lambda w: w > 8}).frame) == 32
    text = frame.assign(done=frame.done.map({True: "True", False: "False"}))
    assert len(read(text, filters=["done"]).frame) == 36


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"gap": "gpa"}, ValueError, "gap: there is no column 'gpa'; similar are gap"),
        ({"measures": ["norms"]}, ValueError, "measures: there is no column 'norms'; similar are norm"),
        ({"seed": "repeat"}, ValueError, "seed: there is no column 'repeat'; there are width, optimizer"),
        ({"filters": ["converged"]}, ValueError, "filters: there is no column 'converged'"),
        ({"measures": "norm"}, TypeError, r"sequence of column names, got 'norm'; write \['norm'\]"),
        ({"measures": []}, ValueError, "measures must name at least one column"),
        ({"measures": None}, ValueError, "no column begins with 'complexity'; there are width"),
        ({"measures": ["norm", "gap"]}, ValueError, "'gap' is declared twice: as measures and as gap"),
        ({"measures": ["optimizer"], "hyperparameters": ["width"]}, ValueError, "'optimizer' must hold numbers, got"),
        ({"filters": {"width": 7}}, ValueError, "no row is left of 41; left out are 41 .'width' not 7."),
        ({"filters": ["width"]}, ValueError, "filters: 'width' must hold true and false"),
        (
            {"filters": {"width": 8}},
            ValueError,
            "hyper-parameter 'width' has one value, 8, in all 13 rows: leave it out",
        ),
        ({"missing": "drop"}, ValueError, "missing must be 'rows' or 'measure'"),
    ],
)
def test_wrong_declarations(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(table(), **changes)


def test_wrong_sources(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="source must be a pandas DataFrame or a path, got list"):
        read([1, 2])
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match=r"no complexity\.jsonl"):
        read(tmp_path)
    with pytest.raises(ValueError, match="record of one network"):
        read(tmp_path / "complexity.jsonl")
    with pytest.raises(ValueError, match="more than once"):
        read(pd.concat([table(), table()], axis=1))
    empty = table().assign(norm=np.nan)
    with pytest.raises(ValueError, match=r"no row is left of 41; left out are 41 \('norm' missing or not finite\)"):
        read(empty)
    with pytest.raises(ValueError, match="'norm' is finite in none of 41 rows: leave it out of measures"):
        read(empty, missing="measure")


def network(folder: Path, width: int, seed: int, **settings: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"width": width, "seed": seed, **settings}))
    for step in (0, 5, 10):
        values = {"complexity/norm": step * width + seed, "probe/accuracy_gap": step / width, "complexity/a/layer": 1.0}
        append(folder / "complexity.jsonl", Measurement(step, 0, 0.0, {k: float(v) for k, v in values.items()}))


def test_a_folder_of_records(tmp_path: Path) -> None:
    for i, (width, seed) in enumerate([(8, 0), (8, 1), (16, 0), (16, 1)]):
        network(tmp_path / str(i), width, seed, optimizer={"name": "sgd", "betas": [0.9, 0.99]}, schedule=None)
    (tmp_path / "4").mkdir()  # begun, but nothing was measured yet
    (tmp_path / "4" / "complexity.jsonl").touch()
    found = studies.read_table(tmp_path, hyperparameters=["width"], gap="probe/accuracy_gap", seed="seed")
    assert found.measures == ("complexity/norm",)
    assert list(found.frame["complexity/norm"]) == [80, 81, 160, 161]
    frame = studies.read_records(tmp_path, at=0.5)
    assert list(frame["complexity/norm"]) == [40, 41, 80, 81]
    assert set(frame["optimizer.betas"]) == {"[0.9, 0.99]"}
    assert set(frame["schedule"]) == {"None"}
    assert list(frame["record.folder"]) == ["0", "1", "2", "3"]
    assert set(frame["record.step"]) == {5}
    assert len(studies.read_series(tmp_path)) == 12
    with pytest.raises(ValueError, match="share of the training"):
        studies.read_records(tmp_path, at=5)


def test_records_with_their_json_elsewhere(tmp_path: Path) -> None:
    network(tmp_path / "a" / "version_0", 8, 0)
    (tmp_path / "a" / "version_0" / "settings.json").rename(tmp_path / "a" / "settings.json")
    network(tmp_path / "b", 16, 0)
    (tmp_path / "b" / "settings.json").rename(tmp_path / "b" / "result.json")
    network(tmp_path / "c", 16, 1)
    (tmp_path / "c" / "settings.json").unlink()
    frame = studies.read_records(tmp_path)
    assert list(frame["width"])[:2] == [8, 16]
    assert math.isnan(frame["width"][2])
    found = studies.read_table(tmp_path, hyperparameters=["width"], gap="probe/accuracy_gap")
    assert found.left_out == {"'width' missing or not finite": 1}


def test_wrong_records(tmp_path: Path) -> None:
    network(tmp_path / "a", 8, 0)
    settings = tmp_path / "a" / "settings.json"
    settings.write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json must be a JSON"):
        studies.read_records(tmp_path)
    settings.write_text("[1]")
    with pytest.raises(ValueError, match=r"must hold an object with hyper-parameters, got a list"):
        studies.read_records(tmp_path)
    settings.write_text('{"complexity/norm": 1}')
    with pytest.raises(ValueError, match="'complexity/norm' is both in"):
        studies.read_records(tmp_path)
    settings.unlink()
    with pytest.raises(FileNotFoundError, match=r"no settings\.json with hyper-parameters beside any of 1 records"):
        studies.read_records(tmp_path)


def test_the_name_of_the_subpackage_loads_nothing_heavy() -> None:
    code = "import sys, lightning_complexity; lightning_complexity.studies; print({'pandas', 'torch'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="has no attribute 'ranks'"):
        _ = studies.ranks


def test_without_pandas_the_extra_is_named() -> None:
    code = "import sys; sys.modules['pandas'] = None; from lightning_complexity import studies; studies.rank"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: studies need pandas: pip install lightning-complexity[studies]" in result.stderr


def test_names_must_be_words() -> None:
    with pytest.raises(TypeError, match="hyperparameters must be names of columns, got 0"):
        read(table(), hyperparameters=[0])
