"""What the page on searches shows runs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.selection.searching.conftest import Search

PAGE = (Path(__file__).parents[3] / "docs" / "search.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_module_of_the_page_is_searched(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("net.py").write_text(blocks("python")[0])
    Path("space.yaml").write_text(blocks("yaml")[0])
    monkeypatch.setattr(sys, "path", [str(Path.cwd()), *sys.path])
    monkeypatch.delitem(sys.modules, "net", raising=False)
    (line,) = [line for block in blocks("bash") for line in block.splitlines() if "--model" in line]
    words = shlex.split(line)[2:]
    words[words.index("--trials") + 1] = "3"
    words[words.index("--max_epochs") + 1] = "1"
    printed = search(*words)
    assert "Make it by Net(width=" in printed
    assert "is chosen" in printed
    assert Path("complexity_search/space-tpe/trials/0/repeat-2/metrics.csv").exists()
    monkeypatch.delitem(sys.modules, "net", raising=False)


def test_the_objectives_of_the_page(search: Search) -> None:
    (line,) = [line for block in blocks("bash") for line in block.splitlines() if "--objectives" in line]
    printed = search(*shlex.split(line)[2:], "--quick", "--trials", 2, "--space_options", "units=[8, 16]")
    assert "error (minimize), log_path_norm (minimize), with parameters<=5000, latency<=0.2" in printed
