"""What a monitor does at one moment: measure what is due, show it, log it and keep it."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from torch import Tensor

from lightning_complexity.callbacks.base import LightningModule, Trainer, double_precision
from lightning_complexity.callbacks.changes import Fingerprint, fingerprint
from lightning_complexity.callbacks.keys import KeyedCallback, named_key, plain_key
from lightning_complexity.callbacks.loggers import log_scalars
from lightning_complexity.callbacks.monitoring.alone import measured_alone
from lightning_complexity.callbacks.monitoring.budgeting import Moment, Spending, timed, watched_names
from lightning_complexity.callbacks.monitoring.live import LiveTraining
from lightning_complexity.callbacks.monitoring.probes import Probes
from lightning_complexity.callbacks.monitoring.progress import noted
from lightning_complexity.callbacks.monitoring.results import RunResults
from lightning_complexity.callbacks.monitoring.together import measured_together
from lightning_complexity.callbacks.monitoring.watching import WatchedValues
from lightning_complexity.callbacks.probe import Probe
from lightning_complexity.callbacks.ranks import ranks_of, snapshot_of_all
from lightning_complexity.callbacks.views.pictures import shows_figures
from lightning_complexity.callbacks.views.run import Views, conclude_columns, probes_in_words, write_views
from lightning_complexity.callbacks.views.text import Summary
from lightning_complexity.network import Snapshot
from lightning_complexity.recording.measuring import FailureReport, Measured
from lightning_complexity.recording.record import Measurement
from lightning_complexity.recording.together import Together


class Measuring(RunResults, WatchedValues, KeyedCallback):
    """A monitor once it is to measure; a subclass says when."""

    spending: Spending
    views: Views
    _probes: Probes
    _initial: dict[str, Tensor] | None
    _live: LiveTraining
    _failures: FailureReport
    _fingerprint: Fingerprint | None
    _whole_only: set[str]
    _steps: int
    _chosen: set[str] | None  # of the latest measurement, where it was made here

    def _is_measured(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether the network, as it is now, is the one of the last measurement; all ranks agree."""
        if not self._history or self._history[-1].step != self._steps:
            return False
        # What came out of a checkpoint was measured before it was saved.
        same = self._fingerprint is None or self._fingerprint == fingerprint(pl_module)
        return bool(trainer.strategy.broadcast(same))

    @timed
    def _measure(self, trainer: Trainer, pl_module: LightningModule, *, last: bool = False) -> None:
        names, is_again = self._names(), self._is_measured(trainer, pl_module)
        watched = watched_names(self._watched_keys(trainer), names)
        if is_again:  # what was left out of it may be wanted now
            missing = set() if self._chosen is None or self.spending.budget.share is None else set(names) - self._chosen
            names, watched = [name for name in names if name in missing], watched & missing
            if not (watched or (last and names)):
                return
        moment = self.spending.moment(trainer, names, watched, step=self._steps, last=last)
        if moment is not None:
            with moment.open(), noted(trainer, moment.doing):
                # After training, Lightning counts the epochs that are over.
                epoch = max(trainer.current_epoch - last, 0)
                is_end = last or not self._history
                self._measure_at(moment, trainer, pl_module, epoch, is_again=is_again, is_end=is_end)
            moment.tell()
            if trainer.is_global_zero and moment.chosen and not self.views.is_begun:
                self._begin_views(trainer, pl_module)

    def _measure_at(
        self,
        moment: Moment,
        trainer: Trainer,
        pl_module: LightningModule,
        epoch: int,
        *,
        is_again: bool,
        is_end: bool,
    ) -> None:
        with double_precision(trainer):
            measured = self._measured(
                moment, trainer, pl_module, figures=trainer.is_global_zero and shows_figures(trainer)
            )
        values = measured.floats()
        self._failures.share(ranks_of(trainer))
        self._failures.announce(silent=not trainer.is_global_zero)
        if not moment.chosen and (is_again or not is_end):
            return
        if trainer.is_global_zero:
            self.views.show(trainer, measured, self._steps, self._named)
        self._fingerprint = fingerprint(pl_module)
        self._chosen = moment.chosen | (self._chosen or set() if is_again else set())
        if self._history:
            values["complexity/overhead"] = sum(monitor.overhead for monitor in self._all(trainer))
        of_all = epoch, self._named(values), self._failures.left_out
        epoch, values, self._failures.left_out = trainer.strategy.broadcast(of_all)
        log_scalars(trainer, values, self._steps, self.views.parts)
        seconds = measured.seconds
        if is_again:
            values, seconds = {**self._history[-1].values, **values}, {**self._history[-1].seconds, **seconds}
        self.keep(trainer, Measurement(self._steps, epoch, time.time(), values, seconds))

    def _begin_views(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once all monitors have their first values, say in words what is measured, and lay out the charts."""
        self.views.is_begun = True
        if all(monitor.views.is_begun for monitor in self._all(trainer)):
            write_views(trainer, pl_module, self._all(trainer))

    def _end_views(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say at the end what the budget thinned and what was left out; give the final values columns."""
        if not self.views.is_begun:
            return
        self.views.is_begun = False
        if not any(monitor.views.is_begun for monitor in self._all(trainer)):
            write_views(trainer, pl_module, self._all(trainer))
            conclude_columns(trainer, pl_module, self._all(trainer))

    def summary(self, trainer: Trainer, pl_module: LightningModule) -> Summary:
        """What is said of this monitor in words."""
        left_out = dict(self._failures.left_out)
        return Summary(
            self._steps,
            self.views.task(trainer, pl_module, self._probes),
            probes_in_words(self._probes),
            self.metrics,
            self._history,
            left_out,
            [text for text in self.spending.thinned(left_out) if text],
            self.spending.measured,
            self.spending.due,
        )

    def _names(self) -> list[str]:
        """What there is to measure."""
        names = ["probe/train"] if self._probes.train is not None else []
        names += ["probe/val"] if self._probes.validation is not None else []
        return [*names, *(metric.name for metric in self.metrics if metric.name not in self._failures.left_out)]

    def _watched_keys(self, trainer: Trainer) -> set[str]:
        return {plain_key(key, self.name) or key for key in self.watchers(trainer).keys}

    def _named(self, values: dict[str, Any]) -> dict[str, Any]:
        return {named_key(key, self.name): value for key, value in values.items()}

    def _measured(self, moment: Moment, trainer: Trainer, pl_module: LightningModule, *, figures: bool) -> Measured:
        ranks = ranks_of(trainer)
        if ranks.count > 1:
            self._live.share(ranks)
            training: dict[str, Any] = {"live": self._live.steps, "optimizers": trainer.optimizers}
            training["optimizer_state"] = any(
                m.reads_optimizers for m in self.metrics if m.name not in self._failures.left_out
            )
            network = snapshot_of_all(pl_module, self._initial, ranks, **training)
            together = Together(ranks, self._failures, self._whole_only)
            return measured_together(self.metrics, network, self._probes, together, moment, figures=figures)
        snapshot_on = partial(self._snapshot, trainer, pl_module)
        return measured_alone(self.metrics, snapshot_on, self._probes, self._failures, moment, figures=figures)

    def _snapshot(self, trainer: Trainer, pl_module: LightningModule, probe: Probe | None) -> Snapshot:
        batches, task = probe or (None, None)
        training: dict[str, Any] = {"live": self._live.steps, "optimizers": trainer.optimizers}
        return Snapshot(pl_module, batches, task=task, initial=self._initial, **training)

    def _all(self, trainer: Trainer) -> list[Any]:
        return [c for c in trainer.callbacks if isinstance(c, Measuring)]
