"""The code of the page on design spaces runs, and prints what it says, as far as training is the same everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[3] / "docs" / "design-spaces.md").read_text()


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)  # as on the page; the fixture of all tests puts it back
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {"__name__": "page"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "error of 60 networks of relu and 60 of tanh"
    assert lines[1].startswith("As they are: tanh is better.")
    assert lines[2].startswith("At equal parameters (2 logarithmic bins from 385 to 10573")
    assert lines[-1].startswith("181 networks are enough")
    assert "There are 60, which may be off by 0.172: 121 more are needed." in lines[-1]
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("distributions", "efficiency"))


@pytest.mark.parametrize("image", re.findall(r"\]\((images/\S+)\)", PAGE))
def test_its_pictures_are_there_and_small(image: str) -> None:
    assert 10_000 < (Path(__file__).parents[3] / "docs" / image).stat().st_size < 100_000
