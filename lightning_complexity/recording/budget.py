"""Whether a quantity may be measured now, so that measuring keeps to a share of the time; knows numbers only."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

_SAFETY = 0.97  # part of the budget that is planned with; forecasts are never exact
_MARGIN = 1.25  # of last values over the forecast, as no later time makes up for them
_NEARLY = 0.9  # of the time that a quantity waits; moments do not come at exact times
_AS_PLANNED = 1.5  # times the planned price; more means that what is shared is not there
_BURST = 1.5  # times the share, at most, are spent where much was saved


class Stopwatch:
    """Time spent measuring, and the rest of it.

    Times of nested blocks count once. Before :meth:`start` and after :meth:`stop` only what is spent measuring goes on.
    """

    def __init__(self) -> None:
        self._spent = self._rest = 0.0
        self._since: float | None = None  # the latest change of what the time counts as
        self._running = False
        self._depth = 0

    def _count(self) -> None:
        now = time.perf_counter()
        if self._since is not None:
            if self._depth:
                self._spent += now - self._since
            elif self._running:
                self._rest += now - self._since
        self._since = now

    def start(self) -> None:
        """Let the time run."""
        self._count()
        self._running = True

    def stop(self) -> None:
        """Let the time stand still."""
        self._count()
        self._running = False

    def enter(self) -> None:
        """Count as measuring what comes now; a context manager would take longer than a hook that has nothing to do."""
        self._count()
        self._depth += 1

    def leave(self) -> None:
        """End what :meth:`enter` began."""
        self._count()
        self._depth -= 1

    @property
    def spent(self) -> float:
        """Seconds spent measuring so far, a block that is still open included."""
        self._count()
        return self._spent

    @property
    def rest(self) -> float:
        """Seconds of training, not spent measuring, over all parts of a continued run."""
        self._count()
        return self._rest

    @property
    def overhead(self) -> float:
        """Time spent measuring divided by the rest; 0 before there is any."""
        spent, rest = self.spent, self.rest
        return spent / rest if rest > 0 else 0.0

    def restore(self, spent: float, total: float) -> None:
        """Continue from the times of a checkpoint."""
        self._spent, self._rest = spent, max(total - spent, 0.0)


@dataclass(frozen=True)
class Length:
    """How long a training will be, in seconds without measuring.

    Attributes:
        sure: As good as certain to come; what is earned in it may be spent before.
        expected: If nothing stops it; infinite where that is not known.
    """

    sure: float = 0.0
    expected: float = math.inf


@dataclass(frozen=True)
class Price:
    """What one quantity takes now.

    Attributes:
        own: Seconds for itself.
        shared: Seconds for what it has in common with others, unless that is there already.
        least: The smallest part of ``own`` that it can be measured with, at a larger standard error.
    """

    own: float
    shared: float = 0.0
    least: float = 1.0

    @property
    def full(self) -> float:
        """Seconds."""
        return self.own + self.shared


@dataclass
class Plan:
    """What holds at one moment.

    Attributes:
        prices: By name from the cheapest to the dearest, what each takes after those before it.
        reserves: By name, what the last values of all up to it will take.
        rates: By name, seconds that it may take in each second of training.
        always: Those that may be measured every time.
    """

    prices: Mapping[str, Price] = field(default_factory=dict)
    reserves: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    always: set[str] = field(default_factory=set)


class Budget:
    """Decides what is measured now.

    A quantity is measured when what was earned pays for it and for the last values of all that are not dearer. So
    cheap ones come first. Of what is left for the rest of the training each second goes to all evenly, but that none
    gets more than it can use, which is to be measured every time; dear ones wait until their part pays for them. So
    they come at even distances, and the more rarely the more they cost.

    Args:
        share: Time spent measuring may be so much of the rest of the time; ``None`` for no limit.

    Attributes:
        latest: By quantity, seconds of training before its latest value.
    """

    def __init__(self, share: float | None) -> None:
        self.share = share
        self.latest: dict[str, float] = {}

    @classmethod
    def of(cls, given: float | None) -> Budget:
        """What a user asked for.

        Raises:
            ValueError: At anything else.
        """
        if given is not None and (isinstance(given, (bool, str)) or not 0 < given < math.inf):
            raise ValueError(
                "budget must be a positive share of the training time, such as 0.05, or None for no limit, "
                f"got {given!r}."
            )
        return cls(given)

    def earned(self, rest: float, length: Length | None) -> float:
        """Seconds that may have been spent by now.

        That is the share of the training so far. The beginning borrows half of what is sure to come, and half of what
        then comes in pays it back.

        Args:
            rest: Seconds of training so far.
            length: Of the training; ``None`` at its end.

        Example:
            >>> budget, length = Budget(0.1), Length(sure=100.0)
            >>> [round(budget.earned(rest, length), 2) for rest in (0.0, 50.0, 100.0)]
            [4.85, 7.28, 9.7]
        """
        if self.share is None:
            return math.inf
        if length is None:
            return self.share * rest
        return _SAFETY * self.share * max(rest, (length.sure + rest) / 2 if rest < length.sure else rest)

    def plan(self, prices: Mapping[str, Price], spent: float, rest: float, moments: int, length: Length) -> Plan:
        """What each quantity may take.

        Args:
            prices: From the cheapest to the dearest, each without what those before it have in common with it.
            spent: Seconds spent measuring so far.
            rest: Seconds of training so far.
            moments: How many there were, at even distances.
            length: Of the training.
        """
        plan = Plan(prices)
        if self.share is None:
            return plan
        reserve = 0.0
        for name, price in prices.items():
            reserve += _MARGIN * (price.shared + price.least * price.own)
            plan.reserves[name] = reserve
        half = _SAFETY * self.share * length.expected / 2
        possible = [name for name, reserve in plan.reserves.items() if reserve <= half]
        rate = self._rate(spent + (plan.reserves[possible[-1]] if possible else 0.0), rest, length)
        plan.rates = dict.fromkeys(prices, rate)
        possible.sort(key=lambda name: prices[name].full)
        for i, name in enumerate(possible):  # the cheapest take what they can use, the others what they leave
            wanted = prices[name].full * moments / rest if rest > 0 else 0.0
            part = rate / (len(possible) - i)
            if wanted <= part:
                plan.always.add(name)
            plan.rates[name] = min(wanted, part)
            rate -= plan.rates[name]
        return plan

    def _rate(self, gone: float, rest: float, length: Length) -> float:
        """Seconds that may be spent in each second of what is sure to come, and of all, after what is spoken for."""
        assert self.share is not None
        rate = _BURST * self.share if math.isfinite(length.expected) else self.share
        for end in (length.sure, length.expected):
            if rest < end < math.inf:
                rate = min(rate, max(_SAFETY * self.share * end - gone, 0.0) / (end - rest))
        return rate

    def room(self, name: str, plan: Plan, spent: float, rest: float, length: Length | None) -> float:
        """Seconds that a quantity may take now, however long it has waited.

        Args:
            name: Of the quantity.
            plan: For this moment.
            spent: Seconds spent measuring so far.
            rest: Seconds of training so far.
            length: Of the training; ``None`` at its end.
        """
        if self.share is None:
            return math.inf
        room = self.earned(rest, length) - spent
        if length is None:
            room /= _MARGIN
        else:
            room = min(room, _SAFETY * self.share * max(rest, length.sure) - spent - plan.reserves[name])
        return room

    def part(self, name: str, price: Price, plan: Plan, spent: float, rest: float, length: Length | None) -> float:
        """How much of its own time a quantity may take now: 1 for all, 0 if it is not to be measured.

        Args:
            name: Of the quantity.
            price: Now, where some of what it shares may be there already.
            plan: For this moment.
            spent: Seconds spent measuring so far.
            rest: Seconds of training so far.
            length: Of the training; ``None`` at its end.
        """
        if self.share is None:
            return 1.0
        room = self.room(name, plan, spent, rest, length)
        return _part(price, room if length is None else min(room, self._saved(name, price, plan, rest, length)))

    def _saved(self, name: str, price: Price, plan: Plan, rest: float, length: Length) -> float:
        """What a quantity has waited for since its latest value."""
        is_as_planned = price.full <= _AS_PLANNED * plan.prices[name].full
        if name not in self.latest or (name in plan.always and is_as_planned):
            return math.inf
        waited = rest - self.latest[name]
        if length.expected - rest < waited / 2:  # the last value comes so soon that another one would say little
            return 0.0
        return plan.rates[name] * waited / _NEARLY


def _part(price: Price, seconds: float) -> float:
    if seconds >= price.full:
        return 1.0
    part = (seconds - price.shared) / price.own if price.own > 0 else 0.0
    return part if price.least <= part < 1 else 0.0
