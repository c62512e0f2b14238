"""The page in a real browser, opened from its file: what is drawn, not that something is."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs playwright: pip install lightning-complexity[dev]")
from playwright.sync_api import Browser, Page
from torch.utils.tensorboard import SummaryWriter

from lightning_complexity.dashboard.findings import Finding, findings, ranked
from lightning_complexity.dashboard.page import html_page
from lightning_complexity.dashboard.payload import page_data
from lightning_complexity.dashboard.reading import read_runs
from tests.dashboard.drawing import READY, axis_type, choose, drawn, points, rgb, traces
from tests.dashboard.folders import COUNT, GAP, LOSS, NORM, training, write_run, write_sweep

pytestmark = pytest.mark.slow

Open = Any


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Open the page of a folder; whatever the browser complains of, or asks a network for, fails the test."""
    complaints: list[str] = []
    expected: list[str] = []
    contexts = []

    def opened(folder: Path, found: list[Finding] | None = None, **options: Any) -> Page:
        runs = read_runs([folder])
        data = page_data(runs.runs, findings(runs.runs) if found is None else found, runs.notes)
        path = tmp_path / "page" / "report.html"
        path.parent.mkdir(exist_ok=True)
        path.write_text(html_page(data))
        context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append("dialog"), dialog.dismiss()))
        page.on(
            "request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else complaints.append(r.url)
        )
        page.goto(path.as_uri())
        page.wait_for_selector(READY)
        return page

    opened.expected = expected
    yield opened
    for context in contexts:
        context.close()
    assert [text for text in complaints if not any(part in text for part in expected)] == []


def test_trajectories_run_from_their_starts_to_their_ends_in_the_order_of_steps(show: Open, tmp_path: Path) -> None:
    rows = [(20, 4.0, 0.3), (0, 2.0, 0.1), (10, 3.0, 0.2)]  # as two processes may write them
    write_run(tmp_path / "a", [(step, {NORM: norm, GAP: gap}) for step, norm, gap in rows])
    page = show(tmp_path)
    choose(page, "trajectories", "against", GAP)
    assert points(page, "trajectories", "runs") == [(2, 0.1), (3, 0.2), (4, 0.3)]
    assert points(page, "trajectories", "starts") == [(2, 0.1)]
    assert points(page, "trajectories", "ends") == [(4, 0.3)]
    (start,), (end,) = traces(page, "trajectories", "starts"), traces(page, "trajectories", "ends")
    assert (start["marker"]["symbol"], end["marker"]["symbol"]) == ("circle-open", ["circle"])
    assert axis_type(page, "trajectories") == "log"
    assert drawn(page, "trajectories") == 2


def test_a_logarithm_is_not_taken_twice_and_what_reaches_zero_has_none(show: Open, tmp_path: Path) -> None:
    log, margin = "complexity/log_path_norm", "complexity/margin_percentile"
    rows = [(i, {log: 1.0 + i, margin: i - 2.0, NORM: float(i), GAP: 0.1 * i}) for i in range(10)]
    write_run(tmp_path / "a", rows)
    page = show(tmp_path)
    for key, kind, words in ((log, "linear", ""), (margin, "linear", "linear, since"), (NORM, "log", "1 points at or")):
        choose(page, "trajectories", "measure", key)
        assert axis_type(page, "trajectories") == kind
        assert words in page.locator("#trajectories .words").inner_text()
    assert len(points(page, "trajectories", "runs")) == 9


def test_bars_and_the_moment_at_which_training_is_fitted(show: Open, tmp_path: Path) -> None:
    rows = training(16, 0)
    for _, values in rows:
        values[f"{NORM}/standard_error"] = 0.5
    rows[2][1]["probe/train_accuracy"] = 1.0
    page = show(write_run(tmp_path / "a", rows).parent)
    choose(page, "trajectories", "against", GAP)
    assert traces(page, "trajectories", "ends")[0]["error_x"]["array"] == [0.5]
    assert points(page, "trajectories", "fitted") == [(rows[2][1][NORM], rows[2][1][GAP])]
    assert page.locator("#trajectories .errorbars path.xerror").count() == 1


def test_medians_over_seeds_and_their_standard_errors(show: Open, tmp_path: Path) -> None:
    for seed, end in enumerate((10.0, 12.0, 20.0)):
        rows = [(0, {NORM: 1.0, GAP: 0.0}), (10 * (seed + 1), {NORM: end, GAP: 0.1 * (seed + 1)})]
        write_run(tmp_path / f"{seed}", rows, {"width": 4, "seed": seed})
    page = show(tmp_path)
    choose(page, "trajectories", "against", GAP)
    median = points(page, "trajectories", "medians")
    assert median[0] == (1, 0)
    assert median[-1] == pytest.approx((12, 0.2))
    (end,) = traces(page, "trajectories", "median ends")
    ends = np.array([10.0, 12.0, 20.0])
    assert end["error_x"]["array"] == pytest.approx([ends.std(ddof=1) / math.sqrt(3)])
    assert end["error_y"]["array"] == pytest.approx([0.1 / math.sqrt(3)])
    choose(page, "trajectories", "lines", "medians")
    assert points(page, "trajectories", "runs") == []
    assert len(points(page, "trajectories", "medians")) == len(median)
    choose(page, "trajectories", "lines", "runs")
    assert points(page, "trajectories", "medians") == []
    assert len(points(page, "trajectories", "ends")) == 3


def test_no_median_over_a_seed_that_diverged_and_runs_of_one_seed_count_once(show: Open, tmp_path: Path) -> None:
    def rows(end: float, last: float) -> list[tuple[int, dict[str, float]]]:
        return [(0, {NORM: 1.0, GAP: 0.0}), (10, {NORM: end, GAP: 0.1}), (20, {NORM: last, GAP: 0.2})]

    for place, (seed, end) in enumerate(((0, 10.0), (0, 10.0), (1, 12.0))):
        write_run(tmp_path / f"a{place}", rows(end, end), {"width": 4, "seed": seed})
        write_run(tmp_path / f"b{place}", rows(end, end if place else math.nan), {"width": 8, "seed": place})
        write_run(tmp_path / f"c{place}", rows(end, end), {"width": 16, "seed": 0})
    page = show(tmp_path)
    choose(page, "trajectories", "against", GAP)
    ends = traces(page, "trajectories", "median ends")
    assert [end["error_x"]["array"] for end in ends] == [[pytest.approx(1)], [0]]
    said = [end["text"][0].split("<br>") for end in ends]
    assert said == [["median of 3 runs of 2 seeds", "width=4"], ["median of 3 runs of 1 seed", "width=16"]]
    assert len(traces(page, "curves", "medians", NORM)) == 2
    assert len(traces(page, "curves", "medians", GAP)) == 3
    (odd,) = traces(page, "curves", "not finite", NORM)
    assert odd["y"] == [0.03]


def test_nothing_measured_is_a_page_without_charts(show: Open, tmp_path: Path) -> None:
    write_run(tmp_path, [(0, {"complexity/overhead": 1.0})])
    page = show(tmp_path)
    assert page.locator("#findings li strong").all_inner_texts() == ["Nothing was measured in one run."]
    sections = page.locator("section").evaluate_all("nodes => nodes.map((node) => node.id)")
    assert sections == ["findings", "ranking", "table"]


def test_the_front_its_band_and_the_one_to_pick(show: Open, tmp_path: Path) -> None:
    page = show(write_sweep(tmp_path))
    choose(page, "front", "cost", COUNT)
    found = traces(page, "front", "models")[0]
    assert sorted(zip(found["x"], found["y"], strict=True)) == [(80, 0.865), (160, 0.955), (320, 0.945)]
    assert found["error_y"]["array"] == pytest.approx([0.005] * 3)
    assert points(page, "front", "front") == [(80, 0.865), (160, 0.955)]  # dearer and better, step by step
    assert traces(page, "front", "front")[0]["line"]["shape"] == "hv"
    assert points(page, "front", "chosen") == [(160, 0.955)]
    (band,) = page.evaluate("document.querySelector('#front .js-plotly-plot').layout.shapes")
    assert (band["y0"], band["y1"]) == (pytest.approx(0.95), pytest.approx(0.955))
    assert page.locator("#front .words").inner_text().startswith("width=16 is chosen: ")


def test_what_is_not_finite_is_marked_and_wins_nothing(show: Open, tmp_path: Path) -> None:
    write_sweep(tmp_path)
    rows = training(2, 0, gap=-0.5)  # would be best and simplest
    rows[2][1][NORM], rows[3][1][NORM], rows[4][1][NORM] = math.nan, -math.inf, math.inf
    write_run(tmp_path / "burst", rows, {"width": 2, "seed": 0})
    page = show(tmp_path)
    choose(page, "front", "cost", NORM)
    assert "burst" not in page.locator("#front .words").inner_text().split("left out")[0]
    assert page.locator("#front .words").inner_text().endswith("Not finite, and so left out: width=2.")
    names = [name for trace in traces(page, "front", "models") for name in trace["customdata"]]
    assert sorted(names) == ["width=16", "width=32", "width=8"]
    (marks,) = traces(page, "curves", "not finite", NORM)
    assert list(zip(marks["x"], marks["marker"]["symbol"], strict=True)) == [
        *((20, "x"), (30, "triangle-down"), (40, "triangle-up")),
    ]
    own = [trace for trace in traces(page, "curves", "runs", NORM) if 20 in trace["x"]]
    assert all(None not in pair for pair in points(page, "curves", "runs", NORM))
    assert len(own) == 3
    choose(page, "trajectories", "measure", NORM)
    words = page.locator("#trajectories .words").inner_text()
    assert "3 values that are not finite are not drawn" in words
    assert "1 run last seen at a hollow diamond" in words
    ends = [
        pair
        for end in traces(page, "trajectories", "ends")
        for pair in zip(end["x"], end["marker"]["symbol"], strict=True)
    ]
    assert sorted(symbol for _, symbol in ends) == ["circle"] * 6 + ["diamond-open"]
    assert min(ends)[1] == "diamond-open"
    for _ in range(2):  # last, whichever way the table is sorted
        page.locator("#table th button[title='complexity/parameter_norm']").click()
        assert page.locator("#table tbody tr").last.locator("td").first.inner_text() == "burst"
    assert page.locator("#table td.strange").all_inner_texts() == ["∞"]


def test_curves_against_steps_epochs_time_and_loss(show: Open, tmp_path: Path) -> None:
    write_run(tmp_path / "a", training(8, 0, steps=4))
    page = show(tmp_path)
    norms = [8.0, 8 * 4 / 3, 8 * 5 / 3, 16.0]
    for axis, xs in (("steps", [0, 10, 20, 30]), ("epochs", [0, 1, 2, 3]), ("seconds", [0, 10, 20, 30])):
        choose(page, "curves", "against", axis)
        assert points(page, "curves", "runs", NORM) == [
            (x, pytest.approx(y, rel=1e-5)) for x, y in zip(xs, norms, strict=True)
        ]
    choose(page, "curves", "against", "loss")
    found = points(page, "curves", "runs", NORM)
    assert [x for x, _ in found] == [2, 1, 0.5, 0.25]
    left, right = page.evaluate("document.querySelector('#curves .js-plotly-plot')._fullLayout.xaxis.range")
    assert left > right


def test_losses_below_zero_have_a_place(show: Open, tmp_path: Path) -> None:
    write_run(tmp_path / "a", [(10 * i, {NORM: 1.0 + i, LOSS: 1.0 - i}) for i in range(4)])
    page = show(tmp_path)
    choose(page, "curves", "against", "loss")
    assert axis_type(page, "curves") == "linear"
    assert drawn(page, "curves") == 8


def test_one_number_is_a_thin_bar_and_not_what_is_shown_first(show: Open, tmp_path: Path) -> None:
    write_run(tmp_path, training(8, 0))
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (10, 20):
            writer.add_histogram("complexity/spectrum/a", np.array([float(step)]), step)
            writer.add_histogram("complexity/spectrum/b", np.linspace(0, step, 100), step)
    page = show(tmp_path)
    choice = page.locator("#moments .controls label", has_text="distribution").locator("select")
    assert choice.input_value() == "complexity/spectrum/b"
    choose(page, "moments", "distribution", "complexity/spectrum/a")
    (bar,) = traces(page, "moments", "distribution")
    assert (bar["x"], bar["y"], bar["width"]) == ([20], [1], [pytest.approx(0.1)])


def test_bands_over_seeds_and_no_smoothing_unless_asked_for(show: Open, tmp_path: Path) -> None:
    for seed in range(5):
        rows = [(i, {NORM: float(10 ** (i % 2) * (seed + 1)), LOSS: 1.0}) for i in range(21)]
        write_run(tmp_path / f"{seed}", rows, {"width": 4, "seed": seed})
    page = show(tmp_path)
    (band,), (median,) = traces(page, "curves", "band", NORM), traces(page, "curves", "medians", NORM)
    assert {median["y"][0], median["y"][3]} == {3, 30}
    assert (band["y"][0], band["y"][-1]) == (4, 2)  # the quartiles of 1 to 5
    assert points(page, "curves", "runs", NORM)[:2] == [(0, 1), (1, 10)]
    choose(page, "curves", "smoothing", "0.6")
    first, second = points(page, "curves", "runs", NORM)[:2]
    assert first == (0, 1)
    assert second[1] == pytest.approx((0.6 * 0.4 * 1 + 0.4 * 10) / (0.6 * 0.4 + 0.4))


def test_measures_are_drawn_as_they_are_chosen(show: Open, tmp_path: Path) -> None:
    page = show(write_sweep(tmp_path))
    panels = page.locator("#curves .panel")
    before = panels.count()
    page.locator("#curves summary", has_text="measures").click()
    page.locator("#curves .boxes button", has_text="none").click()
    page.wait_for_selector(READY)
    assert panels.count() == 0
    page.locator("#curves .boxes input[value='complexity/parameter_count']").check()
    page.wait_for_selector(READY)
    assert [panel.get_attribute("data-panel") for panel in panels.all()] == [COUNT]
    page.locator("#curves .boxes button", has_text="all").click()
    page.wait_for_selector(READY)
    assert panels.count() > before - 1


def test_rank_correlations_with_their_intervals(show: Open, tmp_path: Path) -> None:
    page = show(write_sweep(tmp_path, widths=(8, 16, 32, 64)))
    (tau,) = traces(page, "ranking", "tau")
    assert dict(zip(tau["customdata"], tau["x"], strict=True)) == {NORM: 1, COUNT: 1}
    assert "confounded by time" in page.locator("#ranking .words").inner_text()
    assert "Kendall's tau-b" in page.locator("#ranking .words").inner_text()


def test_hostile_names_stay_text(show: Open, tmp_path: Path) -> None:
    name = "x<img src=q onerror=alert(1)><a href='javascript:alert(2)'>b<"
    tag = "complexity/</script><script>alert(3)<b>bold"
    for seed in range(2):
        rows = [(i, {tag: 1.0 + i, NORM: 1.0 + i, GAP: 0.1 * i}) for i in range(3)]
        write_run(tmp_path / f"{name}{seed}", rows, {"<b>width": "</script><i>4", "seed": seed})
    write_run(tmp_path / "other", rows, {"<b>width": 8, "seed": 0})
    found = [Finding(name, "fault", name, name, next_step=tag, run=name)]
    page = show(tmp_path, found)
    choose(page, "trajectories", "measure", tag)
    page.wait_for_selector(READY)
    box = page.locator("#trajectories .scatterlayer .points path").last.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#trajectories .hovertext")
    text = page.locator("#trajectories .hovertext").text_content()
    assert "x<img src=q onerror=alert(1)>" in text
    assert "</script><script>alert(3)<b>bold 3" in text
    assert page.locator("#report img, #report script, #report b, #report i:not(.entry i)").count() == 0
    assert page.locator("#report a:not([href^='#']), #report svg a:not(.modebar a)").count() == 0
    assert (
        page.locator("#trajectories .xtitle").text_content()
        == f"{tag.removeprefix('complexity/')} (higher is more complex)"
    )
    assert page.locator("#findings strong").inner_text() == name
    titles = [row.locator("td").first.get_attribute("title") for row in page.locator("#table tbody tr").all()]
    assert sorted(titles) == ["other", f"{name}0", f"{name}1"]


def test_a_script_that_is_not_ours_is_refused(show: Open, tmp_path: Path) -> None:
    """The positive control of the content-security policy: markup that came through would not run."""
    page = show(write_run(tmp_path / "a", training(8, 0)).parent)
    ran = page.evaluate(
        """() => new Promise((done) => {
          document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
          const script = document.createElement("script");
          script.textContent = "globalThis.ran = true";
          document.body.append(script);
          setTimeout(() => done(`ran: ${globalThis.ran}`), 5000);
        })"""
    )
    assert ran == "script-src-elem"
    show.expected.append("Executing inline script violates")


def test_the_table_sorts_filters_and_is_taken_away_as_csv(show: Open, tmp_path: Path) -> None:
    write_sweep(tmp_path, widths=(8, 16))
    write_run(tmp_path / "=1+1", training(32, 0), {"width": 32, "seed": 0, "note": 'a "b", c'})
    page = show(tmp_path)
    head = page.locator("#table th button[title='complexity/parameter_norm']")
    first = page.locator("#table tbody td:first-child")
    head.click()
    assert first.all_inner_texts()[0] == "=1+1"  # the greatest first
    head.click()
    assert first.all_inner_texts() == [f"width={w},seed={s}" for w in (8, 16) for s in (0, 1)] + ["=1+1"]
    assert page.locator("#table th[aria-sort='ascending']").count() == 1
    page.locator("#table input[type=search]").fill("seed=0")
    assert first.all_inner_texts() == ["width=8,seed=0", "width=16,seed=0", "=1+1"]
    with page.expect_download() as waiting:
        page.locator("#table .csv").click()
    rows = list(csv.DictReader(io.StringIO(waiting.value.path().read_text())))
    assert [row["run"] for row in rows] == ["width=8,seed=0", "width=16,seed=0", "'=1+1"]
    assert [float(row[NORM]) for row in rows] == [16, 32, 64]
    assert rows[2]["setting note"] == 'a "b", c'


def test_spectra_and_pictures_go_with_the_slider(show: Open, tmp_path: Path) -> None:
    write_run(tmp_path, training(8, 0))
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (10, 20, 40):
            writer.add_histogram("complexity/spectrum/net.0", np.linspace(0, step, 100), step)
        for step in (20, 30):
            writer.add_image("complexity/regions/picture", np.full((3, 4, 4), 8 * step, dtype=np.uint8), step)
    page = show(tmp_path)
    slider, shown = page.locator("#moments input[type=range]"), page.locator("#moments output")
    caption, image = page.locator("#moments figcaption"), page.locator("#moments img")
    assert shown.inner_text() == "step 40"
    assert caption.inner_text().endswith("step 30")
    last = image.get_attribute("src")
    for place, step, spectrum, picture in ((0, 10, 10, None), (1, 20, 20, 20), (2, 30, 20, 30)):
        slider.fill(str(place))
        page.wait_for_selector(READY)
        assert shown.inner_text() == f"step {step}"
        assert page.locator("#moments .words").inner_text() == f"Step {spectrum}."
        (bars,) = traces(page, "moments", "distribution")
        assert max(bars["x"]) == pytest.approx(spectrum, rel=0.1)
        assert caption.inner_text() == (
            "no picture yet" if picture is None else f"complexity/regions/picture, step {picture}"
        )
        assert image.is_visible() == (picture is not None)
        if picture is not None:
            assert (image.get_attribute("src") == last) == (picture == 30)
            assert image.evaluate("node => node.naturalWidth") == 4


def test_a_resumed_run_is_one_curve_without_steps_back(show: Open, tmp_path: Path) -> None:
    for number, (start, end) in enumerate(((0, 8), (5, 12))):
        folder = tmp_path / f"part{number}"
        with SummaryWriter(str(folder)) as writer:
            for step in range(start, end):
                writer.add_scalar(NORM, step + 100.0 * number, step)
                writer.add_scalar(GAP, float(step), step)
        (path,) = folder.iterdir()
        (tmp_path / "run").mkdir(exist_ok=True)
        path.rename(tmp_path / "run" / f"events.out.tfevents.{number}")
        folder.rmdir()
    page = show(tmp_path)
    expected = [(step, step if step < 5 else step + 100) for step in range(12)]
    assert points(page, "curves", "runs", NORM) == expected


def test_findings_are_at_the_top_in_their_order(show: Open, tmp_path: Path) -> None:
    found = ranked(
        [
            Finding("nothing", "note", "a note"),
            Finding(
                "overfitting", "fault", "it overfits", "the gap grows", 0.25, 0.01, None, 0.9, "stop early", 40, "a"
            ),
        ]
    )
    page = show(write_run(tmp_path / "a", training(8, 0)).parent, found)
    assert page.locator("#report > *").first.get_attribute("id") == "findings"
    assert page.locator("#findings strong").all_inner_texts() == ["it overfits", "a note"]
    item = page.locator("#findings li.fault").inner_text()
    assert "a · step 40 · 0.25 ± 0.01 · 90 % sure" in item
    assert "Try: stop early" in item


def test_many_findings_of_one_kind_take_no_more_room_than_three(show: Open, tmp_path: Path) -> None:
    gaps = [Finding("generalization_gap", "note", f"gap {i}", run=f"{i}") for i in range(9)]
    others = [Finding("overfitting", "note", "overfits"), Finding("gap_explained", "note", "explained", confidence=0.6)]
    page = show(write_run(tmp_path / "a", training(8, 0)).parent, [*gaps, *others])
    shown = [text for text in page.locator("#findings strong").all_inner_texts() if text]
    assert shown == ["gap 0", "gap 1", "gap 2", "overfits", "explained"]
    page.locator("#findings summary", has_text="6 more like this").click()
    assert page.locator("#findings strong").all_inner_texts() == [f.headline for f in [*gaps, *others]]
    assert page.locator("#findings strong", has_text="gap 8").is_visible()


def test_filters_colours_and_the_legend(show: Open, tmp_path: Path) -> None:
    page = show(write_sweep(tmp_path, widths=(8, 16, 32)))
    assert page.locator(".classes .entry").all_inner_texts() == ["width=8", "width=16", "width=32"]
    page.locator(".classes .entry", has_text="width=16").click()
    page.wait_for_selector(READY)
    assert page.locator(".classes").inner_text().startswith("4 of 6 runs")
    assert len(points(page, "trajectories", "ends")) == 4
    page.locator(".bar select").select_option("none")
    page.wait_for_selector(READY)
    assert len(traces(page, "trajectories", "runs")) == 1
    page.locator(".bar input[type=search]").fill("width=8")
    page.wait_for_selector(READY)
    assert len(points(page, "trajectories", "ends")) == 2
    assert page.locator("#table tbody tr").count() == 2


def test_a_setting_with_many_values_is_a_scale_of_colours(show: Open, tmp_path: Path) -> None:
    for number in range(15):
        write_run(tmp_path / f"{number}", training(8, 0), {"lr": 0.1 * (15 - number)})
    page = show(tmp_path)
    assert page.locator(".bar select").input_value() == ".lr"
    assert page.locator(".classes .entry").all_inner_texts() == ["lr=0.1", "lr=1.5"]
    ends = traces(page, "trajectories", "ends")
    assert len({end["marker"]["color"] for end in ends}) == len(ends) == 15


def test_data_that_grew_are_drawn_with_what_was_chosen(show: Open, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs" / "a", training(8, 0)).parent
    page = show(folder)
    choose(page, "trajectories", "measure", COUNT)
    write_run(folder / "b", training(16, 0))
    runs = read_runs([folder]).runs
    data = page_data(runs, findings(runs))
    page.evaluate("(data) => Complexity.render(document.getElementById('report'), data)", data)
    page.wait_for_selector(READY)
    assert sorted(points(page, "trajectories", "ends")) == [(80, 0.03), (160, 0.04)]


def test_moments_that_come_out_of_order_are_put_in_order(show: Open, tmp_path: Path) -> None:
    """A live log directory gives values as they were written."""
    folder = write_run(tmp_path / "runs" / "a", training(8, 0)).parent
    page = show(folder)
    runs = read_runs([folder]).runs
    data = page_data(runs, findings(runs))
    for table in data["runs"][0]["tables"]:
        for column in (table["steps"], table["epochs"], table["seconds"], *table["columns"].values()):
            column.reverse()
    before = points(page, "curves", "runs", NORM), points(page, "trajectories", "runs")
    page.evaluate("(data) => Complexity.render(document.getElementById('report'), data)", data)
    page.wait_for_selector(READY)
    assert (points(page, "curves", "runs", NORM), points(page, "trajectories", "runs")) == before
    assert [x for x, _ in before[0]] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_by_day_and_by_night(show: Open, tmp_path: Path, scheme: str) -> None:
    page = show(write_sweep(tmp_path), color_scheme=scheme)
    colors = page.evaluate(
        """() => [getComputedStyle(document.documentElement).backgroundColor,
        getComputedStyle(document.querySelector('#trajectories h2')).color,
        document.querySelector('#trajectories .js-plotly-plot')._fullLayout.font.color]"""
    )
    background, *texts = (sum(rgb(color)) / 3 for color in colors)
    assert (background > 200) == (scheme == "light")
    assert all(abs(background - text) > 150 for text in texts)
    page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    page.wait_for_function(
        "old => document.querySelector('#trajectories .js-plotly-plot')._fullLayout.font.color !== old", arg=colors[2]
    )


@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_fits_narrow_and_wide_windows(show: Open, tmp_path: Path, width: int) -> None:
    page = show(write_sweep(tmp_path), viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    plot = page.locator("#trajectories .js-plotly-plot").bounding_box()
    assert plot is not None
    assert plot["width"] <= width


def test_one_run(show: Open, tmp_path: Path) -> None:
    page = show(write_run(tmp_path / "a", training(8, 0)).parent)
    assert len(points(page, "trajectories", "ends")) == 1
    assert "There is one model" in page.locator("#front .words").inner_text()
    assert page.locator("#table tbody tr").count() == 1


def test_fifty_runs_of_twenty_tags_and_a_thousand_steps(show: Open, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = [f"complexity/own_{i}" for i in range(15)]
    for number in range(50):
        width, seed = 2 ** (number // 5), number % 5
        walks = width + np.cumsum(rng.random((1000, len(keys))), axis=0)
        more = [values for _, values in training(width, seed, 1000)]
        lines = [
            {
                "step": i,
                "epoch": 0,
                "time": 1e9 + i,
                "values": {**dict(zip(keys, walk.tolist(), strict=True)), **values},
                "seconds": {},
            }
            for i, (walk, values) in enumerate(zip(walks, more, strict=True))
        ]
        folder = tmp_path / "runs" / f"{number}"
        folder.mkdir(parents=True)
        (folder / "complexity.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "settings.json").write_text(json.dumps({"width": width, "seed": seed}))
    page = show(tmp_path / "runs")
    size = (tmp_path / "page" / "report.html").stat().st_size
    assert size < 3_000_000
    assert len(points(page, "trajectories", "ends")) == 50
    assert len(traces(page, "trajectories", "median ends")) == 10
    assert page.locator("#table tbody tr").count() == 50
