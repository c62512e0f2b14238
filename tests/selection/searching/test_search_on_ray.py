"""The example that starts workers on Ray: without it, on a stand-in that runs them here, and on a local cluster."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PATH = Path(__file__).parents[3] / "examples" / "search_on_ray.py"


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_on_ray", PATH)
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


def test_workers_share_the_search(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def remote(**options: object) -> Callable[..., Any]:
        return lambda function: SimpleNamespace(remote=function)

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda address: None, remote=remote, get=list))
    example.main(["--quick", "--trials", "3", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "Trials by worker: 3, 0" in printed
    assert "is chosen" in printed


@pytest.mark.slow
def test_on_a_local_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray, which is no dependency: pip install ray")
    command = [sys.executable, str(PATH), "--quick", "--trials", "4", "--output", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "is chosen" in done.stdout
