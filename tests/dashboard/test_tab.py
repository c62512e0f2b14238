"""The tab's side in TensorBoard's server."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend import application
from tensorboard.plugins import base_plugin
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client, TestResponse

from lightning_complexity.dashboard import reading
from lightning_complexity.dashboard.events import EventFile, read_events
from lightning_complexity.dashboard.findings import findings
from lightning_complexity.dashboard.payload import page_data
from lightning_complexity.dashboard.reading import read_run, read_runs
from lightning_complexity.dashboard.tab import sources
from lightning_complexity.dashboard.tab.answers import Answers
from lightning_complexity.dashboard.tab.loader import NAME, ComplexityLoader
from lightning_complexity.dashboard.tab.plugin import ComplexityPlugin
from lightning_complexity.dashboard.tab.sources import LogDirectory, Provided, source_of
from tests.dashboard.folders import GAP, NORM, training, write_run, write_sweep
from tests.test_imports import loaded_by

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "lightning", "pytorch_lightning", "torchmetrics", "pandas", "plotly", "matplotlib", "scipy", "yaml")


class Scalars:
    """A data provider as TensorBoard has them: ``{run: {tag: [(step, time, value)]}}``, in any order."""

    def __init__(self, points: dict[str, dict[str, list[tuple[int, float, float]]]]) -> None:
        self.points = points

    def list_plugins(self, *_: Any, **__: Any) -> list[str]:
        return ["scalars"]

    def list_scalars(self, *_: Any, **__: Any) -> dict[str, dict[str, Any]]:
        return {
            run: {
                tag: SimpleNamespace(max_step=max(points)[0], max_wall_time=max(p[1] for p in points))
                for tag, points in tags.items()
            }
            for run, tags in self.points.items()
        }

    def read_scalars(self, *_: Any, run_tag_filter: Any, **__: Any) -> dict[str, dict[str, list[Any]]]:
        return {
            run: {
                tag: [SimpleNamespace(step=step, wall_time=time, value=value) for step, time, value in points]
                for tag, points in tags.items()
                if tag in run_tag_filter.tags
            }
            for run, tags in self.points.items()
            if run in run_tag_filter.runs
        }


def server(logdir: Path | str, provider: Any = None, plugins: Any = (ComplexityLoader,)) -> Client:
    """TensorBoard without its sockets."""
    flags = SimpleNamespace(logdir=str(logdir), path_prefix="", samples_per_plugin={}, window_title="")
    return Client(application.TensorBoardWSGIApp(flags, plugins, provider or Scalars({})))


def listing(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/data/plugins_listing").json
    return found


def get(client: Client, route: str, **headers: str) -> TestResponse:
    return client.get(f"/data/plugin/{NAME}/{route}", headers=headers)


def strict(text: bytes | str) -> Any:
    """JSON as browsers read it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_the_entry_point_is_a_loader() -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    (name,) = re.findall(r"tensorboard_plugins\]\n\w+ = \"(.+)\"", declared)
    module, _, attribute = name.partition(":")
    loader = getattr(import_module(module), attribute)
    assert issubclass(loader, base_plugin.TBLoader)
    assert (
        loader().load(SimpleNamespace(logdir=".", data_provider=None, plugin_name_to_instance={})).plugin_name == NAME
    )


def test_the_entry_point_is_light() -> None:
    assert loaded_by("import lightning_complexity.dashboard.tab.loader", (*HEAVY, "numpy")) == set()


def test_tensorboard_starts_as_light_as_without_the_tab(tmp_path: Path) -> None:
    write_run(tmp_path, training(8, 0))
    code = (
        "import lightning_complexity.dashboard.tab.loader as l; from types import SimpleNamespace as N;"
        f"p = l.ComplexityLoader().load(N(logdir={str(tmp_path)!r}, data_provider=None, plugin_name_to_instance={{}}));"
        "p.get_plugin_apps(); p.frontend_metadata(); assert p.is_active()"
    )
    assert loaded_by(code, ("torch", "lightning", "pytorch_lightning", "torchmetrics", "pandas", "matplotlib")) == set()


def test_without_tensorboard_all_but_the_tab_is_there(tmp_path: Path) -> None:
    write_run(tmp_path, training(8, 0))
    code = (
        "import sys; sys.modules['tensorboard'] = None; import lightning_complexity.dashboard.tab;"
        f"import lightning_complexity.dashboard.reading as r; assert len(r.read_runs([{str(tmp_path)!r}]).runs) == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_two_of_one_name_would_keep_tensorboard_from_starting(tmp_path: Path) -> None:
    assert list(listing(server(tmp_path, plugins=(ComplexityLoader, ComplexityLoader)))) == [NAME]


def boom(*_: Any, **__: Any) -> Any:
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    "broken",
    [
        (ComplexityPlugin, "__init__"),
        (LogDirectory, "has_data"),
        (LogDirectory, "stamp"),
        (LogDirectory, "read"),
        (Scalars, "list_scalars"),
        (reading, "_history"),
        (os, "walk"),
    ],
    ids=lambda broken: broken[1],
)
def test_nothing_of_ours_that_breaks_stops_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: tuple[Any, str]
) -> None:
    write_run(tmp_path, training(8, 0))
    board = Other()
    monkeypatch.setattr(*broken, boom)
    client = server(tmp_path, plugins=(ComplexityLoader, board))
    found = listing(client)
    assert found["other"]["enabled"] is True
    assert (NAME in found) == (broken[1] != "__init__")
    if NAME in found:
        answer = get(client, "data")
        assert (answer.status_code, strict(answer.data).keys()) in (
            (200, {"version", "message", "page"}),
            (500, {"message"}),
        )
        if answer.status_code == 500:
            assert "RuntimeError: boom" in strict(answer.data)["message"]


class Other(base_plugin.TBLoader):
    """Another's tab."""

    def load(self, context: Any) -> Any:
        plugin = base_plugin.TBPlugin
        return type(
            "Plugin", (plugin,), {"plugin_name": "other", "get_plugin_apps": lambda _: {}, "is_active": lambda _: True}
        )(context)


def test_whether_it_is_active_never_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(logdir=str(tmp_path), data_provider=Scalars({}))
    monkeypatch.setattr(LogDirectory, "has_data", boom)
    assert ComplexityPlugin(context).is_active() is False


def test_the_tab_is_active_only_where_something_was_measured(tmp_path: Path) -> None:
    elsewhere = Scalars({"a": {"loss": [(0, 0.0, 1.0)], "val/complexity/x": [(0, 0.0, 1.0)]}})
    client = server(tmp_path / "none yet", elsewhere)
    assert listing(client)[NAME]["enabled"] is False
    write_run(tmp_path / "none yet" / "deep" / "run", training(8, 0))
    assert listing(client)[NAME]["enabled"] is True


def test_the_tab_is_active_where_event_files_have_tags_of_ours(tmp_path: Path) -> None:
    assert listing(server(tmp_path, Scalars({"a": {NORM: [(0, 0.0, 1.0)]}})))[NAME]["enabled"] is True


def test_the_frontend_is_a_module_below_the_tab(tmp_path: Path) -> None:
    found = listing(server(tmp_path))[NAME]
    assert found["tab_name"] == "Complexity"
    assert found["loading_mechanism"] == {"type": "IFRAME", "module_path": f"/data/plugin/{NAME}/static/index.js"}


def test_scripts_and_style_are_all_that_is_served(tmp_path: Path) -> None:
    client = server(tmp_path)
    for route, kind, words in (
        ("static/index.js", "application/javascript", "export async function render"),
        ("static/report.js", "application/javascript", "Complexity.render ="),
        ("static/style.css", "text/css", ".complexity"),
    ):
        answer = get(client, route)
        assert (answer.status_code, answer.mimetype) == (200, kind)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert words in answer.text
    for route in ("static/app.js", "static/../plugin.py", "static/%2e%2e/plugin.py", "static/", "data/x"):
        assert get(client, route).status_code == 404, route


def test_the_page_is_the_reports(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    runs = read_runs([tmp_path])
    expected = page_data(runs.runs, findings(runs.runs), runs.notes)
    answer = get(server(tmp_path), "data", **{"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    found = strict(gzip.decompress(answer.data))
    assert found["page"] == json.loads(json.dumps(expected))
    assert found["message"] == ""


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    write_run(tmp_path, [(i, {NORM: value, GAP: 0.0}) for i, value in enumerate((1.0, math.inf, math.nan, 1e308))])
    found = strict(get(server(tmp_path), "data").data)
    (table,) = found["page"]["runs"][0]["tables"]
    assert table["columns"][NORM] == [1, None, None, 1e308]
    assert table["not_finite"] == {NORM: [[1, "Infinity"], [2, "NaN"]]}


def test_what_the_browser_has_is_not_sent_again(tmp_path: Path) -> None:
    write_run(tmp_path, training(8, 0))
    client = server(tmp_path)
    version = strict(get(client, "data").data)["version"]
    assert strict(get(client, f"data?have={version}").data) == {"version": version}
    write_run(tmp_path / "b", training(8, 1))
    new = strict(get(client, f"data?have={version}").data)
    assert new["version"] != version
    assert len(new["page"]["runs"]) == 2


def test_an_empty_folder_is_said_and_looked_at_again(tmp_path: Path) -> None:
    client = server(tmp_path / "runs")
    found = strict(get(client, "data").data)
    assert found["page"] is None
    assert found["message"].endswith("runs: there is none.")
    write_run(tmp_path / "runs" / "a", training(8, 0))
    assert strict(get(client, "data").data)["message"] == ""


def test_a_failure_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, training(8, 0))
    answers = Answers(LogDirectory(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(LogDirectory, "read", boom)
        with pytest.raises(RuntimeError):
            answers.answer()
    assert strict(answers.answer())["page"]["runs"]


def add_event(folder: Path, tag: str, value: float, step: int) -> None:
    with SummaryWriter(str(folder), filename_suffix=f".{tag.replace('/', '_')}{step}") as writer:
        writer.add_scalar(tag, value, step)


def grow(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def as_json(found: reading.Found) -> str:
    return json.dumps(page_data(found.runs, [], found.notes)) + repr([run.history for run in found.runs])


def changes(folder: Path) -> list[Callable[[], Any]]:
    """What happens to a log directory while TensorBoard looks at it."""
    record, events = folder / "a" / "complexity.jsonl", folder / "b"

    def cut(path: Path) -> bytes:
        data = path.read_bytes()
        path.write_bytes(data[:-7])
        return data[-7:]

    def of_events(n: int = 0) -> Path:
        return sorted(events.glob("*tfevents*"))[n]

    rest: list[bytes] = []
    return [
        lambda: write_run(folder / "a", training(8, 0)),
        lambda: grow(record, b'{"step": 50, "epoch": 0, "time": 1.0, "val'),
        lambda: grow(record, b'ues": {"complexity/parameter_norm": 3.0}, "seconds": {}}\n'),
        lambda: [add_event(events, NORM, float(step), step) for step in (0, 10, 20)],
        lambda: rest.append(cut(of_events(2))),
        lambda: grow(of_events(2), rest[0]),
        lambda: os.replace(of_events(1), of_events(2)),  # as long as what was there
        lambda: add_event(events, NORM, -1.0, 5),  # resumed: 10 and 20 are gone
        lambda: (folder / "b" / "settings.json").write_text('{"width": 4}'),
        lambda: (folder / "settings.json").write_text('{"width": 5}'),
        lambda: add_event(folder / "a", "penalty/path_norm", 0.5, 10),
        lambda: write_run(events, training(16, 1)),
        lambda: (events / "complexity.jsonl").unlink(),
        lambda: record.write_text(record.read_text().split("\n")[0] + "\n"),
        lambda: record.unlink(),
    ]


def test_a_log_directory_that_changes_is_what_a_fresh_look_finds(tmp_path: Path) -> None:
    kept, stamps = LogDirectory(tmp_path), []
    for number, change in enumerate(changes(tmp_path)):
        change()
        stamps.append(repr(kept.stamp()))
        assert as_json(kept.read()) == as_json(read_runs([tmp_path])), number
    assert all(one != other for one, other in pairwise(stamps))


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(tmp_path)
    kept, read = LogDirectory(tmp_path), []
    monkeypatch.setattr(sources, "read_run", lambda *args: (read.append(args[0].name), read_run(*args))[1])
    kept.read()
    assert len(read) == 6
    read.clear()
    kept.read()
    assert read == []
    write_run(tmp_path / "width=8,seed=1", [(99, {NORM: 1.0})])
    assert kept.read().runs[1].last(NORM) == 1
    assert read == ["width=8,seed=1"]


def test_of_an_event_file_only_what_was_added_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_event(tmp_path, NORM, 1.0, 0)
    add_event(tmp_path, NORM, 2.0, 1)
    first, second = sorted(tmp_path.iterdir())
    file = EventFile(first)
    file.read()
    added = second.read_bytes()
    with first.open("r+b") as old:  # what was read is not looked at again
        old.write(bytes(30))
    grow(first, added)
    assert file.read().scalars[NORM].keys() == {0, 1}
    assert file.read().notes == []


def test_beside_a_record_event_files_are_read_for_what_it_lacks(tmp_path: Path) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(3):
            writer.add_scalar(NORM, 1.0 + step, step)
            writer.add_scalar(f"{NORM}/new", 1.0, step, new_style=True)
            writer.add_scalar("penalty/complexity/a", 2.0, step)
            writer.add_scalar("epoch", step, step)
            for values in ([0.0], np.linspace(0, step + 1, 50)):
                writer.add_histogram(f"complexity/{len(values)}", np.array(values), step)
            writer.add_image("complexity/regions", np.full((3, 2, 2), step, dtype=np.uint8), step)
            both = [Summary.Value(tag=tag, simple_value=1.0) for tag in (NORM, "penalty/b")]
            writer._get_file_writer().add_summary(Summary(value=both), step)
    whole, lacking = (read_events(tmp_path, measured=measured) for measured in (True, False))
    assert (lacking.histograms, lacking.pictures) == (whole.histograms, whole.pictures)
    assert len(whole.histograms) == 2
    wanted = ("penalty/",)
    assert lacking.history(wanted) == whole.history(wanted)
    assert whole.scalars.keys() >= {NORM, f"{NORM}/new", "penalty/complexity/a", "penalty/b", "epoch"}


def test_a_log_directory_elsewhere_is_drawn_by_what_tensorboard_has_read() -> None:
    provider = Scalars({"a": {NORM: [(0, 0.0, 1.0)]}})
    assert isinstance(source_of("gs://bucket/runs", provider), Provided)
    assert isinstance(source_of("", provider), Provided)
    assert isinstance(source_of("~/runs", provider), LogDirectory)
    found = strict(get(server("gs://bucket/runs", provider), "data").data)
    assert found["message"].startswith("The log directory is not one folder of this machine")
    assert [run["name"] for run in found["page"]["runs"]] == ["a"]
    with pytest.raises(ValueError, match="got neither"):
        source_of(None, None)


def test_scalars_of_tensorboard_in_any_order_and_of_a_resumed_run() -> None:
    first = [(step, 100.0 + step, float(step)) for step in range(0, 50, 10)]
    second = [(step, 200.0 + step, 1000.0 + step) for step in range(25, 45, 10)]
    mixed = [*second, *first[::-1]]
    provider = Scalars(
        {"b": {NORM: mixed, "penalty/a": [(0, 100.0, 7.0)], "loss": [(0, 0.0, 1.0)]}, "none": {"loss": mixed}}
    )
    (run,) = Provided(provider).read().runs
    assert (run.name, run.source) == ("b", "events")
    assert run.series(NORM) == ([0, 10, 20, 25, 35], [0, 10, 20, 1025, 1035])
    assert run.series("penalty/a") == ([0], [7])
    assert "loss" not in run.keys


def test_tensorboard_without_scalars_of_ours_says_so() -> None:
    found = strict(Answers(Provided(Scalars({"a": {"loss": [(0, 0.0, 1.0)]}}))).answer())
    assert found["message"] == "TensorBoard has read no scalar complexity/... or probe/... so far."


def test_new_scalars_of_tensorboard_are_a_new_stamp() -> None:
    provider = Scalars({"a": {NORM: [(0, 0.0, 1.0)]}})
    before = Provided(provider).stamp()
    provider.points["a"]["loss"] = [(0, 0.0, 1.0)]
    assert Provided(provider).stamp() == before
    provider.points["a"][NORM].append((1, 1.0, 1.0))
    assert Provided(provider).stamp() != before
