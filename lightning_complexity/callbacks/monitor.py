"""Watch the complexity of a network while it trains."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, replace
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
from lightning_complexity.callbacks.budgeting import BudgetGiven, Spending, timed
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
    can_be_indexed,
    check_probe,
    copied,
    first_loader,
    training_probe,
    validation_probe,
)
from lightning_complexity.metrics import ComplexityMetric, resolve
from lightning_complexity.network import ForwardFunction, LossFunction, Snapshot, Task, initial_state, num_samples
from lightning_complexity.recording.measuring import (
    FailureReport,
    Measured,
    OnError,
    Plan,
    gaps,
    measure_fit,
    measure_metrics,
)
from lightning_complexity.recording.record import RECORD_NAME, Measurement, append, curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        probe: Number of training samples, evenly spaced over the dataset; or ``(inputs, targets)``; or a
            ``DataLoader``, of which all samples are taken. They are drawn without a trace in the dataset, see
            :func:`lightning_complexity.recording.draw_samples`, and go through the module's transfer hooks and the
            training's precision as batches do. For a dataset that cannot be indexed, or raises an error, the first
            samples of the first training batch. On several processes all measure the probe of rank zero, and rank
            zero's values hold for all.
        loss: Loss of a batch from outputs and targets; default cross-entropy.
        forward: Outputs from module and inputs, where they are not ``module(inputs)`` or not one tensor.
        class_dim: Dimension of the outputs along which classes lie, where shapes do not tell.
        budget: The time that measuring takes may be so much of the rest of the training time: drawing the probe,
            measuring, logging and writing. Cheap quantities are measured at every moment of the schedule, dear ones
            more rarely, evenly over the training; an estimate takes fewer random probes before it is left out, down to
            two. The first values come as early, and the last ones as completely, as that allows: at the end at least
            everything that could be measured before, unless it has become much slower. How long dear ones take is
            forecast from small pieces of the probe. ``"auto"`` is 0.02, and in runs of seconds, where nobody waits,
            whatever is cheap is measured, up to two seconds in all. ``None`` measures everything every time.
            What ``EarlyStopping``, ``ModelCheckpoint`` or a scheduler monitors is measured every time as well.
            At info level the log says what is thinned, and a warning of the log at the end what was never measured.
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
        loss: LossFunction | None = None,
        forward: ForwardFunction | None = None,
        class_dim: int | None = None,
        budget: BudgetGiven = "auto",
        per_layer: bool = False,
        on_error: OnError = "warn",
    ) -> None:
        _check_interval("every_n_steps", every_n_steps)
        _check_interval("every_n_epochs", every_n_epochs)
        check_probe(probe)
        if on_error not in get_args(OnError):
            raise ValueError(f'on_error must be "warn" or "raise", got {on_error!r}.')
        self.metrics = resolve(metrics, per_layer=per_layer)
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self.probe, self.budget, self.on_error = probe, budget, on_error
        self.task = Task(forward, loss, class_dim)
        self._forget()

    def _forget(self) -> None:
        self.history: list[Measurement] = []
        self._train_probe: Probe | None = None
        self._validation_probe: Probe | None = None
        self._initial: dict[str, Tensor] | None = None
        self._failures = FailureReport(self.on_error, "ComplexityMonitor")
        self._steps = 0
        self.spending = Spending(self.budget, self.metrics, self.every_n_steps, self.every_n_epochs)

    @property
    def state_key(self) -> str:
        """Distinguishes the checkpointed state of monitors of different metrics."""
        return self._generate_state_key(metrics=[metric.name for metric in self.metrics])

    # Hooks ---------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh, unless this continues a fit."""
        if stage == "fit" and trainer.global_step == 0:
            self._forget()

    @timed
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the initial parameters, where a metric needs them."""
        self.spending.stopwatch.start()
        if self._initial is None and any("initial" in metric.needs for metric in self.metrics):
            self._initial = initial_state(pl_module)
        for metric in self.metrics:
            metric.to(pl_module.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in where training starts."""
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
            self._draw_probes(trainer, pl_module, batch)
        if self.spending.moment is None:
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

    @timed
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the final network."""
        if self.spending.moment is not None:
            self._measure(trainer, pl_module, last=True)
            self.spending.tell_thinned(self._failures.left_out)
        self.spending.stopwatch.stop()

    @timed
    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs: the history, the probe, and the initial parameters where a metric needs them."""
        probes = {"train_probe": self._train_probe, "validation_probe": self._validation_probe}
        return {
            "history": [asdict(measurement) for measurement in self.history],
            **{name: None if probe is None else tuple(copied(probe, "cpu")) for name, probe in probes.items()},
            "initial": self._initial,
            "spending": self.spending.state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.history = [Measurement(**row) for row in state_dict["history"]]
        self._train_probe, self._validation_probe = (
            None if state_dict[name] is None else Probe(*state_dict[name])
            for name in ("train_probe", "validation_probe")
        )
        self._initial = state_dict["initial"]
        self.spending.restore(state_dict["spending"])

    # Measuring -----------------------------------------------------------------------------------

    @timed
    def _measure(self, trainer: Trainer, pl_module: LightningModule, *, last: bool = False) -> None:
        names = self._due(last)
        if not names:
            return
        plan = self.spending.plan(trainer, self._snapshot_to_plan_with(pl_module), names, step=self._steps, last=last)
        if plan.parts:
            with self.spending.moment_of(plan), double_precision(trainer):
                self._carry_out(plan, trainer, pl_module)

    def _due(self, last: bool) -> list[str]:
        """What is to be measured at this step: everything, or at the end what was not."""
        if self.spending.moment == self._steps and not last:
            return []
        names = [metric.name for metric in self.metrics]
        probes = {"probe/train": self._train_probe, "probe/val": self._validation_probe}
        names += [name for name, probe in probes.items() if probe is not None]
        done = self.spending.chosen if self.spending.moment == self._steps else set()
        return [name for name in names if name not in done and name not in self._failures.left_out]

    def _snapshot_to_plan_with(self, pl_module: LightningModule) -> Snapshot | None:
        try:
            return self._snapshot(pl_module, self._train_probe)
        except Exception:  # it fails once more where failures are told
            return None

    def _carry_out(self, plan: Plan, trainer: Trainer, pl_module: LightningModule) -> None:
        measured = self._measured(pl_module, plan, figures=trainer.is_global_zero and shows_figures(trainer))
        values = measured.floats()
        self._failures.announce(silent=not trainer.is_global_zero)
        if trainer.is_global_zero:
            log_histograms(trainer, measured.histograms, self._steps)
            log_figures(trainer, measured.figures, self._steps)
        if self.history:
            monitors = [c for c in trainer.callbacks if isinstance(c, ComplexityMonitor)]
            values["complexity/overhead"] = sum(monitor.overhead for monitor in monitors)
        # Running statistics differ between ranks, which must log, and go on with, the same.
        values, self._failures.left_out = trainer.strategy.broadcast((values, self._failures.left_out))
        measurement = Measurement(self._steps, trainer.current_epoch, time.time(), values, measured.seconds)
        self._remember(measurement)
        log_scalars(trainer, values, self._steps)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._failures.attempt("the record", lambda: self._write(log_directory(trainer), measurement))
            self._failures.announce()

    def _remember(self, new: Measurement) -> None:
        """Add to the history; what the end brings at a step that was measured already joins the rest."""
        if self.history and self.history[-1].step == new.step:
            old = self.history.pop()
            new = replace(new, values={**old.values, **new.values}, seconds={**old.seconds, **new.seconds})
        self.history.append(new)

    @staticmethod
    def _write(directory: Path | None, measurement: Measurement) -> dict[str, Tensor]:
        if directory is not None:
            append(directory / RECORD_NAME, measurement)
        return {}

    def _measured(self, pl_module: LightningModule, plan: Plan, *, figures: bool) -> Measured:
        measured = Measured()

        def measure_training_probe() -> dict[str, Tensor]:
            nonlocal measured
            snapshot = self._snapshot(pl_module, self._train_probe)
            measured = measure_metrics(self.metrics, snapshot, self._failures, figures=figures, plan=plan)
            return measure_fit(snapshot, "train", self._failures, plan)

        def measure_validation_probe() -> dict[str, Tensor]:
            return measure_fit(self._snapshot(pl_module, self._validation_probe), "val", self._failures, plan)

        fit = self._failures.attempt("the training probe", measure_training_probe)
        if self._validation_probe is not None:
            fit |= self._failures.attempt("the validation probe", measure_validation_probe)
        measured.values |= {**fit, **gaps(fit)}
        return measured

    def _snapshot(self, pl_module: LightningModule, probe: Probe | None) -> Snapshot:
        task: Any = vars(self.task)
        return Snapshot(pl_module, *(probe or (None, None)), initial=self._initial, **task)

    @timed
    def _draw_probes(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """Draw the probes where a checkpoint did not bring them."""

        def draw_training_probe() -> dict[str, Tensor]:
            if self._train_probe is None:
                self._train_probe = training_probe(self.probe, trainer, pl_module, batch)
            self._train_probe = copied(self._train_probe, pl_module.device)
            return {}

        def draw_validation_probe() -> dict[str, Tensor]:
            loader = first_loader(trainer.val_dataloaders)
            if self._validation_probe is None and loader is not None and can_be_indexed(loader):
                self._validation_probe = validation_probe(loader, self._train_probe_size, trainer, pl_module)
            if self._validation_probe is not None:
                self._validation_probe = copied(self._validation_probe, pl_module.device)
            return {}

        self._failures.attempt("the probe", draw_training_probe)
        if self._train_probe is not None:
            self._failures.attempt("the validation probe", draw_validation_probe)

    @property
    def _train_probe_size(self) -> int:
        return self.probe if isinstance(self.probe, int) else num_samples(self._train_probe.inputs)  # type: ignore[union-attr]

    @property
    def overhead(self) -> float:
        """Time that this monitor spent measuring, divided by the rest of the time since the fit started."""
        return self.spending.stopwatch.overhead

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
