"""Aging evolution: the best of a few is changed a little, and the oldest dies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_complexity.selection.samplers.base import StructureSampler, Tried
from lightning_complexity.selection.spaces.base import EvolvableSpace, Structure

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_ATTEMPTS = 1000


class AgingEvolutionSampler(StructureSampler):
    """Changes the best of a few that are drawn from the last structures that were tried.

    The population are the last ``population`` structures that finished, in the order of their trials, so that it can be
    read from a study and workers need not wait for each other; it begins with random ones. Failed and diverged
    structures are in it, as the worst. Other than in the paper no structure is tried twice: a change that leads to one
    that was is drawn again, with its parent, and after many in vain a random structure is drawn instead. Where that is
    in vain too, the search ends.

    Args:
        space: What is searched.
        population: How many structures live.
        sample: How many of them are drawn, with replacement, the best of which is changed.
        objective: Which of the study's objectives decides.
        seed: Of what is random.

    Raises:
        ValueError: If a number is less than 1.

    References:
        Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019, arXiv 1802.01548,
        algorithm 1.
    """

    space: EvolvableSpace

    def __init__(
        self,
        space: EvolvableSpace,
        *,
        population: int = 20,
        sample: int = 5,
        objective: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(space, objective=objective, seed=seed)
        for name, value in (("population", population), ("sample", sample)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.population, self.sample = population, sample

    def propose(self, study: Study, trial: FrozenTrial, tried: Sequence[Tried]) -> Structure | None:  # noqa: ARG002
        """A change of the best of a sample; a random structure until there is a population."""
        generator = self.generator(trial)
        there = {t.structure for t in tried}
        alive = [t for t in tried if t.loss is not None][-self.population :]
        if len(tried) >= self.population and alive:
            for _ in range(_ATTEMPTS):
                structure = self.space.mutate(self._parent(alive, generator), generator)
                if structure not in there:
                    return structure
        for _ in range(_ATTEMPTS):
            structure = self.space.draw(generator)
            if structure not in there:
                return structure
        return None

    def _parent(self, alive: Sequence[Tried], generator: np.random.Generator) -> Structure:
        drawn = generator.integers(len(alive), size=self.sample)
        return min((alive[place] for place in drawn), key=_loss).structure


def _loss(tried: Tried) -> float:
    return math.inf if tried.loss is None else tried.loss
