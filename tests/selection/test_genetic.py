"""The genetic search: what it goes by, what it keeps, several workers, and against random search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna import Study, Trial
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scipy.stats import binomtest

from lightning_complexity.selection.samplers.fitness import scalar_fitness
from lightning_complexity.selection.samplers.genetic import PLACE, MicroGeneticSampler
from lightning_complexity.selection.samplers.populations import Place, Rules, Search
from lightning_complexity.selection.spaces.base import Space, Structure
from lightning_complexity.selection.spaces.dense import DenseSpace, Layer
from lightning_complexity.studies.sweeping.storage import quiet_optuna, requeue

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = DenseSpace(max_layers=3, units=range(8, 257, 8))
TINY = DenseSpace(max_layers=1, units=(8, 16, 24))
SEEDS = range(3)


def error_and_size(structure: Structure) -> tuple[float, int]:
    """As if wide and deep networks had smaller errors, up to a point."""
    units = [layer.units for layer in structure]
    widths = [64, *units, 10]
    size = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(widths))
    return 0.02 + 1 / min(units) + 0.05 / len(units), size


def fitness_of(structure: Structure, alpha: float = 0.5) -> float:
    error, size = error_and_size(structure)
    return scalar_fitness(error, size, alpha=alpha)


def objective(trial: Trial, space: DenseSpace = SPACE) -> float:
    error, size = error_and_size(space.suggest(trial))
    trial.set_user_attr("parameters", size)
    return error


def search(num_trials: int | None = 60, space: DenseSpace = SPACE, **options: Any) -> tuple[Study, MicroGeneticSampler]:
    sampler = MicroGeneticSampler(space, **{"seed": 0, **options})
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: objective(trial, space), n_trials=num_trials)
    return study, sampler


def structures(study: Study, space: DenseSpace = SPACE) -> list[Structure]:
    return [space.read(trial.params) for trial in study.trials if "units_0" in trial.params]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_of_a_run_never_gets_worse_and_stays_in_it(seed: int) -> None:
    _, sampler = search(60, seed=seed)
    history = sampler.history(_)[:-1]  # the last one may be in the making
    for before, after in itertools.pairwise(history):
        if before.run == after.run:
            assert min(after.fitness) <= min(before.fitness)
            elite = before.structures[int(np.argmin(before.fitness))]
            assert elite in after.structures or min(after.fitness) < min(before.fitness)
    assert {len(generation.structures) for generation in history} == {10}
    for generation in history:
        assert generation.fitness == tuple(map(fitness_of, generation.structures))


def test_children_are_made_of_their_parents() -> None:
    study, sampler = search(60, mutation=0.0)
    for before, after in itertools.pairwise(sampler.history(study)):
        if before.run == after.run:
            there = {layer for structure in before.structures for layer in structure}
            assert {layer for structure in after.structures for layer in structure} <= there


def test_without_crossover_and_mutation_children_are_copies_of_the_better_half() -> None:
    study, sampler = search(10, crossover=0.0, mutation=0.0, tournament=10, generations=2, restarts=1)
    first, second = sampler.history(study)
    assert set(second.structures) < set(first.structures)
    assert max(first.fitness) not in second.fitness  # the worst of all loses in any pair
    assert len(study.trials) == 10


def test_no_structure_is_trained_twice_and_known_ones_count() -> None:
    study, sampler = search(100)
    tried = structures(study)
    assert len(tried) == len(set(tried)) > 50
    members = [s for generation in sampler.history(study)[:-1] for s in generation.structures]
    assert len(members) > len(set(members))
    assert set(members) <= set(tried)


def test_a_run_ends_when_members_are_similar_and_the_next_starts_anew() -> None:
    study, sampler = search(80)
    history = sampler.history(study)
    ends = [(a, b) for a, b in itertools.pairwise(history) if a.run != b.run]
    assert ends
    for last, first in ends:
        pairs = sum(map(SPACE.are_similar, *zip(*itertools.combinations(last.structures, 2), strict=True)))
        assert last.is_converged == (last.number < 9)
        assert pairs > 3 or not last.is_converged
        assert first.number == 0
        assert not first.is_converged
    assert any(last.is_converged for last, _ in ends)
    archive = sampler.archive(study)
    assert len(archive) == 1 + history[-1].run
    for candidate, (last, _) in zip(archive, ends, strict=False):
        assert candidate.fitness == min(last.fitness) == fitness_of(candidate.structure)
        assert structures(study)[candidate.trial] == candidate.structure
    assert sampler.best(study).fitness == min(c.fitness for c in archive) == min(map(fitness_of, structures(study)))


def test_a_run_ends_with_four_similar_pairs_and_not_with_three() -> None:
    three = [*[Layer(8)] * 3, *map(Layer, range(16, 72, 8))]
    four = [*three[:-1], Layer(16)]
    for layers, is_converged in ((three, False), (four, True)):
        placed = {Place(0, 0, member): (layer,) for member, layer in enumerate(layers)}
        fitness = {structure: fitness_of(structure) for structure in placed.values()}
        first, second, *_ = Search(SPACE, Rules(), 0, fitness, placed).generations()
        assert first.is_converged == is_converged
        assert (second.run, second.number) == ((1, 0) if is_converged else (0, 1))


def test_more_similar_pairs_make_runs_longer() -> None:
    def length(similar: int) -> int:
        study, sampler = search(None, similar=similar, restarts=1, generations=6)
        return len(sampler.history(study))

    assert length(0) < length(45) == 6


def test_the_search_ends_by_itself_within_its_budget() -> None:
    study, sampler = search(None, population=4, tournament=2, generations=3, restarts=2, similar=100)
    assert [(g.run, g.number) for g in sampler.history(study)] == list(itertools.product(range(2), range(3)))
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert 8 <= len(complete) <= 24
    assert study.trials[-1].state == TrialState.PRUNED
    assert sampler.is_exhausted(study)


def test_a_space_with_nothing_left_ends_the_search() -> None:
    study, sampler = search(None, space=TINY)
    assert sorted(structures(study, TINY)) == sorted(TINY.first())
    assert sampler.best(study).structure == min(TINY.first(), key=fitness_of)


def test_the_same_seed_is_the_same_search_and_another_is_another() -> None:
    assert structures(search(40)[0]) == structures(search(40)[0])
    assert structures(search(40)[0]) != structures(search(40, seed=1)[0])
    assert structures(search(40, seed=None)[0]) != structures(search(40, seed=None)[0])


def journal(path: Path, **options: Any) -> Study:
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name="s",
        sampler=MicroGeneticSampler(SPACE, **options),
        load_if_exists=True,
    )


@pytest.mark.parametrize("seed", [0, None])
def test_a_resumed_study_goes_on_as_if_nothing_was(tmp_path: Path, seed: int | None) -> None:
    whole = journal(tmp_path / "whole", seed=seed)
    whole.optimize(objective, n_trials=24)
    if seed is None:  # the seed that the study drew
        seed = whole._storage.get_study_system_attrs(whole._study_id)["genetic:seed"]
    for _ in range(4):
        part = journal(tmp_path / "parts", seed=seed)
        part.sampler.reseed_rng()
        part.optimize(objective, n_trials=6)
    assert structures(part) == structures(whole)


def test_workers_without_a_seed_share_one(tmp_path: Path) -> None:
    studies = [journal(tmp_path / "journal", seed=None) for _ in range(2)]
    for study in studies * 10:
        study.optimize(objective, n_trials=1)
    histories = [study.sampler.history(study) for study in studies]
    assert histories[0] == histories[1]


def run_together(study: Study, workers: Sequence[Study], num_trials: int, order: np.random.Generator) -> int:
    """Run trials that end in random order; the most that ran at a time for a generation that was not complete."""
    running: list[tuple[Study, Trial]] = []
    ahead = 0
    for _ in range(num_trials):
        while len(running) < len(workers):
            worker = workers[len(running)]
            trial = worker.ask()
            SPACE.suggest(trial)
            running.append((worker, trial))
        places = [trial.storage.get_trial_system_attrs(trial._trial_id)[PLACE] for _, trial in running]
        ahead = max(ahead, len({tuple(place[:2]) for place in places}))
        worker, trial = running.pop(int(order.integers(len(running))))
        worker.tell(trial.number, objective(trial))
    return ahead


@pytest.mark.parametrize("seed", range(2))
def test_workers_go_ahead_while_a_generation_is_trained(tmp_path: Path, seed: int) -> None:
    workers = [journal(tmp_path / "journal", seed=seed) for _ in range(3)]
    ahead = run_together(workers[0], workers, 45, np.random.default_rng(seed))
    assert ahead >= 2  # generations at a time
    study = workers[0]
    tried = structures(study)
    assert len(tried) == len(set(tried)) == 47
    sampler = study.sampler
    history = sampler.history(study)
    assert len(history) > 4
    for before, after in itertools.pairwise(history[:-1]):
        if before.run == after.run:
            assert min(after.fitness) <= min(before.fitness)
    trained = {
        Place(*trial.system_attrs[PLACE]): SPACE.read(trial.params)
        for trial in study.trials
        if trial.state == TrialState.COMPLETE
    }
    elites = {g.run: g.structures[int(np.argmin(g.fitness))] for g in history[:-1]}
    for generation in history[:-1]:
        for member, structure in enumerate(generation.structures):
            place = Place(generation.run, generation.number, member)
            assert trained.get(place, structure) == structure or generation.number > 0
    assert sampler.best(study).fitness <= min(fitness_of(elite) for elite in elites.values())


def test_a_trial_that_never_ends_does_not_hold_the_search() -> None:
    sampler = MicroGeneticSampler(SPACE, seed=0)
    study = optuna.create_study(sampler=sampler)
    stuck = study.ask()
    SPACE.suggest(stuck)
    study.optimize(objective, n_trials=60)
    history = sampler.history(study)
    assert history[0].fitness[0] is None
    assert len(history) > 4
    assert None not in history[1].fitness
    study.tell(stuck.number, objective(stuck))
    assert None not in sampler.history(study)[0].fitness


def test_of_two_who_claim_one_structure_the_first_has_its_place() -> None:
    sampler = MicroGeneticSampler(SPACE, seed=0)
    study = optuna.create_study(sampler=sampler)
    first = study.ask()
    structure = SPACE.suggest(first)
    late = MicroGeneticSampler(SPACE, seed=0)
    seen = late.tried
    calls = iter([[]])  # what it saw at first
    late.tried = lambda *arguments: next(calls, None) or seen(*arguments)
    study.sampler = late
    second = study.ask()
    assert SPACE.suggest(second) != structure
    places = [study._storage.get_trial_system_attrs(trial._trial_id)[PLACE] for trial in (first, second)]
    assert places == [[0, 0, 0], [0, 0, 1]]


def failing(trial: Trial, how: Callable[[Trial], float]) -> float:
    value = objective(trial)
    return how(trial) if trial.number % 3 == 0 else value


def fail(trial: Trial) -> float:
    raise RuntimeError


def prune(trial: Trial) -> float:
    raise optuna.TrialPruned


def break_constraint(trial: Trial) -> float:
    trial.set_constraint("memory", 1.0)
    return 0.0


@pytest.mark.parametrize("how", [fail, prune, break_constraint, lambda _: math.inf, lambda _: math.nan])
def test_what_failed_is_infinitely_bad(how: Callable[[Trial], float]) -> None:
    sampler = MicroGeneticSampler(SPACE, seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: failing(trial, how), n_trials=40, catch=(RuntimeError,))
    tried = structures(study)
    history = sampler.history(study)
    bad = {structure for number, structure in enumerate(tried) if number % 3 == 0}
    assert len(history) > 2
    for generation in history[:-1]:
        for structure, fitness in zip(generation.structures, generation.fitness, strict=True):
            assert (fitness == math.inf) == (structure in bad)
    assert sampler.best(study).structure not in bad
    assert sampler.best(study).fitness == min(fitness_of(s) for s in tried if s not in bad)


def test_where_all_failed_there_is_no_best() -> None:
    sampler = MicroGeneticSampler(SPACE, seed=0, restarts=1)
    study = optuna.create_study(sampler=sampler)
    study.optimize(fail_at_once, n_trials=30, catch=(RuntimeError,))
    assert sampler.archive(study) == []
    with pytest.raises(ValueError, match="no trial ended with a finite fitness"):
        sampler.best(study)


def fail_at_once(trial: Trial) -> float:
    SPACE.suggest(trial)
    raise RuntimeError


def test_what_a_dead_worker_had_keeps_its_place() -> None:
    sampler = MicroGeneticSampler(SPACE, seed=0)
    study = optuna.create_study(sampler=sampler)
    dead = study.ask()
    structure = SPACE.suggest(dead)
    study.optimize(objective, n_trials=12)
    study.tell(dead.number, state=TrialState.FAIL)
    with quiet_optuna():
        requeue(study, study.trials[dead.number])
    study.optimize(objective, n_trials=1)
    history = sampler.history(study)
    assert history[0].structures[0] == structure
    assert history[0].fitness[0] == fitness_of(structure)


def test_what_failed_and_is_tried_again_counts_by_its_last_result() -> None:
    sampler = MicroGeneticSampler(SPACE, seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(fail_at_once, n_trials=1, catch=(RuntimeError,))
    (structure,) = structures(study)
    study.enqueue_trial(SPACE.parameters(structure))
    assert sampler.history(study)[0].fitness[0] is None
    study.optimize(objective, n_trials=1)
    assert sampler.history(study)[0].fitness[0] == fitness_of(structure)


def test_error_and_size_from_wherever_they_are() -> None:
    def run(directions: list[str], names: list[str] | None, value: Callable[[float, int], Any], **options: Any) -> Any:
        sampler = MicroGeneticSampler(SPACE, seed=0, **options)
        study = optuna.create_study(directions=directions, sampler=sampler)
        if names:
            with quiet_optuna():
                study.set_metric_names(names)

        def both(trial: Trial) -> Any:
            error, size = error_and_size(SPACE.suggest(trial))
            trial.set_user_attr("size", size)
            return value(error, size)

        study.optimize(both, n_trials=25)
        return structures(study), sampler.best(study)

    expected = structures(search(25)[0])
    down, up = "minimize", "maximize"
    for tried, best in (
        run([down, down], ["error", "parameters"], lambda e, s: (e, s)),
        run([down, down], None, lambda e, s: (s, e), objective=1, size=0),
        run([up, down], ["accuracy", "parameters"], lambda e, s: (1 - e, s)),
        run([down], None, lambda e, _: e, size="size"),
        run([down], None, lambda e, s: scalar_fitness(e, s, alpha=0.5), alpha=None),
        run([up], None, lambda e, s: -scalar_fitness(e, s, alpha=0.5), alpha=None),
    ):
        assert tried == expected
        assert best.fitness == pytest.approx(min(map(fitness_of, expected)))


def test_relative_errors_are_divided_by_one_norm() -> None:
    def run(scale: float) -> tuple[Study, MicroGeneticSampler]:
        sampler = MicroGeneticSampler(SPACE, relative=True, seed=0)
        study = optuna.create_study(sampler=sampler)
        study.optimize(lambda trial: scale * objective(trial), n_trials=40)
        return study, sampler

    study, sampler = run(1.0)
    history = sampler.history(study)
    errors = [error_and_size(structure)[0] for structure in history[0].structures]
    for generation in history[:-1]:
        for structure, fitness in zip(generation.structures, generation.fitness, strict=True):
            error, size = error_and_size(structure)
            assert fitness == pytest.approx(scalar_fitness(error / np.linalg.norm(errors), size))
    assert structures(run(250.0)[0]) == structures(study)  # the unit of an error does not matter


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_alpha_says_what_size_counts(alpha: float) -> None:
    study, sampler = search(50, alpha=alpha)
    best = sampler.best(study)
    assert best.fitness == min(fitness_of(structure, alpha) for structure in structures(study))


def losses_of_genetic_and_random_search(count: int, rules: Rules, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """How far above the optimum both end with as many trainings."""
    every = itertools.chain.from_iterable(itertools.product(SPACE.units, repeat=layers) for layers in (1, 2, 3))
    optimum = min(fitness_of(tuple(map(Layer, units))) for units in every)
    found: list[tuple[float, float]] = []
    for seed in range(seeds):
        known: dict[Structure, float] = {}
        while len(known) < count and (proposed := Search(SPACE, rules, seed, known, {}).next()):
            known[proposed[1]] = fitness_of(proposed[1])
        generator, drawn = np.random.default_rng([seed, 1]), set()
        while len(drawn) < len(known):
            drawn.add(SPACE.draw(generator))
        found.append((min(known.values()), min(map(fitness_of, drawn))))
    genetic, random = np.array(found).T - optimum
    return genetic, random


@pytest.mark.slow
def test_longer_runs_are_better_than_random_search() -> None:
    # With the published rules and 50 trainings there is hardly a difference, see docs/automatic-selection.md.
    genetic, random = losses_of_genetic_and_random_search(100, Rules(similar=10), 30)
    assert (np.minimum(genetic, random) >= 0).all()
    wins, losses = int((genetic < random).sum()), int((genetic > random).sum())
    assert genetic.mean() < 0.7 * random.mean()
    assert binomtest(wins, wins + losses, alternative="greater").pvalue < 0.01


@pytest.mark.parametrize(
    ("value", "size", "options", "message"),
    [
        (8.3, 100, {}, "must be a share of samples from 0 to 1, but that of trial 0 is 8.3"),
        (-0.1, 100, {"relative": True}, "trial 0 is -0.1"),
        (0.1, None, {}, "needs the number of parameters of trial 0 as 'parameters', which is None"),
        (0.1, "many", {}, "which is 'many'"),
        (0.1, 100, {"size": 1}, "as 1, which is None"),
        (0.1, 0, {}, "which is 0"),
    ],
)
def test_a_trial_without_fitness_is_said_and_none_is_lost(
    value: float, size: object, options: dict[str, Any], message: str
) -> None:
    sampler = MicroGeneticSampler(SPACE, **options)
    study = optuna.create_study(sampler=sampler)

    def odd(trial: Trial) -> float:
        SPACE.suggest(trial)
        trial.set_user_attr("parameters", size)
        return value

    with pytest.raises(ValueError, match=message):
        study.optimize(odd, n_trials=5)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.2}, "alpha must be between 0 and 1, or None, got 1.2"),
        ({"population": 1}, "population must be at least 2"),
        ({"generations": 0}, "generations must be at least 1"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"similar": -1}, "similar must be at least 0"),
        ({"crossover": 2.0}, "crossover must be between 0 and 1"),
        ({"mutation": -0.1}, "mutation must be between 0 and 1"),
        ({"tournament": 3}, "tournament must be even"),
        ({"tournament": 12}, "from 2 to the population of 10, got 12"),
        ({"seed": -1}, "seed must be from 0"),
    ],
)
def test_options_out_of_range_are_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MicroGeneticSampler(SPACE, **options)


def test_a_space_without_crossover_is_said() -> None:
    class Other(Space):
        def suggest(self, trial: Any) -> Structure:
            return ()

        def parameters(self, structure: Structure) -> dict[str, Any]:
            return {}

    with pytest.raises(TypeError, match="structures can be crossed, got Other"):
        MicroGeneticSampler(Other())


def test_a_search_that_waits_for_its_last_members_proposes_nothing_else() -> None:
    rules = Rules(population=2, tournament=2, generations=1, restarts=1)
    search = Search(SPACE, rules, 0, {}, {})
    (generation,) = search.generations()
    first, second = generation.structures
    assert search.next() == (Place(0, 0, 0), first)
    assert Search(SPACE, rules, 0, {first: None}, {}).next() == (Place(0, 0, 1), second)
    assert Search(SPACE, rules, 0, {first: None, second: 1.0}, {}).next() is None


def test_who_comes_while_the_last_members_are_trained_gets_the_last_places_of_what_follows() -> None:
    options = {"population": 4, "tournament": 2, "similar": 6, "mutation": 1.0}
    (first,) = Search(SPACE, Rules(**options), 0, {}, {}).generations()
    done: dict[Structure, float | None] = {structure: fitness_of(structure) for structure in first.structures}
    assert len(done) == 4
    waiting = {**done, first.structures[2]: None}
    place, child = Search(SPACE, Rules(**options), 0, waiting, {}).next()
    assert place == Place(0, 1, 3)
    before, _ = Search(SPACE, Rules(**options), 0, {**waiting, child: None}, {place: child}).next()
    assert before == Place(0, 1, 2)
    after = list(Search(SPACE, Rules(**options), 0, done, {place: child}).generations())
    assert after[1].structures[3] == child
    runs = Rules(**options, generations=1, restarts=2)
    place, fresh = Search(SPACE, runs, 0, waiting, {}).next()
    assert place == Place(1, 0, 3)
    assert fresh == list(Search(SPACE, runs, 0, done, {}).generations())[1].structures[3]


def test_of_two_trials_for_one_place_the_first_has_it() -> None:
    sampler = MicroGeneticSampler(SPACE, seed=0)
    study = optuna.create_study(sampler=sampler)
    trials = [study.ask() for _ in range(2)]
    first, second = map(SPACE.suggest, trials)
    study._storage.set_trial_system_attr(trials[1]._trial_id, PLACE, [0, 0, 0])
    assert sampler.history(study)[0].structures[0] == first != second
