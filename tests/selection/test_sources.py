"""Models out of studies, tables and records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState, create_trial

from lightning_complexity.recording import RECORD_NAME
from lightning_complexity.selection import hypervolume, read_points
from lightning_complexity.studies.sweeping.storage import quiet_optuna

BOTH = {"error": "minimize", "size": "minimize"}


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "width": [8, 8, 16, 16, 64, 64],
            "seed": [0, 1, 0, 1, 0, 1],
            "error": [0.30, 0.32, 0.20, 0.22, 0.18, 0.22],
            "size": [80, 80, 160, 160, 640, 640],
        }
    )


def test_repeats_are_averaged(frame: pd.DataFrame) -> None:
    points = read_points(frame, BOTH, models=["width"])
    assert points.names == ("width=8", "width=16", "width=64")
    assert points.values["error"].tolist() == pytest.approx([0.31, 0.21, 0.20])
    assert points.standard_errors["error"].tolist() == pytest.approx([0.01, 0.01, 0.02])
    assert points.repeats == (2, 2, 2)
    assert points.front().rows == (2, 1, 0)
    assert points.knee() == "width=16"
    assert points.simplest().chosen.name == "width=16"
    expected = hypervolume(points.values.to_numpy(), [0.4, 1000.0])
    assert points.hypervolume({"size": 1000.0, "error": 0.4}) == expected > 0


def test_a_csv_is_as_its_frame(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "networks.csv", index=False)
    read = read_points(tmp_path / "networks.csv", BOTH, models=["width"])
    given = read_points(frame, BOTH, models=["width"])
    assert read.names == given.names
    pd.testing.assert_frame_equal(read.values, given.values)


def test_numbers_that_may_be_missing(frame: pd.DataFrame) -> None:
    given = read_points(frame.astype({"error": "Float64", "size": "Int64"}), BOTH, models=["width"])
    pd.testing.assert_frame_equal(given.values, read_points(frame, BOTH, models=["width"]).values)
    frame = frame.astype({"size": "Int64"})
    frame.loc[0, "size"] = pd.NA
    assert read_points(frame, BOTH).names == ("row 1", "row 2", "row 3", "row 4", "row 5")


def test_a_model_with_a_diverged_repeat_is_left_out(frame: pd.DataFrame) -> None:
    frame.loc[4, "error"] = np.nan
    points = read_points(frame, BOTH, models=["width"])
    assert points.names == ("width=8", "width=16")
    assert points.left_out == {"'error' missing or not finite, or so in a repeat": 2}
    assert points.rows == 6


def test_a_missing_value_names_a_model_too() -> None:
    frame = pd.DataFrame({"second": [np.nan, np.nan, 4.0], "error": [0.1, 0.3, 0.2], "size": 1})
    points = read_points(frame, BOTH, models=["second"])
    assert (points.names, points.repeats) == (("second=none", "second=4"), (2, 1))


def test_close_numbers_stay_apart() -> None:
    frame = pd.DataFrame({"rate": [0.1234561, 0.1234564], "error": [0.1, 0.3], "size": 1})
    assert len(read_points(frame, BOTH, models=["rate"])) == 2


def test_a_column_of_standard_errors(frame: pd.DataFrame) -> None:
    frame = frame.groupby("width", as_index=False).mean().assign(spread=0.05)
    points = read_points(frame, BOTH, standard_errors={"error": "spread"})
    assert points.names == ("row 0", "row 1", "row 2")
    assert points.simplest().bound == pytest.approx(0.25)
    assert points.simplest().chosen.row == 1


def test_names_are_those_of_the_index(frame: pd.DataFrame) -> None:
    frame.index = list("abcdef")
    assert read_points(frame, BOTH, filters={"seed": 0}).names == ("a", "c", "e")


def study_of_trials() -> optuna.Study:
    with quiet_optuna():
        study = optuna.create_study(directions=["minimize", "minimize"])
        study.set_metric_names(["error", "size"])
        width = {"width": optuna.distributions.IntDistribution(1, 100)}
        for number, (error, size) in enumerate([(0.3, 80), (0.2, 160), (0.1, 640), (0.05, 9000)]):
            trial = (
                create_trial(
                    values=[error, size], params={"width": size // 10}, distributions={"width": width["width"]}
                )
                if size < 1000
                else create_trial(values=[error, size])
            )
            trial.set_user_attr("spread", 0.01 * (number + 1))
            trial.set_user_attr("sizes", {"flops": size**2})
            trial.set_constraint("memory", size - 1000)
            study.add_trial(trial)
        for state in (TrialState.FAIL, TrialState.PRUNED, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING):
            study.add_trial(create_trial(state=state))
    return study


def test_a_study_brings_its_objectives_and_leaves_out_what_is_no_result() -> None:
    study = study_of_trials()
    points = read_points(study)
    assert points.directions == BOTH
    assert points.names == ("trial 0", "trial 1", "trial 2")
    assert points.left_out == {
        "a constraint not met": 1,
        "trial fail": 1,
        "trial pruned": 2,
        "trial running": 1,
        "trial waiting": 1,
    }
    assert points.rows == 9
    best = {f"trial {trial.number}" for trial in study.best_trials}
    assert {points.names[row] for row in points.front().rows} == best


def test_other_columns_of_a_study() -> None:
    points = read_points(
        study_of_trials(),
        {"error": "minimize", "sizes.flops": "minimize"},
        models=["width"],
        standard_errors={"error": "spread"},
    )
    assert points.names == ("width=8", "width=16", "width=64")
    assert points.values["sizes.flops"].tolist() == [80**2, 160**2, 640**2]
    assert points.simplest().standard_error == 0.03


def test_repeats_in_a_study() -> None:
    with quiet_optuna():
        study = optuna.create_study()
        for width, value in [(8, 0.2), (8, 0.4), (16, 0.2)]:
            study.add_trial(create_trial(value=value, user_attrs={"width": width, "value": 7}))
    points = read_points(study, {"value": "minimize", "user_attrs.value": "minimize"}, models=["width"])
    assert points.values["value"].tolist() == pytest.approx([0.3, 0.2])
    assert points.repeats == (2, 1)


def test_a_study_whose_constraints_nobody_meets() -> None:
    with quiet_optuna():
        study = optuna.create_study()
        trial = create_trial(value=1.0)
        trial.set_constraint("memory", 1.0)
        study.add_trial(trial)
    with pytest.raises(ValueError, match=r"no model is left of 1; left out are 1 \(a constraint not met\)"):
        read_points(study)


def test_a_study_without_trials() -> None:
    with quiet_optuna():
        study = optuna.create_study()
    with pytest.raises(ValueError, match="no model is left of 0; left out are none"):
        read_points(study)


def write_record(folder: Path, width: int, norm: float) -> None:
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"width": width, "test_error": 1 / width}))
    line = {"step": 3, "epoch": 1, "time": 0.0, "values": {"complexity/path_norm": norm}, "seconds": {}}
    (folder / RECORD_NAME).write_text(json.dumps(line) + "\n")


def test_a_folder_of_records(tmp_path: Path) -> None:
    for width in (2, 4):
        write_record(tmp_path / f"width_{width}", width, norm=10.0 * width)
    points = read_points(tmp_path, {"test_error": "minimize", "complexity/path_norm": "minimize"}, models=["width"])
    assert points.names == ("width=2", "width=4")
    assert points.values["complexity/path_norm"].tolist() == [20.0, 40.0]
    assert len(read_points(tmp_path, {"test_error": "minimize"}).names) == 2


def test_what_cannot_be_read_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="objectives are needed"):
        read_points(frame)
    with pytest.raises(ValueError, match="no column 'errors'; similar are error"):
        read_points(frame, {"errors": "minimize"})
    with pytest.raises(ValueError, match="filters: there is no column 'done'"):
        read_points(frame, BOTH, filters=["done"])
    with pytest.raises(TypeError, match="filters must be a sequence or mapping"):
        read_points(frame, BOTH, filters="seed")
    with pytest.raises(ValueError, match="got 'min'"):
        read_points(frame, {"error": "min"})
    with pytest.raises(TypeError, match=r"write \['width'\]"):
        read_points(frame, BOTH, models="width")
    with pytest.raises(TypeError, match="objectives must be a mapping"):
        read_points(frame, ["error"])
    with pytest.raises(ValueError, match="declared twice"):
        read_points(frame, BOTH, models=["size"])
    with pytest.raises(ValueError, match="'error' must hold numbers, got 'bad'"):
        read_points(frame.assign(error="bad"), BOTH)
    with pytest.raises(ValueError, match=r"no model is left of 6; left out are 6 \('error' missing"):
        read_points(frame.assign(error=np.inf), BOTH)
    with pytest.raises(ValueError, match="width=8 has several rows"):
        read_points(frame.assign(spread=0.1), BOTH, models=["width"], standard_errors={"error": "spread"})
    with pytest.raises(ValueError, match=r"must not be negative, got -1\.0"):
        read_points(frame.assign(spread=-1), BOTH, standard_errors={"error": "spread"})
    with pytest.raises(ValueError, match="'loss' is no objective"):
        read_points(frame, BOTH, standard_errors={"loss": "seed"})
    with pytest.raises(TypeError, match="an Optuna study, a pandas DataFrame or a path, got list"):
        read_points([1, 2], BOTH)
    with pytest.raises(FileNotFoundError):
        read_points(tmp_path, BOTH)


def test_what_cannot_be_chosen_is_refused(frame: pd.DataFrame) -> None:
    points = read_points(frame, BOTH)
    with pytest.raises(ValueError, match="the standard error of 'error' is needed: give models="):
        points.simplest()
    with pytest.raises(ValueError, match=r"cost must be one of \['error', 'size'\], got 'flops'"):
        points.simplest(cost="flops")
    with pytest.raises(ValueError, match="'error' for both"):
        points.simplest("error", "error")
    with pytest.raises(ValueError, match="a number for each of"):
        points.hypervolume({"error": 1.0})
    with pytest.raises(ValueError, match="one objective, 'error'"):
        read_points(frame, {"error": "minimize"}).simplest()
    up = read_points(frame, {"error": "minimize", "size": "maximize"}, models=["width"])
    with pytest.raises(ValueError, match="'size' must be an objective to minimize"):
        up.simplest()
