"""Watch the complexity of a network while it trains."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal, get_args

from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from lightning_complexity.callbacks.base import LightningModule, Trainer, completed_batches
from lightning_complexity.callbacks.changes import Fingerprint
from lightning_complexity.callbacks.finding import explained, find_task
from lightning_complexity.callbacks.keys import check_name, check_that_keys_differ
from lightning_complexity.callbacks.monitoring.budgeting import Spending, timed
from lightning_complexity.callbacks.monitoring.live import LiveTraining
from lightning_complexity.callbacks.monitoring.measuring import Measuring
from lightning_complexity.callbacks.monitoring.probes import Probes
from lightning_complexity.callbacks.monitoring.results import RunResults
from lightning_complexity.callbacks.order import put_in_order
from lightning_complexity.callbacks.probe import ProbeSource, check_probe
from lightning_complexity.callbacks.ranks import epochs_end_together, ranks_of
from lightning_complexity.callbacks.views.run import Views, announce_columns
from lightning_complexity.metrics import ComplexityMetric, resolve
from lightning_complexity.metrics.base.written import written
from lightning_complexity.network import ForwardFunction, LossFunction, TargetFunction, Task, initial_state
from lightning_complexity.recording.measuring import FailureReport, OnError
from lightning_complexity.recording.record import Measurement


def _check_interval(name: str, value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be a whole number of at least 1, or None, got {value!r}.")


def _has_shapes(module: LightningModule) -> bool:
    """Whether lazy layers, if there are any, have been called."""
    return not any(isinstance(p, UninitializedParameter) for p in module.parameters())


class ComplexityMonitor(Measuring):
    """Measure how complex the network is, at initialization, on a schedule and at the end; change nothing.

    Training with this callback is bit-identical to training without it. Every measurement looks at the
    network in evaluation mode, on the same fixed probe. The forward hooks of others on the network do see its calls,
    and can tell them by ``module.training``, which is false as in validation. It logs, against completed optimizer
    steps, to all loggers and to ``trainer.callback_metrics`` (so that ``EarlyStopping`` and ``ModelCheckpoint`` can
    monitor it):

    - ``complexity/<name>`` for each metric, ``complexity/<name>/standard_error`` for estimates, and with
      ``per_layer=True`` ``complexity/<name>/<layer>``;
    - ``probe/train_loss`` and ``probe/train_accuracy``; with a validation loader ``probe/val_loss``,
      ``probe/val_accuracy``, ``probe/generalization_gap`` (validation minus training loss) and
      ``probe/accuracy_gap`` (training minus validation accuracy);
    - ``complexity/overhead``, the time that all monitors of the ``Trainer`` spent measuring, divided by the rest of
      the time since training started;
    - for TensorBoard, histograms of singular values and margins, the pictures of metrics that have some, such as
      ``LinearRegions(along="plane")``, a layout of charts, the final values among hyper-parameters, and a summary in
      words; layers have the tags ``parts/<name>/<layer>`` there.

    Beside the logger's files it appends to ``complexity.jsonl``, see
    :func:`lightning_complexity.recording.read_record`: in the ``log_dir`` of a logger, else in
    ``save_dir/name/version`` as checkpoints, so that each run has its own; without a logger and in a fast run, nowhere.
    Libraries that copy the callbacks they are given run a copy; ``history`` and ``record_path`` are then those of the
    copy that ran last.

    Where a callback such as ``EarlyStopping`` or ``ModelCheckpoint``, or a plateau scheduler, monitors one of the keys,
    it is also measured whenever that one looks: before each validation, at the end of each epoch, every
    ``every_n_train_steps``. So the value is that of the weights that are saved, in whatever order callbacks are listed
    (monitors move behind those that change the network). ``train_time_interval`` needs ``every_n_steps=1``. With
    ``WeightAveraging`` the curves are those of the weights that are trained, and the last value that of the average;
    ranking checkpoints, which hold the average, is warned of.

    Several monitors in one ``Trainer``, such as one on shifted data, have a ``name`` each, or other metrics; one
    without a name that would log the keys of another gets one, ``"monitor_2"``, and a warning says so. With
    ``name="shifted"`` keys are ``complexity/shifted/<name>`` and ``probe/shifted/<...>``, and the record is
    ``complexity.shifted.jsonl``.

    A run that is continued from a checkpoint goes on as if it had not been interrupted, also with other metrics or
    options. A metric that cannot be computed on this network
    is named once in a warning, with the reason, and left out; training goes on. Values that are not finite
    are logged as they are. A measurement that takes longer than ten seconds is said to do so, by the progress bar or at
    info level.

    Args:
        metrics: ``"standard"``, ``"fast"`` or ``"full"``; or a list of metrics and names of metrics.
        every_n_steps: Measure each time so many optimizer steps are completed.
        every_n_epochs: Measure at the end of every so many epochs. ``None`` turns this off.
        probe: Number of training samples, evenly spaced over the dataset; or ``(inputs, targets)``; or a list of
            batches; or a ``DataLoader``, of which all samples are taken. Batches that cannot be cut into samples are
            taken whole. They are drawn without a trace in the dataset, see
            :func:`lightning_complexity.recording.draw_samples`, and go through the module's transfer hooks and the
            training's precision as batches do. For a dataset that cannot be indexed, or raises an error, the first
            samples of the first training batch. On several processes it is the probe of rank zero, of which each
            measures a part: values are those of one process on all of it, with rank zero's running statistics. What
            cannot be computed on one process is left out on all.
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
        budget: The time that measuring takes, drawing the probe, logging and writing included, is held to this share
            of the rest of the training time. ``"auto"`` is 0.02, but at least ten seconds each time training starts;
            where a short run does not pay for the first and the last values, these, up to a minute each, come beside
            that. ``None`` measures everything every time. Under a limit cheap quantities come at every moment of the
            schedule, dear ones at every second, fourth, eighth, ...; an estimate takes fewer random probes, down to
            two, before it comes more rarely than at every fourth, and its standard error says so. With a number, the
            losses and what is cheap of the weights are there at the start and at the end, the rest as far as it is
            affordable. How long dear ones take is forecast from small pieces of the probe; what would take most of the
            free memory is left out. What ``EarlyStopping``, ``ModelCheckpoint`` or a scheduler monitors is measured
            every time. To begin takes about half a second, so that a share of 0.01 is exceeded in runs of less than a
            minute or two. At info level the log says what is thinned, and a warning of the log at the end what was
            never measured.
        per_layer: Whether metrics given by name also report their layers.
        on_error: ``"warn"`` or ``"raise"``.
        name: Tells several monitors apart.

    Attributes:
        history: What was measured so far, a list of :class:`lightning_complexity.recording.Measurement`.
        record_path: The file of the record, also said at info level; ``None`` where nothing is written.

    Raises:
        ValueError: At an unknown metric, with the closest names, or at options that make no sense; when training
            starts, if another monitor would log the same keys, or a callback looks at times that are not measured.

    Example:
        >>> monitor = ComplexityMonitor(["StableRank", "PathNorm"], every_n_steps=100)
        >>> # Trainer(callbacks=[monitor]).fit(model)
    """

    order_among_callbacks = 3

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
        budget: float | Literal["auto"] | None = "auto",
        per_layer: bool = False,
        on_error: OnError = "warn",
        name: str | None = None,
    ) -> None:
        check_name(name)
        _check_interval("every_n_steps", every_n_steps)
        _check_interval("every_n_epochs", every_n_epochs)
        check_probe(probe)
        if on_error not in get_args(OnError):
            raise ValueError(f'on_error must be "warn" or "raise", got {on_error!r}.')
        self.metrics = resolve(metrics, per_layer=per_layer)
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self.probe, self.budget, self.on_error = probe, budget, on_error
        self.task = Task(forward, loss, targets, class_dim, wrt)
        self.name = name
        super().__init__()
        self._forget()

    def _forget(self) -> None:
        self.forget_results()
        self._probes = Probes(self.probe, self.task)
        self._initial: dict[str, Tensor] | None = None
        self._live = LiveTraining(self.metrics)
        self._failures = FailureReport(self.on_error, "ComplexityMonitor")
        self._fingerprint: Fingerprint | None = None
        self._whole_only: set[str] = set()
        self._is_under_way = self._probes_are_ready = False
        self._epochs_end_together = True
        self._steps, self._global_step, self._knows_steps = 0, 0, False
        self._chosen: set[str] | None = None
        self.spending, self.views = Spending(self.budget, self.metrics), Views()

    def __repr__(self) -> str:
        """How it is written, with its metrics one by one."""
        return written(self, RunResults)

    def identity(self) -> dict[str, Any]:
        """What tells monitors without names apart."""
        return {"metrics": [metric.name for metric in self.metrics]}

    # Hooks ---------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh, unless this continues a fit; come after callbacks that change the network.

        Raises:
            ValueError: If another monitor of the same name would log the same keys.
        """
        self._tell_apart(trainer)
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        for other in self._before(trainer):
            check_that_keys_differ(self.identity()["metrics"], other.identity()["metrics"], self.name)
        put_in_order(trainer)
        if trainer.global_step == 0:
            self._forget()
        self._is_under_way = self._probes_are_ready = False
        self.views = Views()
        self.share_results()
        if trainer.is_global_zero and self is self._all(trainer)[-1]:
            announce_columns(trainer, pl_module, self._all(trainer))

    def _before(self, trainer: Trainer) -> list[ComplexityMonitor]:
        """Monitors of the same name that are listed before this one."""
        siblings, callbacks = self.siblings(trainer), trainer.callbacks
        return [c for c in siblings if callbacks.index(c) < callbacks.index(self)]

    def _tell_apart(self, trainer: Trainer) -> None:
        """Take a name, where an earlier monitor without one logs the same keys."""
        names = set(self.identity()["metrics"])
        if self.name is not None or not any(names & set(c.identity()["metrics"]) for c in self._before(trainer)):
            return
        self.name = f"monitor_{self._all(trainer).index(self) + 1}"
        if trainer.is_global_zero:
            warnings.warn(
                f"Several monitors measure {min(names)}: this one logs it as complexity/{self.name}/{min(names)}. "
                "Choose a name with ComplexityMonitor(..., name='shifted').",
                stacklevel=2,
            )

    @timed
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the initial parameters, where a metric needs them."""
        needs_initial = any("initial" in metric.needs for metric in self.metrics)
        # A run that goes on does not start from the initial parameters: what no checkpoint has is lost.
        if self._initial is None and needs_initial and _has_shapes(pl_module) and not trainer.ckpt_path:
            self._initial = initial_state(pl_module)
        for metric in self.metrics:
            metric.to(pl_module.device)
        self.publish(trainer)

    @timed
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; find the place of the record; let others have the last values of a run that goes on."""
        self.spending.stopwatch.start()
        self._is_under_way = self._probes_are_ready = False
        if not self._knows_steps:
            self._steps = completed_batches(trainer)
        elif self._global_step != trainer.global_step:  # the checkpoint was saved before the step was counted here
            self._steps += 1
        self._global_step = trainer.global_step
        self._live.start(trainer, pl_module)
        self._epochs_end_together = epochs_end_together(trainer)
        self._leave_out_what_has_no_start(trainer)
        self._watchers = self.watchers(trainer)
        self._is_watched = bool(self._watchers)
        self._watchers.check(trainer, self.every_n_steps)
        self.publish(trainer)
        self.open_record(trainer)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure at initialization; a network of lazy layers, which has no weights yet, after its first step."""
        if not self._is_under_way and _has_shapes(pl_module):  # each step comes here
            self._start(trainer, pl_module, batch)

    @timed
    def _start(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        if not self._knows_steps:  # Lightning's count is right from here on, where a run goes on
            self._steps, self._knows_steps = completed_batches(trainer), True
        if not self._probes_are_ready:
            self._probes_are_ready = True
            self._failures.is_shared = ranks_of(trainer).count > 1
            self._probes.draw(trainer, pl_module, batch, self._failures, ranks_of(trainer))
        if not self._history:
            self._measure(trainer, pl_module)
        self._is_under_way = True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure every so many steps."""
        self._live.add(trainer, outputs)
        global_step = trainer.global_step
        if global_step == self._global_step:  # gradients are still accumulating
            return
        self._global_step = global_step
        self._steps += 1
        if not self._is_under_way:
            self._knows_steps = True
            self._start(trainer, pl_module, batch)
            return
        is_due = self.is_scheduled(self._steps) or (self._is_watched and self._watchers.look_after(trainer, batch_idx))
        if not self._epochs_end_together:
            ends = trainer.is_last_batch and self._is_due_after_epoch(trainer)
            is_due = trainer.strategy.broadcast(is_due or ends)
        if is_due:
            self._measure(trainer, pl_module)

    def is_scheduled(self, step: int) -> bool:
        """Whether the network is measured once so many optimizer steps are completed; a subclass may choose others."""
        return bool(self.every_n_steps and step % self.every_n_steps == 0)

    @timed
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure for callbacks that look at the values after the validation."""
        is_ready = self._probes_are_ready and not trainer.sanity_checking and self._epochs_end_together
        if is_ready and self.watchers(trainer):
            self._measure(trainer, pl_module)

    @timed
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure every so many epochs."""
        if self._epochs_end_together and self._is_due_after_epoch(trainer):
            self._measure(trainer, pl_module)

    def _is_due_after_epoch(self, trainer: Trainer) -> bool:
        is_scheduled = bool(self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0)
        return is_scheduled or bool(self.watchers(trainer))

    @timed
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the final network."""
        if self.history:
            self._measure(trainer, pl_module, last=True)
            if trainer.is_global_zero:
                self.spending.tell_thinned(self._failures.left_out)
        self._live.stop()
        self.spending.stopwatch.stop()

    @timed
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the final network again, if it was changed after training had ended."""
        if not self._probes_are_ready or not self.history or self._is_measured(trainer, pl_module):
            return
        self._probes.to(pl_module.device)
        for metric in self.metrics:
            metric.to(pl_module.device)
        self._measure(trainer, pl_module, last=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the clock, and follow the optimizers no longer; say what was measured."""
        self._live.stop()
        self.spending.stopwatch.stop()
        self._end_views(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say what was measured."""
        if stage == "fit":
            self._end_views(trainer, pl_module)

    @timed
    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs: the history, the probe, and the initial parameters where a metric needs them."""
        return {
            **super().state_dict(),
            "history": [asdict(measurement) for measurement in self._history],
            **self._probes.state_dict(),
            "initial": self._initial,
            "live": self._live.state_dict(),
            "steps": self._steps,
            "global_step": self._global_step,
            "spending": self.spending.state(),
            "seconds_measuring": self.spending.stopwatch.spent,
            "seconds": self.spending.stopwatch.spent + self.spending.stopwatch.rest,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint, also from that of a monitor with other metrics or options."""
        self._history[:] = [Measurement(**row) for row in state_dict["history"]]
        self._probes.load_state_dict(state_dict)
        self._initial = state_dict["initial"]
        self._live.load_state_dict(state_dict.get("live"))
        self._steps, self._global_step = state_dict["steps"], state_dict["global_step"]
        self._knows_steps = True
        self.spending.stopwatch.restore(state_dict["seconds_measuring"], state_dict["seconds"])
        if "spending" in state_dict:
            self.spending.restore(state_dict["spending"])

    def _leave_out_what_has_no_start(self, trainer: Trainer) -> None:
        names = [metric.name for metric in self.metrics if "initial" in metric.needs]
        if self._initial is not None or not names:
            return
        self._failures.left_out |= dict.fromkeys(names, "no initial parameters")
        if trainer.is_global_zero:
            reason = (
                "the checkpoint does not have the initial parameters, as it was saved without such a metric"
                if trainer.ckpt_path
                else "lazy layers have no parameters yet. Call the network on a batch before training"
            )
            warnings.warn(
                f"ComplexityMonitor leaves out {', '.join(names)} for the rest of this run: {reason}.",
                stacklevel=2,
            )

    @property
    def overhead(self) -> float:
        """Time that this monitor spent measuring, divided by the rest of the time since training started."""
        return self.spending.stopwatch.overhead

    @property
    def left_out(self) -> dict[str, str]:
        """Why, by name, for metrics that cannot be computed on this network."""
        return dict(self._failures.left_out)

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
