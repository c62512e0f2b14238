"""Automatic model selection: a genetic search of few trainings, for networks that are good and small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from optuna.study import StudyDirection

from lightning_complexity.selection.samplers.base import StructureSampler, Tried
from lightning_complexity.selection.samplers.fitness import norm_of_errors, scalar_fitness
from lightning_complexity.selection.samplers.populations import Generation, Place, Rules, Search
from lightning_complexity.selection.spaces.base import CrossableSpace, Structure

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

PLACE = "genetic:place"
SEED = "genetic:seed"


class Candidate(NamedTuple):
    """A network that was tried.

    Attributes:
        fitness: To be small; infinite if the trial failed, diverged, or does not meet its constraints.
        structure: Of the space.
        trial: The number of its trial.
    """

    fitness: float
    structure: Structure
    trial: int


class MicroGeneticSampler(StructureSampler):
    r"""Automatic model selection: small networks with small errors, by a genetic search of few trainings.

    Networks are ranked by :func:`~lightning_complexity.selection.samplers.fitness.scalar_fitness`,

    .. math:: c = 10 (1 - \alpha) p + \alpha \log_{10} w^+ .

    Members of a population are drawn, ``tournament`` at a time, and compared in pairs, of which the better become
    parents. Two parents have a child by crossover, and some children are mutated. The children are the next
    generation, in which the best network of the run takes the place of the worst. A run ends after its ``generations``,
    or once more than ``similar`` pairs of a population are similar; the next one starts from random networks, and
    :meth:`archive` has the best of each run. A network that a population has again keeps its fitness and is not
    trained again. The study stops after the last run.

    Populations follow from the seed and from what the study's trials say, so that workers share them and need not
    wait: one that comes while the last members of a generation are being trained gets a child of those that are done,
    for the next generation. Once that one is full of such children, the rest is no longer waited for, and counts as
    infinitely bad until it is known. With one worker, the same seed gives the same search.

    Args:
        space: Of the structures.
        alpha: What the size counts, from 0 to 1; with ``None`` the objective itself is the fitness.
        objective: Which of the study's objectives is the error. One that is maximised is an accuracy, and the error is
            what it lacks of 1.
        size: Where a trial has its number of parameters: the name or the place of another objective, or the name of a
            user attribute.
        relative: Whether errors are no shares of samples, but such as an RMSE, and are divided by their norm over the
            very first population. The paper takes the norm of each population, and could not compare
            a fitness with one of another generation.
        population: Number of members.
        tournament: How many members are drawn and compared in pairs; an even number.
        generations: Most generations of a run.
        restarts: Number of runs.
        crossover: Chance that a child is made out of both parents, and not a copy of one.
        mutation: Chance that a child is mutated.
        similar: How many similar pairs there may be in a population for a run to go on.
        seed: Of all that is drawn; workers that have none share one that the study keeps.

    Raises:
        TypeError: If structures of the space cannot be crossed.
        ValueError: If a number is out of its range.

    References:
        Laredo et al., "Automatic model selection for neural networks", 2019, arXiv 1905.06010.

    Example:
        >>> import optuna
        >>> from lightning_complexity.selection.spaces.dense import DenseSpace
        >>> space = DenseSpace(max_layers=2, units=range(8, 257, 8))
        >>> def objective(trial):
        ...     units = sum(layer.units for layer in space.suggest(trial))
        ...     trial.set_user_attr("parameters", 75 * units)
        ...     return 0.02 + 1 / units
        >>> sampler = MicroGeneticSampler(space, alpha=0.5, seed=0)
        >>> study = optuna.create_study(sampler=sampler)
        >>> study.optimize(objective, n_trials=30)
        >>> best = sampler.best(study)
        >>> space.describe(best.structure), round(best.fitness, 2)
        ('16', 1.91)
    """

    space: CrossableSpace

    def __init__(
        self,
        space: CrossableSpace,
        *,
        alpha: float | None = 0.5,
        objective: int = 0,
        size: int | str = "parameters",
        relative: bool = False,
        population: int = 10,
        tournament: int = 4,
        generations: int = 10,
        restarts: int = 5,
        crossover: float = 1.0,
        mutation: float = 0.4,
        similar: int = 3,
        seed: int | None = None,
    ) -> None:
        if seed is not None and not 0 <= seed < 2**32:
            raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}.")
        super().__init__(space, objective=objective, seed=seed)
        if not isinstance(space, CrossableSpace):
            raise TypeError(f"space must be one whose structures can be crossed, got {type(space).__name__}.")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, or None, got {alpha}.")
        self._alpha, self._size, self._relative = alpha, size, relative
        self._rules = Rules(population, tournament, generations, restarts, crossover, mutation, similar)

    def reseed_rng(self) -> None:
        """Draw what is not of the space anew; all else is drawn for the study, not for a worker."""
        self._independent.reseed_rng()

    def propose(self, study: Study, trial: FrozenTrial, tried: Sequence[Tried]) -> Structure | None:
        """The next member that nobody has tried; ``None`` once all runs are over.

        Raises:
            ValueError: If a trial that ended has no size, or its error is no share of samples.
        """
        found = self._search(study, tried).next()
        if found is None:
            return None
        place, structure = found
        study._storage.set_trial_system_attr(trial._trial_id, PLACE, list(place))
        return structure

    def history(self, study: Study) -> list[Generation]:
        """The populations up to now, of all runs.

        Args:
            study: That was searched.
        """
        return list(self._search(study, self.tried(study)).generations())

    def archive(self, study: Study) -> list[Candidate]:
        """The best network of each run that has any.

        Args:
            study: That was searched.
        """
        tried = self.tried(study)
        found = _by_structure(self._candidates(study, tried))
        runs: dict[int, list[Candidate]] = {}
        for generation in self._search(study, tried).generations():
            there = [found[s] for s in generation.structures if s in found and math.isfinite(found[s].fitness)]
            runs.setdefault(generation.run, []).extend(there)
        return [min(there, key=_rank) for there in runs.values() if there]

    def best(self, study: Study) -> Candidate:
        """The network of least fitness among all that were tried.

        Args:
            study: That was searched.

        Raises:
            ValueError: If no trial ended well.
        """
        best = min(self._candidates(study, self.tried(study)), key=_rank, default=None)
        if best is None or not math.isfinite(best.fitness):
            raise ValueError("no trial ended with a finite fitness, so that there is no best network.")
        return best

    def summary(self, study: Study) -> str:
        """Which network has the least fitness."""
        best = min(self._candidates(study, self.tried(study)), key=_rank, default=None)
        if best is None or not math.isfinite(best.fitness):
            return ""
        of = "" if self._alpha is None else f" of error and size, with alpha {self._alpha:g}"
        return f"Least fitness{of}: {best.fitness:.4g}, trial {best.trial} ({self.space.describe(best.structure)})."

    def _search(self, study: Study, tried: Sequence[Tried]) -> Search:
        found = _by_structure(self._candidates(study, tried))
        fitness: dict[Structure, float | None] = {s: candidate.fitness for s, candidate in found.items()}
        for other in tried:  # what failed before may be running again
            if other.loss is None and fitness.get(other.structure, math.inf) == math.inf:
                fitness[other.structure] = None
        placed: dict[Place, Structure] = {}
        for other in tried:  # where two workers had one place, what came first
            if PLACE in other.trial.system_attrs:
                placed.setdefault(Place(*other.trial.system_attrs[PLACE]), other.structure)
        return Search(self.space, self._rules, self._drawn_from(study), fitness, placed)

    def _drawn_from(self, study: Study) -> int:
        if self._seed is not None:
            return self._seed
        attributes = study._storage.get_study_system_attrs(study._study_id)
        if SEED not in attributes:
            seed = int(np.random.default_rng().integers(2**31))
            study._storage.set_study_system_attr(study._study_id, SEED, seed)
            return seed
        return int(attributes[SEED])

    def _candidates(self, study: Study, tried: Sequence[Tried]) -> list[Candidate]:
        done = [(t, self._error(study, t)) for t in tried if t.loss is not None]
        first = [error for t, error in done if t.trial.system_attrs.get(PLACE, ())[:2] == [0, 0]]
        norm = norm_of_errors(first) if self._relative else 1.0
        return [Candidate(self._fitness(study, t, error / norm), t.structure, t.number) for t, error in done]

    def _error(self, study: Study, tried: Tried) -> float:
        """Of a trial that ended."""
        if tried.loss is None or not math.isfinite(tried.loss) or any(v > 0 for v in tried.trial.constraints.values()):
            return math.inf
        if self._alpha is None:
            return tried.loss
        is_accuracy = study.directions[self._objective] == StudyDirection.MAXIMIZE
        error = 1 + tried.loss if is_accuracy else tried.loss
        if error < 0 or (error > 1 and not self._relative):
            raise ValueError(
                f"the objective must be a share of samples from 0 to 1, but that of trial {tried.number} is "
                f"{tried.trial.values[self._objective]:g}: give shares, relative=True for an error such as an RMSE, or "
                "alpha=None where the objective is the fitness itself."
            )
        return error

    def _fitness(self, study: Study, tried: Tried, error: float) -> float:
        if self._alpha is None or not math.isfinite(error):
            return error
        return scalar_fitness(error, self._number_of_parameters(study, tried.trial), alpha=self._alpha)

    def _number_of_parameters(self, study: Study, trial: FrozenTrial) -> float:
        names = study.metric_names or []
        place = names.index(self._size) if self._size in names else self._size
        if isinstance(place, int):
            found = trial.values[place] if 0 <= place < len(trial.values) else None
        else:
            found = trial.user_attrs.get(place)
        if isinstance(found, bool) or not isinstance(found, int | float) or not found >= 1:
            raise ValueError(
                f"the fitness needs the number of parameters of trial {trial.number} as {self._size!r}, which is "
                f"{found!r}: make it an objective of that name, call trial.set_user_attr({self._size!r}, ...), or give "
                "alpha=None where the objective is the fitness itself."
            )
        return found


def _rank(candidate: Candidate) -> tuple[float, int]:
    return candidate.fitness, candidate.trial


def _by_structure(candidates: Sequence[Candidate]) -> dict[Structure, Candidate]:
    """The first trial of each structure that ended well, or any that did not."""
    found: dict[Structure, Candidate] = {}
    for candidate in candidates:
        if not math.isfinite(found.get(candidate.structure, candidate).fitness) or candidate.structure not in found:
            found[candidate.structure] = candidate
    return found
