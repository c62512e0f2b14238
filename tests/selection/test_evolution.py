"""Aging evolution: who is changed, who has died, and that the search is the same wherever it goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna import Trial
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import BaseTrial

from lightning_complexity.selection.samplers.evolution import AgingEvolutionSampler
from lightning_complexity.selection.spaces.base import EvolvableSpace, Structure
from lightning_complexity.selection.spaces.macro import MacroSpace
from tests.selection.nas_bench_macro import TABLE, read_networks

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Ring(EvolvableSpace):
    """Numbers in a ring; a change goes to a neighbour."""

    def __init__(self, size: int) -> None:
        self.size = size

    def suggest(self, trial: BaseTrial) -> Structure:
        return (trial.suggest_int("place", 0, self.size - 1),)

    def parameters(self, structure: Structure) -> dict[str, Any]:
        return {"place": structure[0]}

    def draw(self, generator: np.random.Generator) -> Structure:
        return (int(generator.integers(self.size)),)

    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure:
        place = structure[0]
        assert isinstance(place, int)
        return ((place + int(generator.choice([-1, 1]))) % self.size,)


def places(sampler: AgingEvolutionSampler, function: Any, num_trials: int) -> list[int]:
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda t: function(sampler.space.suggest(t)[0]), n_trials=num_trials, catch=(RuntimeError,))
    return [t.structure[0] for t in sampler.tried(study)]


def test_the_best_of_those_alive_is_changed() -> None:
    """With a sample that has all of the population, its best is the parent, as long as it has a neighbour left."""
    size, population = 10_000, 6
    found = places(AgingEvolutionSampler(Ring(size), population=population, sample=100, seed=0), float, 40)
    assert len(set(found)) == 40
    for number in range(population, 40):
        alive = sorted(found[number - population : number])
        free = [p for p in alive if {(p + 1) % size, (p - 1) % size} - set(found[:number])]
        assert abs(found[number] - free[0]) % (size - 2) == 1
    # By one a trial, but where a change went up.
    assert min(found[:6]) - 34 <= found[-1] <= min(found[:6]) - 32


def test_the_oldest_dies_however_good_it_is() -> None:
    """The good place is changed once, as the oldest of the first five; its other neighbour is not tried."""
    good = places(AgingEvolutionSampler(Ring(10_000), population=5, sample=100, seed=1), lambda p: 1.0, 1)[0]

    def loss(place: int) -> float:
        return 0.0 if place == good else 1.0 + abs(place - good) / 1e6

    found = places(AgingEvolutionSampler(Ring(10_000), population=5, sample=100, seed=1), loss, 12)
    assert found[0] == good
    assert abs(found[5] - good) == 1
    assert 2 * good - found[5] not in found
    longer = places(AgingEvolutionSampler(Ring(10_000), population=7, sample=100, seed=1), loss, 9)
    assert abs(longer[7] - good) == 1


def test_a_sample_of_one_is_any_of_the_population() -> None:
    parents = set()
    for seed in range(40):
        found = places(AgingEvolutionSampler(Ring(10_000), population=4, sample=1, seed=seed), float, 5)
        near = [place for place, p in enumerate(found[:4]) if abs(p - found[4]) in (1, 9999)]
        assert len(near) == 1
        parents.add(near[0])
    assert parents == {0, 1, 2, 3}


def test_what_failed_lives_and_is_worst() -> None:
    """The only one that did not fail is changed while it lives; two that failed take its place then."""

    def loss(place: int) -> float:
        seen.append(place)
        if len(seen) > 1:
            raise RuntimeError
        return math.inf if is_diverging else 1.0

    for is_diverging in (False, True):
        seen: list[int] = []
        first, second, third, fourth = places(
            AgingEvolutionSampler(Ring(10_000), population=2, sample=100, seed=0), loss, 4
        )
        assert abs(third - first) == 1 or is_diverging
        assert fourth != 2 * first - third
        assert 1 in (abs(fourth - second), abs(fourth - third))


def test_a_space_is_searched_to_its_end() -> None:
    sampler = AgingEvolutionSampler(Ring(12), population=3, sample=2, seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda t: float(sampler.space.suggest(t)[0]), n_trials=100)
    assert sorted(t.structure[0] for t in sampler.tried(study)) == list(range(12))
    assert len(study.trials) == 13
    assert sampler.is_exhausted(study)


def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    space, options = Ring(1000), {"population": 5, "sample": 2, "seed": 7}
    expected = places(AgingEvolutionSampler(space, **options), float, 30)
    assert expected == places(AgingEvolutionSampler(space, **options), float, 30)
    assert expected != places(AgingEvolutionSampler(space, **{**options, "seed": 8}), float, 30)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    for _ in range(30):
        study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
        study.sampler = AgingEvolutionSampler(space, **options)
        study.optimize(lambda t: float(space.suggest(t)[0]), n_trials=1)
    assert [t.structure[0] for t in study.sampler.tried(study)] == expected


def test_workers_do_not_wait_for_each_other() -> None:
    """Random ones as long as none has finished; then of those that have."""
    space = Ring(10_000)
    study = optuna.create_study(sampler=AgingEvolutionSampler(space, population=2, sample=50, seed=0))
    trials: list[Trial] = [study.ask() for _ in range(4)]
    found = [space.suggest(trial)[0] for trial in trials]
    study.tell(trials[2], 1.0)
    child = space.suggest(study.ask())[0]
    assert abs(child - found[2]) == 1
    assert len(set(found)) == 4


def test_on_nas_bench_macro_it_beats_random_search() -> None:
    """Ranks of the best after 100 networks; at random the median is 27, (N + 1) times the median of a beta(1, 100)."""
    read_networks()  # skips where there is none
    space = MacroSpace(TABLE)
    ranked = sorted(space.structures, key=lambda s: space.outcome(s)["error"])
    ranks = []
    for seed in range(5):
        sampler = AgingEvolutionSampler(space, seed=seed)
        study = optuna.create_study(sampler=sampler)
        study.optimize(lambda t, seed=seed: space.outcome(space.suggest(t), seed % 3)["error"], n_trials=100)
        ranks.append(1 + ranked.index(space.read(study.best_params)))
    assert np.median(ranks) < 27


@pytest.mark.parametrize("name", ["population", "sample"])
def test_what_makes_no_sense_is_said(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        AgingEvolutionSampler(Ring(3), **{name: 0})
