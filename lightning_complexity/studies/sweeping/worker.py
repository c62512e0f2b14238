"""A worker: takes trials of a study out of a storage that it shares with others, until none is left.

What a trial is, the study says in its user attributes, so that one command serves all kinds of studies:

- ``run``: import path of ``function(trial, output)``, which runs one trial, keeps what it writes in the folder
  ``output``, and gives the value or values of the trial;
- ``num_trials``: how many trials there are in all. Without it there are those that were queued
  (``study.enqueue_trial(parameters, user_attrs={"queued": True})``);
- ``sampler``: import path of ``function(study)``, which makes the sampler of those that were not queued.

These are imported and called: work on storages that you trust.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from lightning_complexity.studies.training.user import load_object

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

RUN, NUM_TRIALS, SAMPLER = "run", "num_trials", "sampler"
QUEUED, ERROR = "queued", "error"
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
    """The trials of a study without those that were queued again because their worker died."""
    trials = study.get_trials(deepcopy=False)
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
    if SAMPLER in attributes:
        study.sampler = load_object(attributes[SAMPLER], f"user attribute {SAMPLER!r}")(study)
    return load_object(attributes[RUN], f"user attribute {RUN!r}")


def _work(study: Study, run: RunTrial, output: Path, claims: Claims | None, heartbeat: float) -> int:
    from optuna.exceptions import TrialPruned, UpdateFinishedTrialError

    limit = study.user_attrs.get(NUM_TRIALS)
    mine: list[int] = []

    def objective(trial: Trial) -> Any:
        if limit is None and QUEUED not in trial.user_attrs:
            raise TrialPruned("another worker took the last one of the queue")
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
        waiting, others = _left(study, limit)
        if waiting:
            try:
                study.optimize(objective, n_trials=1, catch=(Exception,))
            except KeyboardInterrupt:
                if mine and study.trials[mine[-1]].value is None:
                    requeue(study, study.trials[mine[-1]])
                raise
            except UpdateFinishedTrialError:  # this worker was thought dead, and its trial given to another
                continue
        elif others:
            time.sleep(_POLL)
        else:
            return len(mine)


def _left(study: Study, limit: int | None) -> tuple[bool, bool]:
    """Whether there is a trial to take, and whether others work on some."""
    from optuna.trial import TrialState

    trials = last_attempts(study)
    states = {trial.state for trial in trials}
    more = limit is not None and len(trials) < limit
    return more or TrialState.WAITING in states, TrialState.RUNNING in states
