"""How a monitor keeps to its budget: how long the training will be, what ranks agree on, and what is said."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from lightning_complexity.callbacks.base import Trainer
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import Snapshot
from lightning_complexity.recording.budget import Budget, Length, Stopwatch
from lightning_complexity.recording.durations import Watch
from lightning_complexity.recording.forecasts import MOMENT, Forecasts, Piece
from lightning_complexity.recording.measuring import Plan

BudgetGiven = float | Literal["auto"] | None
Result = TypeVar("Result")
P = ParamSpec("P")
_log = logging.getLogger(__name__)
_PART_FOR_LOOKS, _PART_FOR_PIECES = 0.1, 0.5  # of what short runs may spend
_UNKNOWN_LENGTH = 32  # optimizer steps that a training of unknown length is taken to have at least


class Spender(Protocol):
    """Something that measures and is timed."""

    spending: Spending


S = TypeVar("S", bound=Spender)


def timed(hook: Callable[Concatenate[S, P], Result]) -> Callable[Concatenate[S, P], Result]:
    """Count the time in a hook as spent measuring."""

    def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        with self.spending.stopwatch.measuring():
            return hook(self, *args, **kwargs)

    update_wrapper(wrapped, hook)
    return wrapped


class Spending:
    """What a monitor has spent, and what it measures with the rest.

    Args:
        given: The budget as the user gave it.
        metrics: That are to be measured.
        every_n_steps: As of the monitor.
        every_n_epochs: As of the monitor.

    Attributes:
        stopwatch: Counts the time of training and of measuring.
        moment: The step of the latest measurement that was due, whether or not anything was measured.
        chosen: What was measured then.
        measured: How often each quantity was measured.
        due: How often it could have been.
    """

    def __init__(
        self,
        given: BudgetGiven,
        metrics: Collection[ComplexityMetric],
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
    ) -> None:
        self.budget = Budget.of(given)
        self.forecasts = Forecasts({metric.name: metric for metric in metrics})
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self.stopwatch = Stopwatch()
        self.moment: int | None = None
        self.chosen: set[str] = set()
        self.measured: dict[str, int] = {}
        self.due: dict[str, int] = {}
        self._told: set[str] = set()

    def plan(
        self, trainer: Trainer, snapshot: Snapshot | None, names: Collection[str], *, step: int, last: bool = False
    ) -> Plan:
        """What to measure now; equal on all ranks, which must all come here.

        Args:
            trainer: Whose training is measured.
            snapshot: Of the network on the probe, of which pieces are tried; ``None`` if there can be none.
            names: Quantities that are to be measured.
            step: Completed optimizer steps.
            last: Whether there is no later moment.
        """
        watch = Watch(self.forecasts.durations)
        is_new, self.moment = self.moment != step, step
        if self.budget.share is None:
            self.chosen = set(names) if is_new else self.chosen | set(names)
            return Plan(dict.fromkeys(names, 1.0), watch)
        if snapshot is not None:
            self.forecasts.see(snapshot)
        length = None if last else self._look(trainer, snapshot, step)
        parts = self._agreed(trainer, lambda: self._choose(trainer, names, length))
        self.chosen = set(parts) if is_new else self.chosen | set(parts)
        for name in names:
            self.due[name] = self.due.get(name, 0) + is_new
            self.measured[name] = self.measured.get(name, 0) + (name in parts)
        if trainer.is_global_zero:
            self._tell_forecasts([name for name in names if name not in parts])
        return Plan(parts, watch)

    @contextmanager
    def moment_of(self, plan: Plan) -> Iterator[None]:
        """Time what measuring takes beside its quantities."""
        with plan.watch.timed(MOMENT):
            yield

    def _choose(self, trainer: Trainer, names: Collection[str], length: Length | None) -> dict[str, float]:
        chosen = self.budget.choose(
            [self.forecasts.offer(name) for name in names if self.forecasts.is_possible(name)],
            spent=self.stopwatch.spent,
            rest=self.stopwatch.rest,
            length=length,
        )
        return {**dict.fromkeys(monitored(trainer, names), 1.0), **chosen}

    def _look(self, trainer: Trainer, snapshot: Snapshot | None, step: int) -> Length:
        """Try what is not known yet on small pieces of the probe; return how long the training will be."""
        forecasts = self.forecasts
        while (size := self._agreed(trainer, lambda: self._next_look(trainer, step))) is not None:
            forecasts.look(size, snapshot)
        while (piece := self._agreed(trainer, lambda: self._next_piece(trainer, step))) is not None:
            forecasts.try_piece(piece, snapshot)
        return self._length(trainer, step)

    def _next_look(self, trainer: Trainer, step: int) -> int | None:
        if self.budget.grace > self.stopwatch.spent:
            return self.forecasts.next_look(_PART_FOR_LOOKS * (self.budget.grace - self.stopwatch.spent))
        if not self.forecasts.forward_is_known and not self._can_afford_a_look(trainer, step):
            return None
        return self.forecasts.next_look(self._credit(trainer, step))

    def _can_afford_a_look(self, trainer: Trainer, step: int) -> bool:
        if step:
            return self._credit(trainer, step) > self.stopwatch.rest / step
        steps = expected_length(trainer, 1.0)
        return self.budget.earned(0.0, steps) > 0.5

    def _next_piece(self, trainer: Trainer, step: int) -> Piece | None:
        if self.budget.grace > self.stopwatch.spent:
            credit = _PART_FOR_PIECES * (self.budget.grace - self.stopwatch.spent)
            return self.forecasts.next_piece(self.forecasts.metrics, credit, self.budget.grace)
        length = self._length(trainer, step)
        earned = self.budget.earned(self.stopwatch.rest, length)
        return self.forecasts.next_piece(self.forecasts.metrics, earned - self.stopwatch.spent, earned)

    def _credit(self, trainer: Trainer, step: int) -> float:
        return self.budget.credit(self.stopwatch.spent, self.stopwatch.rest, self._length(trainer, step))

    def _length(self, trainer: Trainer, step: int) -> Length:
        if step and self.stopwatch.rest > 0:
            seconds = self.stopwatch.rest / step
        else:
            seconds = _guessed_step(trainer, self.forecasts)
        return expected_length(trainer, seconds, self.every_n_steps, self.every_n_epochs)

    @staticmethod
    def _agreed(trainer: Trainer, decide: Callable[[], Result]) -> Result:
        if trainer.world_size == 1:
            return decide()
        decided: Result = trainer.strategy.broadcast(decide() if trainer.is_global_zero else None)
        return decided

    # What is said --------------------------------------------------------------------------------

    def _tell_forecasts(self, names: Collection[str]) -> None:
        new = [name for name in names if name not in self._told]
        self._told.update(new)
        if new:
            _log.info(
                "ComplexityMonitor keeps to %s of the training time and measures some quantities more rarely, at about "
                "these times and amounts of memory each: %s.",
                _percent(self.budget.share or 0.0),
                ", ".join(f"{name} {self._amount(name)}" for name in new),
            )

    def _amount(self, name: str) -> str:
        memory = self.forecasts.memory(name)
        seconds = f"{self.forecasts.seconds(name):.2g} s"
        return seconds if memory == 0 else f"{seconds} and {memory / 1e6:.2g} MB"

    def tell_thinned(self, left_out: Collection[str]) -> None:
        """Say at the end what was measured more rarely than was due."""
        names = [name for name in self.due if name not in left_out]
        never = [name for name in names if not self.measured[name]]
        rarely = [name for name in names if 0 < self.measured[name] < self.due[name]]
        share = _percent(self.budget.share or 0.0)
        if rarely:
            _log.info(
                "ComplexityMonitor kept to %s of the training time; measured more rarely: %s.",
                share,
                ", ".join(f"{name} {self.measured[name]} times of {self.due[name]}" for name in rarely),
            )
        if never:
            _log.warning(
                "ComplexityMonitor never measured %s: too dear for %s of the training time. Give it a larger budget, "
                "budget=None for no limit, or a smaller probe.",
                ", ".join(f"{name} ({self._amount(name)})" for name in never),
                share,
            )

    # Checkpoints ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {
            "moment": self.moment,
            "chosen": sorted(self.chosen),
            "measured": dict(self.measured),
            "due": dict(self.due),
            "accounts": self.budget.accounts.state(),
            "forecasts": self.forecasts.state(),
            "seconds_measuring": self.stopwatch.spent,
            "seconds": self.stopwatch.total,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.moment, self.chosen = state["moment"], set(state["chosen"])
        self.measured, self.due = dict(state["measured"]), dict(state["due"])
        self.budget.accounts.restore(state["accounts"])
        self.forecasts.restore(state["forecasts"])
        self.stopwatch.restore(state["seconds_measuring"], state["seconds"])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def monitored(trainer: Trainer, names: Collection[str]) -> set[str]:
    """Those of the quantities that other callbacks or learning rate schedulers wait for."""
    keys = [getattr(callback, "monitor", None) for callback in trainer.callbacks]
    keys += [config.monitor for config in trainer.lr_scheduler_configs]
    wanted = {name for name in names for key in keys if isinstance(key, str) and _gives(name, key)}
    return wanted & set(names)


def _gives(name: str, key: str) -> bool:
    if name.startswith("probe/"):
        return key.startswith("probe/") and (key.startswith(name) or "gap" in key)
    return key == f"complexity/{name}" or key.startswith(f"complexity/{name}/")


def _guessed_step(trainer: Trainer, forecasts: Forecasts) -> float:
    """Seconds of an optimizer step by those of a forward pass: a backward pass takes two."""
    batch_size = getattr(_first(trainer.train_dataloader), "batch_size", None) or 1
    samples = batch_size * trainer.accumulate_grad_batches
    return 3 * forecasts.forward_seconds * samples / max(forecasts.num_samples, 1)


def _first(loaders: Any) -> Any:
    return _first(loaders[0]) if isinstance(loaders, (list, tuple)) and loaders else loaders


def expected_length(
    trainer: Trainer, step_seconds: float, every_n_steps: int | None = None, every_n_epochs: int | None = None
) -> Length:
    """How long a training will be, as far as its ``Trainer`` tells.

    Nothing is known to stop it before its first epoch, or before ``min_epochs`` and ``min_steps``; any later epoch may
    be the last one.
    """
    an_epoch = (
        math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches) if _is_sized(trainer) else math.inf
    )
    epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else math.inf
    steps = trainer.max_steps if trainer.max_steps != -1 else math.inf
    # An epoch of unknown length times no known number of them is not known either.
    expected = min(steps, an_epoch * epochs if an_epoch and epochs else 0)
    certain = max(an_epoch * max(trainer.min_epochs or 1, 1), trainer.min_steps or 0)
    certain = min(certain if math.isfinite(certain) else _UNKNOWN_LENGTH, expected)
    moments = 2.0
    if every_n_steps:
        moments += expected / every_n_steps
    if every_n_epochs:
        moments += min(epochs, expected / an_epoch if an_epoch else 0) / every_n_epochs
    longest = _max_seconds(trainer)
    return Length(min(certain * step_seconds, longest), min(expected * step_seconds, longest), moments)


def _is_sized(trainer: Trainer) -> bool:
    return math.isfinite(trainer.num_training_batches)


def _max_seconds(trainer: Trainer) -> float:
    """``max_time``, which Lightning's timer keeps."""
    durations = [
        getattr(callback, "_duration", None) for callback in trainer.callbacks if type(callback).__name__ == "Timer"
    ]
    return min([float(d) for d in durations if d is not None], default=math.inf)
