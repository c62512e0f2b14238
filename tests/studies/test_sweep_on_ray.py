"""The example that starts workers on Ray: without it, and with a stand-in that runs them here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "sweep_on_ray.py"
    spec = importlib.util.spec_from_file_location("sweep_on_ray", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_ray(example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match="this example needs Ray: pip install ray"):
        example.main(["--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_workers_share_the_queue(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def remote(**options: object) -> Callable[..., Any]:
        return lambda function: SimpleNamespace(remote=function)

    ray = SimpleNamespace(init=lambda address: None, remote=remote, get=list)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(example.sweep.QUICK_GRID, "seed", [0])
    example.main(["--quick", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "Networks by worker: 4, 0" in printed
    assert "Psi" in printed
