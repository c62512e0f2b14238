"""The code of the page on progressive search runs, its numbers are what the tests hold, and its example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_complexity.studies.sweeping.storage import quiet_optuna
from tests.selection.test_progressive import FIRST

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "progressive-search.md").read_text(encoding="utf-8")


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_default_dtype(torch.float32)  # as on the page; the fixture of all tests puts it back
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with quiet_optuna():
        exec(code, {"__name__": "page"})
    printed = capsys.readouterr().out
    assert re.match(r"16 networks; best: \d+ (relu|tanh)", printed)
    assert "predicted" in printed
    assert "spearman" in printed


def row(name: str) -> list[str]:
    """The numbers of a row."""
    (line,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", PAGE, re.MULTILINE)
    return line.split(" | ")


def test_the_table_has_what_the_test_finds() -> None:
    cells = re.findall(r"^\| ridge \| log \| 2 \| (\d.*\(.*) \|$", PAGE, re.MULTILINE)[0].split(" | ")
    for (num_networks, first), cell in zip(FIRST.values(), cells, strict=False):
        assert cell.startswith(", ".join(map(str, first)))
        assert f"{num_networks} networks |" in PAGE


def test_random_search_is_exact() -> None:
    """By the sum of the probabilities that none of ten has come, and by drawing."""
    none_yet = stats.hypergeom.pmf(0, 3969, 10, np.arange(3969))
    assert none_yet.sum() == pytest.approx(3970 / 11, rel=1e-6)
    _, mean, *quartiles, _, at_50, at_100, _, _ = row("random, exactly")
    assert int(mean) == round(3970 / 11)
    generator = np.random.default_rng(0)
    firsts = np.sort(generator.random((4000, 10)), 1)[:, 0] * 3969
    np.testing.assert_allclose([float(q) for q in quartiles], np.quantile(firsts, [0.25, 0.5, 0.75]), rtol=0.06)
    bests = [1 + min(generator.choice(3969, n, replace=False)) for n in (50, 100) for _ in range(800)]
    medians = np.median(np.reshape(bests, (2, 800)), 1)
    np.testing.assert_allclose([int(at_50), int(at_100)], medians, rtol=0.15)


@pytest.mark.slow
def test_the_example_runs() -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "progressive_search.py"), "--quick"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^(\w+) +(\w+) +0 +(\d+) +([\d.]+) +([\d.]+) +(\d+)  \S", text, re.MULTILINE)
    assert [r[:3] for r in rows] == [
        ("dense", "progressive", "18"),
        ("dense", "random", "18"),
        ("dense", "evolution", "18"),
        ("cells", "progressive", "14"),
        ("cells", "random", "14"),
        ("cells", "evolution", "14"),
    ]
    assert all(float(validation) < 0.9 for *_, validation, _, _ in rows)
