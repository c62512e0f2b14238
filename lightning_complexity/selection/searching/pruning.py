"""Ending the training of a model that will not be chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from lightning_complexity.selection.searching.tables import PRUNERS, check_options, entry_of
from lightning_complexity.studies.importing import load_object

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.pruners import BasePruner
    from torch import nn

    from lightning_complexity.selection.searching.description import Search
    from lightning_complexity.selection.stopping import EarlyVerdictPruner

_SIZES = ("parameters", "ParameterCount", "parameter_count")  # known before a network is trained


class Watch(Protocol):
    """Sees the first training of a trial's model."""

    def epoch(self, epoch: int, values: Mapping[str, float], network: nn.Module) -> None:
        """See the model after an epoch.

        Args:
            epoch: How many are completed.
            values: Of the training's own outcomes, such as ``error`` and ``val_loss``.
            network: The model.

        Raises:
            TrialPruned: To end the trial.
        """


class _OptunaWatch:
    """Lets a pruner of Optuna decide, by the only objective."""

    def __init__(self, trial: Trial, objective: str) -> None:
        self._trial, self._objective = trial, objective

    def epoch(self, epoch: int, values: Mapping[str, float], network: nn.Module) -> None:  # noqa: ARG002
        from optuna.exceptions import TrialPruned

        if self._objective in values:
            self._trial.report(values[self._objective], epoch)
            if self._trial.should_prune():
                raise TrialPruned(f"after epoch {epoch}, with {self._objective} {values[self._objective]:.4g}")


class _EarlyVerdictWatch:
    """Lets an early verdict decide, by all objectives."""

    def __init__(self, trial: Trial, search: Search, pruner: EarlyVerdictPruner) -> None:
        self._trial, self._pruner, self._max_epochs = trial, pruner, search.max_epochs
        self._sizes = [place for place, name in enumerate(search.goals) if name in _SIZES]

    def epoch(self, epoch: int, values: Mapping[str, float], network: nn.Module) -> None:
        from optuna.exceptions import TrialPruned

        from lightning_complexity.selection.stopping.reports import REASON

        if self._sizes and epoch == 1:
            size = sum(p.numel() for p in network.parameters())
            self._pruner.set_exact(self._trial, dict.fromkeys(self._sizes, size))
        self._pruner.report(self._trial, epoch / self._max_epochs, values)
        if self._pruner.should_prune(self._trial):
            raise TrialPruned(f"after epoch {epoch}: {self._trial.user_attrs[REASON]}")


def early_verdict(trial: Trial, search: Search, **options: Any) -> Watch:
    """What sees a training for an :class:`~lightning_complexity.selection.stopping.EarlyVerdictPruner`.

    Args:
        trial: Of the search.
        search: With its objectives.
        options: Of the pruner.
    """
    from lightning_complexity.selection.stopping import EarlyVerdictPruner

    return _EarlyVerdictWatch(trial, search, EarlyVerdictPruner(**options))


def watch_of(trial: Trial, search: Search) -> Watch | None:
    """What sees the training of a trial, if anything does.

    Args:
        trial: Of the search.
        search: With its pruner.
    """
    if search.pruner is None:
        return None
    entry = entry_of(PRUNERS, search.pruner, "pruner")
    if not entry.watches:
        return _OptunaWatch(trial, next(iter(search.goals)))
    watch: Watch = load_object(entry.factory, "pruner")(trial, search, **search.pruner_options)
    return watch


def pruner_of(search: Search) -> BasePruner:
    """The pruner of a study; one that prunes nothing, where Optuna's have no part in it.

    Args:
        search: With its pruner.
    """
    from optuna.pruners import NopPruner

    entry = None if search.pruner is None else entry_of(PRUNERS, search.pruner, "pruner")
    if entry is None or entry.watches:
        return NopPruner()
    pruner: BasePruner = load_object(entry.factory, "pruner")(**search.pruner_options)
    return pruner


def check_pruner(search: Search, outcomes: list[str]) -> None:
    """Say what cannot be pruned.

    Args:
        search: With its pruner.
        outcomes: What is known after each epoch.

    Raises:
        ValueError: At an unknown pruner or option; at several objectives, or one that is not known after an epoch, for
            a pruner of Optuna.
    """
    if search.pruner is None:
        return
    entry = entry_of(PRUNERS, search.pruner, "pruner")
    factory = load_object(entry.factory, "pruner")
    if entry.watches:
        _check_early(search.pruner_options)
        return
    check_options(factory, search.pruner_options, f"pruner {search.pruner}")
    if len(search.goals) > 1:
        raise ValueError(
            f"pruner {search.pruner!r} is for one objective, and there are {', '.join(search.goals)}: give one to "
            "--objectives, and bound the other by --constraint."
        )
    if (name := next(iter(search.goals))) not in outcomes:
        raise ValueError(f"pruner {search.pruner!r} needs an objective of {', '.join(outcomes)}, got {name!r}.")
    try:
        factory(**search.pruner_options)
    except TypeError as error:
        raise ValueError(f"pruner {search.pruner} does not take these options: {error}.") from error


def _check_early(options: Mapping[str, Any]) -> None:
    from lightning_complexity.selection.stopping import EarlyVerdictPruner

    check_options(EarlyVerdictPruner, options, "pruner early")
    EarlyVerdictPruner(**options)
