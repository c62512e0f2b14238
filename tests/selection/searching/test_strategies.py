"""Samplers of searches: the same seed gives the same search, interrupted or not, and no two workers the same trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from lightning_complexity.selection.searching.strategies import (
    GIVES_UP_AFTER,
    SearchSampler,
    check_strategy,
    has_given_up,
    sampler_of,
)
from lightning_complexity.selection.searching.tables import STRATEGIES, StrategyEntry
from lightning_complexity.studies.sweeping.storage import open_storage, quiet_optuna
from lightning_complexity.studies.sweeping.worker import progress, work
from tests.selection.searching.spaces import SmallTable

SPACE = SmallTable(size=50)
OWN = ("random", "tpe", "nsga2")


def study_of(strategy: str, seed: int, storage: Any = None, **options: Any) -> optuna.Study:
    sampler = sampler_of(strategy, SPACE, options, seed)
    return optuna.create_study(
        storage=storage, study_name="s", sampler=sampler, directions=["minimize"] * 2, load_if_exists=True
    )


def values(trial: optuna.trial.BaseTrial) -> tuple[float, float]:
    a, b = SPACE.suggest(trial)
    assert isinstance(a, int)
    assert isinstance(b, int)
    return (a - 30.0) ** 2 + b, float(b)


def searched(strategy: str, seed: int, parts: Sequence[int], **options: Any) -> list[dict[str, Any]]:
    """Parameters of trials; each part by a sampler of its own, as after an interruption."""
    storage = optuna.storages.InMemoryStorage()
    with quiet_optuna():
        for part in parts:
            study = study_of(strategy, seed, storage, **options)
            study.optimize(values, n_trials=part)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("strategy", OWN)
def test_the_same_seed_is_the_same_search_interrupted_or_not(strategy: str) -> None:
    options = {"population_size": 4} if strategy == "nsga2" else {}
    whole = searched(strategy, 3, [24], **options)
    assert searched(strategy, 3, [5, 1, 18], **options) == whole
    assert searched(strategy, 4, [24], **options) != whole
    assert len({(p["a"], p["b"]) for p in whole}) > 12


@pytest.mark.parametrize("strategy", OWN)
def test_two_workers_do_not_propose_the_same(strategy: str) -> None:
    storage = optuna.storages.InMemoryStorage()
    with quiet_optuna():
        first, second = (study_of(strategy, 0, storage) for _ in range(2))
        pairs = [(SPACE.suggest(first.ask()), SPACE.suggest(second.ask())) for _ in range(10)]
    assert sum(a == b for a, b in pairs) <= 1  # of 2,500 structures


def test_tpe_and_nsga2_learn() -> None:
    """Random search is no better than 60 draws of 2,500; the others get nearer the best error."""

    def best(strategy: str) -> float:
        options = {"population_size": 10} if strategy == "nsga2" else {}
        scores = [
            min((p["a"] - 30) ** 2 + p["b"] for p in searched(strategy, seed, [60], **options)) for seed in range(3)
        ]
        return sum(scores)

    assert best("tpe") < best("random")


class Exhaustible(optuna.samplers.RandomSampler):
    def is_exhausted(self, study: optuna.Study) -> bool:
        return len(study.get_trials(deepcopy=False)) >= 4


def test_an_exhausted_sampler_ends_the_study(tmp_path: Path) -> None:
    url = str(tmp_path / "j.log")
    with quiet_optuna():
        study = optuna.create_study(storage=open_storage(url, create=True), study_name="s")
        for name, value in {
            "run": "tests.studies.jobs:product",
            "num_trials": 9,
            "sampler": f"{__name__}:exhaustible",
        }.items():
            study.set_user_attr(name, value)
    study.sampler = exhaustible(study)
    assert progress(study) == (9, 0)
    assert work(url, "s", tmp_path) == 4
    assert progress(study) == (4, 4)


def exhaustible(study: optuna.Study) -> SearchSampler:
    return SearchSampler(lambda seed: Exhaustible(seed), 0)


def test_the_number_of_trials_is_exact_when_workers_begin_the_last_one_together(tmp_path: Path) -> None:
    url = str(tmp_path / "j.log")
    with quiet_optuna():
        study = optuna.create_study(storage=open_storage(url, create=True), study_name="s")
        for name, value in {"run": "tests.selection.searching.test_strategies:overtaken", "num_trials": 3}.items():
            study.set_user_attr(name, value)
        work(url, "s", tmp_path)
    assert progress(study) == (3, 3)
    assert OVERTAKEN == [False, True]
    assert len(study.get_trials()) == 4


OVERTAKEN: list[bool] = []


def overtaken(trial: optuna.Trial, output: Path) -> float:
    """While the second trial runs, another worker begins two more, of which the last is one too many."""
    from lightning_complexity.studies.sweeping.worker import _is_surplus

    if trial.number == 1:
        third, fourth = trial.study.ask(), trial.study.ask()
        OVERTAKEN[:] = [_is_surplus(trial.study, third), _is_surplus(trial.study, fourth)]
        trial.study.tell(third, 0.0)
        fourth.set_user_attr("surplus", True)
        trial.study.tell(fourth, state=TrialState.FAIL)
    return 0.0


def test_it_gives_up_when_nothing_works_and_only_then() -> None:
    study = study_of("random", 0)
    with quiet_optuna():
        for _ in range(GIVES_UP_AFTER):
            assert not has_given_up(study)
            study.tell(study.ask(), state=TrialState.FAIL)
        assert has_given_up(study)
        study.set_user_attr("begun_at", GIVES_UP_AFTER)
        assert not has_given_up(study)
        study.set_user_attr("begun_at", 0)
        study.tell(study.ask(), [0.0, 0.0])
    assert not has_given_up(study)


def test_a_strategy_for_other_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = StrategyEntry("optuna.samplers:RandomSampler", "", needs="ProgressiveSpace")
    monkeypatch.setitem(STRATEGIES, "progressive", entry)
    message = "strategy 'progressive' is for spaces with levels of complexity, and table is none; for it there are"
    with pytest.raises(ValueError, match=message) as raised:
        check_strategy("progressive", SPACE, "table", {})
    assert "random, tpe, nsga2" in str(raised.value)


@pytest.mark.parametrize("draws_by_trial", [False, True])
def test_a_sampler_that_seeds_itself_is_made_once(draws_by_trial: bool) -> None:
    seeds: list[int] = []

    def make(seed: int) -> optuna.samplers.BaseSampler:
        seeds.append(seed)
        return optuna.samplers.RandomSampler(seed=seed)

    sampler: Callable[..., Any] = SearchSampler(make, 7, draws_by_trial=draws_by_trial)
    study = optuna.create_study(sampler=sampler)
    for _ in range(3):
        SPACE.suggest(study.ask())
    assert len(set(seeds)) == (1 if draws_by_trial else 4)
    assert seeds[0] == 7
