"""Compute many quantities of one network, when some of them may have no value on it."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.metrics.base import ProbedMetric
from lightning_complexity.network import (
    MeasureError,
    MissingInputError,
    Snapshot,
    UnsupportedOperationError,
    accuracy,
    mean_loss,
)
from lightning_complexity.network.outputs import class_dim
from lightning_complexity.network.running.ranks import Ranks
from lightning_complexity.recording.tags import legal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OnError = Literal["warn", "raise"]
Quantity = Callable[[], dict[str, Tensor]]


@dataclass
class Measured:
    """Values, distributions and pictures by log key, and the seconds that each quantity took."""

    values: dict[str, Tensor] = field(default_factory=dict)
    histograms: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)
    """Keys of values that belong to a layer, a class or an output."""

    def reported(self, metric: ComplexityMetric) -> dict[str, Tensor]:
        """What a metric reports, by log key; vectors among it are added to the distributions."""
        report = {log_key(key): value for key, value in metric.report().items()}
        self.histograms |= {key: value.flatten() for key, value in report.items() if value.numel() != 1}
        self.parts |= {log_key(f"{metric.name}/{part}") for part in metric.parts()} if metric.splits else set()
        return {key: value for key, value in report.items() if value.numel() == 1}

    def floats(self) -> dict[str, float]:
        """The values as numbers, with one transfer from the device."""
        if not self.values:
            return {}
        device = next(iter(self.values.values())).device
        stacked = torch.stack([v.detach().to(device, torch.float64).reshape(()) for v in self.values.values()])
        # Histories hold the keys again and again: they are the same strings each time.
        return dict(zip(map(sys.intern, self.values), stacked.tolist(), strict=True))


class Reason(NamedTuple):
    """Why something cannot be computed: of one quantity, and in words that several may share."""

    text: str
    of_several: str

    @classmethod
    def of(cls, error: Exception) -> Reason:
        """In the error's words; those of several metrics are equal where the samples lack something."""
        if isinstance(error, MissingInputError) and {*error.lacks} & {"inputs", "targets"}:
            words = f"{type(error).__name__}: {_lacking(error.lacks)}"
            return cls(words, words)
        return cls(f"{type(error).__name__}: {error}", _reason_of_several(error))


class FailureReport:
    """Remembers what cannot be computed, and says so once.

    Args:
        on_error: ``"warn"``, or ``"raise"`` to pass the first error on.
        speaker: Who leaves things out, in the warnings.

    Attributes:
        left_out: Reason by name of what is no longer tried.
        is_shared: Whether other processes must hear of a failure before it is passed on, by :meth:`announce`.
    """

    def __init__(self, on_error: OnError = "warn", speaker: str = "The measurement") -> None:
        self.on_error, self.speaker = on_error, speaker
        self.left_out: dict[str, str] = {}
        self.is_shared = False
        self._new: dict[str, list[str]] = {}

    def attempt(self, name: str, quantity: Quantity) -> dict[str, Tensor]:
        """The quantity, or nothing if it fails now or has failed before."""
        if name in self.left_out:
            return {}
        try:
            return quantity()
        except Exception as error:
            if self.on_error == "raise" and not self.is_shared:
                raise
            self.note(name, Reason.of(error))
            return {}

    def note(self, name: str, reason: Reason) -> None:
        """Remember what has failed."""
        self.left_out[name] = reason.text
        self._new.setdefault(reason.of_several, []).append(name)

    def share(self, ranks: Ranks) -> None:
        """Have the failures of rank zero; all processes must come here."""
        self.left_out, self._new = ranks.from_first((self.left_out, self._new))

    def announce(self, *, silent: bool = False) -> None:
        """Warn of what has failed since the last time, once for each reason.

        Raises:
            MeasureError: With ``on_error="raise"``, if that was to wait for other processes.
        """
        if self._new and self.on_error == "raise":
            reason, names = next(iter(self._new.items()))
            raise MeasureError(f"{self.speaker} cannot compute {', '.join(names)}. {reason}")
        for reason, names in self._new.items():
            if not silent:
                warnings.warn(
                    f"{self.speaker} leaves out {', '.join(names)} for the rest of this run. {reason}", stacklevel=2
                )
        self._new = {}


def _lacking(names: tuple[str, ...]) -> str:
    if "inputs" in names:
        return f"needs {' and '.join(names)}, and there are no samples. Give some, or choose other metrics."
    return (
        f"needs {' and '.join(names)}, which the samples do not have. Give pairs, (inputs, targets), or choose other "
        "metrics."
    )


def _reason_of_several(error: Exception) -> str:
    if isinstance(error, UnsupportedOperationError):
        error = UnsupportedOperationError(error.operation, error.module, "the measure")
    return f"{type(error).__name__}: {error}"


def log_key(key: str) -> str:
    """A metric's key with the prefix, as every logger takes it, without the module of ``torch.compile``."""
    return legal(f"complexity/{key.replace('_orig_mod.', '')}")


@contextmanager
def unsynchronized(metric: Metric) -> Iterator[None]:
    """Let a metric, and those that it is made of, compute from what it has, without asking other processes."""
    parts = [part for part in metric.modules() if isinstance(part, Metric)]
    before = [part.distributed_available_fn for part in parts]
    try:
        for part in parts:
            part.distributed_available_fn = _alone
        yield
    finally:
        for part, function in zip(parts, before, strict=True):
            part.distributed_available_fn = function


def _alone() -> bool:
    return False


class Plan(Protocol):
    """What is measured now, and how it is timed."""

    def ordered(self, metrics: list[ComplexityMetric], snapshot: Snapshot) -> list[ComplexityMetric]:
        """In which order."""

    def part(self, name: str, snapshot: Snapshot) -> float:
        """Of the random probes of an estimate that are taken; 0 to leave a quantity out."""

    def watching(self, snapshot: Snapshot, of: str = "") -> AbstractContextManager[None]:
        """See what quantities of a snapshot take, called ``of`` where there is more than one."""

    def timed(self, name: str, scale: float = 1.0) -> AbstractContextManager[None]:
        """See what one takes; all of an estimate takes ``scale`` times as long."""


@contextmanager
def with_probes(metric: ComplexityMetric, part: float, plan: Plan | None) -> Iterator[None]:
    """Time a metric, with a part of its random probes."""
    if plan is None:
        yield
        return
    if not isinstance(metric, ProbedMetric) or part == 1:
        with plan.timed(metric.name):
            yield
        return
    num_probes = metric.num_probes
    metric.num_probes = max(1, int(part * num_probes))
    try:
        with plan.timed(metric.name, num_probes / metric.num_probes):
            yield
    finally:
        metric.num_probes = num_probes


def measure_metrics(
    metrics: list[ComplexityMetric],
    snapshot: Snapshot,
    failures: FailureReport,
    *,
    figures: bool = False,
    plan: Plan | None = None,
) -> Measured:
    """Measure each metric on a snapshot that they share, and draw its figures if wanted.

    The seconds of a metric are those that it added: what several share is in those of the first.
    """
    measured = Measured()

    def quantity(metric: ComplexityMetric) -> dict[str, Tensor]:
        metric.reset()
        with unsynchronized(metric):
            metric.update(snapshot)
            measured.histograms |= {log_key(key): values for key, values in metric.histograms(snapshot).items()}
            return measured.reported(metric)

    def drawn(metric: ComplexityMetric) -> dict[str, Tensor]:
        with unsynchronized(metric):
            measured.figures |= {log_key(key): figure for key, figure in metric.figures(snapshot).items()}
        return {}

    with snapshot.opened(), plan.watching(snapshot) if plan else nullcontext():
        for metric in plan.ordered(metrics, snapshot) if plan else metrics:
            name = metric.name
            part = plan.part(name, snapshot) if plan else 1.0
            if not part:
                continue
            started = time.perf_counter()
            with with_probes(metric, part, plan):
                measured.values |= failures.attempt(name, lambda metric=metric: quantity(metric))  # type: ignore[misc]
                if figures and name not in failures.left_out:
                    failures.attempt(f"the figures of {name}", lambda metric=metric: drawn(metric))  # type: ignore[misc]
            measured.seconds[name] = time.perf_counter() - started
    return measured


def measure_fit(
    snapshot: Snapshot, part: Literal["train", "val"], failures: FailureReport, plan: Plan | None = None
) -> dict[str, Tensor]:
    """Loss on a probe, and accuracy where targets are classes, as ``probe/<part>_loss`` and so on."""
    if not can_be_judged(snapshot):
        return {}
    of_loss, of_accuracy = f"probe/{part}_loss", f"probe/{part}_accuracy"
    of = "" if part == "train" else "val "  # both probes ask for quantities of the same names
    with snapshot.opened(), plan.watching(snapshot, of) if plan else nullcontext():
        values = failures.attempt(of_loss, lambda: {of_loss: mean_loss(snapshot)})
        if has_classes(snapshot):
            values |= failures.attempt(of_accuracy, lambda: {of_accuracy: accuracy(snapshot)})
    return values


def can_be_judged(snapshot: Snapshot) -> bool:
    """Whether there is what a loss needs."""
    return snapshot.has("inputs") and (snapshot.has("targets") or snapshot.task.judges_batches)


def has_classes(snapshot: Snapshot) -> bool:
    """Whether targets are classes of the outputs."""
    targets = snapshot.targets if snapshot.has("targets") else None
    if snapshot.task.threshold is not None:
        return True
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return False
    try:
        return class_dim(snapshot) is not None
    except MeasureError:
        return False


def gaps(values: dict[str, Tensor], train_loss: Tensor | None) -> dict[str, Tensor]:
    """How much better the network is on the training probe than on the validation probe.

    Args:
        values: Losses and accuracies by log key.
        train_loss: The loss on the training probe, of the kind of ``probe/val_loss``, if it is known.
    """
    found = {}
    if train_loss is not None and "probe/val_loss" in values:
        found["probe/generalization_gap"] = values["probe/val_loss"] - train_loss
    if {"probe/train_accuracy", "probe/val_accuracy"} <= values.keys():
        found["probe/accuracy_gap"] = values["probe/train_accuracy"] - values["probe/val_accuracy"]
    return found
