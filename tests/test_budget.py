"""What is measured under a budget: the scheduler by itself on simulated runs, with a clock of its own."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest

from lightning_complexity.recording.budget import Budget, Length, Now, Plan, Price, Stopwatch, Turn
from lightning_complexity.recording.costs import Costs, Watch

pytestmark = pytest.mark.usefixtures("budgeted")


@dataclass
class Simulated:
    """What quantities take in a simulated run, and what some of them share."""

    own: dict[str, float]
    shared: dict[str, tuple[float, set[str]]] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)

    def price(self, name: str, there: set[str]) -> Price:
        shared = sum(s for item, (s, users) in self.shared.items() if name in users and item not in there)
        return Price(self.own[name], shared, self.least.get(name, 1.0))

    def items(self, name: str) -> set[str]:
        return {item for item, (_, users) in self.shared.items() if name in users}

    def in_order(self) -> dict[str, Price]:
        prices, there = {}, set()
        for name in sorted(self.own, key=lambda name: self.price(name, set()).full):
            prices[name] = self.price(name, there)
            there |= self.items(name)
        return prices


def simulated(
    costs: Simulated,
    share: float | str,
    *,
    steps: int,
    every: int,
    known: bool = True,
    noise: float = 0.0,
    seed: int = 0,
) -> tuple[float, dict[str, list[int]]]:
    """Overhead of a run with steps of a second, and the steps at which each quantity was measured."""
    draw, budget = random.Random(seed), Budget.of(share)
    spent = rest = 0.0
    measured: dict[str, list[int]] = {name: [] for name in costs.own}
    length = Length(0.4 * steps, steps) if known else Length(32)

    def disturbed() -> float:
        return math.exp(noise * draw.gauss(0, 1) - noise**2 / 2)

    for i in range(steps + 1):
        rest += disturbed() if i else 0.0
        if i % every and i != steps:
            continue
        moment = math.ceil(i / every)
        interval = rest / moment if moment else 0.0
        plan, there = budget.plan(costs.in_order(), interval, Now(spent, rest, moment, length)), set()
        for name in plan.prices:
            price = costs.price(name, there)
            part = budget.part(name, price, plan, Now(spent, rest, moment, None if i == steps else length))
            if part:
                spent += (price.shared + part * price.own) * disturbed()
                there |= costs.items(name)
                measured[name].append(i)
                budget.latest[name] = moment
    return spent / rest, measured


def random_costs(seed: int, whole_run: float) -> Simulated:
    draw = random.Random(seed)
    names = [f"m{i}" for i in range(draw.randint(1, 20))]
    own = {name: whole_run * 10 ** draw.uniform(-5, 0.5) for name in names}
    shared = {
        f"s{i}": (whole_run * 10 ** draw.uniform(-5, -1), set(draw.sample(names, draw.randint(1, len(names)))))
        for i in range(3)
    }
    return Simulated(own, shared, {name: 0.25 for name in names if draw.random() < 0.2})


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("known", [True, False], ids=["known length", "unknown length"])
def test_the_share_holds_whatever_things_cost(share: float, known: bool) -> None:
    for seed in range(30):
        steps, every = random.Random(seed).choice([(400, 10), (1000, 100)])
        costs = random_costs(seed, share * steps)
        overhead, _ = simulated(costs, share, steps=steps, every=every, known=known, noise=0.2, seed=seed)
        assert overhead <= 1.1 * share, seed


def test_what_fits_is_measured_every_time() -> None:
    costs = Simulated({"a": 0.001, "b": 0.01}, {"moment": (0.001, {"a", "b"})})
    _, measured = simulated(costs, 0.05, steps=200, every=10)
    assert measured["a"] == measured["b"] == list(range(0, 201, 10))


def test_dear_ones_are_thinned_evenly_and_cheap_ones_go_on() -> None:
    costs = Simulated({"cheap": 0.01, "dear": 3.0, "dearer": 6.0})
    _, measured = simulated(costs, 0.05, steps=2000, every=10)
    assert len(measured["cheap"]) > 190
    for name, at_least in (("dear", 8), ("dearer", 4)):
        gaps = [b - a for a, b in zip(measured[name], measured[name][1:], strict=False)]
        assert len(measured[name]) >= at_least
        assert (measured[name][0], measured[name][-1]) == (0, 2000)
        # Distances are powers of two times the schedule's; one is left out while what was borrowed is paid back.
        assert max(gaps) <= 3 * min(gaps), (name, gaps)


def test_none_starves_and_the_last_value_is_there() -> None:
    for seed in range(20):
        costs = random_costs(seed, 20.0)
        _, measured = simulated(costs, 0.2, steps=1000, every=20, noise=0.2, seed=seed)
        total = 0.0
        for name, price in costs.in_order().items():  # two values of everything up to here fit into half of the run
            total += 2 * price.full
            if total < 50.0:
                assert measured[name][-1] == 1000, (seed, name)
                assert len(measured[name]) > 1, (seed, name)


def test_what_is_shared_is_paid_once() -> None:
    names = {f"m{i}" for i in range(10)}
    together = Simulated(dict.fromkeys(names, 0.001), {"forward": (1.0, names)})
    apart = Simulated(dict.fromkeys(names, 1.001))
    counts = [sum(map(len, simulated(c, 0.05, steps=1000, every=10)[1].values())) for c in (together, apart)]
    assert counts[0] > 5 * counts[1]


def test_an_estimate_takes_fewer_probes_before_it_is_left_out() -> None:
    budget, price = Budget(0.1), Price(8.0, least=0.25)
    budget.latest["trace"] = 1
    parts = [budget.part("trace", price, Plan(), Now(0.0, seconds / 0.1, 9, None)) for seconds in (10.1, 5.0, 2.6, 2.4)]
    assert parts == pytest.approx([1.0, 0.5, 2.6 / 1.25 / 8, 0.0])


def test_what_comes_every_time_has_its_turn_however_wrong_the_length_was() -> None:
    plan = Plan(turns={"cheap": Turn(0), "dear": Turn(3)}, to_come=-2.0)
    assert plan.has_turn("cheap", moment=8, latest=8)
    assert not plan.has_turn("dear", moment=8, latest=0)


def test_first_values_later_on_take_half_of_what_was_saved_and_none_comes_late() -> None:
    budget, length = Budget(0.1), Length(10.0, 1000.0)
    plan = Plan({"new": Price(1.0)}, reserves={"new": 0.0})
    assert budget.room("new", plan, Now(0.0, 100.0, 5, length)) == pytest.approx(0.97 * 10 / 2)
    plan.to_come = 1.0
    assert budget.room("new", plan, Now(0.0, 100.0, 5, length)) == 0.0


def test_what_has_no_first_value_needs_no_last_one() -> None:
    budget, prices = Budget(0.1), {"never": Price(4.0), "known": Price(8.0)}
    budget.latest["known"] = 0
    assert budget.plan(prices, 1.0, Now(0.0, 50.0, 50, Length(10.0, 1000.0))).reserves["known"] == 1.25 * 8
    assert budget.plan(prices, 0.0, Now(0.0, 0.0, 0, Length(10.0, 1000.0))).reserves["known"] == 1.25 * 12


def test_a_slow_moment_leaves_out_only_what_there_is_no_room_for() -> None:
    budget, prices = Budget.of("auto"), {"a": Price(0.1), "b": Price(0.1)}
    budget.latest = {"a": 0, "b": 0}
    now = Now(0.2, 10.0, 1, Length(20.0, 20.0))
    plan = budget.plan(prices, 10.0, now)
    assert budget.part("b", prices["b"], plan, now, pace=5.0) == 1.0
    assert budget.part("b", prices["b"], plan, now, pace=1e9) == 0.0
    assert budget.part("b", Price(0.2), plan, now) == 0.0  # what it shares is not there


def test_no_limit_measures_everything() -> None:
    assert Budget.of(None).part("dear", Price(1e9), Plan(), Now(1e9, 0.0, 0, Length())) == 1.0


def test_auto_has_at_least_ten_seconds_and_the_ends() -> None:
    budget, short, long = Budget.of("auto"), Length(60.0, 60.0), Length(40_000.0, 100_000.0)
    assert budget.earned(0.0, short) == 10
    assert budget.earned(0.0, long) == pytest.approx(0.97 * 0.02 * 20_000)
    budget.allow_ends(70.0, long)
    assert budget.at_least == 10  # the run pays for them
    budget.allow_ends(70.0, short)
    assert budget.at_least == 80


def test_each_start_of_a_continued_run_has_its_ten_seconds() -> None:
    budget = Budget.of("auto")
    budget.start_again(spent=8.0, at_least=10.0)
    assert budget.at_least == 18
    budget.start_again(spent=8.0, at_least=80.0)
    assert budget.at_least == 80
    limited = Budget(0.1)
    limited.start_again(spent=8.0, at_least=0.0)
    assert limited.at_least == 0


def test_auto_holds_two_per_cent_where_the_run_pays_for_the_ends() -> None:
    # About what the standard metrics of a ResNet-18 take, of an hour of steps.
    costs = Simulated({"weights": 0.2, "margins": 0.5, "jacobian": 7.0}, {"forward": (1.0, {"margins", "jacobian"})})
    overhead, measured = simulated(costs, "auto", steps=3600, every=100, noise=0.2)
    assert overhead <= 1.1 * 0.02
    assert all(steps[0] == 0 and steps[-1] == 3600 for steps in measured.values())
    assert len(measured["weights"]) > 30


def test_auto_measures_everything_in_a_short_run() -> None:
    costs = Simulated({"cheap": 0.01, "dear": 1.0})
    _, measured = simulated(costs, "auto", steps=60, every=10)
    assert measured["cheap"] == measured["dear"] == list(range(0, 61, 10))


@pytest.mark.parametrize("given", [0, -1, math.nan, math.inf, True, "lots"])
def test_other_budgets_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="budget must be a positive share"):
        Budget.of(given)  # the wrong type is what is tested


def test_what_is_borrowed_is_paid_back_while_training_is_sure() -> None:
    budget, length = Budget(0.1), Length(sure=100.0, expected=1000.0)
    assert budget.earned(0.0, length) == pytest.approx(0.97 * 5)
    assert budget.earned(50.0, length) == pytest.approx(0.97 * 7.5)
    assert all(budget.earned(float(t), length) == pytest.approx(0.097 * t) for t in range(100, 1000, 50))
    assert budget.earned(1000.0, None) == pytest.approx(100.0)


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
    watch.enter()
    clock.pass_by(1)
    watch.start()
    clock.pass_by(1)
    watch.leave()
    clock.pass_by(8)
    watch.enter()
    watch.enter()
    clock.pass_by(1)
    watch.leave()
    clock.pass_by(1)
    assert (watch.spent, watch.rest) == (4, 8)
    watch.stop()
    watch.leave()
    clock.pass_by(50)
    assert (watch.spent, watch.rest, watch.overhead) == (4, 8, 0.5)
    again = Stopwatch()
    again.restore(watch.spent, watch.spent + watch.rest)
    again.start()
    clock.pass_by(8)
    assert again.overhead == 0.25


def test_times_of_shared_quantities_are_kept_apart(clock: Clock) -> None:
    costs = Costs()
    watch = Watch(costs)
    snapshot = Asked()
    with watch.on(snapshot), watch.timed("first"):
        clock.pass_by(1)
        snapshot.compute("margins", lambda: (clock.pass_by(4), snapshot.compute("outputs", lambda: clock.pass_by(10))))
    with watch.on(snapshot), watch.timed("second"):
        clock.pass_by(2)
        snapshot.compute("margins", lambda: None)
    assert [costs.own(n) for n in ("first", "second", "'margins'", "'outputs'")] == [1, 2, 4, 10]
    assert costs.needed("second") == {"'margins'", "'outputs'"}


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
    costs = Costs()
    with pytest.raises(ValueError), Watch(costs).timed("a"):  # noqa: PT011
        raise ValueError
    assert not costs.table


def test_the_second_time_replaces_the_first_which_is_often_slower() -> None:
    costs, piece = Costs(), Costs()
    piece.learn("a", 1.0)
    costs.forecast(piece, 4.0)
    assert costs.own("a") == 4.0
    for seconds, expected in ((9.0, 9.0), (1.0, 1.0), (2.0, 1.5)):
        costs.learn("a", seconds)
        assert costs.own("a") == expected
    costs.forecast(piece, 100.0)
    again = Costs()
    again.restore(costs.state())
    assert again.own("a") == 1.5
