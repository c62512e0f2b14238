"""Which quantities to measure now, so that measuring keeps to a share of the time; knows numbers only."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

SAFETY = 0.95
"""Part of the budget that is planned with; forecasts are never exact."""

GRACE = 2.0
"""Seconds that a run may spend on what is cheap, however short it is, where no budget was given."""

_CHEAP = 0.25  # seconds
_MARGIN = 1.25  # of the credit over the forecast where no later time can make up for it

AUTO = 0.02
"""The share where no budget was given."""

_BORROWED_OF_CERTAIN, _BORROWED_OF_EXPECTED = 0.25, 0.02


class Stopwatch:
    """Time spent measuring, and the rest of it.

    Times of nested blocks count once. Before :meth:`start` and after :meth:`stop` only what is spent measuring goes on.

    Attributes:
        measuring_before: Seconds of all blocks that have ended.
    """

    def __init__(self) -> None:
        self.measuring_before = 0.0
        self._before = 0.0
        self._started: float | None = None
        self._entered: float | None = None

    def start(self) -> None:
        """Let the time run; nothing if it does."""
        if self._started is None:
            self._started = time.perf_counter()

    def stop(self) -> None:
        """Let the time stand still."""
        self._before, self._started = self.total, None

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Count the block as measuring."""
        if self._entered is not None:
            yield
            return
        self._entered = time.perf_counter()
        ran = self._started is not None
        try:
            yield
        finally:
            seconds, self._entered = time.perf_counter() - self._entered, None
            self.measuring_before += seconds
            if not ran and self._started is None:
                self._before += seconds
            elif not ran and self._started is not None:  # started inside
                self._before += seconds - (time.perf_counter() - self._started)

    @property
    def spent(self) -> float:
        """Seconds spent measuring so far, a block that is still open included."""
        return self.measuring_before + (0.0 if self._entered is None else time.perf_counter() - self._entered)

    @property
    def total(self) -> float:
        """Seconds since the start, over all parts of a continued run."""
        return self._before + (0.0 if self._started is None else time.perf_counter() - self._started)

    @property
    def rest(self) -> float:
        """Seconds not spent measuring."""
        return max(self.total - self.spent, 0.0)

    @property
    def overhead(self) -> float:
        """Time spent measuring divided by the rest; 0 before there is any."""
        return self.spent / self.rest if self.rest > 0 else 0.0

    def restore(self, measuring: float, total: float) -> None:
        """Continue from the times of a checkpoint."""
        self.measuring_before, self._before = measuring, total


@dataclass(frozen=True)
class Length:
    """How long a training is expected to be, in seconds without measuring.

    Attributes:
        certain: It will not be shorter, as far as one can know.
        expected: If nothing stops it; infinite where that is not known.
        moments: How many measurements its schedule has; infinite where that is not known.
    """

    certain: float = 0.0
    expected: float = math.inf
    moments: float = math.inf


def earned(share: float, rest: float, length: Length) -> float:
    """Seconds that may have been spent measuring by now.

    That is the share of the training time so far. The beginning borrows from what follows, so that there are first
    values: a quarter of what is certain to come, or a fiftieth of what is expected; half of what comes in then goes
    into paying it back.

    Example:
        >>> earned(0.1, rest=0.0, length=Length(certain=100.0)), earned(0.1, rest=100.0, length=Length(certain=100.0))
        (2.5, 10.0)
    """
    expected = length.expected if math.isfinite(length.expected) else 0.0
    borrowed = max(_BORROWED_OF_CERTAIN * length.certain, _BORROWED_OF_EXPECTED * expected)
    return share * max(rest, borrowed + rest / 2 if rest < 2 * borrowed else rest)


def poured(amount: float, room: Mapping[Any, float], weights: Mapping[Any, float] | None = None) -> dict[Any, float]:
    """Divide an amount evenly, or in proportion to weights, none getting more than it has room for.

    Example:
        >>> poured(10.0, {"a": 1.0, "b": 6.0, "c": 20.0})
        {'a': 1.0, 'b': 4.5, 'c': 4.5}
    """
    weight = {key: 1.0 if weights is None else weights[key] for key in room}
    given = {}
    left, waiting = max(amount, 0.0), sum(weight.values())
    for key in sorted(room, key=lambda key: room[key] / weight[key]):
        given[key] = min(max(room[key], 0.0), left * min(weight[key] / waiting, 1.0))
        left, waiting = left - given[key], max(waiting - weight[key], 1e-9)
    return {key: given[key] for key in room}


def _allotted(amount: float, room: Mapping[Any, float], weights: Mapping[Any, float]) -> dict[Any, float]:
    """Divide an amount: half of it fills the smallest rooms, so that what is cheap waits for nothing else."""
    given = {}
    left = amount / 2
    for key in sorted(room, key=lambda key: room[key]):
        given[key] = min(max(room[key], 0.0), left)
        left -= given[key]
    more = poured(amount - sum(given.values()), {key: room[key] - given[key] for key in room}, weights)
    return {key: given[key] + more[key] for key in room}


@dataclass(frozen=True)
class Offer:
    """What one quantity would take.

    Attributes:
        name: Of the quantity.
        own: Seconds for itself.
        shared: Seconds for each thing that it has in common with others.
        least: The smallest part of ``own`` that it can be measured with, at a larger standard error.
        hoped: Seconds in the best case, where the others are on the safe side; ``None`` for as many.
    """

    name: str
    own: float
    shared: Mapping[str, float]
    least: float = 1.0
    hoped: float | None = None

    @property
    def alone(self) -> float:
        """Seconds if nothing else is measured."""
        return self.least * self.own + sum(self.shared.values())


_BOOKS = ("saved", "reserved", "measured")


class Accounts:
    """Saves for each quantity until it can be measured, and for its last value.

    Half of what is earned goes to the cheapest ones, which can be measured every time; the other half is divided evenly
    over all, none getting more than it costs: dear ones, which save, are measured regularly, and the more rarely the
    more they cost. Of what several share the
    cheapest of them pays all, and the others are measured together with it.

    Attributes:
        saved: Seconds by quantity for its next value.
        reserved: Seconds by quantity for its last value.
        measured: By quantity, seconds of training before its latest value.
        seen: Seconds of training at the latest choice.
        advance: Seconds that were divided although there were debts.
    """

    def __init__(self) -> None:
        self.saved: dict[str, float] = {}
        self.reserved: dict[str, float] = {}
        self.measured: dict[str, float] = {}
        self.seen = self.advance = 0.0

    def choose(
        self, offers: Sequence[Offer], credit: float, rest: float, length: Length, share: float
    ) -> dict[str, float]:
        """What to measure now.

        Args:
            offers: What each quantity would take.
            credit: Seconds that may be spent by now and were not.
            rest: Seconds of training so far.
            length: Of the training. What could never be measured in all of it does not save.
            share: Of the training that may be spent.

        Returns:
            For each quantity chosen the part of its own seconds that it may take, 1 for all.
        """
        order = _possible(sorted(offers, key=_cheapest_first), share * max(length.expected, rest), length.moments)
        terms = _terms(order)
        self._collect(credit, order, terms, self._income(rest, share), _remaining(rest, length))
        chosen: dict[str, float] = {}
        for offer in order:
            price, leaders, _ = terms[offer.name]
            saved = self.saved[offer.name]
            secured = self.reserved[offer.name] >= _MARGIN * price * _passed(rest, length) * (1 - 1e-9)
            is_affordable = saved >= price * (1 - 1e-9) and secured
            if not is_affordable or not leaders <= chosen.keys() or self._waits(offer.name, rest, length):
                continue
            chosen[offer.name] = _part(offer, saved - (price - offer.least * offer.own))
            self.saved[offer.name] = 0.0
            self.measured[offer.name] = rest
        return chosen

    def _waits(self, name: str, rest: float, length: Length) -> bool:
        """Whether the last value comes so soon that another one just before it would say little."""
        return name in self.measured and 0 <= length.expected - rest < (rest - self.measured[name]) / 2

    def _income(self, rest: float, share: float) -> tuple[float, float]:
        """Seconds of training since the last time, and what they have earned."""
        since, self.seen = max(rest - self.seen, 0.0), rest
        return since, share * since

    def _collect(
        self,
        credit: float,
        order: Sequence[Offer],
        terms: Mapping[str, Terms],
        income: tuple[float, float],
        remaining: float,
    ) -> None:
        # The last value of an estimate is put by at the least price; more is a matter of what is left at the end.
        limits = {("saved", o.name): terms[o.name].price + (1 - o.least) * o.own for o in order}
        limits |= {("reserved", o.name): _MARGIN * terms[o.name].price for o in order}
        books = {"saved": self.saved, "reserved": self.reserved}
        held = {(book, name): min(books[book].get(name, 0.0), limit) for (book, name), limit in limits.items()}
        since, earned_since = income
        # Where something took longer than forecast, half of the income pays debts and the cheap ones go on.
        new = max(credit - sum(held.values()), earned_since / 2)
        if credit - sum(held.values()) < earned_since / 2:
            kept = max(min(self.advance, sum(held.values())), credit - new, 0.0)
            held, self.advance = poured(kept, held), kept + new
        else:
            self.advance = 0.0
        weights = {key: terms[key[1]].weight for key in limits}
        room = {key: limit - held[key] for key, limit in limits.items()}
        more = _allotted(new, room, weights)
        again = [key for key in limits if key[0] == "saved" and key[1] in self.measured]
        # What was borrowed or is left over does not bring a second value right after the first.
        at_most = earned_since + max(new - earned_since, 0.0) * min(since / remaining, 1.0)
        if sum(more[key] for key in again) > at_most:
            others = {key: room[key] for key in limits if key not in again}
            more = _allotted(at_most, {key: room[key] for key in again}, weights)
            more |= _allotted(new - at_most, others, weights)
        self.saved = {o.name: held["saved", o.name] + more["saved", o.name] for o in order}
        self.reserved = {o.name: held["reserved", o.name] + more["reserved", o.name] for o in order}

    @staticmethod
    def last(offers: Sequence[Offer], credit: float) -> dict[str, float]:
        """What to measure at the end: as much as there is credit for, the cheapest first, then estimates better."""
        chosen: dict[str, float] = {}
        paid: set[str] = set()
        order = sorted(offers, key=_cheapest_first)
        for offer in order:
            price = offer.least * offer.own + sum(s for item, s in offer.shared.items() if item not in paid)
            if _MARGIN * price <= credit:
                chosen[offer.name] = offer.least
                paid |= offer.shared.keys()
                credit -= price
        for offer in order:
            if offer.name in chosen:
                part = _part(offer, credit + offer.least * offer.own)
                credit -= (part - offer.least) * offer.own
                chosen[offer.name] = part
        return chosen

    def state(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {**{name: dict(getattr(self, name)) for name in _BOOKS}, "seen": self.seen, "advance": self.advance}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.saved, self.reserved, self.measured = (dict(state[name]) for name in _BOOKS)
        self.seen, self.advance = state["seen"], state["advance"]


class Budget:
    """Decides what is measured now.

    Args:
        share: Time spent measuring may be so much of the rest of the time; ``None`` for no limit.
        grace: Seconds that may be spent in any case, on quantities that take less than a quarter of one.
    """

    def __init__(self, share: float | None, grace: float = 0.0) -> None:
        self.share, self.grace = share, grace
        self.accounts = Accounts()

    @classmethod
    def of(cls, given: float | Literal["auto"] | None) -> Budget:
        """What a user asked for.

        Raises:
            ValueError: At anything else.
        """
        if given == "auto":
            return cls(AUTO, GRACE)
        if given is not None and (isinstance(given, (bool, str)) or not 0 < given < math.inf):
            raise ValueError(
                'budget must be a positive share of the training time, such as 0.05, or "auto", or None for no limit, '
                f"got {given!r}."
            )
        return cls(given)

    def credit(self, spent: float, rest: float, length: Length | None = None) -> float:
        """Seconds that may be spent now; infinite without a limit.

        Args:
            spent: Seconds spent measuring so far.
            rest: Seconds not spent measuring so far.
            length: Of the training; ``None`` at its end.
        """
        return self.earned(rest, length) - spent

    def earned(self, rest: float, length: Length | None = None) -> float:
        """Seconds that may have been spent by now, see :meth:`credit`."""
        return math.inf if self.share is None else SAFETY * earned(self.share, rest, length or Length())

    def choose(
        self,
        offers: Sequence[Offer],
        *,
        spent: float,
        rest: float,
        length: Length | None,
    ) -> dict[str, float]:
        """What to measure now, and for each the part of its own seconds that it may take, 1 for all.

        Args:
            offers: What each quantity would take.
            spent: Seconds spent measuring so far.
            rest: Seconds not spent measuring so far.
            length: Of the training; ``None`` at its end.
        """
        if self.share is None:
            return {offer.name: 1.0 for offer in offers}
        credit = self.credit(spent, rest, length)
        if length is None:
            chosen = Accounts.last(offers, credit)
        else:
            chosen = self.accounts.choose(offers, credit, rest, length, SAFETY * self.share)
        return chosen | self._in_short_runs([o for o in offers if o.name not in chosen], spent)

    def _in_short_runs(self, offers: Sequence[Offer], spent: float) -> dict[str, float]:
        cheap = [o for o in offers if spent < self.grace and (o.alone if o.hoped is None else o.hoped) <= _CHEAP]
        return {offer.name: 1.0 for offer in cheap}


def _cheapest_first(offer: Offer) -> tuple[float, str]:
    return offer.alone, offer.name


def _part(offer: Offer, seconds: float) -> float:
    """The part of an estimate that can be had for so many seconds: 1, 1/2, 1/4, ..., at least the least."""
    part = 1.0
    while part > offer.least and part * offer.own > seconds:
        part /= 2
    return max(part, offer.least)


def _remaining(rest: float, length: Length) -> float:
    """Seconds of training to come; as many again as there were, where that is not known."""
    return max(length.expected - rest if math.isfinite(length.expected) else rest, 1e-9)


def _passed(rest: float, length: Length) -> float:
    """The part of the training that is over: so much of the last value must be put by before another one."""
    if rest == 0:
        return 0.0
    return min(rest / length.expected, 1.0) if math.isfinite(length.expected) and length.expected > 0 else 1.0


class Terms(NamedTuple):
    """On what terms a quantity is measured.

    Attributes:
        price: Seconds that it pays: at the least its own, and those of what no cheaper one needs as well.
        leaders: Those that pay for the rest of what it needs, so that it is measured only with them.
        weight: How many it pays for.
    """

    price: float
    leaders: frozenset[str]
    weight: float


def _terms(order: Sequence[Offer]) -> dict[str, Terms]:
    payer: dict[str, str] = {}
    prices: dict[str, float] = {}
    leaders: dict[str, frozenset[str]] = {}
    weights = {offer.name: 1.0 for offer in order}
    for offer in order:
        new = {item: seconds for item, seconds in offer.shared.items() if item not in payer}
        leaders[offer.name] = frozenset(payer[item] for item, s in offer.shared.items() if item in payer and s > 0)
        prices[offer.name] = offer.least * offer.own + sum(new.values())
        payer |= dict.fromkeys(new, offer.name)
        for leader in leaders[offer.name]:
            weights[leader] += 1
    return {name: Terms(prices[name], leaders[name], weights[name]) for name in prices}


def _possible(order: Sequence[Offer], whole_run: float, moments: float) -> list[Offer]:
    """Quantities that can be measured at least once in the whole run, if none gets more than its share."""
    if not math.isfinite(whole_run):
        return list(order)
    possible = [offer for offer in order if offer.alone <= whole_run]
    while possible:
        terms = _terms(possible)
        weights = {name: term.weight for name, term in terms.items()}
        shares = poured(whole_run, {name: term.price * max(moments, 1.0) for name, term in terms.items()}, weights)
        too_dear = [offer for offer in possible if shares[offer.name] < terms[offer.name].price * (1 - 1e-9)]
        if not too_dear:
            break
        too_dear.sort(key=lambda offer: terms[offer.name].price)
        gone = {offer.name for offer in too_dear[len(too_dear) // 2 :]}  # half at a time: what is left has more then
        possible = [offer for offer in possible if offer.name not in gone]
    return possible
