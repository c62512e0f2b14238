"""One metric's value as a picture: a number with its error, its layers, its course, the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_complexity.metrics.base.notebook import in_html
from lightning_complexity.metrics.base.words import in_units, more_complex, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lightning_complexity.metrics.base.metric import ComplexityMetric

_NAMES_SHOWN, _NAMES_INSIDE = 12, 4  # in a legend, and in one inside of the axes
_LAYERS_NAMED = 20  # at an axis
_LONGEST = 50  # characters of a name


@dataclass(frozen=True)
class Reading:
    """What a metric gave at one moment.

    Attributes:
        total: The value of the network; ``nan`` where only parts are known.
        error: Its standard error; ``nan`` where there is none.
        parts: Values by name, of layers say.
        vectors: Several numbers by name, such as singular values of each layer.
    """

    total: float = math.nan
    error: float = math.nan
    parts: Mapping[str, float] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict)


def reading(metric: ComplexityMetric, value: Any) -> Reading:
    """What ``compute``, ``forward``, ``report`` or ``histograms`` has returned.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(value, Reading):
        return value
    if not isinstance(value, Mapping):
        numbers = _numbers(value)
        return Reading(float(numbers)) if numbers.numel() == 1 else Reading(vectors={metric.name: numbers.flatten()})
    found = {str(key): _numbers(entry) for key, entry in value.items()}
    total, error = (found.pop(key, None) for key in (metric.name, f"{metric.name}/standard_error"))
    if total is not None and total.numel() != 1:
        found[metric.name], total = total, None
    plain = {key.removeprefix(f"{metric.name}/"): numbers for key, numbers in found.items()}
    is_report = total is not None and not metric.splits  # what else is in it are details, no parts
    return Reading(
        math.nan if total is None else float(total),
        math.nan if error is None else float(error),
        {key: float(numbers) for key, numbers in plain.items() if numbers.numel() == 1 and not is_report},
        {key: numbers.flatten() for key, numbers in plain.items() if numbers.numel() != 1},
    )


def of_parts(total: Tensor, details: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> Reading:
    """What a metric has measured."""
    error = float(details.get("standard_error", math.nan))
    return Reading(float(total), error, {name: float(value) for name, value in parts.items()})


def _numbers(value: Any) -> Tensor:
    try:
        return torch.as_tensor(value).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            "plot takes what compute, forward, report or histograms returns, or a list of that; "
            f"got {type(value).__name__}."
        ) from error


def new_axes() -> Axes:
    """Of a figure that a notebook shows, and a window if there are any.

    Raises:
        ImportError: Without matplotlib.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install lightning-complexity[plot]") from error
    axes: Axes = pyplot.subplots(layout="constrained")[1]
    return axes


def in_notebook(metric: ComplexityMetric, measured: tuple[Tensor, Any, Any] | None) -> str:
    """How a metric is written, and the value, its details and its parts, if they were measured."""
    if measured is None:
        return in_html(repr(metric))
    now = of_parts(*measured)
    rows = [(metric.name, _in_words(now.total, now.error), in_units(metric))]
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return in_html(repr(metric), rows)
    figure = Figure(figsize=(4.4, 2.8), layout="constrained")
    draw(metric, now, figure.add_subplot())
    return in_html(repr(metric), rows, figure)


def draw(metric: ComplexityMetric, value: Any, axes: Axes) -> None:
    """Draw a value, or a sequence of values in the order of time, into axes.

    Raises:
        TypeError: If it is nothing that a metric returns.
        ValueError: If a sequence is empty, or has vectors in it.
    """
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, alpha=0.3)
    if isinstance(value, Sequence) and not isinstance(value, str):
        _draw_course(axes, [reading(metric, v) for v in value])
    elif (now := reading(metric, value)).vectors:
        _draw_vectors(axes, now.vectors)
        axes.set_title(f"{title(metric)}: the numbers behind it", fontsize=10, parse_math=False)
        return
    elif now.parts:
        _draw_parts(axes, now.parts)
    else:
        _draw_number(axes, now)
    direction, units = more_complex(metric.increases_with_complexity), in_units(metric)
    says = f"\n({direction}: more complex)" if direction else ""
    axes.set_title(f"{title(metric)}{says}", fontsize=10, parse_math=False)
    is_turned = axes.yaxis_inverted()
    label = (" " if is_turned else "\n").join([_short(metric.name), f"[{units}]"] if units else [_short(metric.name)])
    (axes.set_xlabel if is_turned else axes.set_ylabel)(label, fontsize=9, parse_math=False)


# One moment ------------------------------------------------------------------------------------------


def _draw_number(axes: Axes, now: Reading) -> None:
    axes.set_xticks([])
    axes.set_xlim(-1, 1)
    text = _in_words(now.total, now.error)
    if not math.isfinite(now.total):
        axes.set_yticks([])
        axes.text(0, 0.5, text, ha="center", va="center", fontsize=14, transform=axes.get_xaxis_transform())
        return
    error = now.error if math.isfinite(now.error) else 0.0
    axes.errorbar([0], [now.total], yerr=[error] if error else None, fmt="o", markersize=8, capsize=8)
    axes.annotate(text, (0, now.total), (12, 0), textcoords="offset points", va="center")


def _draw_parts(axes: Axes, parts: Mapping[str, float]) -> None:
    """From top to bottom, as the network has them."""
    names = list(parts)
    finite = [value if math.isfinite(value) else math.nan for value in parts.values()]
    axes.plot(finite, range(len(names)), "o", markersize=max(3.0, 7 - len(names) / 20))
    axes.set_ylim(len(names) - 0.5, -0.5)
    step = -(-len(names) // _LAYERS_NAMED)
    labels = [f"{_short(name)}{'' if math.isfinite(parts[name]) else f' ({parts[name]})'}" for name in names]
    axes.set_yticks(range(0, len(names), step), labels[::step], parse_math=False)


def _draw_vectors(axes: Axes, vectors: Mapping[str, Tensor]) -> None:
    """Each from its largest entry to its smallest, as one draws a spectrum."""
    kinds = {name.partition("/")[0] for name in vectors}
    for color, (name, numbers) in zip(_colors(len(vectors)), vectors.items(), strict=True):
        finite = numbers[numbers.isfinite()].sort(descending=True).values
        few, label = len(finite) <= 30, _short(name if len(kinds) > 1 else name.partition("/")[2] or name)
        axes.plot(range(1, len(finite) + 1), finite.numpy(), ".-" if few else "-", color=color, label=label)
    axes.set_ylabel(" and ".join(map(_short, sorted(kinds))), fontsize=9, parse_math=False)
    axes.set_xlabel("rank, the largest first", fontsize=9)
    _add_legend(axes)


# Several moments -------------------------------------------------------------------------------------


def _draw_course(axes: Axes, course: Sequence[Reading]) -> None:
    from matplotlib.ticker import MaxNLocator

    if not course:
        raise ValueError("plot takes a list of at least one value, got an empty one.")
    if any(moment.vectors for moment in course):
        raise ValueError("plot takes a vector alone, not a list of them; plot the one of a moment.")
    times = list(range(len(course)))
    names = list(dict.fromkeys(name for moment in course for name in moment.parts))
    for color, name in zip(_colors(len(names)), names, strict=True):
        values = [moment.parts.get(name, math.nan) for moment in course]
        axes.plot(times, values, ".-", color=color, label=_short(name))
    if not names:
        totals, errors = ([getattr(moment, key) for moment in course] for key in ("total", "error"))
        some_error = any(math.isfinite(error) for error in errors)
        axes.errorbar(times, totals, yerr=[0 if math.isnan(e) else e for e in errors] if some_error else None, fmt=".-")
        if not any(math.isfinite(total) for total in totals):
            axes.text(0.5, 0.5, "no finite value", ha="center", va="center", transform=axes.transAxes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("measurement", fontsize=9)
    _add_legend(axes)


def _colors(count: int) -> list[Any]:
    """Distinct ones for a few lines, and from dark to light in the order of layers for many."""
    if count <= 10:
        return [f"C{number}" for number in range(count)]
    from matplotlib import colormaps

    return [colormaps["viridis"](number / (count - 1)) for number in range(count)]


def _add_legend(axes: Axes) -> None:
    """With the first and the last of many lines, and some between."""
    lines, names = axes.get_legend_handles_labels()
    if len(lines) < 2:
        return
    step = -(-len(lines) // _NAMES_SHOWN)
    shown, called = [*lines[:-1:step], lines[-1]], [*names[:-1:step], names[-1]]
    if len(lines) > _NAMES_INSIDE:
        legend = axes.legend(shown, called, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        legend = axes.legend(shown, called, fontsize=7)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _short(name: str) -> str:
    """A name that leaves room for the picture."""
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}...{name[-half:]}"


def _in_words(value: float, error: float) -> str:
    return f"{value:.4g}" + (f" ± {error:.2g}" if math.isfinite(error) else "")
