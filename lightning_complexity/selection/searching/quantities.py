"""Names of what a search minimizes, maximizes or limits, and how what is no outcome of training is measured."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch

from lightning_complexity.metrics import ComplexityMetric, catalogue, resolve
from lightning_complexity.network import Snapshot
from lightning_complexity.recording.measuring import FailureReport, log_key, measure_metrics

ALIASES = {"parameters": "parameter_count", "flops": "flop_count"}
LATENCY = "latency"
_LARGER_IS_BETTER = re.compile(r"acc|auc|auroc|f1|precision|recall|r2|iou|dice|bleu|psnr|ssim|score", re.IGNORECASE)
_LATENCY_PASSES = 30


class TrialError(Exception):
    """Why a trial has no values, in words for the user."""


def measure_named(name: str) -> str | None:
    """The name that a measure is told apart by, such as ``parameter_count``; ``None`` for what is no measure.

    Args:
        name: An alias, or the class or log name of a metric.

    Example:
        >>> measure_named("parameters"), measure_named("PathNorm"), measure_named("val_loss")
        ('parameter_count', 'log_path_norm', None)
    """
    name = ALIASES.get(name, name)
    if name == LATENCY:
        return name
    return next((entry.name for entry in catalogue() if name in (entry.name, entry.metric.__name__)), None)


def direction_of(name: str) -> str:
    """Whether a quantity is to be small or large, by its name.

    Accuracies and scores are to be large, and so are measures that fall with complexity; all else is to be small.

    Example:
        >>> direction_of("val_acc"), direction_of("val_loss"), direction_of("NormalizedMargin")
        ('maximize', 'minimize', 'maximize')
    """
    measure = measure_named(name)
    if measure is not None:
        falls = {entry.name for entry in catalogue() if entry.increases_with_complexity is False}
        return "maximize" if measure in falls else "minimize"
    return "maximize" if _LARGER_IS_BETTER.search(name) and "loss" not in name and "error" not in name else "minimize"


def check_name(name: str, outcomes: Sequence[str], option: str) -> None:
    """Say which names there are.

    Args:
        name: Of a quantity.
        outcomes: What training gives.
        option: Where the name comes from.

    Raises:
        ValueError: If it is neither an outcome nor a measure.
    """
    if name in outcomes or measure_named(name) is not None:
        return
    measures = [key for entry in catalogue() for key in (entry.name, entry.metric.__name__)]
    close = get_close_matches(name, [*outcomes, *ALIASES, LATENCY, *measures], n=2)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(
        f"{option}: there is no {name!r}; there are {', '.join(outcomes)}, {', '.join(ALIASES)}, {LATENCY}, and the "
        f"metrics of `lightning-complexity list`.{hint}"
    )


def parsed_objective(text: str) -> tuple[str, str]:
    """Name and direction.

    Args:
        text: A name; or a name and a direction, such as ``score:maximize``.

    Raises:
        ValueError: At another direction.

    Example:
        >>> parsed_objective("accuracy"), parsed_objective("sharpness:minimize")
        (('accuracy', 'maximize'), ('sharpness', 'minimize'))
    """
    name, separator, direction = text.rpartition(":")
    if not separator:
        return text, direction_of(text)
    if direction not in ("minimize", "maximize") or not name:
        raise ValueError(f"--objectives must be names such as error or val_f1:maximize, got {text!r}.")
    return name, direction


@dataclass(frozen=True)
class Constraint:
    """A bound on a quantity.

    Attributes:
        name: Of the quantity.
        is_upper: Whether values above the bound are ruled out, rather than those below.
        bound: The last value that is allowed.
    """

    name: str
    is_upper: bool
    bound: float

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.name}{'<=' if self.is_upper else '>='}{self.bound:g}"

    def excess(self, value: float) -> float:
        """How far a value is beyond the bound; met where that is not above zero."""
        return value - self.bound if self.is_upper else self.bound - value


def parsed_constraint(text: str) -> Constraint:
    """A constraint as it is written.

    Args:
        text: Such as ``parameters<=5000`` or ``accuracy>=0.9``.

    Raises:
        ValueError: At another form.

    Example:
        >>> parsed_constraint("parameters <= 5e3").text
        'parameters<=5000'
    """
    match = re.fullmatch(r"\s*([^<>=\s]+)\s*(<=|>=)\s*(\S+)\s*", text)
    try:
        bound = float(match[3]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or not math.isfinite(bound):
        raise ValueError(f"--constraint must be such as 'parameters<=5000' or 'accuracy>=0.9', got {text!r}.")
    return Constraint(match[1], match[2] == "<=", bound)


def metrics_of(names: Iterable[str]) -> list[ComplexityMetric]:
    """The metrics of the names that are one."""
    found = dict.fromkeys(measure_named(name) for name in names)
    return resolve(wanted) if (wanted := [name for name in found if name not in (None, LATENCY)]) else []


def measured(names: Iterable[str], network: torch.nn.Module, snapshot: Snapshot, inputs: Any) -> dict[str, float]:
    """Measure a trained network.

    Args:
        names: What is wanted; those that are no measures are passed over.
        network: What is measured.
        snapshot: Of the network on a probe.
        inputs: One sample, as the network takes it, for the latency.

    Raises:
        TrialError: If a measure cannot be computed, with the reason.
    """
    names, found = list(names), {}
    if metrics := metrics_of(names):
        try:
            found = measure_metrics(metrics, snapshot, FailureReport("raise")).floats()
        except Exception as error:
            raise TrialError(f"a measure cannot be computed: {error}") from error
    values = {}
    for name in names:
        key = measure_named(name)
        if key == LATENCY:
            values[name] = latency(network, inputs)
        elif key is not None:
            values[name] = found[log_key(key)]
    return values


def latency(network: torch.nn.Module, inputs: Any) -> float:
    """Milliseconds of a forward pass, the shortest of 30: what other processes take is added to the others."""
    was_training = network.training
    network.eval()
    times = []
    with torch.no_grad():
        for _ in range(_LATENCY_PASSES):
            started = time.perf_counter()
            network(inputs)
            times.append(time.perf_counter() - started)
    network.train(was_training)
    return 1000 * min(times)


def named_values(values: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Values of repeats as they are kept.

    Raises:
        TrialError: If one is not finite.
    """
    for name, repeats in values.items():
        if wrong := [value for value in repeats if not math.isfinite(value)]:
            raise TrialError(f"{name} is {wrong[0]}")
    return {name: list(repeats) for name, repeats in values.items()}
