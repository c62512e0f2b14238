"""Stop trials whose end, as predicted from a share of their training, would be no use."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightning_complexity.selection.stopping.predicting import LEAST, Prediction, predict
from lightning_complexity.selection.stopping.reports import (
    REASON,
    Report,
    due,
    exact_values,
    report_at,
    reports_of,
    write_exact,
    write_report,
)

if TYPE_CHECKING:
    from optuna import Study, Trial

FEATURES = ("settings", "losses", "measures")
_SETS = (("losses",), ("settings",), ("settings", "losses"), ("settings", "losses", "measures"), ("measures",))


class EarlyVerdictPruner(BasePruner):
    r"""Prune a trial if what it will come to, as predicted from a share of its training, is dominated.

    At a share of its training, each objective of a trial is predicted from the trials that are finished: from settings,
    from what was reported at that share, or from both, whichever predicts best those finished trials that were held
    out (see :func:`~lightning_complexity.selection.stopping.predicting.predict`). The trial is pruned if a finished
    one dominates the better ends of the intervals of all objectives: with one objective, if the better end of its
    interval is worse than the best finished trial. Objectives that are known beforehand, such as the number of
    parameters, are taken as they are (:meth:`set_exact`). Finished trials that do not meet a constraint dominate none.

    It works with any number of objectives. Optuna's own ``trial.report`` and ``trial.should_prune`` refuse several;
    :meth:`report` and :meth:`should_prune` take their place. With one, both work: of the values of ``trial.report``,
    the k-th counts as reported after k of ``num_reports``. All that the pruner knows is in the study, so that workers
    that share a storage share what they know, and a study goes on where it was.

    Not pruned are the first trials; some of the others, at random, so that predictions are not of survivors alone;
    and all trials as long as nothing can be predicted, which is said once, after as many settings as ``startup_trials``
    or twice as many trials. Pruned at once is a trial that reports a loss that is not finite. The reason is in the
    trial's user attribute ``early:reason``.

    Args:
        share: Of the training, at which a verdict is given, or several shares.
        confidence: Of the intervals. A lower one prunes more; zero compares the predictions themselves.
        features: What to predict from: ``"settings"`` (the trial's parameters), ``"losses"``, ``"measures"``.
        startup_trials: Trials that must be finished before any other is pruned; at least five.
        keep: Share of the trials that no prediction prunes. Without any, predictions that are wrong stay so.
        prune_infeasible: Whether to prune a trial that does not meet a constraint, or that is predicted not to.
        num_reports: How many values a whole training gives to ``trial.report``; with ``None``, as many as any
            finished trial did.
        seed: Of which trials are kept.

    Raises:
        ValueError: If an option is out of its range.

    Example:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
        >>> pruner = EarlyVerdictPruner()
        >>> def objective(trial):
        ...     width = trial.suggest_int("width", 1, 100)
        ...     pruner.set_exact(trial, {1: width})  # the second objective is known
        ...     for epoch in range(1, 31):
        ...         error = 1 / width + 1 / epoch
        ...         pruner.report(trial, epoch / 30, {"error": error})
        ...         if pruner.should_prune(trial):
        ...             raise optuna.TrialPruned(trial.user_attrs["early:reason"])
        ...     return error, width
        >>> sampler = optuna.samplers.RandomSampler(seed=0)
        >>> study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler, pruner=pruner)
        >>> study.optimize(objective, n_trials=8)
    """

    def __init__(
        self,
        share: float | Sequence[float] = (1 / 30, 0.1),
        *,
        confidence: float = 0.5,
        features: Sequence[str] = FEATURES,
        startup_trials: int = LEAST,
        keep: float = 0.03,
        prune_infeasible: bool = False,
        num_reports: int | None = None,
        seed: int = 0,
    ) -> None:
        shares = tuple(sorted(share)) if isinstance(share, Sequence) else (share,)
        if not shares or not all(0 < one < 1 for one in shares):
            raise ValueError(f"share must be above 0 and below 1, or several such shares, got {share!r}.")
        if not 0 <= confidence < 1:
            raise ValueError(f"confidence must be at least 0 and below 1, got {confidence!r}.")
        if not features or isinstance(features, str) or not set(features) <= set(FEATURES):
            raise ValueError(f"features must be some of {', '.join(FEATURES)}, got {features!r}.")
        if startup_trials < LEAST:
            raise ValueError(f"startup_trials must be at least {LEAST}, got {startup_trials!r}.")
        if not 0 <= keep < 1:
            raise ValueError(f"keep must be at least 0 and below 1, got {keep!r}.")
        if num_reports is not None and num_reports < 1:
            raise ValueError(f"num_reports must be at least 1, got {num_reports!r}.")
        self.shares = shares
        self._confidence, self._startup, self._keep = confidence, startup_trials, keep
        self._prune_infeasible, self._num_reports, self._seed = prune_infeasible, num_reports, seed
        self._sets = [names for names in _SETS if set(names) <= set(features)]
        self._said: set[str] = set()

    # What trials tell and ask --------------------------------------------------------------------------

    def report(
        self, trial: Trial, progress: float, losses: Mapping[str, Any], *, measures: Mapping[str, Any] | None = None
    ) -> None:
        """Keep what a trial has come to.

        Args:
            trial: That is running.
            progress: Share of its training that is done, above 0 and up to 1.
            losses: Losses and errors by name. One that is not finite means that training diverged.
            measures: Other numbers by name, such as measures of complexity; those that are not finite count as unknown.

        Raises:
            ValueError: If ``progress`` is out of its range.
            TypeError: If a value is no number.
        """
        write_report(trial, progress, losses, measures or {})

    def set_exact(self, trial: Trial, values: Mapping[int, float]) -> None:
        """Tell what objectives of a trial are known to be before it is trained.

        Args:
            trial: That is running.
            values: By the place of the objective in the study, from 0.

        Raises:
            ValueError: If there is no such objective, or a value is not finite.
        """
        count = len(trial.study.directions)
        for place, value in values.items():
            if place not in range(count):
                raise ValueError(f"objectives of this study are 0 to {count - 1}, got {place!r}.")
            if not math.isfinite(value):
                raise ValueError(f"an objective that is known must be finite, got {value!r}.")
        write_exact(trial, values)

    def should_prune(self, trial: Trial) -> bool:
        """Whether the last report prunes a trial, with any number of objectives.

        Args:
            trial: That is running.
        """
        reason = self.verdict(trial.study, trial.study._storage.get_trial(trial._trial_id))
        if reason is not None:
            trial.set_user_attr(REASON, reason)
        return reason is not None

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """The same, as ``trial.should_prune`` asks it."""
        reason = self.verdict(study, trial)
        if reason is not None:
            study._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
        return reason is not None

    # The verdict ---------------------------------------------------------------------------------------

    def verdict(self, study: Study, trial: FrozenTrial) -> str | None:
        """Why the last report prunes a trial; ``None`` if it does not.

        Args:
            study: Of the trial.
            trial: With its reports.
        """
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        count = self._num_reports or max((len(other.intermediate_values) for other in finished), default=0)
        reports = reports_of(trial, count or len(trial.intermediate_values))
        if not reports:
            return None
        if diverged := reports[-1].diverged:
            return f"diverged: {diverged}"
        if self._prune_infeasible and (unmet := [n for n, value in trial.constraints.items() if value > 0]):
            return f"constraint {unmet[0]!r} is not met: {trial.constraints[unmet[0]]:.4g} is above 0"
        share = due(reports, self.shares)
        if share is None or reports[-1].progress >= 1 or len(finished) < self._startup or self._is_kept(trial):
            return None
        seen = [(other, report_at(reports_of(other, count), share)) for other in finished]
        known = [other for other, report in seen if report is not None]
        if not known:
            self._say("no finished trial has a report: call pruner.report in the objective")
            return None
        rows = [_row(other, report) for other, report in seen if report is not None]
        return self._judged(study, finished, known, rows, trial, reports[-1])

    def _judged(
        self,
        study: Study,
        finished: Sequence[FrozenTrial],
        known: Sequence[FrozenTrial],
        rows: Sequence[Mapping[str, Any]],
        trial: FrozenTrial,
        report: Report,
    ) -> str | None:
        asked = _row(trial, report)

        def predicted(targets: Sequence[float]) -> Prediction | None:
            return predict(rows, targets, asked, self._sets, self._confidence)

        if self._prune_infeasible:
            for name in sorted({n for other in known for n in other.constraints}):
                found = predicted([other.constraints.get(name, math.nan) for other in known])
                if found is not None and found.low > 0:
                    return f"predicted not to meet constraint {name!r}: {_told(found)}, which should be at most 0"
        names, exact, ends = _names(study), exact_values(trial), []
        signs = [1.0 if direction == StudyDirection.MINIMIZE else -1.0 for direction in study.directions]
        told = []
        for place, (name, sign) in enumerate(zip(names, signs, strict=True)):
            found = Prediction(*[exact[place]] * 3) if place in exact else predicted([t.values[place] for t in known])
            if found is None:
                if self._is_time_to_tell(known):
                    self._say(f"{name} has no different finite values in five settings, or no feature tells of it")
                return None
            ends.append(sign * (found.low if sign > 0 else found.high))
            told.append(f"{name} {_told(found)}")
        winner = _dominating(finished, signs, ends)
        if winner is None:
            return None
        values = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, winner.values, strict=True))
        return f"predicted {', '.join(told)}; dominated by trial {winner.number}: {values}"

    def _is_time_to_tell(self, known: Sequence[FrozenTrial]) -> bool:
        """Settings that came twice are no reason to warn while others may still come."""
        settings = {tuple(sorted((name, repr(value)) for name, value in trial.params.items())) for trial in known}
        return len(settings) >= self._startup or len(known) >= 2 * self._startup

    def _is_kept(self, trial: FrozenTrial) -> bool:
        return float(np.random.default_rng([self._seed, trial.number]).random()) < self._keep

    def _say(self, why: str) -> None:
        if why not in self._said:
            self._said.add(why)
            warnings.warn(f"nothing is pruned by an early verdict as yet: {why}.", stacklevel=2)


def _row(trial: FrozenTrial, report: Report) -> dict[str, Any]:
    parts = {"settings": trial.params, "losses": report.losses, "measures": report.measures}
    return {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}


def _names(study: Study) -> list[str]:
    count = len(study.directions)
    return study.metric_names or (["value"] if count == 1 else [f"value_{place}" for place in range(count)])


def _told(prediction: Prediction) -> str:
    value, low, high = prediction
    return f"{value:.4g}" if low == high else f"{value:.4g} [{low:.4g}, {high:.4g}]"


def _dominating(finished: Sequence[FrozenTrial], signs: Sequence[float], ends: Sequence[float]) -> FrozenTrial | None:
    """A finished trial that meets its constraints and dominates, with all objectives to be small."""
    for trial in sorted(finished, key=lambda t: signs[0] * t.values[0]):
        if any(value > 0 for value in trial.constraints.values()):
            continue
        pairs = [(sign * value, end) for sign, value, end in zip(signs, trial.values, ends, strict=True)]
        if all(a <= b for a, b in pairs) and any(a < b for a, b in pairs):
            return trial
    return None
