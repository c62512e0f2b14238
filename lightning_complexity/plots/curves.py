"""Curves of measured complexity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from lightning_complexity.recording.record import Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3


def figure_class() -> type[Figure]:
    """Matplotlib's figure, which belongs to no window.

    Raises:
        ImportError: Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install lightning-complexity[plot]") from error
    return Figure


@dataclass(frozen=True)
class Panel:
    """What is drawn in one pair of axes.

    Attributes:
        title: Above it.
        keys: Log keys, each with its line style.
        units: Beside the axis.
    """

    title: str
    keys: Mapping[str, str]
    units: str = ""


_GAPS = ("generalization_gap", "accuracy_gap")


def default_panels(measured: Iterable[str]) -> list[Panel]:
    """Losses and accuracies on both probes, gaps, and every metric, of what was measured.

    Args:
        measured: Log keys.
    """
    there = dict.fromkeys(measured)
    panels = []
    for fit in ("loss", "accuracy"):
        styles = {f"probe/train_{fit}": "-", f"probe/val_{fit}": "--"}
        if keys := {key: style for key, style in styles.items() if key in there}:
            panels.append(Panel(f"{fit}\n(solid: training, dashed: validation)", keys))
    panels += [Panel(gap.replace("_", " "), {f"probe/{gap}": "-"}) for gap in _GAPS if f"probe/{gap}" in there]
    metrics = [key for key in there if key.startswith("complexity/") and key.count("/") == 1]
    return panels + [metric_panel(key) for key in metrics if key != "complexity/overhead"]


def metric_panel(key: str) -> Panel:
    """A log key alone, with which direction is more complex where there is one."""
    from lightning_complexity.metrics import catalogue  # reading a record needs no torch, so this waits

    name = key.removeprefix("complexity/")
    known = {entry.name: entry for entry in catalogue()}.get(name)
    if known is None:
        return Panel(name, {key: "-"})
    word = f"{known.more_complex}: more complex" if known.more_complex else ""
    return Panel(f"{name}\n({word})" if word else name, {key: "-"}, known.units)


def plot_histories(
    histories: Mapping[str, list[Measurement]], names: list[str] | None = None, *, at_most: int | None = None
) -> Figure:
    """Draw one panel for each quantity and one line for each run, with a band of one standard error of estimates.

    Args:
        histories: Measurements by name of the run.
        names: Metrics' names or classes, or log keys; default losses, accuracies and gaps on the probes, and every
            metric.
        at_most: How many panels, the first of them.

    Returns:
        A figure that belongs to no window; ``figure.savefig(path)`` writes it.

    Raises:
        ImportError: Without matplotlib.
        ValueError: If there is nothing to draw, or nothing was measured under a name; with the closest one.
    """
    make_figure = figure_class()
    measured = dict.fromkeys(key for history in histories.values() for m in history for key in m.values)
    panels = default_panels(measured) if names is None else [metric_panel(_key(name, measured)) for name in names]
    if not panels:
        raise ValueError("nothing was measured yet.")
    panels = panels[:at_most]
    rows, columns = -(-len(panels) // _COLUMNS), min(_COLUMNS, len(panels))
    figure = make_figure(figsize=(4.2 * columns, 2.9 * rows + 0.3 * any(histories)), layout="constrained")
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        for number, history in enumerate(histories.values()):
            _draw(axes, panel, history, f"C{number}", f"C{number if len(histories) > 1 else 1}")
        axes.set_title(panel.title, fontsize=9)
        axes.set_xlabel("completed optimizer steps", fontsize=8)
        axes.set_ylabel(panel.units, fontsize=8)
        axes.tick_params(labelsize=8)
    if any(histories):
        _add_legend(figure, list(histories))
    return figure


def _key(name: str, measured: Iterable[str]) -> str:
    """The log key of a name: of a key, of what follows its first slash, or of a metric's class."""
    from lightning_complexity.metrics import catalogue  # reading a record needs no torch, so this waits

    keys = list(measured)
    short = {key.partition("/")[2]: key for key in reversed(keys)}
    classes = {e.metric.__name__: short[e.name] for e in catalogue() if e.name in short}
    known = {**classes, **short, **dict(zip(keys, keys, strict=True))}
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"nothing was measured as {name!r}.{hint}")
    return known[name]


def _draw(axes: Axes, panel: Panel, history: list[Measurement], first: str, second: str) -> None:
    """In the first colour, and dashed lines in the second."""
    for key, style in panel.keys.items():
        color = second if style == "--" else first
        points = [m for m in history if key in m.values]
        steps, values = [m.step for m in points], np.array([m.values[key] for m in points])
        axes.plot(steps, values, style, color=color, marker="." if style == "-" and len(points) < 20 else None)
        errors = np.array([m.values.get(f"{key}/standard_error", np.nan) for m in points])
        if np.isfinite(errors).any():
            axes.fill_between(steps, values - errors, values + errors, color=color, alpha=0.2, linewidth=0)


def _add_legend(figure: Figure, runs: list[str]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=f"C{number}") for number in range(len(runs))]
    figure.legend(lines, runs, loc="outside upper center", ncols=min(len(runs), 6), fontsize=9)
