"""The code of the page on trade-offs runs, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from lightning_complexity.studies.sweeping.storage import quiet_optuna

PAGE = (Path(__file__).parents[2] / "docs" / "trade-off.md").read_text()


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)  # as on the page; the fixture of all tests puts it back
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with quiet_optuna():  # names of objectives are new to it
        exec(code, {"__name__": "page"})
    printed = capsys.readouterr().out
    assert re.match(r"trial \d+ is chosen: .* within one standard error", printed)
    assert "on the front: ['trial" in printed
    assert (tmp_path / "trade-off.png").stat().st_size > 10_000
