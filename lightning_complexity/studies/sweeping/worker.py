"""A worker: takes trials of a study out of a storage that it shares with others, until none is left.

What a trial is, the study says in its user attributes, so that one command serves all kinds of studies:

- ``run``: import path of ``function(trial, output)``, which runs one trial, keeps what it writes in the folder
  ``output``, and gives the value or values of the trial;
- ``num_trials``: how many trials there are in all. Without it there are those that were queued
  (``study.enqueue_trial(parameters, user_attrs={"queued": True})``). It may be raised while workers work;
- ``sampler``: import path of ``function(study)``, which makes the sampler of those that were not queued. One that has
  ``is_exhausted(study)`` ends the study when that is true;
- ``pruner``: import path of ``function(study)``, which makes the pruner.

These are imported and called: work on storages that you trust.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_complexity.studies.importing import load_object
from lightning_complexity.studies.sweeping.storage import (
    HEARTBEAT,
    WORKER,
    Claims,
    is_journal,
    open_storage,
    quiet_optuna,
    requeue,
    requeue_lost,
    without_password,
)

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

RUN, NUM_TRIALS, SAMPLER, PRUNER = "run", "num_trials", "sampler", "pruner"
QUEUED, ERROR, SURPLUS = "queued", "error", "surplus"
_POLL = 1.0

RunTrial = Callable[["Trial", Path], Any]


def load_study(storage: BaseStorage, name: str, url: str) -> Study:
    """A study by its name.

    Args:
        storage: That it is in.
        name: Of the study.
        url: Of the storage, for the error.

    Raises:
        ValueError: If there is none of that name, with the names that there are.
    """
    import optuna

    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        names = optuna.get_all_study_names(storage)
        there = f"it has {', '.join(map(repr, names))}" if names else "it has none"
        shown = url if is_journal(url) else without_password(url)
        raise ValueError(f"there is no study {name!r} in {shown}: {there}.") from None


def last_attempts(study: Study) -> list[FrozenTrial]:
    """The trials of a study without those that were queued again, or that another worker was first to take."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if SURPLUS not in trial.user_attrs]
    repeated = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
    return [trial for trial in trials if trial.number not in repeated]


def work(url: str, name: str, output: Path, *, heartbeat: float = HEARTBEAT) -> int:
    """Run trials of a study until none is left, not even one that another worker has and may not live to finish.

    Args:
        url: Of the storage, as for :func:`~lightning_complexity.studies.sweeping.storage.open_storage`.
        name: Of the study.
        output: Folder for what trials write.
        heartbeat: Seconds between signs of life.

    Returns:
        How many trials this worker ran.

    Raises:
        ValueError: If the storage cannot be reached, has no such study, or one that does not say what a trial is.
    """
    storage = open_storage(url, heartbeat=heartbeat)
    with quiet_optuna():
        study = load_study(storage, name, url)
        run = _run_of(study)
        claims = Claims(Path(url), heartbeat) if is_journal(url) else None
        try:
            return _work(study, run, output, claims, heartbeat)
        finally:
            if claims is not None:
                claims.close()


def _run_of(study: Study) -> RunTrial:
    attributes = study.user_attrs
    if RUN not in attributes:
        raise ValueError(
            f"study {study.study_name!r} does not say what a trial is: set its user attribute {RUN!r} to "
            "package.module:function."
        )
    equip(study)
    return load_object(attributes[RUN], f"user attribute {RUN!r}")


def equip(study: Study) -> None:
    """Give a study the sampler and the pruner that it says it has.

    Args:
        study: As it was loaded.
    """
    attributes = study.user_attrs
    if SAMPLER in attributes:
        study.sampler = load_object(attributes[SAMPLER], f"user attribute {SAMPLER!r}")(study)
    if PRUNER in attributes:
        study.pruner = load_object(attributes[PRUNER], f"user attribute {PRUNER!r}")(study)


class SurplusTrialError(Exception):
    """Another worker was first: this trial is one too many."""


def _work(study: Study, run: RunTrial, output: Path, claims: Claims | None, heartbeat: float) -> int:
    from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
    from optuna.trial import TrialState

    mine: list[int] = []

    def objective(trial: Trial) -> Any:
        if _is_surplus(study, trial):
            trial.set_user_attr(SURPLUS, True)
            raise SurplusTrialError
        mine.append(trial.number)
        trial.set_user_attr(WORKER, "in a database" if claims is None else claims.name)
        try:
            return run(trial, output)
        except TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
            raise

    while True:
        requeue_lost(study, claims, heartbeat)
        waiting, others = _left(study)
        if waiting:
            try:
                study.optimize(objective, n_trials=1, catch=(Exception,))
            except KeyboardInterrupt:
                if mine and study.trials[mine[-1]].state == TrialState.FAIL:
                    requeue(study, study.trials[mine[-1]])
                raise
            except UpdateFinishedTrialError:  # this worker was thought dead, and its trial given to another
                continue
        elif others:
            time.sleep(_POLL)
        else:
            return len(mine)


def _is_surplus(study: Study, trial: Trial) -> bool:
    """Whether another worker took the last one of the queue, or began the last one of a search, at the same time."""
    limit = study.user_attrs.get(NUM_TRIALS)
    if limit is None:
        return QUEUED not in trial.user_attrs
    return sum(other.number < trial.number for other in last_attempts(study)) >= limit


def _left(study: Study) -> tuple[bool, bool]:
    """Whether there is a trial to take, and whether others work on some."""
    from optuna.trial import TrialState

    trials = last_attempts(study)
    states = {trial.state for trial in trials}
    limit = study.user_attrs.get(NUM_TRIALS)
    more = limit is not None and len(trials) < limit and not is_exhausted(study)
    return more or TrialState.WAITING in states, TrialState.RUNNING in states


def is_exhausted(study: Study) -> bool:
    """Whether the sampler of a study has nothing more to propose.

    Args:
        study: That has its sampler, see :func:`equip`.
    """
    asks = getattr(study.sampler, "is_exhausted", None)
    return asks is not None and bool(asks(study))


def progress(study: Study) -> tuple[int, int]:
    """How many trials there will be, and how many of these are finished.

    Args:
        study: That has its sampler, see :func:`equip`.
    """
    trials = last_attempts(study)
    limit = study.user_attrs.get(NUM_TRIALS)
    total = len(trials) if limit is None or is_exhausted(study) else max(len(trials), limit)
    return total, sum(trial.state.is_finished() for trial in trials)
