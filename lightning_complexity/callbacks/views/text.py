"""A run in words: how large the model is, how it is run and judged, what is measured, and what is not and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import UninitializedParameter

from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.recording.record import Measurement

_HEAD = "| measure | latest value | measured | more complex |", "| --- | --- | --- | --- |"


class Summary(NamedTuple):
    """What is said of a monitor.

    Attributes:
        step: Completed optimizer steps.
        task: How the module is run and judged, in lines.
        probes: Which samples it is measured on.
        metrics: That are measured.
        history: What was measured so far.
        left_out: Why, by name, for what has no value on this network.
        budget: What the budget thinned, in sentences.
        measured: How often, by name.
        due: How often it could have been.
    """

    step: int
    task: str
    probes: str
    metrics: Collection[ComplexityMetric]
    history: list[Measurement]
    left_out: Mapping[str, str]
    budget: Collection[str]
    measured: Mapping[str, int]
    due: Mapping[str, int]


def in_markdown(module: nn.Module, said: Sequence[Summary], name: str | None) -> str:
    """What is said of the monitors of one name."""
    ways = dict.fromkeys(f"Measured on {one.probes}.\n\n{_code(one.task)}" for one in said)
    thinned = [text[:1].upper() + text[1:] for one in said for text in one.budget]
    left_out = [f"**{what}**: {_one_line(why)}" for one in said for what, why in one.left_out.items()]
    sections = [
        "## Complexity" if name is None else f"## Complexity ({name})",
        _size(module),
        *ways,
        "### Measures\n\n" + "\n".join([*_HEAD, *(row for one in said for row in _rows(one))]),
        _list("Thinned by the budget", thinned),
        _list("Left out", left_out),
    ]
    return "\n\n".join(section for section in sections if section)


def _size(module: nn.Module) -> str:
    parameters = [p for p in module.parameters() if not isinstance(p, UninitializedParameter)]
    total, trained = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    words = f"**{type(module).__name__}**: {total:,} parameters in {len(parameters)} tensors"
    return words + ("." if trained == total else f", {trained:,} of them trained.")


def _rows(summary: Summary) -> list[str]:
    latest = {key: value for measurement in summary.history for key, value in measurement.values.items()}
    rows = []
    for metric in summary.metrics:
        if metric.name in summary.left_out:
            continue
        value = next((v for k, v in latest.items() if k.endswith(f"/{metric.name}")), None)
        direction = {True: "higher", False: "lower", None: ""}[metric.increases_with_complexity]
        often = f"{summary.measured.get(metric.name, 0)} of {summary.due.get(metric.name, 0)} times"
        rows.append(f"| {metric.name} | {'' if value is None else f'{value:.5g}'} | {often} | {direction} |")
    return rows


def _list(title: str, items: list[str]) -> str:
    return f"### {title}\n\n" + "\n".join(f"- {item}" for item in items) if items else ""


def _code(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _one_line(text: str) -> str:
    return " ".join(text.split())
