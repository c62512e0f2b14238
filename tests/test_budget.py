"""What is measured under a budget: the scheduler by itself on simulated runs, with a clock of its own."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest

from lightning_complexity.recording import budget as budgets
from lightning_complexity.recording.budget import Accounts, Budget, Length, Offer, Stopwatch, earned, poured
from lightning_complexity.recording.durations import Durations, Watch, extrapolated


@dataclass
class Costs:
    """What quantities take in a simulated run, and what some of them share."""

    own: dict[str, float]
    shared: dict[str, tuple[float, set[str]]] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)

    def offers(self) -> list[Offer]:
        return [
            Offer(
                name,
                seconds,
                {item: s for item, (s, users) in self.shared.items() if name in users},
                self.least.get(name, 1.0),
            )
            for name, seconds in self.own.items()
        ]

    def of(self, chosen: dict[str, float], noise) -> float:
        shared = sum(s * noise() for s, users in self.shared.values() if users & chosen.keys())
        return shared + sum(self.own[name] * part * noise() for name, part in chosen.items())

    @property
    def cheapest(self) -> float:
        return min(offer.alone for offer in self.offers())


def simulated(
    costs: Costs,
    share: float,
    *,
    steps: int,
    every: int,
    step: float = 1.0,
    known: bool = True,
    noise: float = 0.0,
    seed: int = 0,
) -> tuple[float, dict[str, list[int]]]:
    """Overhead of a run, and the steps at which each quantity was measured."""
    draw, budget = random.Random(seed), Budget(share)
    spent = rest = 0.0
    measured: dict[str, list[int]] = {name: [] for name in costs.own}
    length = Length(0.1 * steps * step, steps * step, steps // every + 2) if known else Length(32 * step)

    def disturbed() -> float:
        return math.exp(noise * draw.gauss(0, 1) - noise**2 / 2)

    for i in range(steps + 1):
        rest += step * disturbed() if i else 0.0
        if i % every == 0 or i == steps:
            of_run = None if i == steps else length
            chosen = budget.choose(costs.offers(), spent=spent, rest=rest, length=of_run)
            spent += costs.of(chosen, disturbed)
            for name in chosen:
                measured[name].append(i)
    return spent / rest, measured


def random_costs(seed: int, whole_run: float) -> Costs:
    draw = random.Random(seed)
    names = [f"m{i}" for i in range(draw.randint(1, 20))]
    own = {name: whole_run * 10 ** draw.uniform(-5, 0.5) for name in names}
    shared = {
        f"s{i}": (whole_run * 10 ** draw.uniform(-5, -1), set(draw.sample(names, draw.randint(1, len(names)))))
        for i in range(3)
    }
    return Costs(own, shared, {name: 0.25 for name in names if draw.random() < 0.2})


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("known", [True, False], ids=["known length", "unknown length"])
def test_the_share_holds_whatever_things_cost(share: float, known: bool) -> None:
    for seed in range(30):
        steps, every = random.Random(seed).choice([(400, 10), (1000, 100)])
        costs = random_costs(seed, share * steps)
        overhead, _ = simulated(costs, share, steps=steps, every=every, known=known, noise=0.2, seed=seed)
        assert overhead <= 1.1 * share, seed


def test_what_fits_is_measured_every_time() -> None:
    costs = Costs({"a": 0.001, "b": 0.01}, {"moment": (0.001, {"a", "b"})})
    _, measured = simulated(costs, 0.05, steps=200, every=10)
    assert measured["a"] == measured["b"] == list(range(0, 201, 10))


def test_dear_ones_are_thinned_evenly_and_cheap_ones_go_on() -> None:
    costs = Costs({"cheap": 0.01, "dear": 3.0, "dearer": 6.0})
    _, measured = simulated(costs, 0.05, steps=2000, every=10)
    assert len(measured["cheap"]) > 190
    for name, at_least in (("dear", 8), ("dearer", 4)):
        gaps = [b - a for a, b in zip(measured[name], measured[name][1:], strict=False)]
        assert len(measured[name]) >= at_least
        assert measured[name][-1] == 2000
        # The first gap pays for what the beginning borrowed and for the last value.
        assert max(gaps[1:-1]) <= 2.5 * min(gaps[1:-1]), gaps


def test_none_starves_and_the_last_value_is_there() -> None:
    for seed in range(20):
        costs = random_costs(seed, 20.0)
        _, measured = simulated(costs, 0.2, steps=1000, every=20, noise=0.2, seed=seed)
        prices = sorted((offer.alone, offer.name) for offer in costs.offers())
        total = 0.0
        for price, name in prices:  # two values of everything up to here fit into half of the run
            total += 2 * price
            if total < 10.0:
                assert measured[name][-1] == 1000, (seed, name)
                assert len(measured[name]) > 1, (seed, name)


def test_what_is_shared_is_paid_once() -> None:
    names = {f"m{i}" for i in range(10)}
    together = Costs(dict.fromkeys(names, 0.001), {"forward": (1.0, names)})
    apart = Costs(dict.fromkeys(names, 1.001))
    counts = [sum(map(len, simulated(c, 0.05, steps=1000, every=10)[1].values())) for c in (together, apart)]
    assert counts[0] > 5 * counts[1]


def test_an_estimate_takes_fewer_probes_before_it_is_left_out() -> None:
    offer = Offer("trace", 8.0, {}, least=0.25)
    assert Accounts.last([offer], 20.0) == {"trace": 1.0}
    assert Accounts.last([offer], 5.5) == {"trace": 0.5}
    assert Accounts.last([offer], 2.6) == {"trace": 0.25}
    assert Accounts.last([offer], 1.9) == {}


def test_a_debt_is_paid_back_and_cheap_ones_go_on_meanwhile() -> None:
    accounts, offers = Accounts(), [Offer("cheap", 0.001, {}), Offer("dear", 5.0, {})]
    length, chosen = Length(100.0, 1000.0, 102), []
    for i in range(10):
        chosen.append(accounts.choose(offers, credit=-3.0 + 0.5 * i, rest=10.0 * i, length=length, share=0.05))
    assert all("dear" not in c for c in chosen)
    assert sum("cheap" in c for c in chosen) >= 9


def test_no_limit_measures_everything() -> None:
    budget = Budget.of(None)
    chosen = budget.choose([Offer("dear", 1e9, {})], spent=1e9, rest=0.0, length=Length())
    assert chosen == {"dear": 1.0}


def test_a_short_run_measures_what_is_cheap_where_no_budget_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = [Offer("cheap", 0.01, {}), Offer("dear", 1.0, {})]
    assert Budget(0.02, grace=2.0).choose(offers, spent=0.0, rest=0.0, length=Length()) == {"cheap": 1.0}
    assert Budget(0.02, grace=2.0).choose(offers, spent=2.1, rest=0.0, length=Length()) == {}
    assert Budget(0.02).choose(offers, spent=0.0, rest=0.0, length=Length()) == {}


@pytest.mark.parametrize("given", [0, -1, math.nan, math.inf, True, "lots"])
def test_other_budgets_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="budget must be a positive share"):
        Budget.of(given)  # the wrong type is what is tested


def test_accounts_continue_from_a_checkpoint() -> None:
    offers, length = [Offer("a", 1.0, {}), Offer("b", 7.0, {})], Length(10.0, 1000.0, 100)
    first = Accounts()
    first.choose(offers, 3.0, 20.0, length, 0.05)
    second = Accounts()
    second.restore(first.state())
    for rest in (40.0, 80.0, 160.0):
        assert first.choose(offers, rest / 20, rest, length, 0.05) == second.choose(
            offers, rest / 20, rest, length, 0.05
        )
    assert first.state() == second.state()


def test_pouring_is_even_up_to_the_room() -> None:
    assert poured(6.0, {"a": 1.0, "b": 9.0, "c": 9.0}) == {"a": 1.0, "b": 2.5, "c": 2.5}
    assert poured(9.0, {"a": 9.0, "b": 9.0}, {"a": 2.0, "b": 1.0}) == {"a": 6.0, "b": 3.0}
    assert poured(99.0, {"a": 1.0, "b": 2.0}) == {"a": 1.0, "b": 2.0}
    assert poured(-1.0, {"a": 1.0}) == {"a": 0.0}


def test_what_is_borrowed_is_paid_back_while_training_is_certain() -> None:
    length = Length(certain=100.0, expected=1000.0)
    assert earned(0.1, 0.0, length) == 2.5
    assert earned(0.1, 30.0, length) == 4.0
    assert all(earned(0.1, float(t), length) == pytest.approx(0.1 * t) for t in range(50, 1000, 50))


# Times ------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def test_stopwatch_counts_nested_blocks_once(clock: Clock) -> None:
    watch = Stopwatch()
    with watch.measuring():
        clock.pass_by(1)
        watch.start()
        clock.pass_by(1)
    clock.pass_by(8)
    with watch.measuring(), watch.measuring():
        clock.pass_by(2)
        assert (watch.spent, watch.rest) == (4, 8)
        watch.stop()
    clock.pass_by(50)
    assert (watch.spent, watch.total, watch.rest, watch.overhead) == (4, 12, 8, 0.5)
    again = Stopwatch()
    again.restore(watch.spent, watch.total)
    again.start()
    clock.pass_by(8)
    assert again.overhead == 0.25


def test_times_of_shared_quantities_are_kept_apart(clock: Clock) -> None:
    durations = Durations()
    watch = Watch(durations)
    snapshot = Asked()
    with watch.on(snapshot), watch.timed("first"):
        clock.pass_by(1)
        snapshot.compute("margins", lambda: (clock.pass_by(4), snapshot.compute("outputs", lambda: clock.pass_by(10))))
    with watch.on(snapshot), watch.timed("second"):
        clock.pass_by(2)
        snapshot.compute("margins", lambda: None)
    assert [durations.own(n) for n in ("first", "second", "'margins'", "'outputs'")] == [1, 2, 4, 10]
    assert durations.needed("second") == {"'margins'", "'outputs'"}


class Asked:
    """What a watch sees of a snapshot."""

    def __init__(self) -> None:
        self.on_asked = None
        self.memo: dict[str, object] = {}

    def compute(self, key: str, function) -> object:
        function = self.on_asked(key, function)
        if key not in self.memo:
            self.memo[key] = function()
        return self.memo[key]


def test_what_fails_teaches_nothing(clock: Clock) -> None:
    durations = Durations()
    with pytest.raises(ValueError), Watch(durations).timed("a"):  # noqa: PT011
        raise ValueError
    assert "a" not in durations


def test_forecasts_from_pieces() -> None:
    assert extrapolated({2: 1.0}, 256) == 128.0
    assert extrapolated({8: 2.0, 32: 2.0}, 256) == 2.0  # nothing but what does not depend on samples
    assert extrapolated({8: 2.0, 32: 5.0}, 256) == 33.0
    assert extrapolated({8: 2.0, 32: 80.0}, 256) == 64.0  # the second one was disturbed


def test_the_second_time_replaces_the_first_which_is_often_slower() -> None:
    durations = Durations()
    durations.learn_from_piece("a", 2, 8, 1.0)
    assert durations.own("a") == 4.0
    for seconds, expected in ((9.0, 9.0), (1.0, 1.0), (2.0, 1.5)):
        durations.learn("a", seconds)
        assert durations.own("a") == expected
    durations.learn_from_piece("a", 4, 8, 100.0)
    again = Durations()
    again.restore(durations.state())
    assert again.own("a") == 1.5
    assert budgets.SAFETY < 1
