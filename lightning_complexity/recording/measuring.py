"""Compute many quantities of one network, when some of them may have no value on it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.metrics.base import ProbedMetric
from lightning_complexity.network import MeasureError, Snapshot, UnsupportedOperationError, accuracy, mean_loss
from lightning_complexity.network.outputs import class_dim
from lightning_complexity.recording.durations import Durations, Watch

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

    def floats(self) -> dict[str, float]:
        """The values as numbers, with one transfer from the device."""
        if not self.values:
            return {}
        device = next(iter(self.values.values())).device
        stacked = torch.stack([v.detach().to(device, torch.float64).reshape(()) for v in self.values.values()])
        return dict(zip(self.values, stacked.tolist(), strict=True))


class FailureReport:
    """Remembers what cannot be computed, and says so once.

    Args:
        on_error: ``"warn"``, or ``"raise"`` to pass the first error on.
        speaker: Who leaves things out, in the warnings.

    Attributes:
        left_out: Reason by name of what is no longer tried.
    """

    def __init__(self, on_error: OnError = "warn", speaker: str = "The measurement") -> None:
        self.on_error, self.speaker = on_error, speaker
        self.left_out: dict[str, str] = {}
        self._new: dict[str, list[str]] = {}

    def attempt(self, name: str, quantity: Quantity) -> dict[str, Tensor]:
        """The quantity, or nothing if it fails now or has failed before."""
        if name in self.left_out:
            return {}
        try:
            return quantity()
        except Exception as error:
            if self.on_error == "raise":
                raise
            self.left_out[name] = f"{type(error).__name__}: {error}"
            self._new.setdefault(_reason_of_several(error), []).append(name)
            return {}

    def announce(self, *, silent: bool = False) -> None:
        """Warn of what has failed since the last time, once for each reason."""
        for reason, names in self._new.items():
            if not silent:
                warnings.warn(
                    f"{self.speaker} leaves out {', '.join(names)} for the rest of this run. {reason}", stacklevel=2
                )
        self._new = {}


def _reason_of_several(error: Exception) -> str:
    if isinstance(error, UnsupportedOperationError):
        error = UnsupportedOperationError(error.operation, error.module, "the measure")
    return f"{type(error).__name__}: {error}"


def _log_key(key: str) -> str:
    """A metric's key with the prefix, and without the module that ``torch.compile`` puts around another."""
    return f"complexity/{key.replace('_orig_mod.', '')}"


@contextmanager
def unsynchronized(metric: Metric) -> Iterator[None]:
    """Let a metric, and those that it is made of, compute from the samples of this process alone.

    All processes measure the same probe: its samples must not count once for each of them, and no process may wait
    for another that could not measure.
    """
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


@dataclass
class Plan:
    """What to measure, and how well.

    Attributes:
        parts: By name the part of an estimate's random probes, 1 for all and where there are none; ``None`` to
            measure everything. The losses on the probes are ``"probe/train"`` and ``"probe/val"``.
        watch: Where times go.
    """

    parts: Mapping[str, float] | None = None
    watch: Watch = field(default_factory=lambda: Watch(Durations()))

    def __contains__(self, name: str) -> bool:
        return self.parts is None or name in self.parts

    @contextmanager
    def measuring(self, metric: ComplexityMetric) -> Iterator[None]:
        """Time a metric, with fewer probes than it has if so planned."""
        part = 1.0 if self.parts is None else self.parts[metric.name]
        if not isinstance(metric, ProbedMetric) or part == 1:
            with self.watch.timed(metric.name):
                yield
            return
        num_probes = metric.num_probes
        metric.num_probes = max(1, round(part * num_probes))
        try:
            with self.watch.timed(metric.name, scale=num_probes / metric.num_probes):
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
    plan = plan or Plan()
    measured = Measured()

    def quantity(metric: ComplexityMetric) -> dict[str, Tensor]:
        metric.reset()
        with unsynchronized(metric):
            metric.update(snapshot)
            measured.histograms |= {_log_key(key): values for key, values in metric.histograms(snapshot).items()}
            return {_log_key(key): value for key, value in metric.report().items()}

    def drawn(metric: ComplexityMetric) -> dict[str, Tensor]:
        with unsynchronized(metric):
            measured.figures |= {_log_key(key): figure for key, figure in metric.figures(snapshot).items()}
        return {}

    with snapshot.opened(), plan.watch.on(snapshot):
        for metric in metrics:
            if metric.name not in plan:
                continue
            started = time.perf_counter()
            name = metric.name
            with plan.measuring(metric):
                measured.values |= failures.attempt(name, lambda metric=metric: quantity(metric))  # type: ignore[misc]
                if figures and name not in failures.left_out:
                    failures.attempt(f"the figures of {name}", lambda metric=metric: drawn(metric))  # type: ignore[misc]
            measured.seconds[name] = time.perf_counter() - started
    return measured


def measure_fit(
    snapshot: Snapshot, part: Literal["train", "val"], failures: FailureReport, plan: Plan | None = None
) -> dict[str, Tensor]:
    """Loss on a probe, and accuracy where targets are classes, as ``probe/<part>_loss`` and so on."""
    plan = plan or Plan()
    name = f"probe/{part}"
    if name not in plan or not (snapshot.has("inputs") and snapshot.has("targets")):
        return {}
    of_loss, of_accuracy = f"probe/{part}_loss", f"probe/{part}_accuracy"
    # Both probes ask for quantities of the same names.
    with snapshot.opened(), plan.watch.on(snapshot, "" if part == "train" else "val "), plan.watch.timed(name):
        values = failures.attempt(of_loss, lambda: {of_loss: mean_loss(snapshot)})
        if values and _has_classes(snapshot):
            values |= failures.attempt(of_accuracy, lambda: {of_accuracy: accuracy(snapshot)})
    return values


def _has_classes(snapshot: Snapshot) -> bool:
    targets = snapshot.targets
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return False
    try:
        return class_dim(snapshot) is not None
    except MeasureError:
        return False


def gaps(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """How much better the network is on the training probe than on the validation probe."""
    found = {}
    if {"probe/train_loss", "probe/val_loss"} <= values.keys():
        found["probe/generalization_gap"] = values["probe/val_loss"] - values["probe/train_loss"]
    if {"probe/train_accuracy", "probe/val_accuracy"} <= values.keys():
        found["probe/accuracy_gap"] = values["probe/train_accuracy"] - values["probe/val_accuracy"]
    return found
