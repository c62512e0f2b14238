"""How a monitor keeps to its budget: what it has spent, what ranks agree on, and what is said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import update_wrapper
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

from lightning_complexity.callbacks.base import Trainer
from lightning_complexity.callbacks.monitoring.training_length import expected_length, samples_of_a_step
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import Snapshot
from lightning_complexity.recording.budget import Budget, Length, Now, Stopwatch
from lightning_complexity.recording.budget import Plan as Prices
from lightning_complexity.recording.costs import MOMENT, Watch
from lightning_complexity.recording.forecasts import Forecasts
from lightning_complexity.recording.measuring import Plan
from lightning_complexity.recording.memory import free_bytes

Result = TypeVar("Result")
P = ParamSpec("P")
_log = logging.getLogger(__name__)
_LOSSES = ("probe/train", "probe/val")
_WORTH_A_LOOK = 0.02  # seconds that must have been earned where nothing has its turn
_PIECES_COUNT = 4  # times what was spent on pieces in this moment is no longer there for others
_FIRST_MOMENT = 0.25  # of it comes again: loggers open their files
_ENDS = 0.2  # of all that will be earned, or so many seconds, cheap ones may take at the start and at the end
_ENDS_SECONDS = 0.04
_ENDS_SECONDS_OF_AUTO = 60.0  # for all at once
_OF_FREE_MEMORY = 0.8
_LITTLE_MEMORY = 100e6  # bytes


class Spender(Protocol):
    """Something that measures and is timed."""

    spending: Spending


S = TypeVar("S", bound=Spender)


def timed(hook: Callable[Concatenate[S, P], Result]) -> Callable[Concatenate[S, P], Result]:
    """Count the time in a hook as spent measuring."""

    def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        stopwatch = self.spending.stopwatch
        stopwatch.enter()
        try:
            return hook(self, *args, **kwargs)
        finally:
            stopwatch.leave()

    update_wrapper(wrapped, hook)
    return wrapped


class TryPiece(NamedTuple):
    """A decision to try a quantity on some samples first."""

    size: int


class Spending:
    """What a monitor has spent, and what it measures with the rest.

    Args:
        given: The budget as the user gave it.
        metrics: That are to be measured.

    Attributes:
        stopwatch: Counts the time of training and of measuring.
        step: Of the latest moment that was due, whether or not anything was measured; ``None`` before the first.
        measured: How often each quantity was measured.
        due: How often it could have been.
    """

    def __init__(self, given: float | str | None, metrics: Collection[ComplexityMetric]) -> None:
        self.budget = Budget.of(given)
        self.forecasts = Forecasts({metric.name: metric for metric in metrics})
        self.stopwatch = Stopwatch()
        self.step: int | None = None
        self.measured: dict[str, int] = {}
        self.due: dict[str, int] = {}
        self.moments = 0
        self._sure = 0.0
        self._lowest: int | None = None  # level of what is measured most often
        self._told: set[str] = set()

    def moment(
        self, trainer: Trainer, names: Collection[str], watched: Collection[str], *, step: int, last: bool = False
    ) -> Moment | None:
        """What to measure now; ``None`` for nothing. All ranks come here and agree.

        Args:
            trainer: Whose training is measured.
            names: Quantities that are to be measured.
            watched: Those that others look at now.
            step: Completed optimizer steps.
            last: Whether there is no later moment.
        """
        is_first, is_new = self.step is None, self.step != step
        self.step = step
        self.moments += is_new and not is_first
        for name in names:
            self.due[name] = self.due.get(name, 0) + is_new
        may = is_first or last or bool(watched) or agreed(trainer, self._is_worth_a_look)
        return Moment(self, trainer, names, watched, is_first=is_first, last=last) if may else None

    def _is_worth_a_look(self) -> bool:
        """Whether something may have its turn; this comes at each moment, and must take microseconds."""
        if self.budget.share is None:
            return True
        if self._lowest is not None:
            return self.moments % 2**self._lowest == 0
        earned = self.budget.earned(self.stopwatch.rest, Length(self._sure))
        return earned - self.stopwatch.spent > _WORTH_A_LOOK

    def length(self, trainer: Trainer) -> Length:
        """How long the training will be."""
        if self.step and self.stopwatch.rest > 0:
            seconds = self.stopwatch.rest / self.step
        else:  # by those of a forward pass: a backward pass takes two
            forward = self.forecasts.forward_seconds or 0.0
            seconds = 3 * forward * samples_of_a_step(trainer) / max(self.forecasts.num_samples, 1)
        length = expected_length(trainer, seconds)
        self._sure = length.sure
        return length

    def now(self, length: Length | None, promised: float = 0.0) -> Now:
        """When something is decided.

        Args:
            length: Of the training; ``None`` at its end.
            promised: Seconds that will be spent in this moment.
        """
        return Now(self.stopwatch.spent + promised, self.stopwatch.rest, self.moments, length)

    def plan(self, names: Collection[str], length: Length) -> Prices:
        """What each quantity may take."""
        interval = self.stopwatch.rest / self.moments if self.moments else 0.0
        plan = self.budget.plan(self.forecasts.in_order(names), interval, self.now(length))
        self._lowest = min((turn.level for turn in plan.turns.values()), default=None)
        return plan

    def allow_ends(self, names: Collection[str], length: Length) -> None:
        """After the first values, see that a short run has them and the last ones beside its budget, if it may."""
        if self.budget.is_auto:
            last = sum(price.full for price in self.forecasts.in_order(names).values())
            self.budget.allow_ends(self.stopwatch.spent + min(last, _ENDS_SECONDS_OF_AUTO), length)

    # What is said --------------------------------------------------------------------------------

    def tell_forecasts(self, names: Collection[str]) -> None:
        """Say of what is not measured now what it takes; once."""
        new = [name for name in names if name not in self._told]
        self._told.update(new)
        if new:
            _log.info(
                "ComplexityMonitor keeps to %s and measures some quantities more rarely, at about "
                "these times and amounts of memory each: %s.",
                self._limit(),
                ", ".join(f"{name} {self._amount(name)}" for name in new),
            )

    def _limit(self) -> str:
        """The budget in words."""
        share = f"{100 * (self.budget.share or 0.0):.3g} % of the training time"
        return f"{share} (at least {self.budget.at_least:.0f} s)" if self.budget.at_least else share

    def _amount(self, name: str) -> str:
        memory = self.forecasts.memory(name)
        seconds = f"{self.forecasts.price(name).full:.2g} s"
        return seconds if memory == 0 else f"{seconds} and {memory / 1e6:.2g} MB"

    def thinned(self, left_out: Collection[str]) -> tuple[str, str]:
        """What was measured more rarely than was due, and what never, in words; empty where nothing was."""
        names = [name for name in self.due if name not in left_out]
        never = [name for name in names if not self.measured.get(name)]
        rarely = [name for name in names if 0 < self.measured.get(name, 0) < self.due[name]]
        few = ", ".join(f"{name} {self.measured[name]} times of {self.due[name]}" for name in rarely)
        none = ", ".join(f"{name} ({self._amount(name)})" for name in never)
        return (
            f"kept to {self._limit()}; measured more rarely: {few}." if few else "",
            f"never measured {none}: more than {self._limit()} or most of the free memory. "
            "Give it a larger budget, budget=None for no limit, or a smaller probe."
            if none
            else "",
        )

    def tell_thinned(self, left_out: Collection[str]) -> None:
        """Say at the end what was measured more rarely than was due."""
        rarely, never = self.thinned(left_out)
        if rarely:
            _log.info("ComplexityMonitor %s", rarely)
        if never:
            _log.warning("ComplexityMonitor %s", never)

    # Checkpoints ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "step": self.step,
            "moments": self.moments,
            "measured": dict(self.measured),
            "due": dict(self.due),
            "latest": dict(self.budget.latest),
            "at_least": self.budget.at_least,
            "forecasts": self.forecasts.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.step, self.moments = state["step"], state["moments"]
        self.measured, self.due = dict(state["measured"]), dict(state["due"])
        self.budget.latest = dict(state["latest"])
        self.budget.start_again(self.stopwatch.spent, state["at_least"])
        self.forecasts.restore(state["forecasts"])


class Moment(Plan):
    """What is measured at one moment, decided one quantity after the other by rank zero.

    Attributes:
        chosen: What was measured.
    """

    def __init__(
        self,
        spending: Spending,
        trainer: Trainer,
        names: Collection[str],
        watched: Collection[str],
        *,
        is_first: bool,
        last: bool,
    ) -> None:
        self._spending, self._trainer = spending, trainer
        self._names, self._watched, self._is_first, self._last = names, watched, is_first, last
        self._watch = Watch(spending.forecasts.costs)
        self._prices: Prices | None = None
        self._length = Length()
        self._began = self._promised = self._forecast = self._on_pieces = 0.0
        self._begun: list[str] = []
        self.chosen: set[str] = set()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Time what the moment takes beside its quantities."""
        table = self._spending.forecasts.costs.table
        before = table.get(MOMENT)
        with self._watch.timed(MOMENT):
            yield
        if before is None:
            table[MOMENT].seconds *= _FIRST_MOMENT
        elif not self.chosen:  # nothing was logged
            table[MOMENT] = before
        if self._is_first:
            self._spending.allow_ends(self.chosen, self._length)

    def _planned(self, snapshot: Snapshot) -> Prices:
        if self._prices is None:
            if self._spending.forecasts.forward_seconds is None:
                self._spending.forecasts.see(snapshot)
            self._length = self._spending.length(self._trainer)
            self._prices = self._spending.plan(self._names, self._length)
            self._began = self._spending.stopwatch.spent
        return self._prices

    def ordered(self, metrics: list[ComplexityMetric], snapshot: Snapshot) -> list[ComplexityMetric]:
        """From the cheapest to the dearest."""
        if self._spending.budget.share is None:
            return metrics
        order = agreed(self._trainer, lambda: list(self._planned(snapshot).prices))
        by_name = {metric.name: metric for metric in metrics}
        return [by_name[name] for name in order if name in by_name]

    def part(self, name: str, snapshot: Snapshot) -> float:
        """How much of a quantity to measure now; pieces of the probe are tried before."""
        part = 0.0
        if name in self._names:
            part = 1.0 if self._spending.budget.share is None else self._decided(name, snapshot)
        if part:
            self._forecast += part * self._spending.forecasts.price(name, {MOMENT, *self._watch.there}).full
            self.chosen.add(name)
            self._spending.measured[name] = self._spending.measured.get(name, 0) + 1
            self._spending.budget.latest[name] = self._spending.moments
            self._watch.there.add(MOMENT)
        return part

    def promised(self, name: str, snapshot: Snapshot) -> float:
        """How much of a quantity to measure later in this moment, beside others that were promised before."""
        part = self.part(name, snapshot)
        if part:
            self._promised += part * self._spending.forecasts.price(name, self._watch.there).full
        return part

    def _decided(self, name: str, snapshot: Snapshot) -> float:
        prices = self._planned(snapshot)
        while isinstance(decision := agreed(self._trainer, lambda: self._decide(name, snapshot, prices)), TryPiece):
            before = self._spending.stopwatch.spent
            with self._watch.timed("pieces"):
                self._spending.forecasts.try_piece(name, decision.size, snapshot)
            self._on_pieces += self._spending.stopwatch.spent - before
        return decision

    def _decide(self, name: str, snapshot: Snapshot, prices: Prices) -> float | TryPiece:
        forecasts, budget = self._spending.forecasts, self._spending.budget
        if name in self._watched:
            return 1.0
        promised = self._promised + (0.0 if self.chosen else forecasts.costs.own(MOMENT))
        now = self._spending.now(None if self._last else self._length, promised)
        at_ends = self._room_at_ends(name)
        if not self._last or budget.is_auto:
            room = max(budget.room(name, prices, now), at_ends)
            size = forecasts.next_piece(name, room - _PIECES_COUNT * self._on_pieces)
            if size is not None:
                return TryPiece(size)
        price, pace = forecasts.price(name, {MOMENT, *self._watch.there}), self._pace()
        part = 1.0 if pace * price.full <= at_ends else budget.part(name, price, prices, now, pace)
        return part if part and self._fits(name, snapshot) else 0.0

    def _pace(self) -> float:
        """How much longer than forecast the quantities of this moment took."""
        if self._promised or self._forecast < _WORTH_A_LOOK:
            return 1.0
        spent = self._spending.stopwatch.spent - self._began - self._on_pieces
        return max(1.0, spent / self._forecast)

    def _room_at_ends(self, name: str) -> float:
        """Seconds that a quantity may take in any case, at the first and the last moment."""
        if not (self._is_first or self._last):
            return 0.0
        gone = self._spending.stopwatch.spent + self._promised - self._began
        if self._spending.budget.is_auto:
            return _ENDS_SECONDS_OF_AUTO - gone
        metric = self._spending.forecasts.metrics.get(name)
        if name not in _LOSSES and (metric is None or metric.cost != "weights"):
            return 0.0
        rest = self._spending.stopwatch.rest
        expected = rest if self._last or self._length.expected == float("inf") else self._length.expected
        return max(_ENDS_SECONDS, _ENDS * (self._spending.budget.share or 0.0) * expected) - gone

    def _fits(self, name: str, snapshot: Snapshot) -> bool:
        """Whether there is enough memory."""
        needed = self._spending.forecasts.memory(name)
        return needed < _LITTLE_MEMORY or needed < _OF_FREE_MEMORY * free_bytes(snapshot.device)

    def watching(self, snapshot: Snapshot, of: str = "") -> AbstractContextManager[None]:
        """See what shared quantities take."""
        return self._watch.on(snapshot, of)

    def timed(self, name: str, scale: float = 1.0) -> AbstractContextManager[None]:
        """See what one takes."""
        self._begun.append(name)
        return self._watch.timed(name, scale=scale)

    def doing(self) -> str:
        """What is being measured, in words."""
        if not self._begun:
            return "deciding what to measure"
        return f"{self._begun[-1]}, number {len(self._begun)} of at most {len(self._names)} quantities"

    def tell(self) -> None:
        """Say what is not measured, and what it takes."""
        if self._trainer.is_global_zero and self._spending.budget.share is not None:
            self._spending.tell_forecasts([name for name in self._names if name not in self.chosen])


def agreed(trainer: Trainer, decide: Callable[[], Result]) -> Result:
    """What rank zero decides, on all ranks."""
    if trainer.world_size == 1:
        return decide()
    decided: Result = trainer.strategy.broadcast(decide() if trainer.is_global_zero else None)
    return decided


def watched_names(keys: Collection[str], names: Collection[str]) -> set[str]:
    """The quantities that give some log keys."""
    return {name for name in names for key in keys if _gives(name, key)}


def _gives(name: str, key: str) -> bool:
    if name in _LOSSES:
        return key.startswith(name) or "gap" in key
    return key == f"complexity/{name}" or key.startswith(f"complexity/{name}/")
