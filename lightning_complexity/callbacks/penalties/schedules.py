"""How the strength of penalties changes during training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Warmup:
    """Factor that rises linearly to 1.

    Args:
        num_steps: Optimizer steps until it is 1.
        after: Steps before, with the factor 0.

    Example:
        >>> [Warmup(4)(step) for step in (0, 1, 4, 5)]
        [0.0, 0.25, 1.0, 1.0]
    """

    num_steps: int
    after: int = 0

    def __call__(self, step: int) -> float:
        """The factor once ``step`` optimizer steps are done."""
        return _progress(step, self.after, self.num_steps)


@dataclass(frozen=True)
class Anneal:
    """Factor that falls linearly from 1.

    Args:
        num_steps: Optimizer steps until it has fallen.
        to: Where it ends.
        after: Steps before, with the factor 1.

    Example:
        >>> [Anneal(4, after=1)(step) for step in (0, 1, 3, 5)]
        [1.0, 1.0, 0.5, 0.0]
    """

    num_steps: int
    to: float = 0.0
    after: int = 0

    def __call__(self, step: int) -> float:
        """The factor once ``step`` optimizer steps are done."""
        return 1.0 + (self.to - 1.0) * _progress(step, self.after, self.num_steps)


def _progress(step: int, after: int, num_steps: int) -> float:
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps!r}.")
    return min(max((step - after) / num_steps, 0.0), 1.0)
