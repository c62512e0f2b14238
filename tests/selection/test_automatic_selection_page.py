"""The code of the page on automatic selection runs, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from lightning_complexity.studies.sweeping.storage import quiet_optuna

PAGE = (Path(__file__).parents[2] / "docs" / "automatic-selection.md").read_text()
PRINTED = re.compile(r"^alpha ([\d.]+): .+, ([\d,]+) parameters, error ([\d.]+), fitness [\d.]+$", re.MULTILINE)


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_default_dtype(torch.float32)  # as on the page; the fixture of all tests puts it back
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with quiet_optuna():
        exec(code, {"__name__": "page"})
    found, said = PRINTED.findall(capsys.readouterr().out), PRINTED.findall(PAGE)
    assert [alpha for alpha, *_ in found] == [alpha for alpha, *_ in said]
    for rows in (found, said):
        sizes = [int(size.replace(",", "")) for _, size, _ in rows]
        errors = [float(error) for *_, error in rows]
        assert sizes[0] > sizes[1]
        assert max(errors) < 0.1
