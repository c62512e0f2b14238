"""Two workers on one storage, one of which is killed: nothing that was finished is lost, and nothing hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial

from lightning_complexity.studies.sweeping.storage import open_storage, quiet_optuna
from tests import postgresql

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
WATCHDOG = 480.0


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgresql.server() as url:
        yield url


@pytest.fixture(params=["journal", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    url = str(tmp_path / "j.log") if request.param == "journal" else request.getfixturevalue("database")
    yield url
    found = opened(url)
    opened.cache_clear()
    if isinstance(found, RDBStorage):
        found.remove_session()
        found.engine.dispose()


def command(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_complexity", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + WATCHDOG
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)


@lru_cache(maxsize=1)
def opened(url: str) -> BaseStorage:
    """Once: each one that is opened keeps connections."""
    return open_storage(url, create=True)


def trials(url: str, name: str) -> list[FrozenTrial]:
    with quiet_optuna():
        if name not in optuna.get_all_study_names(opened(url)):
            return []
        return optuna.load_study(study_name=name, storage=opened(url)).trials


def num_complete(url: str, name: str) -> int:
    return sum(trial.state.name == "COMPLETE" for trial in trials(url, name))


def test_search(storage: str, tmp_path: Path) -> None:
    name = f"search-{tmp_path.name}"
    words = ["search", "--space", "tests.selection.searching.spaces:WaitingTable", "--study", name]
    words += ["--space_options", f"folder={tmp_path}", "--strategy", "random", "--trials", 12, "--workers", 2]
    words += ["--storage", storage, "--output", tmp_path / "out", "--heartbeat", 1 if "://" in storage else 60]
    process = command(*words)
    try:
        wait_for(lambda: (tmp_path / "waiting").exists() and num_complete(storage, name) >= 3, process)
        before = {t.number: t.params for t in trials(storage, name) if t.state.name == "COMPLETE"}
        os.kill(int((tmp_path / "waiting").read_text()), signal.SIGKILL)
        printed, _ = process.communicate(timeout=WATCHDOG)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, printed
    found = trials(storage, name)
    assert Counter(t.state.name for t in found) == {"COMPLETE": 12, "FAIL": 1}
    assert {number: found[number].params for number in before} == before
    (lost,) = [t for t in found if t.state.name == "FAIL"]
    (again,) = [t for t in found if t.system_attrs.get("retry_history") == [lost.number]]
    assert again.params == lost.params
    frame = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert set(frame.state) == {"complete"}
    assert len(frame) == 12


def test_sweep(storage: str, tmp_path: Path) -> None:
    name = f"sweep-{tmp_path.name}"
    words = ["study", "sweep", "--quick", "--study", name, "--workers", 2, "--storage", storage]
    words += ["--output", tmp_path / "out", "--heartbeat", 2 if "://" in storage else 60, "--max_steps", 800]
    process = command(*words, "--loss", 0.05)
    try:
        wait_for(lambda: num_complete(storage, name) >= 2, process)
        before = {t.number: t.user_attrs["network"] for t in trials(storage, name) if t.state.name == "COMPLETE"}
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        printed, _ = process.communicate(timeout=WATCHDOG)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, printed
    found = trials(storage, name)
    assert not {t.state.name for t in found} & {"RUNNING", "WAITING"}
    assert {number: found[number].user_attrs["network"] for number in before} == before
    frame = pd.read_csv(tmp_path / "out" / "networks.csv")
    assert len(frame) == sum(t.state.name == "COMPLETE" for t in found) == 8
