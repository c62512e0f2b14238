"""What a monitor gave on a client, as a row of ``docs/clients.md``."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from importlib.metadata import version

import torch

from lightning_complexity import ComplexityMonitor, metrics
from tests.clients.client import Client
from tests.clients.observing import RAW_ERROR, Training, differences, train
from tests.clients.registry import load

MOST_WARNINGS = 3
OF_LOSS = ("losses", "gap", "gradient norm", "Hessian trace")
FAMILIES = {"sensitivity": "Jacobian", "margins": "margin", "features": "feature"}
COLUMNS = (
    "client",
    "package",
    "bit-identical",
    "losses",
    "gap",
    "gradient norm",
    "Hessian trace",
    "of the weights",
    "of the function",
    "warning lines",
    "with this line",
    "of the function then",
)


def measured() -> list[str]:
    """The default suite, and the measures of the loss where it has them not."""
    names = list(metrics.SUITES["standard"])
    return names + [name for name in ("GradientNorm", "HessianTrace") if name not in names]


@functools.cache
def families() -> dict[str, str]:
    """Family of each measure by its log key."""
    classes = [getattr(metrics, name) for name in measured()]
    return {f"complexity/{c().name}": c.__module__.rpartition(".")[2] for c in classes}


@dataclass
class Monitored:
    """What was seen of a training with a monitor, beside the same without.

    Attributes:
        differences: Where the two were not the same to the last bit.
        kinds: Kinds of measures that had a finite value at every measurement.
        warnings: Lines of warnings that only the training with the monitor shows.
        has_history: Whether the monitor that the user has in hand knows what was measured.
    """

    differences: list[str]
    kinds: set[str]
    warnings: list[str]
    has_history: bool


@dataclass
class Judged:
    """What was seen of a client: with a monitor as it comes, and with the client's line, or why that failed."""

    client: Client
    default: Monitored
    with_line: Monitored | None = None
    failure: str = ""

    @property
    def trainings(self) -> list[Monitored]:
        return [self.default] if self.with_line is None else [self.default, self.with_line]


def kinds(history: list[dict[str, float]]) -> set[str]:
    """Kinds of measures that are there and finite at every measurement."""
    if not history:
        return set()
    keys = set.intersection(*({k for k, v in values.items() if math.isfinite(v)} for values in history))
    found = {
        "losses": {"probe/train_loss", "probe/val_loss"} <= keys,
        "training loss": "probe/train_loss" in keys,  # enough where there is no validation
        "gap": "probe/generalization_gap" in keys,
        "gradient norm": "complexity/gradient_norm" in keys,
        "Hessian trace": "complexity/hessian_trace" in keys,
        "weights": any(families().get(key) in ("norms", "spectra", "paths") for key in keys),
    }
    found |= {word: any(families().get(key) == family for key in keys) for family, word in FAMILIES.items()}
    return {kind for kind, is_there in found.items() if is_there}


def judge(name: str) -> Judged:
    """Train a client without a monitor, with one, and with one that has the client's line."""
    client = load(name)
    plain = train(client)
    judged = Judged(client, monitored(client, plain, ComplexityMonitor(measured())))
    if judged.default.differences and (by_itself := differences(plain.state, train(client).state)):
        raise RuntimeError(f"{name} is not the same twice without a monitor: {by_itself[:3]}")
    if client.line:
        try:
            options = eval(f"dict({client.line})", {"torch": torch})
            monitor = ComplexityMonitor(measured(), **options)
        except TypeError as error:
            judged.failure = str(error)
        else:
            judged.with_line = monitored(client, plain, monitor)
    return judged


def monitored(client: Client, plain: Training, monitor: ComplexityMonitor) -> Monitored:
    """Train a client with a monitor, and compare."""
    seen = train(client, monitor)
    return Monitored(
        differences(plain.state, seen.state),
        kinds(seen.history),
        [line for line in seen.warnings if line not in plain.warnings],
        seen.own_history == seen.history,
    )


def shortcomings(judged: Judged) -> list[str]:
    """What keeps a client from what every client is to have."""
    found = [f"the line: {judged.failure}"] if judged.failure else []
    for training in judged.trainings:
        found += [f"not the same: {where}" for where in training.differences]
        found += [f"a raw error: {line}" for line in training.warnings if RAW_ERROR.search(line)]
        if len(training.warnings) > MOST_WARNINGS:
            found.append(f"{len(training.warnings)} lines of warnings: {training.warnings}")
        if not training.has_history:
            found.append("the user's monitor does not know what was measured")
    if judged.client.automatic:
        found += [f"no {kind}" for kind in OF_LOSS if _mark(kind, judged) == "no"]
    if not any(of_function(training.kinds) for training in judged.trainings):
        found.append("no measure of the function")
    return found


def row(name: str, judged: Judged) -> str:
    """The client's row of the table."""
    client = judged.client
    cells = [
        name.partition(".")[2],
        f"{client.package} {version(client.package)}",
        "no" if any(training.differences for training in judged.trainings) else "yes",
        *[_mark(kind, judged) for kind in OF_LOSS],
        _mark("weights", judged),
        of_function(judged.default.kinds) or "no",
        str(len(judged.default.warnings)),
        f"`{client.line}`" if client.line else "",
        of_function(set.union(*(training.kinds for training in judged.trainings))) or "no",
    ]
    return "| " + " | ".join(cells) + " |"


def of_function(kinds: set[str]) -> str:
    """Which measures of the function there are."""
    return ", ".join(word for word in FAMILIES.values() if word in kinds)


def _mark(kind: str, judged: Judged) -> str:
    there = judged.default.kinds
    if kind in there:
        return "yes"
    if judged.client.validates or kind not in ("losses", "gap"):
        return "no"
    # Nothing is validated: there is one loss and no gap.
    return "training" if "training loss" in there else "no"
