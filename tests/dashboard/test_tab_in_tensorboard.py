"""The tab in a real browser and a real TensorBoard, over both of its ways to read data."""

from __future__ import annotations

import json
import math
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs playwright: pip install lightning-complexity[dev]")
from playwright.sync_api import Browser, Frame, Page
from torch.utils.tensorboard import SummaryWriter

from lightning_complexity.dashboard.findings import findings
from lightning_complexity.dashboard.page import html_page
from lightning_complexity.dashboard.payload import page_data
from lightning_complexity.dashboard.reading import read_runs
from lightning_complexity.dashboard.tab.loader import NAME
from tests.dashboard.drawing import READY, choose, points, rgb, traces
from tests.dashboard.folders import COUNT, GAP, LOSS, NORM, training, write_run, write_sweep
from tests.tensorboard_server import serving

pytestmark = pytest.mark.slow

WAYS = {
    "data server": (),
    "own reader": ("--load_fast=false",),
    "prefix": ("--path_prefix", "/deep/down"),
    "prefix, own reader": ("--path_prefix", "/deep/down", "--load_fast=false"),
}
DRAWN = f"{READY}[data-version]"
NOT_OURS = re.compile("font-roboto|Multiple instances of Three.js")
MILLISECONDS = 120_000
WITHOUT_LONG_TIMERS = """
const timer = window.setTimeout;
window.setTimeout = (call, wait, ...rest) => (wait >= 10000 ? 0 : timer(call, wait, ...rest));
"""
RESUMED = [*((step, step + 1) for step in range(5)), *((step, step + 101) for step in (5, 7, 9, 11))]
Open = Callable[..., tuple[Page, Frame]]


@pytest.fixture
def show(browser: Browser) -> Iterator[Open]:
    """Open the tab; whatever the browser complains of fails the test, and so does a request elsewhere."""
    complaints: list[str] = []
    contexts = []

    def opened(url: str, keeps_up: bool = False, **options: Any) -> tuple[Page, Frame]:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(MILLISECONDS)
        if not keeps_up:  # so that nothing but what a test does makes it look again
            context.add_init_script(WITHOUT_LONG_TIMERS)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(f"{m.type}: {m.text} {m.location.get('url')}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append("dialog"), dialog.dismiss()))
        page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else complaints.append(r.url))
        page.goto(f"{url}#{NAME}")
        frame = page.wait_for_selector("iframe").content_frame()
        assert frame is not None
        return page, frame

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in complaints if not NOT_OURS.search(text)] == []


def charts(page: Page | Frame) -> Any:
    """All that the library was given, and all words."""
    return page.evaluate(
        """() => [...document.querySelectorAll("#report section")].map((section) => [
          section.id, section.innerText.replace(/\\s+/g, " "),
          [...section.querySelectorAll(".js-plotly-plot")].map((node) => [node.data, node.layout.shapes ?? null]),
        ])"""
    )


def reload(page: Page, frame: Frame) -> None:
    """TensorBoard's button."""
    old = frame.locator("#report").get_attribute("data-version")
    page.locator("button.reload-button").click()
    frame.wait_for_selector(f"{DRAWN}:not([data-version='{old}'])")


def write_all(folder: Path) -> Path:
    """Runs of every kind: repeats, one that bursts, one of event files only that was resumed, a hostile name."""
    write_sweep(folder)
    rows = training(2, 0, gap=-0.5)  # would be best and simplest
    rows[2][1][NORM], rows[3][1][NORM], rows[4][1][NORM] = math.nan, 1e308, math.inf
    write_run(folder / "burst", rows, {"width": 2, "seed": 0})
    shuffled = [training(4, 0)[place] for place in (3, 0, 4, 1, 2)]
    write_run(folder / "<img src=q onerror=alert(1)>", shuffled, {"width": 4, "seed": 0})
    for steps, shift in ((range(8), 0.0), (range(5, 12, 2), 100.0)):
        add_events(folder / "events", steps, shift)
    return folder


def add_events(folder: Path, steps: range, shift: float) -> None:
    number = len(list(folder.glob("*tfevents*"))) if folder.exists() else 0
    with SummaryWriter(str(folder), filename_suffix=f".{number}") as writer:
        for step in steps:
            writer.add_scalar(NORM, step + 1 + shift, step)
            writer.add_scalar(GAP, 0.01 * step, step)
        writer.add_histogram("complexity/spectrum", np.linspace(0, 1 + steps[-1], 100), steps[-1])
        writer.add_image("complexity/regions", np.full((3, 4, 4), 100, dtype=np.uint8), steps[-1])
    for place, path in enumerate(sorted(folder.glob("*tfevents*"), key=lambda path: path.suffix)):
        path.rename(folder / f"events.out.tfevents.{place}.x.{place}")


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_what_is_drawn_is_what_the_report_draws(
    show: Open, browser: Browser, tmp_path: Path, options: tuple[str, ...]
) -> None:
    folder = write_all(tmp_path / "runs")
    found = read_runs([folder])
    report = tmp_path / "report.html"
    report.write_text(html_page(page_data(found.runs, findings(found.runs), found.notes)))
    expected = browser.new_page(viewport={"width": 1400, "height": 900})
    expected.goto(report.as_uri())
    expected.wait_for_selector(READY)
    with serving(folder, *options) as url:
        assert url.endswith("/deep/down/") == ("--path_prefix" in options)
        _, frame = show(url)
        frame.wait_for_selector(DRAWN)
        assert frame.locator("#message").is_hidden()
        wanted, got = charts(expected), charts(frame)
        assert [section[0] for section in got] == [
            *("findings", "trajectories", "front", "curves", "ranking", "moments", "table")
        ]
        assert got == wanted
        assert points(frame, "curves", "runs", NORM)[:5] != []
    expected.close()


def test_order_of_steps_overflow_and_a_resumed_run(show: Open, tmp_path: Path) -> None:
    with serving(write_all(tmp_path)) as url:
        _, frame = show(url)
        frame.wait_for_selector(DRAWN)
        frame.locator(".bar select").select_option("run")
        frame.wait_for_selector(READY)
        by_run = {trace["name"]: trace for trace in traces(frame, "curves", "runs", NORM)}
        resumed = by_run["events"]
        assert list(zip(resumed["x"], resumed["y"], strict=True))[:-1] == RESUMED
        shuffled = by_run["&lt;img src=q onerror=alert(1)&gt;"]
        assert shuffled["x"] == [0, 10, 20, 30, 40, None]
        assert shuffled["y"][:-1] == pytest.approx([4 * (1 + share / 4) for share in range(5)])
        burst = by_run["burst"]
        assert list(zip(burst["x"], burst["y"], strict=True))[:-1] == [(0, 2), (10, 2.5), (30, 1e308)]
        (marks,) = traces(frame, "curves", "not finite", NORM)
        assert list(zip(marks["x"], marks["marker"]["symbol"], strict=True)) == [(20, "x"), (40, "triangle-up")]
        choose(frame, "front", "cost", NORM)
        names = [name for trace in traces(frame, "front", "models") for name in trace["customdata"]]
        assert "width=2" not in names
        assert "left out: width=2" in frame.locator("#front .words").inner_text()


@pytest.mark.parametrize("options", [(), ("--load_fast=false",)], ids=["data server", "own reader"])
def test_training_goes_on_and_what_was_chosen_stays(show: Open, tmp_path: Path, options: tuple[str, ...]) -> None:
    write_sweep(tmp_path)
    with serving(tmp_path, *options) as url:
        page, frame = show(url)
        frame.wait_for_selector(DRAWN)
        choose(frame, "trajectories", "measure", COUNT)
        choose(frame, "curves", "against", "epochs")
        frame.locator(".classes .entry", has_text="width=16").click()
        frame.wait_for_selector(READY)
        zoomed = zoom(page, frame, "#curves .panel >> nth=0")
        write_run(tmp_path / "width=8,seed=0", [(60, {NORM: 99.0, COUNT: 81.0, GAP: 0.5})])
        frame.locator("#table input[type=search]").fill("width")
        reload(page, frame)
        assert (81, 0.5) in points(frame, "trajectories", "ends")
        assert len(points(frame, "trajectories", "ends")) == 4
        assert (6, 99) in points(frame, "curves", "runs", NORM)
        assert frame.evaluate("document.querySelector('#curves .panel')._fullLayout.xaxis.range") == zoomed
        assert frame.locator("#table input[type=search]").input_value() == "width"


@pytest.mark.parametrize("field", [".bar input[type=search]", "#table input[type=search]"])
def test_who_writes_is_not_interrupted(show: Open, tmp_path: Path, field: str) -> None:
    write_sweep(tmp_path)
    with serving(tmp_path) as url:
        page, frame = show(url)
        old = frame.wait_for_selector(DRAWN).get_attribute("data-version")
        frame.locator(field).click()
        page.keyboard.type("wid")
        write_run(tmp_path / "width=8,seed=0", [(60, {NORM: 99.0})])
        frame.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        frame.wait_for_selector(f"{DRAWN}:not([data-version='{old}'])")
        page.keyboard.type("th=8")
        assert frame.locator(field).input_value() == "width=8"
        frame.wait_for_function("document.querySelectorAll('#table tbody tr').length === 2")


def zoom(page: Page, frame: Frame, selector: str) -> list[float]:
    """Draw a box over the middle of a chart."""
    area = frame.locator(f"{selector} >> .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    x, y = box["x"], box["y"] + box["height"] / 2
    page.mouse.move(x + 0.25 * box["width"], y)
    page.mouse.down()
    page.mouse.move(x + 0.75 * box["width"], y, steps=5)
    page.mouse.up()
    chart = "document.querySelector('#curves .panel')"
    frame.wait_for_function(f"{chart}._fullLayout.xaxis.range[0] > 0.5")
    found: list[float] = frame.evaluate(f"{chart}._fullLayout.xaxis.range")
    return found


def test_what_is_first_seen_young_grows_its_charts(show: Open, tmp_path: Path) -> None:
    """At its first moment nothing of a run has changed, so that there is no curve to draw."""
    write_run(tmp_path / "a", training(8, 0)[:1])
    with serving(tmp_path) as url:
        page, frame = show(url)
        frame.wait_for_selector(DRAWN)
        before = frame.locator("#curves .panel").count()
        write_run(tmp_path / "a", training(8, 0)[1:])
        reload(page, frame)
        assert frame.locator("#curves .panel").count() > before
        assert frame.locator("#trajectories select").first.input_value() == NORM
        assert points(frame, "curves", "runs", LOSS.replace("probe/train_", "")) == [
            (10 * step, 2 * 0.5**step) for step in range(5)
        ]


def test_it_keeps_up_by_itself(show: Open, tmp_path: Path) -> None:
    write_run(tmp_path / "a", training(8, 0))
    with serving(tmp_path) as url:
        page, _ = show(url, keeps_up=True)
        page.clock.install()
        page.reload()
        frame = page.wait_for_selector("iframe").content_frame()
        old = frame.wait_for_selector(DRAWN).get_attribute("data-version")
        write_run(tmp_path / "b", training(16, 0))
        page.clock.fast_forward(60_000)
        frame.wait_for_selector(f"{DRAWN}:not([data-version='{old}'])")
        assert len(points(frame, "trajectories", "ends")) == 2


def test_what_happens_while_another_tab_is_looked_at_is_drawn_afterwards(show: Open, tmp_path: Path) -> None:
    write_run(tmp_path / "a", training(8, 0))
    with SummaryWriter(str(tmp_path / "a")) as writer:
        writer.add_scalar("loss", 1.0, 0)
    with serving(tmp_path) as url:
        page, frame = show(url)
        old = frame.wait_for_selector(DRAWN).get_attribute("data-version")
        page.locator("[role=tab]", has_text="Time Series").click()
        frame.wait_for_function("innerHeight === 0")
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url) if "have=" in request.url else None)
        write_run(tmp_path / "a", [(99, {NORM: 5.0, GAP: 0.1})])
        with page.expect_response(lambda response: "plugins_listing" in response.url):
            page.locator("button.reload-button").click()
        assert requests == []
        page.locator("[role=tab]", has_text="Complexity").click()
        frame.wait_for_selector(f"{DRAWN}:not([data-version='{old}'])")
        assert (99, 5) in points(frame, "curves", "runs", NORM)


def test_it_is_dark_where_tensorboard_is(show: Open, tmp_path: Path) -> None:
    with serving(write_sweep(tmp_path)) as url:
        page, frame = show(url, color_scheme="light")
        frame.wait_for_selector(DRAWN)
        for mode in ("Dark", "Light"):
            page.locator("button[aria-label*='dark theme']").click()
            page.locator("[role=menuitem]", has_text=mode).click()
            frame.wait_for_selector(f"html[data-theme={mode.lower()}] {READY}")
            background, *texts = (
                sum(rgb(color)) / 3
                for color in frame.evaluate(
                    """() => [getComputedStyle(document.documentElement).backgroundColor,
                getComputedStyle(document.querySelector('#trajectories h2')).color,
                document.querySelector('#trajectories .js-plotly-plot')._fullLayout.font.color,
                getComputedStyle(document.querySelector('#trajectories .xtitle')).fill]"""
                )
            )
            assert (background > 200) == (mode == "Light")
            assert all(abs(background - text) > 150 for text in texts)


def test_links_into_the_page_stay_in_it(show: Open, tmp_path: Path) -> None:
    with serving(write_sweep(tmp_path)) as url:
        page, frame = show(url)
        frame.wait_for_selector(DRAWN)
        frame.locator("nav a", has_text="Runs").click()
        frame.wait_for_function("scrollY > 500")
        assert frame.locator("#report").count() == 1
        with page.expect_download() as waiting:
            frame.locator("#table .csv").click()
        assert waiting.value.path().read_text().startswith("run,")


def enabled(url: str) -> bool:
    with urllib.request.urlopen(f"{url}data/plugins_listing") as answer:
        return bool(json.load(answer)[NAME]["enabled"])


@pytest.mark.parametrize("options", [(), ("--load_fast=false",)], ids=["data server", "own reader"])
def test_where_nothing_was_measured_it_is_inactive_and_says_why(
    show: Open, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with SummaryWriter(str(tmp_path / "other")) as writer:
        writer.add_scalar("loss", 1.0, 0)
    with serving(tmp_path, *options) as url:
        assert not enabled(url)
        page, frame = show(url)
        frame.wait_for_function("document.querySelector('#message').textContent.includes('nothing was measured in')")
        assert frame.locator("#report").is_hidden()
        write_run(tmp_path / "a", training(8, 0))
        assert enabled(url)
        reload(page, frame)
        assert frame.locator("#message").is_hidden()
        assert len(points(frame, "trajectories", "ends")) == 1


def test_folders_that_are_named_one_by_one_are_drawn_by_tensorboards_own_numbers(show: Open, tmp_path: Path) -> None:
    write_all(tmp_path)
    with serving(None, f"--logdir_spec=first:{tmp_path / 'events'}") as url:
        page, frame = show(url)
        frame.wait_for_function("/no scalar|only scalars/.test(document.querySelector('#message').textContent)")
        while frame.locator("#message").inner_text().startswith("TensorBoard has read no"):
            page.locator("button.reload-button").click()
        frame.wait_for_selector(DRAWN)
        assert frame.locator("#message").inner_text().startswith("The log directory is not one folder of this machine")
        found = points(frame, "curves", "runs", NORM)
        assert found == RESUMED


def test_a_server_that_is_gone_is_said(browser: Browser, tmp_path: Path) -> None:
    write_run(tmp_path / "a", training(8, 0))
    with serving(tmp_path) as url:
        page = browser.new_page()
        page.goto(f"{url}#{NAME}")
        frame = page.wait_for_selector("iframe").content_frame()
        frame.wait_for_selector(DRAWN, timeout=MILLISECONDS)
    frame.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    frame.wait_for_function("document.querySelector('#message').textContent.startsWith('This could not be brought up')")
    assert len(points(frame, "trajectories", "ends")) == 1
    page.close()
