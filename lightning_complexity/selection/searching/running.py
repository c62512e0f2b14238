"""A search in a storage: begun or gone on with, and one trial of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_complexity.selection.searching.description import Search, difference, read_search
from lightning_complexity.selection.searching.problems.base import Problem
from lightning_complexity.selection.searching.problems.module import ModuleProblem
from lightning_complexity.selection.searching.problems.networks import NetworkProblem
from lightning_complexity.selection.searching.problems.table import TableProblem, num_seeds
from lightning_complexity.selection.searching.pruning import check_pruner, pruner_of, watch_of
from lightning_complexity.selection.searching.quantities import check_name
from lightning_complexity.selection.searching.space_file import read_space
from lightning_complexity.selection.searching.strategies import BEGUN_AT, SearchSampler, check_strategy, sampler_of
from lightning_complexity.selection.searching.tables import SPACES, make_space
from lightning_complexity.selection.simplest import mean_and_standard_error
from lightning_complexity.selection.spaces.base import NetworkSpace, TableSpace
from lightning_complexity.studies.sweeping.worker import NUM_TRIALS, PRUNER, RUN, SAMPLER, load_study

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

SEARCH, MODEL, REPEATS, STANDARD_ERROR, CONSTRAINED = "search", "model", "repeats", "standard_error", "constrained"
STRUCTURE, SAME_AS = "structure", "same_as"
_OTHERS_BEGIN = 5.0


# What workers call ------------------------------------------------------------------------------------


def run_trial(trial: Trial, output: Path) -> tuple[float, ...]:
    """Values of one trial of a search; of a model that was finished before, those of that time.

    Args:
        trial: Of a study that :func:`prepare` made.
        output: Trainings of a user's module get folders in its ``trials``.

    Raises:
        TrialError: If its model has no values, with the reason.
    """
    import torch

    torch.set_num_threads(1)  # workers share the cores
    problem = problem_of(trial.study)
    search = problem.search
    structure = problem.space.suggest(trial)
    trial.set_user_attr(MODEL, problem.space.describe(structure))
    trial.set_user_attr(STRUCTURE, repr(structure))
    if (before := _same(trial, repr(structure))) is not None:
        return _copied(trial, before, search)
    found = problem.values(structure, watch_of(trial, search), output / "trials" / str(trial.number))
    means = {name: mean_and_standard_error(repeats) for name, repeats in found.items()}
    if search.repeats > 1:
        trial.set_user_attr(REPEATS, found)
        trial.set_user_attr(STANDARD_ERROR, {name: spread for name, (_, spread) in means.items()})
    trial.set_user_attr(CONSTRAINED, {b.name: means[b.name][0] for b in search.bounds if b.name not in search.goals})
    for bound in search.bounds:
        trial.set_constraint(bound.text, bound.excess(means[bound.name][0]))
    return tuple(means[name][0] for name in search.goals)


def _same(trial: Trial, structure: str) -> FrozenTrial | None:
    """A finished trial of the same model."""
    from optuna.trial import TrialState

    finished = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((other for other in finished if other.user_attrs.get(STRUCTURE) == structure), None)


def _copied(trial: Trial, other: FrozenTrial, search: Search) -> tuple[float, ...]:
    trial.set_user_attr(SAME_AS, other.number)
    for name in (REPEATS, STANDARD_ERROR, CONSTRAINED):
        if name in other.user_attrs:
            trial.set_user_attr(name, other.user_attrs[name])
    for bound in search.bounds:
        trial.set_constraint(bound.text, other.constraints[bound.text])
    return tuple(other.values)


def make_sampler(study: Study) -> SearchSampler:
    """The sampler of a worker.

    Args:
        study: Of a search.
    """
    problem = problem_of(study)
    search = problem.search
    return sampler_of(search.strategy, problem.space, search.strategy_options, search.seed)


def make_pruner(study: Study) -> BasePruner:
    """The pruner of a worker.

    Args:
        study: Of a search.
    """
    return pruner_of(search_of(study))


def search_of(study: Study) -> Search:
    """What a study searches.

    Args:
        study: Of a search.

    Raises:
        ValueError: If it is of something else.
    """
    written = study.user_attrs.get(SEARCH)
    if written is None:
        raise ValueError(f"study {study.study_name!r} is there, but not of a search: choose another --study.")
    return read_search(written, study.study_name)


@lru_cache(maxsize=1)
def _problem_of(written: str) -> Problem:
    return problem_for(read_search(json.loads(written), ""))


def problem_of(study: Study) -> Problem:
    """The problem of a study, made once by each worker.

    Args:
        study: Of a search.
    """
    return _problem_of(json.dumps(search_of(study).written()))


def problem_for(search: Search) -> Problem:
    """The problem of a search.

    Args:
        search: Complete.

    Raises:
        ValueError: If its space is of no kind that is known.
    """
    if search.model is not None or search.parameters is not None:
        return ModuleProblem(search)
    space = make_space(search.space, search.space_options)
    if isinstance(space, TableSpace):
        return TableProblem(search, space)
    if isinstance(space, NetworkSpace):
        return NetworkProblem(search, space)
    raise ValueError(f"space {search.space} neither builds networks nor has a table of them.")


# Beginning, and going on ------------------------------------------------------------------------------


def begun(asked: Mapping[str, Any]) -> Search:
    """A new search: what was asked for, completed and checked.

    Args:
        asked: Attributes of :class:`Search` that were given; ``space`` may be a YAML file.

    Raises:
        ValueError: At the first thing that cannot be.
    """
    asked = with_parameters(asked)
    search = Search(**asked)
    search.check()
    _check_kind(search, asked)
    problem: Problem
    if search.model is not None:
        search = replace(search, repeats=asked.get("repeats", 1))
        module = ModuleProblem(search)
        search, problem = module.settled(), module
    else:
        problem = problem_for(search)
        if isinstance(problem, TableProblem):
            most = num_seeds(problem.table)
            search = replace(search, repeats=asked.get("repeats", most))
            if search.repeats > most:
                raise ValueError(f"--repeats must be at most {most}: {search.space} has no more seeds.")
    search = replace(search, objectives=search.objectives or _default_objectives(search, problem))
    for option, names in (("--objectives", search.goals), ("--constraint", [b.name for b in search.bounds])):
        for name in names:
            check_name(name, problem.outcomes, option)
            _check_table(name, problem)
    if search.monitor is not None and search.monitor not in search.goals:
        raise ValueError(f"--objectives must have {search.monitor}, the monitor, got {', '.join(search.goals)}.")
    check_strategy(search.strategy, problem.space, search.space, search.strategy_options)
    check_pruner(search, problem.outcomes)
    return search


def with_parameters(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, with what a YAML file says instead of its path.

    Args:
        asked: With or without ``space``.
    """
    space = asked.get("space")
    if space is None or space in SPACES or not (Path(space).suffix in (".yaml", ".yml") or Path(space).is_file()):
        return dict(asked)
    return {**asked, "space": Path(space).name, "parameters": read_space(space)}


def _check_kind(search: Search, asked: Mapping[str, Any]) -> None:
    if (search.model is None) != (search.datamodule is None):
        given, missing = ("--model", "--datamodule") if search.datamodule is None else ("--datamodule", "--model")
        raise ValueError(f"{given} needs {missing} beside it.")
    if search.model is not None and search.parameters is None:
        raise ValueError("--model needs a YAML file with its parameters as --space.")
    if search.parameters is not None and search.model is None:
        raise ValueError(f"--space {search.space} is a file of parameters: say of what with --model and --datamodule.")
    others = ("data", "num_samples", "batch_size", "learning_rate", "optimizer", "weight_decay", "space_options")
    if search.model is not None and (wrong := [name for name in others if name in asked]):
        raise ValueError(f"--{wrong[0]} is for networks of a space; with --model, put it into the YAML file.")
    if search.model is None and search.monitor is not None:
        raise ValueError("--monitor is for --model; for networks of a space give --objectives.")


def _default_objectives(search: Search, problem: Problem) -> tuple[str, ...]:
    if search.monitor is not None:
        return (search.monitor, "parameters")
    if isinstance(problem, TableProblem):
        score = next((name for name in ("error", "accuracy") if name in problem.outcomes), problem.outcomes[0])
        return tuple(dict.fromkeys([score, *(n for n in ("parameters", "flops") if n in problem.outcomes)][:2]))
    return ("error", "parameters")


def _check_table(name: str, problem: Problem) -> None:
    if isinstance(problem, TableProblem) and name not in problem.outcomes:
        raise ValueError(f"the table of {problem.search.space} has no {name!r}; it has {', '.join(problem.outcomes)}.")


def prepare(
    asked: Mapping[str, Any], storage: BaseStorage, name: str, url: str, num_trials: int | None, default: int
) -> tuple[Study, list[str]]:
    """The study of a search; one that exists goes on.

    Args:
        asked: Attributes of :class:`Search` that were given.
        storage: For the study.
        name: Of the study.
        url: Of the storage, for errors.
        num_trials: How many trials it is to have, if that was given.
        default: How many a new one has.

    Returns:
        The study, and what its user should know.

    Raises:
        ValueError: If there is a study of that name that is of another search, with what differs; or at what cannot be.
    """
    import optuna

    if num_trials is not None and num_trials < 1:
        raise ValueError(f"--trials must be at least 1, got {num_trials}.")
    if name not in optuna.get_all_study_names(storage):
        search = begun(asked)
        try:
            directions = [optuna.study.StudyDirection[word.upper()] for word in search.goals.values()]
            study = optuna.create_study(storage=storage, study_name=name, directions=directions)
        except optuna.exceptions.DuplicatedStudyError:  # another command began it meanwhile
            return _gone_on(asked, _existing(storage, name, url), num_trials)
        study.set_metric_names(list(search.goals))
        for key, function in ((RUN, "run_trial"), (SAMPLER, "make_sampler"), (PRUNER, "make_pruner")):
            study.set_user_attr(key, f"{__name__}:{function}")
        study.set_user_attr(NUM_TRIALS, num_trials or default)
        study.set_user_attr(SEARCH, search.written())
        return study, []
    return _gone_on(asked, _existing(storage, name, url), num_trials)


def _existing(storage: BaseStorage, name: str, url: str) -> Study:
    """A study that is there; one that another command is about to write down is waited for."""
    study = load_study(storage, name, url)
    end = time.monotonic() + _OTHERS_BEGIN
    while SEARCH not in study.user_attrs and not study.get_trials(deepcopy=False) and time.monotonic() < end:
        if study.user_attrs.keys() - {RUN, SAMPLER, PRUNER, NUM_TRIALS}:
            break
        time.sleep(0.1)
    return study


def _gone_on(asked: Mapping[str, Any], study: Study, num_trials: int | None) -> tuple[Study, list[str]]:
    known = search_of(study)
    asked = with_parameters(asked)
    try:
        differing = difference(known, asked)
    except ValueError as error:
        raise ValueError(f"{error} Study {study.study_name!r} is another one: choose another --study.") from error
    if differing:
        raise ValueError(f"study {study.study_name!r} is of another search: {differing}. Choose another --study.")
    before, trials = int(study.user_attrs[NUM_TRIALS]), study.get_trials(deepcopy=False)
    finished = sum(trial.state.is_finished() for trial in trials)
    notes = [f"Study {study.study_name!r} goes on: {finished} of its trials are finished."] if trials else []
    if finished and not any(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials):
        before += len(trials) - study.user_attrs.get(BEGUN_AT, 0)
        study.set_user_attr(BEGUN_AT, len(trials))
        study.set_user_attr(NUM_TRIALS, before)
        notes.append("All of them failed; it tries as many others.")
    if num_trials is not None and num_trials > before:
        study.set_user_attr(NUM_TRIALS, num_trials)
    elif num_trials is not None and num_trials < before:
        notes.append(f"It has {before} trials; --trials {num_trials} is less and changes nothing.")
    return study, notes
