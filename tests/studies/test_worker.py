"""Workers that share a storage: what a trial is, what happens when one is killed, errors in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from lightning_complexity import cli
from lightning_complexity.studies.sweeping import storage as storages
from lightning_complexity.studies.sweeping.storage import Claims, open_storage, quiet_optuna, requeue, requeue_lost
from lightning_complexity.studies.sweeping.worker import last_attempts, work

WATCHDOG = 250.0


def study_of(
    url: str, run: str, queue: tuple[int, ...] = (), heartbeat: float = 60, **attributes: object
) -> optuna.Study:
    with quiet_optuna():
        study = optuna.create_study(storage=open_storage(url, create=True, heartbeat=heartbeat), study_name="s")
        for name, value in {"run": run if ":" in run else f"tests.studies.jobs:{run}", **attributes}.items():
            study.set_user_attr(name, value)
        for x in queue:
            study.enqueue_trial({"x": x}, user_attrs={"queued": True})
    return study


def finished(study: optuna.Study) -> list[int]:
    return sorted(t.params["x"] for t in study.get_trials(states=(TrialState.COMPLETE,)))


@contextmanager
def a_process(url: str, output: Path, heartbeat: float) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "lightning_complexity", "worker", "--storage", url, "--study", "s"]
    worker = subprocess.Popen([*command, "--output", str(output), "--heartbeat", str(heartbeat)])
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def wait_for(path: Path, worker: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + WATCHDOG
    while not path.exists():
        assert worker.poll() is None, "the worker ended"
        assert time.monotonic() < end, f"no {path.name} after {WATCHDOG} s"
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["journal", pytest.param("database", marks=pytest.mark.slow)])
def test_a_killed_workers_trial_is_done_by_another(kind: str, tmp_path: Path) -> None:
    url, heartbeat = (str(tmp_path / "j.log"), 60) if kind == "journal" else (f"sqlite:///{tmp_path}/s.db", 1)
    study = study_of(url, "slow_until_killed", (1, 2, 3), heartbeat)
    with a_process(url, tmp_path, heartbeat) as worker:
        wait_for(tmp_path / "begun-2", worker)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert finished(study) == [1]
    assert work(url, "s", tmp_path, heartbeat=heartbeat) == 2
    assert finished(study) == [1, 2, 3]
    assert [t.state for t in study.trials].count(TrialState.FAIL) == 1
    assert work(url, "s", tmp_path, heartbeat=heartbeat) == 0


def test_a_living_workers_trial_is_left_to_it(tmp_path: Path) -> None:
    study = study_of(str(tmp_path / "j.log"), "product", (1,))
    mine, other = Claims(tmp_path / "j.log"), Claims(tmp_path / "j.log")
    study.ask().set_user_attr("worker", other.name)
    requeue_lost(study, mine)
    assert [t.state for t in study.trials] == [TrialState.RUNNING]
    other.close()
    with quiet_optuna():
        requeue_lost(study, mine)
        requeue_lost(study, mine)
    mine.close()
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert "worker" not in study.trials[1].user_attrs
    assert not list((tmp_path / "j.log.workers").iterdir())


def test_a_worker_of_another_machine_counts_by_its_files_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Claims(tmp_path / "j.log", heartbeat=10)
    (tmp_path / "j.log.workers" / "elsewhere-7-abc").touch()
    assert mine.is_alive("elsewhere-7-abc")
    now = time.time()
    os.utime(tmp_path / "j.log.workers" / "elsewhere-7-abc", (now - 60, now - 60))
    assert not mine.is_alive("elsewhere-7-abc")
    mine.close()


def test_a_trial_that_nobody_signed_is_queued_again_after_a_while(tmp_path: Path) -> None:
    study = study_of(str(tmp_path / "j.log"), "product", (1,))
    study.ask()
    mine = Claims(tmp_path / "j.log", heartbeat=10)
    with quiet_optuna():
        requeue_lost(study, mine, heartbeat=10)
        assert study.trials[0].state == TrialState.RUNNING
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storages, "datetime", Later)
            requeue_lost(study, mine, heartbeat=10)
    mine.close()
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]


class Later(datetime):
    @classmethod
    def now(cls, tz: object = None) -> datetime:
        return datetime.now() + timedelta(seconds=21)


def test_what_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    study = study_of(str(tmp_path / "j.log"), "product", (1,))
    with quiet_optuna():
        for _ in range(4):
            trial = study.ask()
            study.tell(trial, state=TrialState.FAIL)
            requeue(study, study.trials[trial.number])
    assert [t.state for t in study.trials] == [TrialState.FAIL] * 4
    assert len(last_attempts(study)) == 1


def test_trials_of_a_sampler_until_there_are_enough(tmp_path: Path) -> None:
    attributes = {"sampler": "tests.studies.jobs:brute_force", "num_trials": 6}
    study = study_of(str(tmp_path / "j.log"), "product", **attributes)
    assert work(str(tmp_path / "j.log"), "s", tmp_path) == 6
    assert {(t.params["x"], t.params["y"]) for t in study.trials} == {(x, y) for x in (1, 2, 3) for y in "ab"}


def test_an_error_of_a_trial_stops_none_of_the_others(tmp_path: Path) -> None:
    study = study_of(str(tmp_path / "j.log"), "fails_at_two", (1, 2, 3))
    assert work(str(tmp_path / "j.log"), "s", tmp_path) == 3
    assert finished(study) == [1, 3]
    assert study.trials[1].user_attrs["error"] == "RuntimeError: two is too much\nand more"


def test_an_interrupted_trial_is_queued_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_of(str(tmp_path / "j.log"), "interrupted_once", (1, 2, 3))
    command = ["worker", "--storage", str(tmp_path / "j.log"), "--study", "s", "--output", str(tmp_path)]
    with pytest.raises(SystemExit, match="interrupted; its trial was queued again"):
        cli.main(command)
    cli.main(command)
    assert finished(study) == [1, 2, 3]
    assert "Ran 2 trials; none is left." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("storage", "name", "message"),
    [
        ("there.log", "other", r"there is no study 'other' in .*there.log: it has 's'\."),
        ("missing.log", "s", r"there is no journal .*missing.log: give the storage of a study that exists"),
        ("words.log", "s", r"words.log cannot be read as a journal of Optuna: "),
        ("sqlite:////nowhere/at/all.db", "s", r"storage sqlite:////nowhere/at/all.db cannot be reached: Operational"),
        ("nosuch://user:secret@host/db", "s", r"storage nosuch://user:\*\*\*@host/db cannot be reached"),
    ],
)
def test_errors_are_one_line(storage: str, name: str, message: str, tmp_path: Path) -> None:
    study_of(str(tmp_path / "there.log"), "product")
    (tmp_path / "words.log").write_text("not a journal\nat all\n")
    url = storage if "://" in storage else str(tmp_path / storage)
    with pytest.raises(SystemExit, match=message) as stopped:
        cli.main(["worker", "--storage", url, "--study", name])
    assert "\n" not in str(stopped.value)


def test_what_a_database_said_is_found_below_what_was_raised_over_it() -> None:
    from sqlalchemy.exc import OperationalError

    said = OperationalError("SELECT", None, Exception("the connection is lost"))

    def fail() -> None:
        try:
            raise optuna.exceptions.StorageInternalError("invalid data") from said
        finally:
            raise UnboundLocalError

    with pytest.raises(UnboundLocalError) as raised:
        fail()
    assert storages.of_database(raised.value) is said
    assert storages.of_database(ValueError("of the trial")) is None


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("nowhere:run", "user attribute 'run' nowhere:run: there is no module 'nowhere'"),
        ("tests.studies.jobs:prodct", "has no 'prodct'. Did you mean product"),
    ],
)
def test_a_study_that_cannot_be_run(run: str, message: str, tmp_path: Path) -> None:
    study_of(str(tmp_path / "j.log"), run)
    with pytest.raises(SystemExit, match=message):
        cli.main(["worker", "--storage", str(tmp_path / "j.log"), "--study", "s"])


def test_a_study_that_says_nothing(tmp_path: Path) -> None:
    optuna.create_study(storage=open_storage(str(tmp_path / "j.log"), create=True), study_name="s")
    with pytest.raises(ValueError, match="study 's' does not say what a trial is: set its user attribute 'run'"):
        work(str(tmp_path / "j.log"), "s", tmp_path)


def test_a_heartbeat_is_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="heartbeat must be a positive number of seconds, got 0"):
        open_storage(str(tmp_path / "j.log"), create=True, heartbeat=0)
