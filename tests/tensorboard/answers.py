"""What a TensorBoard server answers."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from lightning_complexity.dashboard.events import read_events

SECONDS = 120


def get(url: str, body: Any = None) -> Any:
    """An answer in JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def wait_until_loaded(url: str, logdir: Path) -> None:
    """Wait until all curves of all runs are there to their ends: without the data server runs come one by one."""
    last = {}
    for folder in sorted({path.parent for path in logdir.rglob("*tfevents*")}):
        steps = {tag: max(points) for tag, points in read_events(folder).scalars.items() if tag.startswith("probe/")}
        tag = max(steps, key=lambda tag: steps[tag])
        last[str(folder.relative_to(logdir)), tag] = steps[tag]
    eventually(lambda: all(_has(url, run, tag, step) for (run, tag), step in last.items()), f"{sorted(last)}")


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait for a state of the server."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"TensorBoard never had {what}"
        time.sleep(0.1)


def _has(url: str, run: str, tag: str, step: int) -> bool:
    try:
        points = get(f"{url}data/plugin/scalars/scalars?{urlencode({'run': run, 'tag': tag})}")
    except OSError:  # it does not know the run yet
        return False
    return bool(points) and points[-1][1] >= step


def session_groups(url: str) -> tuple[list[str], dict[str, list[float]]]:
    """Columns of the table of hyper-parameters, and the final values of each run."""
    experiment = get(f"{url}data/plugin/hparams/experiment", {"experimentName": ""})
    names = [info["name"] for info in experiment["metricInfos"]]
    asked = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"],
        "colParams": [{"metric": name, "includeInResult": True} for name in names],
        "startIndex": 0,
        "sliceSize": 100,
    }
    groups = get(f"{url}data/plugin/hparams/session_groups", asked)["sessionGroups"]
    return [name["tag"] for name in names], {
        group["name"]: [metric["value"] for metric in group["metricValues"]] for group in groups
    }
