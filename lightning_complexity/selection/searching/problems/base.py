"""What a search has to know of its problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from lightning_complexity.selection.searching.description import Search
from lightning_complexity.selection.searching.pruning import Watch
from lightning_complexity.selection.spaces.base import Space, Structure

Values = dict[str, list[float]]
"""Of each quantity, one number for each repeat."""


class Problem(ABC):
    """How a structure gets its values.

    Attributes:
        search: The search.
        space: That structures are of.
        outcomes: What is known without measuring.
    """

    search: Search
    space: Space
    outcomes: list[str]

    @abstractmethod
    def values(self, structure: Structure, watch: Watch | None, folder: Path) -> Values:
        """The quantities of ``search.names`` of a structure.

        Args:
            structure: Of the space.
            watch: Sees the first training.
            folder: For what the trainings write.

        Raises:
            TrialError: If there are none, with the reason.
        """

    @abstractmethod
    def finished(self, structure: Structure, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """What is found out about the chosen structure alone, and lines that say so.

        Args:
            structure: That was chosen.
            folder: For what is written.
        """
