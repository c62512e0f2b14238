"""A sampler that proposes structures, by what a study knows of those that were tried."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from optuna.exceptions import TrialPruned
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightning_complexity.selection.spaces.base import Space, Structure
from lightning_complexity.studies.sweeping.worker import last_attempts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna import Study
    from optuna.distributions import BaseDistribution

PROPOSED = "structure:parameters"
EXHAUSTED = "structure:exhausted"


class Tried(NamedTuple):
    """A structure that a trial has.

    Attributes:
        number: Of the trial.
        structure: What it tries.
        loss: What became of it, to be small; infinite if it failed or diverged, ``None`` while it is running.
        trial: All else that is known.
    """

    number: int
    structure: Structure
    loss: float | None
    trial: FrozenTrial


class StructureSampler(BaseSampler, ABC):
    """Proposes each structure once; a subclass says which is next.

    All that it knows is in the study, so that workers that share a storage share what they know, and a study goes on
    where it was. Parameters that are not of the space are drawn at random.

    Args:
        space: Of the structures.
        objective: Which of the study's objectives decides.
        seed: Of what is drawn at random.

    Raises:
        ValueError: If ``objective`` is negative.
    """

    def __init__(self, space: Space, *, objective: int = 0, seed: int | None = None) -> None:
        if objective < 0:
            raise ValueError(f"objective must be the place of one of the study's objectives, got {objective}.")
        self.space, self._objective = space, objective
        self._independent = RandomSampler(seed=seed)
        self._seed = seed
        self._known: dict[tuple[tuple[str, Any], ...], Structure] = {}

    @abstractmethod
    def propose(self, study: Study, trial: FrozenTrial, tried: Sequence[Tried]) -> Structure | None:
        """A structure that none of those tried is; ``None`` if there is none left.

        Args:
            study: That is searched.
            trial: That the structure is for; a sampler keeps what it decides in its system attributes.
            tried: What other trials have, in the order of their numbers.
        """

    def summary(self, study: Study) -> str:  # noqa: ARG002
        """What the sampler itself has to say at the end of a search; nothing where the trials say all.

        Args:
            study: That was searched.
        """
        return ""

    def is_exhausted(self, study: Study) -> bool:
        """Whether a trial found that nothing is left to try.

        Args:
            study: That is searched.
        """
        trials = study.get_trials(deepcopy=False)
        return any(EXHAUSTED in trial.system_attrs for trial in trials)

    def reseed_rng(self) -> None:
        """Draw anew, as Optuna asks of the workers of one process."""
        self._seed = None
        self._independent.reseed_rng()

    def generator(self, trial: FrozenTrial) -> np.random.Generator:
        """Random numbers for one trial, the same whichever worker has it.

        Args:
            trial: That they are for.
        """
        return np.random.default_rng(None if self._seed is None else [self._seed, trial.number])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters of the structure that this trial gets, which Optuna asks for at its first ``suggest``.

        Raises:
            TrialPruned: If nothing is left to try.
        """
        if PROPOSED in trial.system_attrs:  # another worker had it and died
            return self.space.distributions(self.space.read(trial.system_attrs[PROPOSED]))
        if trial.system_attrs.get("fixed_params"):  # queued by the user
            return {}
        while True:
            tried = self.tried(study, trial)
            structure = self.propose(study, trial, tried)
            if structure is None:
                study._storage.set_trial_system_attr(trial._trial_id, EXHAUSTED, True)
                raise TrialPruned("nothing is left to try")
            parameters = self.space.parameters(structure)
            study._storage.set_trial_system_attr(trial._trial_id, PROPOSED, parameters)
            if not any(t.structure == structure and t.number < trial.number for t in self.tried(study, trial)):
                return self.space.distributions(structure)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values of these parameters."""
        if not search_space:
            return {}
        attributes = study._storage.get_trial_system_attrs(trial._trial_id)
        return dict(attributes[PROPOSED])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for a parameter that is not of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,  # noqa: ARG002
        values: Sequence[float] | None,  # noqa: ARG002
    ) -> None:
        """Stop a study that has nothing left to try."""
        if EXHAUSTED in study._storage.get_trial_system_attrs(trial._trial_id):
            study.stop()

    def tried(self, study: Study, trial: FrozenTrial | None = None) -> list[Tried]:
        """What trials have, in the order of their numbers; those that were queued again count once.

        Args:
            study: That is searched.
            trial: Is left out, as it asks.
        """
        own = -1 if trial is None else trial.number
        found = []
        for other in last_attempts(study):
            structure = None if other.number == own else self._structure(other)
            if structure is not None:
                found.append(Tried(other.number, structure, self._loss(study, other), other))
        return found

    def _structure(self, trial: FrozenTrial) -> Structure | None:
        parameters: Mapping[str, Any] = trial.system_attrs.get(PROPOSED) or trial.params
        parameters = parameters or trial.system_attrs.get("fixed_params", {})
        key = tuple(parameters.items())
        if key not in self._known:  # reading takes longer than all else, and every trial reads all others
            try:
                self._known[key] = self.space.read(parameters)
            except ValueError:  # of a trial that did not come to its parameters, or of another space
                return None
        return self._known[key]

    def _loss(self, study: Study, trial: FrozenTrial) -> float | None:
        if trial.state in (TrialState.RUNNING, TrialState.WAITING):
            return None
        if trial.values is None or self._objective >= len(trial.values):
            return math.inf
        value = trial.values[self._objective]
        if study.directions[self._objective] == StudyDirection.MAXIMIZE:
            value = -value
        return value if math.isfinite(value) else math.inf
