"""Samplers of a search: each trial with a random stream of its own, whichever worker runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.exceptions import TrialPruned
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from lightning_complexity.selection.searching.tables import NEEDS, STRATEGIES, check_options, entry_of
from lightning_complexity.selection.spaces import base
from lightning_complexity.studies.importing import load_object
from lightning_complexity.studies.sweeping.storage import quiet_optuna
from lightning_complexity.studies.sweeping.worker import SURPLUS

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

BEGUN_AT = "begun_at"
GIVES_UP_AFTER = 10
_POPULATION = 16


def random(space: base.Space, *, seed: int) -> BaseSampler:
    """Each parameter at random."""
    return RandomSampler(seed=seed)


def tpe(space: base.Space, *, seed: int, **options: Any) -> BaseSampler:
    """Optuna's tree-structured Parzen estimator, for one objective or several."""
    return TPESampler(seed=seed, **options)


def nsga2(space: base.Space, *, seed: int, population_size: int = _POPULATION, **options: Any) -> BaseSampler:
    """Optuna's NSGA-II, with a population that some dozens of trials can renew."""
    return NSGAIISampler(seed=seed, population_size=population_size, **options)


def check_strategy(name: str, space: base.Space, space_name: str, options: Mapping[str, Any]) -> None:
    """Make a sampler, to see that it can be made.

    Args:
        name: Of :data:`~lightning_complexity.selection.searching.tables.STRATEGIES`.
        space: That is searched.
        space_name: What it is called.
        options: Of the sampler.

    Raises:
        ValueError: At an unknown strategy or option, or if the strategy is not for such a space.
    """
    entry = entry_of(STRATEGIES, name, "strategy")
    needed = getattr(base, entry.needs)
    if not isinstance(space, needed):
        fitting = [other for other, found in STRATEGIES.items() if isinstance(space, getattr(base, found.needs))]
        raise ValueError(
            f"strategy {name!r} is for spaces {NEEDS[entry.needs]}, and {space_name} is none; for it there are "
            f"{', '.join(fitting)}."
        )
    factory = load_object(entry.factory, "strategy")
    check_options(factory, options, f"strategy {name}")
    try:
        with quiet_optuna():
            factory(space, seed=0, **options)
    except TypeError as error:
        raise ValueError(f"strategy {name} does not take these options: {error}.") from error


def sampler_of(name: str, space: base.Space, options: Mapping[str, Any], seed: int) -> SearchSampler:
    """The sampler of a search.

    Args:
        name: Of :data:`~lightning_complexity.selection.searching.tables.STRATEGIES`.
        space: That is searched.
        options: Of the sampler.
        seed: Of the search.
    """
    entry = entry_of(STRATEGIES, name, "strategy")
    factory = load_object(entry.factory, "strategy")

    def make(seed: int) -> BaseSampler:
        with quiet_optuna():
            made: BaseSampler = factory(space, seed=seed, **options)
        return made

    return SearchSampler(make, seed, draws_by_trial=entry.draws_by_trial)


class SearchSampler(BaseSampler):
    """Another sampler, made anew for each trial with a seed of the trial's number.

    Workers thus never draw the same numbers, and one that goes on with a study draws what it would have drawn without
    the interruption. The sampler must keep in the study what it has to remember, as those of Optuna do.

    Args:
        make: Makes the sampler for a seed.
        seed: Of the search.
        draws_by_trial: Whether the sampler does so by itself; then it is made once.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, *, draws_by_trial: bool = False) -> None:
        self._make, self._seed, self._draws_by_trial = make, seed, draws_by_trial
        self._inner = make(seed)

    def summary(self, study: Study) -> str:
        """What the sampler itself has to say at the end of a search.

        Args:
            study: That was searched.
        """
        return str(self._inner.summary(study)) if hasattr(self._inner, "summary") else ""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the sampler of this trial."""
        if not self._draws_by_trial:
            self._inner = self._make(stream(self._seed, trial.number))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the other sampler; a trial for which it has nothing is one too many, and no pruned model."""
        try:
            return self._inner.infer_relative_search_space(study, trial)
        except TrialPruned:
            study._storage.set_trial_user_attr(trial._trial_id, SURPLUS, True)
            raise

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the other sampler."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the other sampler."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """As the other sampler."""
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Nothing: seeds are those of trials."""

    def is_exhausted(self, study: Study) -> bool:
        """Whether nothing is left to propose, or the first trials have all failed."""
        asks = getattr(self._inner, "is_exhausted", None)
        return has_given_up(study) or (asks is not None and bool(asks(study)))


def stream(seed: int, number: int) -> int:
    """The seed of a trial.

    >>> stream(0, 1) != stream(1, 0)
    True
    """
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def has_given_up(study: Study) -> bool:
    """Whether the first trials since the command was started have all failed, and none ever was finished.

    Args:
        study: Of a search.
    """
    trials = study.get_trials(deepcopy=False)
    if any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials):
        return False
    begun_at = study.user_attrs.get(BEGUN_AT, 0)
    return sum(trial.state == TrialState.FAIL for trial in trials[begun_at:]) >= GIVES_UP_AFTER
