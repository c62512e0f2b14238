"""The example with the Trainer of Hugging Face runs, and its record is like the monitor's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lightning_complexity.recording import read_record

ROOT = Path(__file__).parents[2]
RUN = """
import runpy, sys
from tests.clients.torchvision_operators import declare
declare()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_hugging_face_trainer(tmp_path: Path) -> None:
    example = ROOT / "examples" / "hugging_face_trainer.py"
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(example), "--output", str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "left out: log_path_norm" in printed
    history = read_record(tmp_path)
    assert [m.step for m in history] == [0, 64, 128, 192]
    assert history[-1].values["probe/train_loss"] < history[0].values["probe/train_loss"]
    assert {"complexity/jacobian_norm", "probe/accuracy_gap"} <= history[-1].values.keys()
