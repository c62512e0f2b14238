"""How long the tab of TensorBoard takes to draw many runs, in a browser: 50 runs of 20 log keys and 1000 steps.

``python -m benchmarks.tensorboard_tab`` writes the runs, some 100 MB, to a temporary folder, and prints a table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from playwright.sync_api import Browser, Frame, sync_playwright
from torch.utils.tensorboard import SummaryWriter

from lightning_complexity.dashboard.tab.loader import NAME
from lightning_complexity.recording.record import RECORD_NAME
from tests.dashboard.folders import training
from tests.tensorboard_server import serving

WAYS = {"data server": (), "--load_fast=false": ("--load_fast=false",)}
DRAWN = "#report[data-ready=true][data-version]"
MILLISECONDS = 600_000


def write_runs(folder: Path, runs: int, keys: int, steps: int) -> None:
    """Event files, records and settings, as trainings with ``ComplexityMonitor`` leave them."""
    rng = np.random.default_rng(0)
    for number in range(runs):
        width, seed = 2 ** (number // 5), number % 5
        run = folder / f"width={width},seed={seed}"
        rows = training(width, seed, steps)
        own = keys - len(rows[0][1])
        walks = width + np.cumsum(rng.random((steps, own)), axis=0)
        lines = []
        with SummaryWriter(str(run)) as writer:
            for step, ((_, values), walk) in enumerate(zip(rows, walks, strict=True)):
                values |= {f"complexity/own_{i}": value for i, value in enumerate(walk.tolist())}
                for key, value in values.items():
                    writer.add_scalar(key, value, step)
                lines.append(line(step, values))
        (run / RECORD_NAME).write_text("".join(lines))
        (run / "settings.json").write_text(json.dumps({"width": width, "seed": seed}))


def line(step: int, values: dict[str, float]) -> str:
    """Of a record."""
    return json.dumps({"step": step, "epoch": 0, "time": 1e9 + step, "values": values, "seconds": {}}) + "\n"


def go_on(run: Path, step: int) -> None:
    """One more measurement."""
    with SummaryWriter(str(run)) as writer:
        writer.add_scalar("complexity/own_0", 0.0, step)
    if (record := run / RECORD_NAME).exists():
        with record.open("a") as file:
            file.write(line(step, {"complexity/own_0": 0.0}))


@contextmanager
def tab(browser: Browser, url: str) -> Iterator[Frame]:
    """The tab, drawn."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{url}#{NAME}")
    frame = page.wait_for_selector("iframe", timeout=MILLISECONDS).content_frame()
    assert frame is not None
    frame.wait_for_selector(DRAWN, timeout=MILLISECONDS)
    yield frame
    page.close()


def measured(browser: Browser, folder: Path, options: tuple[str, ...]) -> list[float]:
    """Seconds until TensorBoard serves; from the page's address to all drawn; again; and after one run went on."""
    times = [time.perf_counter()]
    with serving(folder, *options) as url:
        times.append(time.perf_counter())
        with tab(browser, url):
            times.append(time.perf_counter())
        with tab(browser, url) as frame:
            times.append(time.perf_counter())
            old = frame.locator("#report").get_attribute("data-version")
            go_on(next(folder.iterdir()), int(time.time()))
            times.append(time.perf_counter())
            frame.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            frame.wait_for_selector(f"{DRAWN}:not([data-version='{old}'])", timeout=MILLISECONDS)
            times.append(time.perf_counter())
    serve, first, again, _, on = np.diff(times).tolist()
    return [serve, first, again, on]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    print("| read by | runs have | TensorBoard serves | first drawn | drawn again | one run went on |")
    print("|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder, sync_playwright() as driver:
        runs = Path(folder) / "runs"
        write_runs(runs, options.runs, options.keys, options.steps)
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for what in ("records and event files", "event files"):
            for way, flags in WAYS.items():
                seconds = " | ".join(f"{value:.1f} s" for value in measured(browser, runs, flags))
                print(f"| {way} | {what} | {seconds} |", flush=True)
            for record in runs.rglob("*.jsonl"):
                record.unlink()
        browser.close()


if __name__ == "__main__":
    main()
