"""The code of the page on pruning runs, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest
import torch

PAGE = (Path(__file__).parents[3] / "docs" / "pruning.md").read_text()


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_default_dtype(torch.float32)  # as on the page; the fixture of all tests puts it back
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {"__name__": "page"})
    printed = capsys.readouterr().out
    assert re.search(r"^\d+ predicted value_0 \S+ \[\S+, \S+\], value_1 \d+; dominated by trial \d+: ", printed, re.M)
    assert re.search(r"^on the front: \[\d+, ", printed, re.M)
