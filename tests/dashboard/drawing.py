"""What a page has drawn, whether it is a report or TensorBoard's frame."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Frame, Page

READY = "#report[data-ready=true]"


def traces(page: Page | Frame, section: str, meta: str | None = None, panel: str | None = None) -> list[dict[str, Any]]:
    """What the library was given, of one kind, in one chart."""
    inside = f"#{section} .panel" if panel else f"#{section} .js-plotly-plot"
    found: list[dict[str, Any]] = page.evaluate(
        """([inside, panel]) => [...document.querySelectorAll(inside)]
        .filter((node) => !panel || node.dataset.panel === panel).flatMap((node) => node.data)""",
        [inside, panel],
    )
    return [trace for trace in found if meta is None or trace["meta"] == meta]


def points(page: Page | Frame, section: str, meta: str, panel: str | None = None) -> list[tuple[float, float]]:
    found = traces(page, section, meta, panel)
    pairs = [pair for trace in found for pair in zip(trace["x"], trace["y"], strict=True)]
    return [pair for pair in pairs if pair != (None, None)]


def choose(page: Page | Frame, section: str, label: str, value: str) -> None:
    page.locator(f"#{section} .controls label", has_text=label).first.locator("select").select_option(value)
    page.wait_for_selector(READY)


def drawn(page: Page | Frame, section: str) -> int:
    """Marks that are really there."""
    return page.locator(f"#{section} .scatterlayer .points path").count()


def axis_type(page: Page | Frame, section: str) -> str:
    return str(page.evaluate(f"document.querySelector('#{section} .js-plotly-plot')._fullLayout.xaxis.type"))


def rgb(color: str) -> list[int]:
    if color.startswith("#"):
        return [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return [int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
