"""TensorBoard in a real browser: the curves of both runs of the demonstration are there to be seen."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity.callbacks import ComplexityMonitor
from lightning_complexity.metrics import SUITES, LinearRegions, resolve
from lightning_complexity.recording import read_record
from tests.networks import mlp
from tests.training import Classifier, trainer

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,4000",
    "--virtual-time-budget=20000",
]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "lightning_complexity", "demo", "--quick", "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    x, y = torch.randn(24, 4), torch.arange(24) % 3
    monitor = ComplexityMonitor([LinearRegions(along="plane")], on_error="raise")
    logger = TensorBoardLogger(output, name="", version="regions")
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    trainer(callbacks=[monitor], logger=logger).fit(Classifier(mlp(4, 6, 3).to(x)), loader)
    return output


@pytest.fixture(scope="module")
def server(logs: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", str(port)]
    with subprocess.Popen([*command, "--host", "127.0.0.1", "--load_fast=false"], stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(url)
            yield url
        finally:
            process.terminate()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if len(get(f"{url}/data/runs")) == 3:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, "TensorBoard did not start"
        time.sleep(0.5)


def get(url: str) -> Any:
    with urllib.request.urlopen(url) as response:
        return json.load(response)


def test_served_curves_are_those_of_the_record(server: str, logs: Path) -> None:
    for run in ("true_labels", "random_labels"):
        history = read_record(logs / run)
        for metric in resolve(SUITES["standard"]):
            tag = f"complexity/{metric.name}"
            points = get(f"{server}/data/plugin/scalars/scalars?run={run}&tag={tag}")
            recorded = [(m.step, m.values[tag]) for m in history if tag in m.values]
            assert [step for _, step, _ in points] == [step for step, _ in recorded]
            assert [value for _, _, value in points] == pytest.approx([value for _, value in recorded], rel=1e-6)


def test_pictures_are_served_beside_the_numbers(server: str) -> None:
    (image,) = get(f"{server}/data/plugin/images/tags")["regions"].values()
    assert image["displayName"] == "complexity/linear_regions/picture"
    assert get(f"{server}/data/plugin/scalars/scalars?run=regions&tag=complexity/linear_regions")


def test_the_page_shows_the_cards_and_both_runs(server: str, tmp_path: Path) -> None:
    if CHROMIUM is None and os.environ.get("CI") != "true":
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    assert CHROMIUM is not None, "CI must have chromium"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", f"{server}/#timeseries"]
    page = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    for text in ("true_labels", "random_labels", "complexity/log_path_norm", "complexity/jacobian_norm"):
        assert text in page
