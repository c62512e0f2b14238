"""What log keys are: which are measures, which belong to layers, which way is more complex."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightning_complexity.dashboard.events import MEASURED
from lightning_complexity.dashboard.runs import GAPS, OVERHEAD, STANDARD_ERROR, Run

MOST_KEYS = 200


@dataclass(frozen=True)
class Measure:
    """What is known of a log key.

    Attributes:
        key: As it was logged.
        label: The key without ``complexity/`` or ``probe/``.
        role: ``"complexity"``, ``"probe"``, or ``"part"`` of a measure, such as its value for a layer.
        is_log: Whether the number is a logarithm already.
        more_complex: ``"higher"`` or ``"lower"``; ``None`` where neither is, or it is not known.
        summary: In one sentence.
        units: What the number is measured in; empty where that is not known, as for parts.
    """

    key: str
    label: str
    role: str
    is_log: bool = False
    more_complex: str | None = None
    summary: str = ""
    units: str = ""


def measures_of(runs: Sequence[Run]) -> list[Measure]:
    """Every log key of the runs that is no standard error: measures first, then losses, then parts of measures."""
    keys = list(dict.fromkeys(key for run in runs for key in run.keys if key.startswith(MEASURED)))
    known = _catalogue()
    found = [_measure(key, set(keys), known) for key in keys if not key.endswith(STANDARD_ERROR) and key != OVERHEAD]
    order = ("complexity", "probe", "part")
    return sorted(found, key=lambda measure: order.index(measure.role))


def _measure(key: str, keys: set[str], known: dict[str, tuple[str | None, str, str]]) -> Measure:
    kind, _, label = key.partition("/")
    if kind == "probe":
        return Measure(key, label, "probe")
    words = label.split("/")
    above = ["/".join((kind, *words[:n])) for n in range(1, len(words))]
    is_part = any(name in keys for name in above) or (len(words) > 1 and words[0] in known)
    name = next((word for word in words if word in known), words[0])
    word, units, summary = known.get(name, ("higher", "", ""))
    is_log = name.startswith("log_") or "_log_" in name or name in ("lann_complexity",)
    if is_part:  # a layer's value, or something else beside the value, in units of its own
        return Measure(key, label, "part", is_log, word, summary)
    return Measure(key, label, "complexity", is_log, word, summary, units)


def _catalogue() -> dict[str, tuple[str | None, str, str]]:
    from lightning_complexity.metrics import catalogue  # loads torch

    return {entry.name: (entry.more_complex, entry.units, entry.summary) for entry in catalogue()}


def gaps_of(keys: Iterable[str]) -> list[str]:
    """Log keys of generalization gaps, also of named monitors."""
    names = [gap.removeprefix("probe/") for gap in GAPS]
    found = [key for key in keys if key.startswith("probe/") and key.rsplit("/", 1)[-1] in names]
    return sorted(found, key=lambda key: (key.count("/"), names.index(key.rsplit("/", 1)[-1]), key))


def scores_of(keys: Iterable[str]) -> dict[str, str]:
    """Log keys that say how good a model is, on validation samples if there are any, with their directions."""
    keys = list(keys)
    for part in ("val", "train"):
        wanted = {f"{part}_accuracy": "maximize", f"{part}_loss": "minimize"}
        found = {
            key: direction
            for word, direction in wanted.items()
            for key in keys
            if key.startswith("probe/") and key.rsplit("/", 1)[-1] == word
        }
        if found:
            return found
    return {}
