"""Progressive search: structures in the order of their complexity, the next level by what the last ones say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from optuna.study import StudyDirection
from scipy import stats

from lightning_complexity.selection.samplers.base import StructureSampler, Tried
from lightning_complexity.selection.samplers.surrogates import SURROGATES, Surrogate
from lightning_complexity.selection.spaces.base import ProgressiveSpace, Structure

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_Reading: TypeAlias = Callable[[float], float]
LEVEL, PREDICTED = "progressive:level", "progressive:predicted"


class _Plan(NamedTuple):
    """What is to be tried at a level."""

    level: int
    candidates: Sequence[Structure]
    """Best first."""
    predictions: Sequence[float | None]
    quota: int


class ProgressiveSampler(StructureSampler):
    r"""Tries the first level of a space, then at each level the ``beam`` structures that a surrogate thinks best.

    The candidates of a level are all that those tried at the level below can become, but for those that failed or
    diverged. The surrogate is fitted to what became of the last levels, anew for each level. As long as it has fewer
    than two results to learn from, a level is tried like the first one: whole, or a random part where it has more than
    ``most_first`` structures. The search ends after the highest level, or where all of a level failed. It needs
    ``len(first) + beam * (levels - 1)`` trials.

    Several workers on one storage do not wait for each other. One that finds nothing left at a level goes on to the
    next while others still train: what they train is expanded, but not yet learned from; as long as nothing is known,
    ``beam`` structures are drawn at random. Each trial's prediction is made from what is known when it starts.

    What is learned is :math:`-\log(e)` of the error :math:`e`, the distance of the objective from ``best``: near
    the end of a search errors differ little in size, but still in ratio. An error of 0 counts as half of the least
    positive one that is known. Failed and diverged structures count as the worst that is known. Among structures that
    are predicted to be equal, chance decides.

    Args:
        space: What is searched.
        beam: How many structures are tried at each level after the first: K of the paper.
        surrogate: ``"ridge"``; ``"kernel_ridge"``; the published ensembles ``"mlp"`` and ``"lstm"``; or one with its
            own settings.
        window: How many of the last levels the surrogate is fitted to; all with ``None``, as published.
        target: ``"log"``, or ``"loss"`` to learn the objective as it is, as published.
        best: What the objective cannot surpass. By default 0 where it is minimized, and 1, of an accuracy, where it is
            maximized.
        most_first: Most structures that are tried of a level that nothing is known of.
        objective: Which of the study's objectives decides.
        seed: Of what is random.

    Raises:
        ValueError: If a number or a name is out of range; while searching, if an objective is better than ``best``.

    References:
        Liu et al., "Progressive Neural Architecture Search", ECCV 2018, arXiv 1712.00559.

    Example:
        >>> import optuna
        >>> from lightning_complexity.selection.spaces.dense import DenseSpace
        >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
        >>> space = DenseSpace(max_layers=3, units=(4, 8, 16, 32))
        >>> def error(trial):
        ...     return 1 / sum(layer.units for layer in space.suggest(trial))
        >>> sampler = ProgressiveSampler(space, beam=4, seed=0)
        >>> study = optuna.create_study(sampler=sampler)
        >>> study.optimize(error, n_trials=100)
        >>> len(sampler.tried(study)), space.describe(space.read(study.best_params))
        (12, '32-32-32')
    """

    space: ProgressiveSpace

    def __init__(
        self,
        space: ProgressiveSpace,
        *,
        beam: int = 16,
        surrogate: str | Surrogate = "ridge",
        window: int | None = 2,
        target: Literal["log", "loss"] = "log",
        best: float | None = None,
        most_first: int = 256,
        objective: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(space, objective=objective, seed=seed)
        for name, value in (("beam", beam), ("window", window), ("most_first", most_first)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if target not in ("log", "loss"):
            raise ValueError(f"target must be 'log' or 'loss', got {target!r}.")
        if isinstance(surrogate, str) and surrogate not in SURROGATES:
            raise ValueError(f"surrogate must be one of {', '.join(SURROGATES)}, or a Surrogate, got {surrogate!r}.")
        self.beam, self.window, self.target, self.best, self.most_first = beam, window, target, best, most_first
        self.surrogate = SURROGATES[surrogate]() if isinstance(surrogate, str) else surrogate
        self._last: tuple[object, _Plan] | None = None

    def propose(self, study: Study, trial: FrozenTrial, tried: Sequence[Tried]) -> Structure | None:
        """The best that is left at the level, or at the next; keeps its level and what it is predicted to reach."""
        best = self._best(study)
        _check(tried, best, self.target)
        own = [t.trial.system_attrs[LEVEL] for t in tried if LEVEL in t.trial.system_attrs]
        level: int | None = max(own, default=None)
        there = {t.structure for t in tried}
        for _ in range(2):  # this level and the next
            plan = self._plan(level, tried, best)
            place = next((place for place, other in enumerate(plan.candidates) if other not in there), None)
            if place is not None and own.count(plan.level) < plan.quota:
                return self._take(study, trial, plan, place)
            level = plan.level + 1
        return None

    def _take(self, study: Study, trial: FrozenTrial, plan: _Plan, place: int) -> Structure:
        for name, value in ((LEVEL, plan.level), (PREDICTED, plan.predictions[place])):
            study._storage.set_trial_system_attr(trial._trial_id, name, value)
        return plan.candidates[place]

    def predictions(self, study: Study) -> pd.DataFrame:
        """What was predicted and what came: ``number``, ``level``, ``structure``, ``predicted``, ``value``.

        Predictions are on the scale of the objective; ``nan`` where there was none, as at the first level. A value is
        ``nan`` while its trial is running, and infinitely bad where it failed or diverged.

        Args:
            study: That was searched.
        """
        sign = -1 if study.directions[self._objective] == StudyDirection.MAXIMIZE else 1
        rows = []
        for t in self.tried(study):
            if LEVEL in t.trial.system_attrs:
                predicted, value = t.trial.system_attrs[PREDICTED], t.loss
                found = (math.nan if number is None else sign * number for number in (predicted, value))
                rows.append((t.number, t.trial.system_attrs[LEVEL], self.space.describe(t.structure), *found))
        return pd.DataFrame(rows, columns=["number", "level", "structure", "predicted", "value"])

    def rank_correlations(self, study: Study) -> pd.Series[float]:
        """Spearman's correlation of predictions with what came, by level.

        It is ``nan`` with fewer than three structures, or if one is constant. The surrogate has seen nothing of
        a level that it predicts. Only structures that it thought good were tried, so that the correlation over all
        candidates is mostly higher.

        Args:
            study: That was searched.
        """
        frame = self.predictions(study).dropna()
        found = {level: _spearman(part["predicted"], part["value"]) for level, part in frame.groupby("level")}
        return pd.Series(found, name="spearman", dtype=float).rename_axis("level")

    def summary(self, study: Study) -> str:
        """How well what was predicted of a level ordered what came."""
        found = self.rank_correlations(study).dropna()
        if found.empty:
            return ""
        words = ", ".join(f"{value:.2f} at level {level}" for level, value in found.items())
        return f"Spearman's correlation of what was predicted with what came: {words}."

    def _best(self, study: Study) -> float:
        """The least possible loss."""
        maximized = study.directions[self._objective] == StudyDirection.MAXIMIZE
        if self.best is None:
            return -1.0 if maximized else 0.0
        return -self.best if maximized else self.best

    def _plan(self, level: int | None, tried: Sequence[Tried], best: float) -> _Plan:
        """What to try at a level; the first one with ``None``."""
        levels = [self.space.level(t.structure) for t in tried]
        below = [t for t, at in zip(tried, levels, strict=True) if level is not None and at < level]
        key = (level, tuple((t.number, t.loss) for t in below))
        if self._last is None or self._last[0] != key:  # the work is the same for all trials of a level
            self._last = key, self._new_plan(level, below, best)
        return self._last[1]

    def _new_plan(self, level: int | None, below: Sequence[Tried], best: float) -> _Plan:
        lowest = self._lowest()
        if level is None or level == lowest:
            return self._unguided(lowest, self.space.first(), self.most_first)
        parents = [t.structure for t in below if self.space.level(t.structure) == level - 1 and t.loss != math.inf]
        candidates = list(dict.fromkeys(child for parent in parents for child in self.space.expand(parent)))
        seen = [t for t in below if t.loss is not None and self._is_near(t.structure, level)]
        if not candidates or sum(t.loss != math.inf for t in seen) < 2:
            is_known_soon = any(t.loss is None for t in below)
            return self._unguided(level, candidates, self.beam if is_known_soon else self.most_first)
        scores, read = self._targets([t.loss for t in seen if t.loss is not None], best)
        random = self._random(level)
        predict = self.surrogate.fit(self.space, [t.structure for t in seen], scores, int(random.integers(2**31)))
        predicted = predict(candidates)
        # Where nothing tells structures apart, their order in the space should not: it may be that of their sizes.
        order = np.lexsort([random.permutation(len(candidates)), -np.round(predicted, 9)])
        return _Plan(level, [candidates[i] for i in order], [float(read(predicted[i])) for i in order], self.beam)

    def _lowest(self) -> int:
        return self.space.level(self.space.first()[0])

    def _is_near(self, structure: Structure, level: int) -> bool:
        return self.window is None or self.space.level(structure) >= level - self.window

    def _unguided(self, level: int, candidates: Sequence[Structure], quota: int) -> _Plan:
        if len(candidates) > quota:
            candidates = [candidates[place] for place in self._random(level).permutation(len(candidates))]
        return _Plan(level, candidates, [None] * len(candidates), quota)

    def _random(self, level: int) -> np.random.Generator:
        return np.random.default_rng(None if self._seed is None else [self._seed, level])

    def _targets(self, losses: Sequence[float], best: float) -> tuple[NDArray[np.float64], _Reading]:
        """What is learned, to be large; and what makes a loss of it again."""
        found = np.array(losses)
        found[np.isinf(found)] = found[np.isfinite(found)].max()
        if self.target == "loss":
            return -found, lambda score: -score
        errors = found - best
        positive = errors[errors > 0]
        errors = np.maximum(errors, positive.min() / 2 if len(positive) else 1.0)
        return -np.log(errors), lambda score: math.exp(min(-score, 700.0)) + best


def _check(tried: Sequence[Tried], best: float, target: str) -> None:
    for t in tried:
        if target == "log" and t.loss is not None and t.loss < best:
            value = t.trial.values
            raise ValueError(
                f"the logarithm of an error needs objectives no better than best, but trial {t.number} has {value}: "
                "give best, the best that there can be (100 for an accuracy in percent), or target='loss'."
            )


def _spearman(predicted: pd.Series[float], value: pd.Series[float]) -> float:
    if len(predicted) < 3 or predicted.nunique() < 2 or value.nunique() < 2:
        return math.nan
    return float(stats.spearmanr(predicted, value).statistic)
