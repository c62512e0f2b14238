"""Measure a network in a training that is no Lightning's, and keep the same record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_complexity.metrics import ComplexityMetric, resolve
from lightning_complexity.network import Batches, Snapshot, Task
from lightning_complexity.network.running.tensors import initial_state
from lightning_complexity.recording.frames import to_frame
from lightning_complexity.recording.measuring import (
    FailureReport,
    Measured,
    OnError,
    gaps,
    measure_fit,
    measure_metrics,
)
from lightning_complexity.recording.record import RECORD_NAME, Measurement, append, continue_record

if TYPE_CHECKING:
    import pandas as pd


class Recorder:
    """Measures a network whenever it is told to; for loops of one's own and for other trainers.

    The network, its gradients and the random state stay as they are. What
    :class:`~lightning_complexity.callbacks.ComplexityMonitor` adds to this is a schedule, a budget, samples drawn
    from the loaders, loggers and several processes.

    Args:
        metrics: A suite, names of metrics, or metrics.
        path: The record, a file or a folder that gets ``complexity.jsonl``; ``None`` for none. A record of another run
            that is there is set aside.
        task: How batches become outputs and a loss, where they are no pairs of inputs and classes.
        on_error: ``"warn"`` to name once what cannot be measured and go on, or ``"raise"``.

    Attributes:
        history: All measurements so far.

    Example:
        >>> import torch
        >>> recorder = Recorder(["ParameterNorm", "DistanceFromInitialization"])
        >>> net, x, y = torch.nn.Linear(2, 2), torch.randn(8, 2), torch.randint(2, (8,))
        >>> sorted(recorder.measure(net, (x, y), step=0).values)[:2]
        ['complexity/distance_from_initialization', 'complexity/parameter_norm']
    """

    def __init__(
        self,
        metrics: str | ComplexityMetric | Iterable[str | ComplexityMetric] = "standard",
        path: str | Path | None = None,
        *,
        task: Task | None = None,
        on_error: OnError = "warn",
    ) -> None:
        if on_error not in ("warn", "raise"):
            raise ValueError(f'on_error must be "warn" or "raise", got {on_error!r}.')
        self.metrics, self.history = resolve(metrics), list[Measurement]()
        self._path = None if path is None else Path(path)
        if self._path is not None and self._path.suffix != ".jsonl":
            self._path /= RECORD_NAME
        self._task, self._failures = task or Task(), FailureReport(on_error, "The recorder")
        self._initial: dict[str, Tensor] | None = None

    @property
    def left_out(self) -> dict[str, str]:
        """Why, by name, for metrics that cannot be computed on this network."""
        return dict(self._failures.left_out)

    def to_frame(self) -> pd.DataFrame:
        """What was measured, as :func:`lightning_complexity.recording.to_frame` has it."""
        return to_frame(self.history)

    def measure(
        self,
        model: nn.Module,
        train: Any = None,
        validation: Any = None,
        *,
        step: int,
        epoch: int = 0,
        validation_task: Task | None = None,
        optimizer: Optimizer | Iterable[Optimizer] = (),
    ) -> Measurement:
        """Measure, and add a line to the record.

        Distances from the initialization are those from the network of the first call.

        Args:
            model: The network as it is now.
            train: A batch of training samples, the same at each call, such as ``(inputs, targets)``, on the network's
                device; without it only what needs no samples is measured.
            validation: Of samples that are not trained on, for the generalization gap.
            step: Completed optimizer steps.
            epoch: Index of the epoch.
            validation_task: How these are run and judged, where that is different.
            optimizer: What trains the network, one or several, for measures of its next step; only read.

        Raises:
            ValueError: If ``step`` is not after the last one.
            OSError: If the record cannot be written.
        """
        if self.history and step <= self.history[-1].step:
            raise ValueError(f"step must be more than the last one, {self.history[-1].step}, got {step}.")
        if self._initial is None and any("initial" in metric.needs for metric in self.metrics):
            self._initial = initial_state(model)
        measured = measure_network(
            self.metrics,
            model,
            train,
            validation,
            task=self._task,
            validation_task=validation_task,
            initial=self._initial,
            failures=self._failures,
            optimizers=optimizer,
        )
        self._failures.announce()
        measurement = Measurement(step, epoch, time.time(), measured.floats(), measured.seconds)
        self.history.append(measurement)
        if self._path is not None and len(self.history) == 1:
            continue_record(self._path, self.history)
        elif self._path is not None:
            append(self._path, measurement)
        return measurement


def measure_network(
    metrics: list[ComplexityMetric],
    model: nn.Module,
    train: Any = None,
    validation: Any = None,
    *,
    task: Task,
    validation_task: Task | None = None,
    initial: Mapping[str, Tensor] | None = None,
    failures: FailureReport,
    optimizers: Optimizer | Iterable[Optimizer] = (),
) -> Measured:
    """Measure metrics, losses, accuracies and gaps, of one network at one moment.

    Args:
        metrics: Which; those that failed before are passed over.
        model: The network.
        train: A batch, or batches, of training samples.
        validation: Of samples that are not trained on.
        task: How batches become outputs and a loss.
        validation_task: The same for ``validation``, where that is different.
        initial: Parameters at the start of training.
        failures: Takes what cannot be computed.
        optimizers: What trains it.
    """
    snapshot = _snapshot(model, train, task, initial, optimizers)
    wanted = [metric for metric in metrics if metric.name not in failures.left_out]
    measured = measure_metrics(wanted, snapshot, failures)
    fit = measure_fit(snapshot, "train", failures)
    if validation is not None:
        fit |= measure_fit(_snapshot(model, validation, validation_task or task), "val", failures)
        fit |= gaps(fit, fit.get("probe/train_loss"))
    measured.values |= fit
    return measured


def _snapshot(
    model: nn.Module,
    batch: Any,
    task: Task,
    initial: Mapping[str, Tensor] | None = None,
    optimizers: Optimizer | Iterable[Optimizer] = (),
) -> Snapshot:
    if batch is None:
        return Snapshot(model, initial=initial, optimizers=optimizers)
    batches = batch if isinstance(batch, Batches) else Batches.of(batch)
    return Snapshot(model, batches, task=task, initial=initial, optimizers=optimizers)
