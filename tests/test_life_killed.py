"""Runs that are killed at any moment and go on from a checkpoint leave the record of a run that was not interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import killed


def rows(folder: Path) -> list[dict[str, Any]]:
    """All lines, each of which must be whole, without what depends on the clock."""
    lines = (folder / "run" / "complexity.jsonl").read_text().splitlines()
    read = [json.loads(line) for line in lines]
    for row in read:
        row["values"].pop("complexity/overhead", None)
    return [{key: row[key] for key in ("step", "epoch", "values")} for row in read]


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_has_the_record_of_one_that_was_not(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, "-m", "tests.killed", str(tmp_path), str(kills), "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, *interrupted = map(Path, json.loads(done.stdout.splitlines()[-1]))
    expected = rows(whole)
    assert [row["step"] for row in expected] == list(range(killed.STEPS + 1))
    for folder in interrupted:
        assert rows(folder) == expected
