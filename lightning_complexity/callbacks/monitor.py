"""Watch the complexity of a network while it trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from torch import Tensor

from lightning_complexity.callbacks.base import (
    Callback,
    LightningModule,
    Trainer,
    completed_batches,
    double_precision,
)
from lightning_complexity.callbacks.finding import explained, find_task, find_validation_task, summary
from lightning_complexity.callbacks.loggers import (
    log_directory,
    log_figures,
    log_histograms,
    log_scalars,
    shows_figures,
)
from lightning_complexity.callbacks.probe import (
    Probe,
    ProbeSource,
    check_probe,
    copied,
    first_loader,
    from_checkpoint,
    kept,
    training_probe,
    validation_probe,
)
from lightning_complexity.metrics import ComplexityMetric, resolve
from lightning_complexity.network import (
    Batches,
    ForwardFunction,
    LossFunction,
    Snapshot,
    TargetFunction,
    Task,
    initial_state,
    mean_loss,
)
from lightning_complexity.recording.measuring import (
    FailureReport,
    Measured,
    OnError,
    gaps,
    measure_fit,
    measure_metrics,
)
from lightning_complexity.recording.record import RECORD_NAME, Measurement, append, curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOGGER = logging.getLogger(__name__)


def _check_interval(name: str, value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be a whole number of at least 1, or None, got {value!r}.")


class ComplexityMonitor(Callback):
    """Measure how complex the network is, at initialization, on a schedule and at the end; change nothing.

    Training with this callback is bit-identical to training without it. Every measurement looks at the
    network in evaluation mode, on the same fixed probe. It logs, against completed optimizer steps, to all
    loggers and to ``trainer.callback_metrics`` (so that ``EarlyStopping`` and ``ModelCheckpoint`` can monitor it):

    - ``complexity/<name>`` for each metric, ``complexity/<name>/standard_error`` for estimates, and with
      ``per_layer=True`` ``complexity/<name>/<layer>``;
    - ``probe/train_loss`` and ``probe/train_accuracy``; with a validation loader ``probe/val_loss``,
      ``probe/val_accuracy``, ``probe/generalization_gap`` (validation minus training loss) and
      ``probe/accuracy_gap`` (training minus validation accuracy);
    - ``complexity/overhead``, the time that all monitors of the ``Trainer`` spent measuring, divided by the rest of
      the time since training started;
    - for TensorBoard, histograms of singular values and margins, and the pictures of metrics that have some, such as
      ``LinearRegions(along="plane")``.

    Beside the logger's files it appends to ``complexity.jsonl``, see
    :func:`lightning_complexity.recording.read_record`. A metric that cannot be computed on this network
    is named once in a warning, with the reason, and left out; training goes on. Values that are not finite
    are logged as they are.

    Args:
        metrics: ``"standard"``, ``"fast"`` or ``"full"``; or a list of metrics and names of metrics.
        every_n_steps: Measure each time so many optimizer steps are completed.
        every_n_epochs: Measure at the end of every so many epochs. ``None`` turns this off.
        probe: Number of training samples, evenly spaced over the dataset; or ``(inputs, targets)``; or a list of
            batches; or a ``DataLoader``, of which all samples are taken. Batches that cannot be cut into samples are
            taken whole. They are drawn without a trace in the dataset, see
            :func:`lightning_complexity.recording.draw_samples`, and go through the module's transfer hooks and the
            training's precision as batches do. For a dataset that cannot be indexed, or raises an error, the first
            samples of the first training batch. On several processes all measure the probe of rank zero, and rank
            zero's values hold for all.
        forward: ``forward(module, batch)`` or ``forward(model, inputs)`` gives the outputs. By default the module is
            called with the inputs of a pair, or with the entries of the batch that its ``forward`` names; else the
            outputs are what it gives when its own ``training_step`` calls it.
        loss: ``loss(module, batch)`` or ``loss(outputs, targets)`` gives the loss. By default that of the module's own
            ``training_step``, and for validation of ``validation_step`` where that returns or logs one; they run
            without a trace, in evaluation mode. The generalization gap is of one loss on both probes, that of
            validation.
        targets: ``targets(batch)`` gives the targets, where they are hidden in the batch.
        class_dim: Dimension of the outputs along which classes lie, where shapes do not tell.
        wrt: Name of a submodule: Jacobians are those for what enters it, as for token embeddings. By default they are
            for the inputs, where these are one tensor of floating-point numbers, else for what enters the first
            submodule that has a row for each output; what was found is logged at level ``INFO``, and :meth:`explain`
            says it.
        budget: The share of training time that measuring may take. Measured and logged; not enforced yet.
        per_layer: Whether metrics given by name also report their layers.
        on_error: ``"warn"`` or ``"raise"``.

    Attributes:
        history: What was measured so far, a list of :class:`lightning_complexity.recording.Measurement`.

    Raises:
        ValueError: At an unknown metric, with the closest names, or at options that make no sense.

    Example:
        >>> monitor = ComplexityMonitor(["StableRank", "PathNorm"], every_n_steps=100)
        >>> # Trainer(callbacks=[monitor]).fit(model)
    """

    def __init__(
        self,
        metrics: str | ComplexityMetric | Iterable[str | ComplexityMetric] = "standard",
        *,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = 1,
        probe: ProbeSource = 256,
        forward: ForwardFunction | None = None,
        loss: LossFunction | None = None,
        targets: TargetFunction | None = None,
        class_dim: int | None = None,
        wrt: str | None = None,
        budget: float = 0.05,
        per_layer: bool = False,
        on_error: OnError = "warn",
    ) -> None:
        _check_interval("every_n_steps", every_n_steps)
        _check_interval("every_n_epochs", every_n_epochs)
        check_probe(probe)
        if not budget > 0:
            raise ValueError(f"budget must be a positive share of the training time, such as 0.05, got {budget!r}.")
        if on_error not in get_args(OnError):
            raise ValueError(f'on_error must be "warn" or "raise", got {on_error!r}.')
        self.metrics = resolve(metrics, per_layer=per_layer)
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self.probe, self.budget, self.on_error = probe, budget, on_error
        self.task = Task(forward, loss, targets, class_dim, wrt)
        self._forget()

    def _forget(self) -> None:
        self.history: list[Measurement] = []
        self._train_probe: Probe | None = None
        self._validation_probe: Probe | None = None
        self._initial: dict[str, Tensor] | None = None
        self._failures = FailureReport(self.on_error, "ComplexityMonitor")
        self._steps = 0
        self._seconds_measuring = 0.0
        self._seconds_before = 0.0
        self._started: float | None = None

    @property
    def state_key(self) -> str:
        """Distinguishes the checkpointed state of monitors of different metrics."""
        return self._generate_state_key(metrics=[metric.name for metric in self.metrics])

    # Hooks ---------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh, unless this continues a fit."""
        if stage == "fit" and trainer.global_step == 0:
            self._forget()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the initial parameters, where a metric needs them."""
        if self._initial is None and any("initial" in metric.needs for metric in self.metrics):
            self._initial = initial_state(pl_module)
        for metric in self.metrics:
            metric.to(pl_module.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._probes_are_ready = False
        self._steps = completed_batches(trainer)
        self._global_step = trainer.global_step

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure at initialization."""
        if not self._probes_are_ready:
            self._probes_are_ready = True
            started = time.perf_counter()
            self._draw_probes(trainer, pl_module, batch)
            self._seconds_measuring += time.perf_counter() - started
        if not self.history:
            self._measure(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure every so many steps."""
        if trainer.global_step == self._global_step:  # gradients are still accumulating
            return
        self._global_step = trainer.global_step
        self._steps += 1
        if self.every_n_steps and self._steps % self.every_n_steps == 0:
            self._measure(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure every so many epochs."""
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the final network."""
        if self.history:
            self._measure(trainer, pl_module)
        self._seconds_before, self._started = self._seconds(), None

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs: the history, the probe, and the initial parameters where a metric needs them."""
        probes = {"train_probe": self._train_probe, "validation_probe": self._validation_probe}
        return {
            "history": [asdict(measurement) for measurement in self.history],
            **{name: kept(None if probe is None else probe.batches) for name, probe in probes.items()},
            "initial": self._initial,
            "seconds_measuring": self._seconds_measuring,
            "seconds": self._seconds(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.history = [Measurement(**row) for row in state_dict["history"]]
        drawn = [from_checkpoint(state_dict[name]) for name in ("train_probe", "validation_probe")]
        self._train_probe, self._validation_probe = (None if b is None else Probe(b, self.task) for b in drawn)
        self._initial = state_dict["initial"]
        self._seconds_measuring, self._seconds_before = state_dict["seconds_measuring"], state_dict["seconds"]

    # Measuring -----------------------------------------------------------------------------------

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.history and self.history[-1].step == self._steps:
            return
        started = time.perf_counter()
        with double_precision(trainer):
            measured = self._measured(pl_module, figures=trainer.is_global_zero and shows_figures(trainer))
        values = measured.floats()
        self._failures.announce(silent=not trainer.is_global_zero)
        if trainer.is_global_zero:
            log_histograms(trainer, measured.histograms, self._steps)
            log_figures(trainer, measured.figures, self._steps)
        self._seconds_measuring += time.perf_counter() - started
        if self.history:
            monitors = [c for c in trainer.callbacks if isinstance(c, ComplexityMonitor)]
            values["complexity/overhead"] = sum(monitor.overhead for monitor in monitors)
        # Running statistics differ between ranks, which must log, and go on with, the same.
        values, self._failures.left_out = trainer.strategy.broadcast((values, self._failures.left_out))
        measurement = Measurement(self._steps, trainer.current_epoch, time.time(), values, measured.seconds)
        self.history.append(measurement)
        log_scalars(trainer, values, self._steps)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._failures.attempt("the record", lambda: self._write(log_directory(trainer), measurement))
            self._failures.announce()

    @staticmethod
    def _write(directory: Path | None, measurement: Measurement) -> dict[str, Tensor]:
        if directory is not None:
            append(directory / RECORD_NAME, measurement)
        return {}

    def _measured(self, pl_module: LightningModule, *, figures: bool) -> Measured:
        measured = Measured()

        def measure_training_probe() -> dict[str, Tensor]:
            nonlocal measured
            snapshot = self._snapshot(pl_module, self._train_probe)
            measured = measure_metrics(self.metrics, snapshot, self._failures, figures=figures)
            return measure_fit(snapshot, "train", self._failures)

        def measure_validation_probe() -> dict[str, Tensor]:
            return measure_fit(self._snapshot(pl_module, self._validation_probe), "val", self._failures)

        fit = self._failures.attempt("the training probe", measure_training_probe)
        if self._validation_probe is not None:
            fit |= self._failures.attempt("the validation probe", measure_validation_probe)
        measured.values |= {**fit, **gaps(fit, self._train_loss_as_validated(pl_module, fit))}
        return measured

    def _train_loss_as_validated(self, pl_module: LightningModule, fit: dict[str, Tensor]) -> Tensor | None:
        """The loss of validation on the training probe, where it is another than that of training."""
        train, validation = self._train_probe, self._validation_probe
        if train is None or validation is None or validation.task.loss == train.task.loss or not fit:
            return None
        snapshot = self._snapshot(pl_module, Probe(train.batches, validation.task))
        found = self._failures.attempt("probe/generalization_gap", lambda: {"loss": mean_loss(snapshot)})
        return found.get("loss")

    def _snapshot(self, pl_module: LightningModule, probe: Probe | None) -> Snapshot:
        batches, task = probe or (None, None)
        return Snapshot(pl_module, batches, task=task, initial=self._initial)

    def _draw_probes(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """Draw the probes where a checkpoint did not bring them."""

        def draw_training_probe() -> dict[str, Tensor]:
            kept_one = self._train_probe
            drawn = training_probe(self.probe, trainer, pl_module, batch) if kept_one is None else kept_one.batches
            drawn = copied(drawn, pl_module.device)
            self._train_probe = Probe(drawn, find_task(pl_module, drawn.batches[0], self.task))
            _LOGGER.info("%s measures %s.", type(self).__name__, summary(self._train_probe.task))
            return {}

        def draw_validation_probe() -> dict[str, Tensor]:
            loader = first_loader(trainer.val_dataloaders)
            if self._validation_probe is not None:
                drawn = self._validation_probe.batches
            elif loader is not None:
                drawn = validation_probe(loader, self._train_probe_size, trainer, pl_module)
            else:
                return {}
            drawn = copied(drawn, pl_module.device)
            self._validation_probe = Probe(drawn, self._validation_task(pl_module, drawn))
            return {}

        self._failures.attempt("the probe", draw_training_probe)
        if self._train_probe is not None:
            self._failures.attempt("the validation probe", draw_validation_probe)

    def _validation_task(self, pl_module: LightningModule, drawn: Batches) -> Task:
        assert self._train_probe is not None
        train = self._train_probe
        return find_validation_task(pl_module, drawn.batches[0], train.batches.batches[0], train.task)

    @property
    def _train_probe_size(self) -> int:
        return self.probe if isinstance(self.probe, int) else self._train_probe.batches.num_samples  # type: ignore[union-attr]

    @property
    def overhead(self) -> float:
        """Time that this monitor spent measuring, divided by the rest of the time since training started."""
        return self._seconds_measuring / (self._seconds() - self._seconds_measuring)

    def _seconds(self) -> float:
        """Time since training started, over all parts of a continued run."""
        return self._seconds_before + (0.0 if self._started is None else time.perf_counter() - self._started)

    def explain(self, module: LightningModule, batch: Any) -> str:
        """How this monitor runs a module on a batch and judges it on it, in a few lines.

        Args:
            module: What will be trained; nothing of it changes.
            batch: As its training loader yields it.

        Example:
            >>> from pytorch_lightning.demos.boring_classes import BoringModel
            >>> import torch
            >>> print(ComplexityMonitor().explain(BoringModel(), torch.zeros(2, 32)))
            batch:       a tensor of torch.float32
            outputs:     model(batch): a tensor of torch.float32
            inputs:      the whole batch
            targets:     none found; say targets=lambda batch: ...
            loss:        that of training_step
            derivatives: for the inputs, where these are one tensor
        """
        return explained(module, batch, find_task(module, batch, self.task))

    # Looking at the result -----------------------------------------------------------------------

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one quantity.

        Args:
            name: A metric's name, such as ``"stable_rank"``, or a full log key, such as ``"probe/val_loss"``.

        Raises:
            KeyError: If it was never measured.
        """
        prefixed = f"complexity/{name}"
        return curve(self.history, prefixed if any(prefixed in m.values for m in self.history) else name)

    def plot(self, names: list[str] | None = None) -> Figure:
        """Draw the curves.

        Args:
            names: Metrics' names or full log keys; default every metric.

        Returns:
            A matplotlib figure, which belongs to no window.

        Raises:
            ImportError: Without matplotlib: ``pip install lightning-complexity[plot]``.
        """
        from lightning_complexity.plots.curves import plot_histories

        return plot_histories({"": self.history}, names)
