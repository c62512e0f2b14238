"""Networks that others have trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_complexity.selection.searching.description import Search
from lightning_complexity.selection.searching.problems.base import Problem, Values
from lightning_complexity.selection.searching.pruning import Watch
from lightning_complexity.selection.searching.quantities import TrialError
from lightning_complexity.selection.spaces.base import Structure, TableSpace
from lightning_complexity.studies.sweeping.storage import quiet_optuna


class TableProblem(Problem):
    """Looks up what became of a network; repeats are the seeds that it was trained with.

    Args:
        search: The search.
        space: The table.
    """

    def __init__(self, search: Search, space: TableSpace) -> None:
        self.search, self.space, self.table = search, space, space
        self.outcomes = list(space.outcome(any_structure(space)))

    @property
    def most_repeats(self) -> int:
        """How many of the seeds 0, 1, 2, ... are known."""
        return num_seeds(self.table)

    def values(self, structure: Structure, watch: Watch | None, folder: Path) -> Values:
        """Those in the table."""
        seeds = range(self.search.repeats) if self.search.repeats > 1 else [None]
        try:
            found = [self.table.outcome(structure, seed) for seed in seeds]
        except (KeyError, ValueError) as error:
            raise TrialError(f"the table does not have it: {error}") from error
        return {name: [outcome[name] for outcome in found] for name in self.search.names}

    def finished(self, structure: Structure, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """All that the table knows."""
        known = self.table.outcome(structure)
        return {"table": known}, [f"The table has {', '.join(f'{n} {v:.6g}' for n, v in known.items())}."]


def any_structure(space: TableSpace) -> Structure:
    """Some structure of a space."""
    import optuna

    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        return space.suggest(study.ask())


def num_seeds(space: TableSpace, most: int = 10) -> int:
    """How many of the seeds 0, 1, 2, ... a table has trainings of."""
    structure = any_structure(space)
    for seed in range(most):
        try:
            space.outcome(structure, seed)
        except (KeyError, ValueError, IndexError):
            return max(seed, 1)
    return most
