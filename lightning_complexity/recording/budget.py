"""Whether a quantity may be measured now, so that measuring keeps to a share of the time; knows numbers only."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

AUTO = "auto"
_SHARE_OF_AUTO = 0.02
_SECONDS_OF_AUTO = 10.0
_SAFETY = 0.97  # part of the budget that is planned with; forecasts are never exact
_MARGIN = 1.25  # of last values over the forecast, as no later time makes up for them
_MARGIN_OF_NEW = 2.0  # where only pieces were tried
_AS_PLANNED = 1.5  # times the planned price; more means that what is shared is not there
_BURST = 1.5  # times the share, at most, are spent where much was saved
_LATE = 0.3  # times the moments so far are to come: too late for a first value before the last one
_FEWEST_MOMENTS = 32  # in which a debt is paid back, where nothing is known of the length
_HIGHEST_LEVEL = 30
_LEVEL_OF_FEWER_PROBES = (
    2  # estimates take fewer random probes before they come more rarely than at every fourth moment
)


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

    def of(self, part: float) -> float:
        """Seconds, with a part of ``own``."""
        return part * self.own + self.shared

    def times(self, factor: float) -> Price:
        """The price where everything takes so much longer."""
        return Price(factor * self.own, factor * self.shared, self.least)


@dataclass(frozen=True)
class Turn:
    """How often a quantity is measured.

    Attributes:
        level: Every ``2 ** level``-th moment.
        part: How much of its own time it takes.
    """

    level: int = 0
    part: float = 1.0


@dataclass
class Plan:
    """What holds at one moment.

    Attributes:
        prices: By name from the cheapest to the dearest, what each takes after those before it.
        reserves: By name, what its last value will take, with those before it that have a first one.
        turns: By name, how often it is measured. What is missing has no turn.
        spent: Seconds spent measuring when the moment began.
        to_come: Moments until the end of the training, infinite where that is not known.
    """

    prices: Mapping[str, Price] = field(default_factory=dict)
    reserves: dict[str, float] = field(default_factory=dict)
    turns: dict[str, Turn] = field(default_factory=dict)
    spent: float = 0.0
    to_come: float = math.inf

    def has_turn(self, name: str, moment: int, latest: int) -> bool:
        """Whether it is a quantity's turn: not so soon after another value, or before the last one."""
        if name not in self.turns:
            return False
        distance = 2 ** self.turns[name].level
        return distance == 1 or (moment % distance == 0 and 2 * min(moment - latest, self.to_come) >= distance)


@dataclass(frozen=True)
class Now:
    """When something is decided.

    Attributes:
        spent: Seconds spent measuring so far.
        rest: Seconds of training so far.
        moment: How many there were before.
        length: Of the training; ``None`` at its end.
    """

    spent: float
    rest: float
    moment: int
    length: Length | None


class Budget:
    """Decides what is measured now.

    Quantities are put in order of their price. What may be spent until the next moment goes to the cheapest first, as
    many as half of it pays for: they are measured at every moment. Half of what is left goes to those that follow, at
    every second moment, and so on at every fourth, eighth, ... So what is measured at a moment is the beginning of the
    order, what several share is paid by the first of them, cheap ones never wait for dear ones, and these come at
    even distances. The first values borrow from what is sure to come. There is no plan ahead: what took longer than
    forecast makes what follows rarer.

    Args:
        share: Time spent measuring may be so much of the rest of the time; ``None`` for no limit.
        at_least: Seconds that it may take in any case.

    Attributes:
        is_auto: Whether first and last values are measured beside the budget, where a short run does not pay for them.
        latest: By quantity, the moment of its latest value.
    """

    def __init__(self, share: float | None, at_least: float = 0.0, *, is_auto: bool = False) -> None:
        self.share, self.at_least, self.is_auto = share, at_least, is_auto
        self.latest: dict[str, int] = {}

    @classmethod
    def of(cls, given: float | str | None) -> Budget:
        """What a user asked for.

        Raises:
            ValueError: At anything else.
        """
        if given == AUTO:
            return cls(_SHARE_OF_AUTO, _SECONDS_OF_AUTO, is_auto=True)
        if given is not None and (isinstance(given, (bool, str)) or not 0 < given < math.inf):
            raise ValueError(
                'budget must be a positive share of the training time, such as 0.05, "auto", or None for no limit, '
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
            return max(self.at_least, self.share * rest)
        return self._allowed(max(rest, (length.sure + rest) / 2) if rest < length.sure else rest)

    def _allowed(self, seconds: float) -> float:
        """In some seconds of training."""
        assert self.share is not None
        return max(self.at_least, _SAFETY * self.share * seconds)

    def allow_ends(self, seconds: float, length: Length) -> None:
        """Have the first and the last values, where half of what is sure does not pay for them."""
        if seconds > self._allowed(length.sure) / 2:
            self.at_least += seconds

    def start_again(self, spent: float, at_least: float) -> None:
        """Go on from a checkpoint: to begin takes its time once more.

        Args:
            spent: Seconds spent measuring before.
            at_least: What was allowed in any case.
        """
        self.at_least = max(at_least, spent + _SECONDS_OF_AUTO) if self.is_auto else at_least

    def plan(self, prices: Mapping[str, Price], interval: float, now: Now) -> Plan:
        """What each quantity may take.

        Args:
            prices: From the cheapest to the dearest, each without what those before it have in common with it.
            interval: Seconds of training between two moments.
            now: When.
        """
        plan = Plan(prices, spent=now.spent)
        if self.share is None or now.length is None:
            return plan
        total = 0.0
        for name, price in prices.items():
            own = _MARGIN * (price.shared + price.least * price.own)
            plan.reserves[name] = total + own
            if name in self.latest or not now.moment:  # what has no first value needs no last one
                total += own
        if interval <= 0:  # the first moment
            return plan
        plan.to_come = (now.length.expected - now.rest) / interval
        half = self._allowed(now.length.expected) / 2
        last = max((reserve for reserve in plan.reserves.values() if reserve <= half), default=0.0)
        plan.turns = _turns(prices, self._rate(now.spent, last, interval, now.rest, now.length) * interval)
        return plan

    def _rate(self, spent: float, last: float, interval: float, rest: float, length: Length) -> float:
        """Seconds that may be spent in each second to come: of what is sure, and of all before the last values."""
        assert self.share is not None
        expected = length.expected
        if not math.isfinite(expected):
            expected = rest + max(rest, _FEWEST_MOMENTS * interval)
        rates = []
        for end, reserve in ((length.sure, 0.0), (expected, last)):
            if end > rest:
                rates.append((self._allowed(end) - reserve - spent) / (end - rest))
        most = _BURST * self.share + max(self.at_least - spent, 0.0) / max(expected - rest, interval)
        return max(min([most, *rates]), 0.0)

    def room(self, name: str, plan: Plan, now: Now) -> float:
        """Seconds that a quantity may take now, whether or not it has its turn.

        Args:
            name: Of the quantity.
            plan: For this moment.
            now: When.
        """
        if self.share is None:
            return math.inf
        earned = self.earned(now.rest, now.length)
        if now.length is None:
            return (earned - now.spent) / (_MARGIN if name in self.latest else _MARGIN_OF_NEW)
        sure = self._allowed(max(now.rest, now.length.sure))
        room = sure - now.spent - plan.reserves[name]
        if name in self.latest:
            return room
        if plan.to_come < _LATE * now.moment:
            return 0.0
        if now.moment:  # half of what was saved stays for what is measured more often
            earned -= max(earned - plan.spent, 0.0) / 2
        return min(room, earned - now.spent)

    def part(self, name: str, price: Price, plan: Plan, now: Now, pace: float = 1.0) -> float:
        """How much of its own time a quantity may take now: 1 for all, 0 if it is not to be measured.

        Args:
            name: Of the quantity.
            price: Now, where some of what it shares may be there already.
            plan: For this moment.
            now: When.
            pace: How many times as long as forecast everything takes.
        """
        if self.share is None:
            return 1.0
        largest = 1.0
        if now.length is not None and name in self.latest:
            is_as_planned = price.full <= _AS_PLANNED * plan.prices[name].full
            if not (is_as_planned and plan.has_turn(name, now.moment, self.latest[name])):
                return 0.0
            largest = plan.turns[name].part
        return min(largest, _part(price.times(pace), self.room(name, plan, now)))


def _turns(prices: Mapping[str, Price], seconds: float) -> dict[str, Turn]:
    """How often each quantity is measured, and how much of it.

    Args:
        prices: From the cheapest to the dearest.
        seconds: To spend at each moment, on average.
    """
    if sum(price.full for price in prices.values()) <= seconds:
        return dict.fromkeys(prices, Turn())
    turns: dict[str, Turn] = {}
    level, left, at_level = 0, seconds, seconds / 2
    for name, price in prices.items():
        part = 1.0
        while price.of(part) / 2**level > at_level and level < _HIGHEST_LEVEL:
            if level >= _LEVEL_OF_FEWER_PROBES and part / 2 >= price.least:
                part /= 2
            else:
                level += 1
                at_level = left / 2
        cost = price.of(part) / 2**level
        if cost > at_level:
            break
        turns[name] = Turn(level, part)
        at_level -= cost
        left -= cost
    return turns


def _part(price: Price, seconds: float) -> float:
    if seconds >= price.full:
        return 1.0
    part = (seconds - price.shared) / price.own if price.own > 0 else 0.0
    return part if price.least <= part < 1 else 0.0
