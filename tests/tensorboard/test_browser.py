"""TensorBoard's own tabs in a real browser, with its data server and without: what is drawn of three runs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("playwright", reason="needs playwright: pip install lightning-complexity[dev]")
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from lightning_complexity import ComplexityMonitor
from lightning_complexity.metrics import LinearRegions
from lightning_complexity.recording import read_record
from tests.tensorboard.answers import SECONDS, eventually, session_groups, wait_until_loaded
from tests.tensorboard.runs import Tuned, fitted
from tests.tensorboard_server import serving

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
WIDTHS = 4, 8, 16
STEPS = 5
MILLISECONDS = SECONDS * 1000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None and os.environ.get("CI") != "true":
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    assert CHROMIUM is not None, "CI must have chromium"
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    for width in WIDTHS:
        torch.manual_seed(width)
        metrics = ["ParameterNorm", "StableRank", "JacobianNorm", "MarginPercentile", LinearRegions(along="plane")]
        monitor = ComplexityMonitor(metrics, per_layer=True, budget=None, on_error="raise")
        fitted(folder / f"width_{width}", [monitor], Tuned(width), max_epochs=STEPS - 1)
    return folder


@pytest.fixture(scope="module", params=["data server", "--load_fast=false"])
def server(request: pytest.FixtureRequest, logs: Path) -> Iterator[str]:
    options = [request.param] if request.param.startswith("--") else []
    with serving(logs, "--reload_interval=1", *options) as url:
        wait_until_loaded(url, logs)
        eventually(lambda: len(session_groups(url)[1]) == len(WIDTHS), "all sessions")
        yield url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    context.set_default_timeout(MILLISECONDS)
    expect.set_options(timeout=MILLISECONDS)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def chart(page: Page, category: str, title: str) -> Locator:
    """A chart of Custom Scalars, in sight."""
    panes = page.locator("tf-category-paginated-view").filter(has=page.get_by_text(category, exact=True))
    cards = panes.locator("tf-custom-scalar-multi-line-chart-card, tf-custom-scalar-margin-chart-card")
    found = cards.filter(has=page.get_by_text(title, exact=True)).first
    found.scroll_into_view_if_needed()
    return found


def drawn(card: Locator, kind: str) -> Locator:
    """Paths of a kind that have more than one point."""
    return card.locator(f"path.{kind}[d*='L']")


def test_families_have_charts_with_a_line_for_each_run(server: str, page: Page) -> None:
    page.goto(f"{server}#custom_scalars")
    for title, tags in (("norms", 1), ("spectra", 1), ("loss", 2), ("generalization gap", 1)):
        category = "Complexity by family" if title in ("norms", "spectra") else "Loss and generalization"
        card = chart(page, category, title)
        expect(card.get_by_text(f"Matches ({tags * len(WIDTHS)})")).to_be_visible()
        expect(card.locator("path.symbol").first).to_be_attached()
        eventually(lambda c=card, n=tags: drawn(c, "line").count() >= n * len(WIDTHS), f"lines of {title}")  # type: ignore[misc]


def test_estimates_and_margins_have_bands(server: str, page: Page) -> None:
    page.goto(f"{server}#custom_scalars")
    for category, title in (
        ("Estimates with their standard errors", "jacobian_norm"),
        ("Margins, spectra, distributions", "margin"),
        ("Margins, spectra, distributions", "spectrum/net.2.weight"),
    ):
        card = chart(page, category, title)
        expect(drawn(card, "area")).to_have_count(len(WIDTHS))
        assert card.get_by_text("No data").count() == 0


def test_layers_are_one_chart_and_a_group_that_is_closed(server: str, page: Page) -> None:
    page.goto(f"{server}#custom_scalars")
    card = chart(page, "Layers, classes, outputs", "stable_rank")
    expect(card.get_by_text(f"Matches ({2 * len(WIDTHS)})")).to_be_visible()
    page.goto(f"{server}#scalars")
    expect(page.get_by_text("complexity/stable_rank", exact=True).first).to_be_visible()
    expect(page.get_by_text(re.compile("^parts$")).first).to_be_attached()
    assert page.get_by_text("parts/stable_rank/net.0.weight", exact=True).locator("visible=true").count() == 0


def test_the_table_of_hyperparameters_has_final_complexity_and_gap_of_all_runs(
    server: str, page: Page, logs: Path
) -> None:
    page.goto(f"{server}#hparams")
    for column in ("width", "hp_metric", "probe/generalization_gap", "complexity/parameter_norm"):
        expect(page.locator("tf-hparams-table-view").get_by_text(column, exact=True).first).to_be_visible()
    for width in WIDTHS:
        last = read_record(logs / f"width_{width}")[-1].values
        for key in ("probe/generalization_gap", "complexity/parameter_norm"):
            cell = page.locator("tf-hparams-table-view").get_by_text(f"{last[key]:.5g}".rstrip("0")[:6])
            expect(cell.first).to_be_visible()
    page.get_by_text("Scatter Plot Matrix View").click()
    points = page.locator("tf-hparams-scatter-plot-matrix-plot circle")
    expect(points.first).to_be_visible()
    assert points.count() % len(WIDTHS) == 0


def test_the_summary_is_there_to_be_read(server: str, page: Page) -> None:
    page.goto(f"{server}#text")
    words = page.locator("tf-text-loader")
    expect(words).to_have_count(len(WIDTHS))
    expect(words.first.get_by_text("that of training_step").first).to_be_visible()
    expect(words.first.get_by_role("cell", name="jacobian_norm").first).to_be_visible()
    expect(words.first.get_by_text(f"{STEPS} of {STEPS} times").first).to_be_attached()


def test_distributions_and_pictures_are_drawn(server: str, page: Page) -> None:
    page.goto(f"{server}#histograms")
    cards = page.locator("tf-histogram-loader").filter(has_text="complexity/margin")
    expect(cards).to_have_count(len(WIDTHS))
    expect(cards.first.locator("path.outline")).to_have_count(STEPS)
    page.goto(f"{server}#images")
    expect(page.locator("tf-image-loader img").first).to_be_visible()
    assert page.locator("tf-image-loader img").first.evaluate("image => image.naturalWidth") == 600
