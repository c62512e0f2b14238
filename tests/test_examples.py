"""The examples run, and what they print bears out what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def printed(name: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_lann_overfitting() -> None:
    text = printed("lann_overfitting.py", "--quick")
    rows = re.findall(r"^ *(\S.*?) +([\d.]+) +([\d.]+) +([\d.]+) +(-?[\d.]+)$", text, re.MULTILINE)
    course = [float(complexity) for name, complexity, *_ in rows if name.isdigit()]
    assert course[-1] > course[0] + 3
    complexity = {name: float(value) for name, value, *_ in rows if not name.isdigit()}
    overfitting = {name: float(value) for name, _, _, _, value in rows if not name.isdigit()}
    assert set(complexity) == {"nothing", "L2", "L1", "customized L1", "pruning"}
    for values in (complexity, overfitting):
        assert all(values[name] < values["nothing"] for name in complexity.keys() - {"nothing"})
    assert "confounded" in text


@pytest.mark.slow
def test_function_on_digits(tmp_path: Path) -> None:
    text = printed("function_on_digits.py", "--quick", "--output", str(tmp_path))
    start, end = ({} for _ in range(2))
    for name, before, after in re.findall(r"^([a-z_]+) +(-?[\d.e+-]+) +(-?[\d.e+-]+)$", text, re.MULTILINE):
        start.setdefault(name, float(before))
        end.setdefault(name, float(after))
    assert end["jacobian_norm"] > start["jacobian_norm"]
    assert end["linear_regions"] > 50
    assert end["davies_bouldin_index"] < start["davies_bouldin_index"]
    assert {run.name for run in tmp_path.iterdir()} == {"relu", "tanh"}


def test_model_choice() -> None:
    rows = re.findall(r"^(last|kept) +(\d+) +([\d.]+) +([\d.]+)$", printed("model_choice.py"), re.MULTILINE)
    (_, last, *_), (_, kept, *_) = rows
    assert int(kept) < int(last) < 60


def test_plain_loop(tmp_path: Path) -> None:
    rows = re.findall(
        r"^(\d+) +(-?[\d.]+) +(-?[\d.]+)$", printed("plain_loop.py", "--output", str(tmp_path)), re.MULTILINE
    )
    assert [int(step) for step, _, _ in rows] == [44 * epoch for epoch in range(6)]
    assert float(rows[-1][2]) > float(rows[0][2]) + 1
    assert {path.name for path in tmp_path.iterdir()} == {"complexity.jsonl", "curves.png"}


@pytest.mark.slow
def test_neural_persistence_stopping() -> None:
    found = re.findall(
        r"^(\S+) +epoch +(\d+) +validation accuracy ([\d.]+)", printed("neural_persistence_stopping.py"), re.M
    )
    (_, by_persistence, accuracy), (_, by_loss, other) = found
    assert max(int(by_persistence), int(by_loss)) < 60  # both ended it
    assert abs(float(accuracy) - float(other)) < 0.03
