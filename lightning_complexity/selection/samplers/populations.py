"""A genetic search with small populations, made again at any time from its seed and what is known of each structure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lightning_complexity.selection.spaces.base import CrossableSpace, Structure

_MOST_DRAWS = 1000


class Place(NamedTuple):
    """Where a structure is in the search: in which run, which generation, and which member of it."""

    run: int
    generation: int
    member: int


class Generation(NamedTuple):
    """A population.

    Attributes:
        run: Which of the restarts it belongs to, from 0.
        number: Which generation of the run it is, from 0.
        structures: Its members; one may be there several times.
        fitness: Of each, to be small; ``None`` as long as it is not known.
        is_converged: Whether the run ends with it because members are similar.
    """

    run: int
    number: int
    structures: tuple[Structure, ...]
    fitness: tuple[float | None, ...]
    is_converged: bool

    def known(self) -> list[tuple[float, Structure]]:
        """The members whose fitness is known, with it."""
        pairs = zip(self.fitness, self.structures, strict=True)
        return [(fitness, structure) for fitness, structure in pairs if fitness is not None]


@dataclass(frozen=True)
class Rules:
    """What a search goes by, see :class:`~lightning_complexity.selection.samplers.genetic.MicroGeneticSampler`."""

    population: int = 10
    tournament: int = 4
    generations: int = 10
    restarts: int = 5
    crossover: float = 1.0
    mutation: float = 0.4
    similar: int = 3

    def __post_init__(self) -> None:
        for name, least in {"population": 2, "generations": 1, "restarts": 1, "similar": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        for name in ("crossover", "mutation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}.")
        if self.tournament % 2 or not 2 <= self.tournament <= self.population:
            raise ValueError(
                f"tournament must be even, from 2 to the population of {self.population}, got {self.tournament}."
            )


class Search:
    """A search as far as it has come.

    Args:
        space: Of the structures.
        rules: That it goes by.
        seed: Of what is drawn for each place.
        fitness: Of each structure that was tried; ``None`` while it is being trained.
        placed: What was trained for which place. All other members follow from the seed and from what is known.
    """

    def __init__(
        self,
        space: CrossableSpace,
        rules: Rules,
        seed: int,
        fitness: Mapping[Structure, float | None],
        placed: Mapping[Place, Structure],
    ) -> None:
        self._space, self._rules, self._seed = space, rules, seed
        self._fitness, self._placed = fitness, placed

    def generations(self) -> Iterator[Generation]:
        """All populations, up to the first that is not complete."""
        for run in range(self._rules.restarts):
            parents: list[tuple[float, Structure]] = []
            elite: tuple[float, Structure] | None = None
            for number in range(self._rules.generations):
                generation = self._generation(run, number, parents, elite)
                yield generation
                if not self._is_complete(generation):
                    return
                if generation.is_converged:
                    break
                parents = generation.known()
                elite = min([*parents, *([elite] if elite else [])], key=_fitness, default=None)

    def next(self) -> tuple[Place, Structure] | None:
        """The next structure that was not tried, and its place; ``None`` once all runs are over."""
        *_, last = self.generations()
        for member, structure in enumerate(last.structures):
            if structure not in self._fitness:
                return Place(last.run, last.number, member), structure
        return None if self._is_complete(last) else self._ahead(last)

    def _generation(
        self, run: int, number: int, parents: Sequence[tuple[float, Structure]], elite: tuple[float, Structure] | None
    ) -> Generation:
        members = [self._member(Place(run, number, i), parents) for i in range(self._rules.population)]
        fitness = [self._fitness.get(structure) for structure in members]
        is_converged = self._is_converged(members)
        generation = Generation(run, number, tuple(members), tuple(fitness), is_converged)
        if elite is None or None in fitness:
            return generation
        known = generation.known()
        worst = known.index(max(known, key=_fitness))
        if elite[0] < known[worst][0]:
            known[worst] = elite
        return generation._replace(structures=tuple(s for _, s in known), fitness=tuple(f for f, _ in known))

    def _member(self, place: Place, parents: Sequence[tuple[float, Structure]]) -> Structure:
        """What was trained for a place; a child of parents, or of nobody where there are no two."""
        if place in self._placed:
            return self._placed[place]
        generator = np.random.default_rng([self._seed, *place])
        return self._space.draw(generator) if len(parents) < 2 else self._child(parents, generator)

    def _child(self, members: Sequence[tuple[float, Structure]], generator: np.random.Generator) -> Structure:
        parents: list[Structure] = []
        size = min(self._rules.tournament, len(members) // 2 * 2)
        while len(parents) < 2:
            drawn = [members[i] for i in generator.choice(len(members), size=size, replace=False)]
            parents += [min(pair, key=_fitness)[1] for pair in zip(drawn[::2], drawn[1::2], strict=True)]
        child = parents[0]
        if generator.random() < self._rules.crossover:
            child, _ = self._space.cross(parents[0], parents[1], generator)
        if generator.random() < self._rules.mutation:
            child = self._space.mutate(child, generator)
        return child

    def _is_converged(self, structures: Sequence[Structure]) -> bool:
        pairs = itertools.combinations(structures, 2)
        return sum(self._space.are_similar(*pair) for pair in pairs) > self._rules.similar

    def _is_complete(self, generation: Generation) -> bool:
        """Whether all is known of it, or the search went ahead by a whole generation while it waited."""
        if None not in generation.fitness:
            return True
        after = self._after(generation)
        if after is None or any(structure not in self._fitness for structure in generation.structures):
            return False
        return all(Place(*after, member) in self._placed for member in range(self._rules.population))

    def _after(self, generation: Generation) -> tuple[int, int] | None:
        """Run and number of the next generation."""
        if generation.number + 1 < self._rules.generations and not generation.is_converged:
            return generation.run, generation.number + 1
        return (generation.run + 1, 0) if generation.run + 1 < self._rules.restarts else None

    def _ahead(self, generation: Generation) -> tuple[Place, Structure] | None:
        """What to train for the next generation while members of this one are being trained, from its last place on."""
        after = self._after(generation)
        if after is None:
            return None
        parents = generation.known() if after[0] == generation.run else []
        free = [p for i in range(self._rules.population) if (p := Place(*after, i)) not in self._placed]
        for place in reversed(free):
            structure = self._member(place, parents)
            if structure not in self._fitness:
                return place, structure
        generator = np.random.default_rng([self._seed, *free[-1], 1])
        for _ in range(_MOST_DRAWS):
            structure = self._space.draw(generator)
            if structure not in self._fitness:
                return free[-1], structure
        return None


def _fitness(member: tuple[float, Structure]) -> float:
    return member[0]
