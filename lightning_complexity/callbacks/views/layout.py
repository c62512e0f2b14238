"""Which curves share a chart under TensorBoard's Custom Scalars."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lightning_complexity.callbacks.keys import named_key
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.metrics.catalogue import catalogue
from lightning_complexity.recording.tags import PARTS, STANDARD_ERROR, tags_of_spread

MARK = "custom_scalars__config__"
"""The tag that TensorBoard keeps a layout under."""
MOST_BANDS = 12
"""Of one kind, such as spectra of layers."""

_NAME = r"(?:[A-Za-z0-9_.-]+/)?"  # of a monitor
_FITS = {
    "loss": "(?:train|val)_loss",
    "accuracy": "(?:train|val)_accuracy",
    "generalization gap": "generalization_gap",
    "accuracy gap": "accuracy_gap",
}

Charts = dict[str, list[Any]]


class Source(NamedTuple):
    """What a monitor has logged.

    Attributes:
        name: Of the monitor.
        metrics: That it measures.
        keys: Of its values.
        parts: Those of the keys that belong to a layer, a class or an output.
        histograms: Keys of its distributions.
    """

    name: str | None
    metrics: Sequence[ComplexityMetric]
    keys: set[str]
    parts: set[str]
    histograms: list[str]


def layout(sources: Sequence[Source], prefix: str = "") -> dict[str, Charts]:
    """Charts by category, as ``SummaryWriter.add_custom_scalars`` takes them.

    Measures, losses and gaps are found by patterns, which fit any number of monitors and runs; bands by their tags.

    Args:
        sources: What each monitor has logged.
        prefix: Of the logger's scalars.
    """
    keys = {key for source in sources for key in source.keys}
    found = {
        "Loss and generalization": _fits(keys, prefix),
        "Complexity by family": _families(_measured(sources), prefix),
        "Estimates with their standard errors": _estimates(sources, prefix),
        "Margins, spectra, distributions": _distributions(sources, prefix),
        "Layers, classes, outputs": _parts(sources, prefix),
    }
    return {category: charts for category, charts in found.items() if charts}


def _fits(keys: set[str], prefix: str) -> Charts:
    patterns = {title: f"probe/{_NAME}{end}$" for title, end in _FITS.items()}
    return {
        title: ["Multiline", [re.escape(prefix) + pattern]]
        for title, pattern in patterns.items()
        if any(re.match(pattern, key) for key in keys)
    }


def _measured(sources: Sequence[Source]) -> list[ComplexityMetric]:
    """Metrics that have a value: a chart of none would be empty."""
    return [m for s in sources for m in s.metrics if named_key(f"complexity/{m.name}", s.name) in s.keys]


def _families(metrics: Iterable[ComplexityMetric], prefix: str) -> Charts:
    """With all names of each family, so that runs with other metrics have the same chart."""
    of_catalogue: dict[str, list[str]] = {}
    for entry in catalogue():
        of_catalogue.setdefault(entry.family, []).append(entry.name)
    names: dict[str, list[str]] = {}
    for metric in metrics:
        family = type(metric).__module__.rpartition(".")[2]
        names.setdefault(family, list(of_catalogue.get(family, []))).append(metric.name)
    return {
        family.replace("_", " "): [
            "Multiline",
            [f"{re.escape(prefix)}complexity/{_NAME}(?:{'|'.join(map(re.escape, dict.fromkeys(of_family)))})$"],
        ]
        for family, of_family in sorted(names.items())
    }


def _estimates(sources: Sequence[Source], prefix: str) -> Charts:
    return {
        _title(key.removesuffix(STANDARD_ERROR), source): _band(
            key.removesuffix(STANDARD_ERROR), prefix, middle=key.removesuffix(STANDARD_ERROR)
        )
        for source in sources
        for key in sorted(source.keys)
        if key.endswith(STANDARD_ERROR)
    }


def _distributions(sources: Sequence[Source], prefix: str) -> Charts:
    charts: Charts = {}
    for source in sources:
        kinds: dict[str, list[str]] = {}
        for key in source.histograms:
            kinds.setdefault(_title(key, source).partition("/")[0], []).append(key)
        for of_kind in kinds.values():
            for key in _evenly(of_kind, MOST_BANDS):
                charts[_title(key, source)] = _band(key, prefix, middle=tags_of_spread(key)[1])
    return charts


def _evenly(keys: list[str], most: int) -> list[str]:
    """The first, the last, and some between."""
    if len(keys) <= most:
        return keys
    return [keys[round(i * (len(keys) - 1) / (most - 1))] for i in range(most)]


def _parts(sources: Sequence[Source], prefix: str) -> Charts:
    names = sorted(
        {m.name for source in sources for m in source.metrics if any(f"/{m.name}/" in k for k in source.parts)}
    )
    return {name: ["Multiline", [f"{re.escape(prefix)}{PARTS}{_NAME}{re.escape(name)}/"]] for name in names}


def _band(key: str, prefix: str, middle: str) -> list[Any]:
    low, _, high = tags_of_spread(key)
    return ["Margin", [f"{prefix}{tag}" for tag in (middle, low, high)]]


def _title(key: str, source: Source) -> str:
    """The key without what all have in common; the monitor's name behind it."""
    label = key.partition("/")[2]
    if source.name is None:
        return label
    return f"{label.removeprefix(f'{source.name}/')} ({source.name})"
