"""Searches in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_complexity import cli
from lightning_complexity.selection.searching import tables
from lightning_complexity.studies.sweeping import local
from lightning_complexity.studies.sweeping.worker import work
from tests.selection.searching.spaces import FOR_TESTS

Search = Callable[..., str]


@pytest.fixture(autouse=True)
def spaces_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, entry in FOR_TESTS.items():
        monkeypatch.setitem(tables.SPACES, name, entry)
    torch.set_default_dtype(torch.float32)  # as users have it; the fixture of all tests puts it back


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Search:
    """The command, with a worker in this process; gives what it prints."""

    def finish(study: Any, command: list[str], num_workers: int, output: Path, unit: str) -> None:
        work(command[command.index("--storage") + 1], study.study_name, output)

    monkeypatch.setattr(local, "finish", finish)
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> str:
        cli.main(["search", *map(str, words)])
        return capsys.readouterr().out

    return run
