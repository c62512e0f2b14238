"""TensorBoard as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
GROUP = "tensorboard_plugins"
_ADDRESS = re.compile(r"at (http://127\.0\.0\.1:\d+\S*)")
_SECONDS = 120


@contextmanager
def serving(logdir: Path | str | None, *options: str) -> Iterator[str]:
    """Start TensorBoard on a free port, and end it with all its processes.

    Args:
        logdir: The log directory, or ``None`` where the options say it.
        options: Of its command line.

    Yields:
        Its address, which ends with a slash.

    Raises:
        AssertionError: If it ends before it serves.
    """
    where = [] if logdir is None else ["--logdir", str(logdir)]
    command = [sys.executable, "-m", "tensorboard.main", *where, "--port", "0", "--host", "127.0.0.1", *options]
    with TemporaryDirectory() as folder:
        path = os.pathsep.join([*_registered(Path(folder)), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
        try:
            yield _address(process, log)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _registered(folder: Path) -> list[str]:
    """Where the plugin is named to TensorBoard; nowhere if the installed package does so already."""
    if any(point.group == GROUP for point in distribution("lightning-complexity").entry_points):
        return []
    about = folder / "lightning_complexity-0.0.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lightning-complexity\nVersion: 0.0.0\n")
    loader = "lightning_complexity.dashboard.tab.loader:ComplexityLoader"
    (about / "entry_points.txt").write_text(f"[{GROUP}]\nlightning_complexity = {loader}\n")
    return [str(folder)]


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        if found := _ADDRESS.search(log.read_text()):
            return found[1].rstrip("/") + "/"
        time.sleep(0.05)
    raise AssertionError(f"TensorBoard does not serve: {log.read_text()}")
