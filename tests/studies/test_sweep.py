"""Sweeps: the grid, the queue, a killed worker, the table and its ranking."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from lightning_complexity import cli
from lightning_complexity.studies.sweeping import local, sweep
from lightning_complexity.studies.sweeping.storage import open_storage, quiet_optuna
from lightning_complexity.studies.sweeping.sweep import Design, folder_name, grid, networks, prepare, ranked
from lightning_complexity.studies.sweeping.worker import work
from lightning_complexity.studies.training.settings import Setting, Stop

WATCHDOG = 300.0
SMALL = {"depth": [1], "num_samples": [30], "batch_size": [16], "optimizer": ["adam"], "learning_rate": [0.01]}


def small(max_steps: int = 30, **values: list[object]) -> Design:
    return Design(grid({**SMALL, **values}), metrics=("ParameterNorm",), stop=Stop(loss=0.05, max_steps=max_steps))


def prepared(design: Design, folder: Path, name: str = "sweep") -> tuple[optuna.Study, str]:
    url = str(folder / "journal.log")
    with quiet_optuna():
        return prepare(design, open_storage(url, create=True), name, url), url


def complete(study: optuna.Study) -> list[str]:
    return sorted(folder_name(t.params) for t in study.get_trials(states=(TrialState.COMPLETE,)))


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_blocks_nothing(tmp_path: Path) -> None:
    design = small(width=[4, 5, 6], max_steps=6000)  # seconds each: the criterion comes later
    design = Design(design.points, metrics=design.metrics, stop=Stop(loss=1e-9, max_steps=3000))
    study, url = prepared(design, tmp_path)
    worker = subprocess.Popen(local.worker_command(url, "sweep", tmp_path))
    try:
        end = time.monotonic() + WATCHDOG
        while len(complete(study)) < 1 or len(started(tmp_path)) < 2:
            assert time.monotonic() < end, "the first network is not finished"
            assert worker.poll() is None, "the worker ended"
            time.sleep(0.05)
        worker.send_signal(signal.SIGKILL)
    finally:
        worker.kill()
        worker.wait()
    done = complete(study)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "networks").rglob("result.json")}
    assert len(study.get_trials(states=(TrialState.RUNNING,))) == 1
    assert work(url, "sweep", tmp_path) == 3 - len(done)
    assert complete(study) == ["width=4", "width=5", "width=6"]  # each once
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in before.items())
    assert networks(study)["width"].tolist() == [4, 5, 6]


def started(folder: Path) -> list[Path]:
    return list((folder / "networks").glob("*/complexity.jsonl"))


def test_the_command_trains_ranks_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["study", "sweep", "--quick", "--workers", "1", "--output", str(tmp_path), "--seeds", "1"]
    cli.main(command)
    first = capsys.readouterr()
    assert "Psi" in first.out
    assert f"Written: {tmp_path / 'networks.csv'}" in first.out
    frame = pd.read_csv(tmp_path / "networks.csv")
    assert len(frame) == 4
    assert {"complexity/parameter_norm", "complexity/log_path_norm", "generalization_gap", "width"} <= set(frame)
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "networks").rglob("*"))
    cli.main(command)
    again = capsys.readouterr()
    assert again.out == first.out
    # Without its journal, it finds the results in their folders.
    (tmp_path / "journal.log").unlink()
    _, url = prepared(design_of_command(), tmp_path)
    assert work(url, "sweep", tmp_path) == 4
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "networks").rglob("*")) == before
    with pytest.raises(SystemExit, match=r"study sweep: study .sweep. has another design: width is \[4, 16\] there"):
        cli.main([*command, "--width", "8,16"])


def design_of_command() -> Design:
    points = grid({**sweep.QUICK_GRID, "seed": [0]})
    return Design(points, metrics=("ParameterNorm", "PathNorm"), stop=Stop(loss=1.5, zero_error=False, max_steps=500))


def test_workers_on_another_machine_are_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = prepared(design_of_command(), tmp_path)
    work(url, "sweep", tmp_path)
    cli.main(["study", "sweep", "--quick", "--workers", "0", "--output", str(tmp_path), "--seeds", "1"])
    assert f"lightning-complexity worker --storage {url} --study sweep --output {tmp_path}" in capsys.readouterr().out


def test_workers_that_all_end_early_are_named(tmp_path: Path) -> None:
    study, _ = prepared(small(width=[4, 5]), tmp_path)
    with pytest.raises(OSError, match=r"all workers ended \(exit codes 1, 1\) and 2 networks are left; what they said"):
        local.finish(study, ["false"], 2, tmp_path)


def test_a_network_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, url = prepared(small(width=[4, 5]), tmp_path)
    real = sweep.train

    def train(setting: Setting, *args: object, **options: object) -> object:
        if setting.width == 5:
            raise MemoryError("too wide")
        return real(setting, *args, **options)

    monkeypatch.setattr(sweep, "train", train)
    assert work(url, "sweep", tmp_path) == 2
    assert complete(study) == ["width=4"]
    assert sweep.failures(study) == {"width=5": "MemoryError: too wide"}
    monkeypatch.undo()
    prepared(small(width=[4, 5]), tmp_path)  # the same command tries again
    assert work(url, "sweep", tmp_path) == 1
    assert complete(study) == ["width=4", "width=5"]
    assert sweep.failures(study) == {}


def test_a_queue_that_was_interrupted_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = optuna.Study.enqueue_trial
    calls = []

    def enqueue(*args: object, **options: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args, **options)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", enqueue)
    with pytest.raises(KeyboardInterrupt):
        prepared(small(width=[4, 5, 6]), tmp_path)
    monkeypatch.undo()
    study, _ = prepared(small(width=[4, 5, 6]), tmp_path)
    assert [t.system_attrs["fixed_params"]["width"] for t in study.trials] == [4, 5, 6]


def test_what_was_queued_twice_is_trained_once(tmp_path: Path) -> None:
    study, url = prepared(small(width=[4, 5]), tmp_path)
    study.enqueue_trial({"width": 4}, user_attrs={"queued": True})
    work(url, "sweep", tmp_path)
    assert len(networks(study)) == 2
    assert len(list((tmp_path / "networks").iterdir())) == 2
    # While the first is being trained:
    other, url = prepared(small(width=[4, 5]), tmp_path, "other")
    other.enqueue_trial({"width": 4}, user_attrs={"queued": True})
    first, _, twin = other.ask(), other.ask(), other.ask()
    first.suggest_categorical("width", [4, 5])
    with pytest.raises(optuna.TrialPruned, match="queued twice"):
        sweep.run_point(twin, tmp_path)


def test_a_diverged_network_has_a_row(tmp_path: Path) -> None:
    design = small(width=[4, 5], optimizer=["sgd"], learning_rate=[1e30])
    study, url = prepared(design, tmp_path)
    work(url, "sweep", tmp_path)
    frame = networks(study)
    assert frame["ended"].tolist() == ["diverged"] * 2
    assert not frame["reached"].any()
    assert ranked(frame, design.hyperparameters, "generalization_gap").startswith("No ranking: 0 networks")


def test_a_ranking_of_what_reached_the_criterion() -> None:
    rows = [(w, n, s) for w in (8, 16) for n in (100, 200) for s in (0, 1)]
    frame = pd.DataFrame(rows, columns=["width", "num_samples", "seed"])
    frame["generalization_gap"] = frame["width"] / frame["num_samples"]
    frame["complexity/good"], frame["complexity/holes"] = frame["generalization_gap"] * 2, np.nan
    frame["reached"] = True
    bad = frame.assign(reached=False, **{"complexity/good": -100.0})
    text = ranked(pd.concat([frame, bad]), ["width", "num_samples"], "generalization_gap")
    assert "8 left out: 'reached' not True" in text
    assert "complexity/good 1.000" in " ".join(text.split())
    assert "Not ranked, as they are missing in many networks: holes." in text


def test_what_cannot_be_trained_is_no_point_of_the_grid() -> None:
    points = grid({"optimizer": ["sgd", "lbfgs"], "batch_size": [16, 32], "dropout": [0.0, 0.5]})
    assert [(p.optimizer, p.batch_size, p.dropout) for p in points] == [
        ("sgd", 16, 0.0),
        ("sgd", 16, 0.5),
        ("sgd", 32, 0.0),
        ("sgd", 32, 0.5),
        ("lbfgs", 16, 0.0),
    ]


def test_the_default_grid_is_a_table_of_at_least_200() -> None:
    assert len(grid(sweep.DEFAULT_GRID)) >= 200
    varied = set(Design(grid(sweep.DEFAULT_GRID)).hyperparameters)
    assert varied == {"width", "depth", "learning_rate", "batch_size", "weight_decay", "num_samples", "label_noise"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "8,x"], "--width must be values such as 32,64, got 'x'"),
        (["--width", "8,8"], "width has a value twice: 8, 8"),
        (["--dropout", "1.5"], "dropout must be at least 0 and below 1, got 1.5"),
        (["--optimizer", "adma"], "optimizer must be one of sgd, momentum"),
        (["--optimizer", "lbfgs", "--dropout", "0.5"], "no combination of these values can be trained"),
        (["--num_samples", "5000"], "digits has 1437 samples to train on, but num_samples is 5000"),
        (["--metrics", "PathNrm"], "there is no metric 'PathNrm'. Did you mean 'PathNorm'"),
        (["--data", "nowhere"], "there is no data '.*nowhere': give \"digits\", or a folder"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--workers", "-1"], "--workers must be at least 0, got -1"),
        (["--gap", "gap"], "--gap must be generalization_gap or accuracy_gap, got 'gap'"),
        (["--storage", "sqlite:////nowhere/s.db"], "storage sqlite:////nowhere/s.db cannot be reached"),
        (["--heartbeat", "-1"], "heartbeat must be a positive number of seconds"),
    ],
)
def test_errors_are_said_in_words(options: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"study sweep: {message}") as stopped:
        cli.main(["study", "sweep", "--quick", "--output", str(tmp_path / "out"), *options])
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_a_study_of_something_else(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "journal.log"), create=True)
    optuna.create_study(storage=storage, study_name="sweep").set_user_attr("run", "a:b")
    optuna.create_study(storage=storage, study_name="other").set_user_attr("mine", 1)
    with pytest.raises(ValueError, match="study 'other' is there, but not of a sweep: choose another --study"):
        prepared(small(width=[4]), tmp_path, "other")


def test_all_samples_are_a_number_in_the_table(tmp_path: Path) -> None:
    design = small(max_steps=2, width=[4], num_samples=[None, 20])
    study, url = prepared(design, tmp_path)
    work(url, "sweep", tmp_path)
    assert sorted(networks(study)["num_samples"]) == [20, 1437]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["study", "sweep"], ["study", "audit"], ["worker"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*arguments, "--help"])
        assert stopped.value.code == 0
        assert "--storage" in capsys.readouterr().out
