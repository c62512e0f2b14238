"""Times that are compared only with those of their neighbours, since a shared machine is never twice the same."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import linear_regression, median, quantiles

from benchmarks.actions import Action

REST = 0.03
"""Seconds of rest between groups: worker threads of the BLAS behind NumPy and SciPy keep a core busy for so long."""


@dataclass(frozen=True)
class Limits:
    """When the groups of a comparison have been timed often enough.

    Attributes:
        rounds: At least so many rounds for each group, unless they take too long.
        rounds_at_most: For groups that take no time at all.
        seconds: More rounds until all groups together have taken this long.
        seconds_at_most: What is too long for one group.
    """

    rounds: int = 5
    rounds_at_most: int = 30
    seconds: float = 15.0
    seconds_at_most: float = 8.0

    def reached(self, rounds: int, seconds: float, num_groups: int) -> bool:
        """Whether ``rounds`` of one group that took ``seconds`` are enough."""
        enough = rounds >= self.rounds and seconds >= self.seconds / num_groups
        return enough or rounds >= self.rounds_at_most or seconds >= self.seconds_at_most


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a ratio, and over how many rounds."""

    low: float
    median: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return cls(low, middle, high, len(values))

    @classmethod
    def of_ratio(cls, rounds: Sequence[Sequence[float]]) -> Spread:
        """The spread of the last time of a round divided by the first."""
        return cls.of([times[-1] / times[0] for times in rounds])


def interleaved(groups: Mapping[str, Sequence[Action]], limits: Limits) -> dict[str, list[list[float]]]:
    """Time groups of actions in rounds, every group once a round, until each has reached its limits.

    Args:
        groups: By name, actions that are run right after each other, so that their times can be compared.
        limits: How often.

    Returns:
        By name, for each round the seconds of each action.
    """
    rounds: dict[str, list[list[float]]] = {name: [] for name in groups}
    pending = list(groups)
    with _garbage_collected_by_hand():
        while pending:
            gc.collect()
            for name in pending:
                time.sleep(REST)
                rounds[name].append([_seconds(action) for action in groups[name]])
            spent = {name: sum(map(sum, rounds[name])) for name in pending}
            pending = [n for n in pending if not limits.reached(len(rounds[n]), spent[n], len(groups))]
    return rounds


def exponent(sizes: Sequence[float], rounds: Sequence[Sequence[float]]) -> float:
    """Fit ``a`` of a time that grows as ``size ** a``, by least squares on logarithms.

    Args:
        sizes: One for each action of a group.
        rounds: What :func:`interleaved` gives for the group.
    """
    times = [median(column) for column in zip(*rounds, strict=True)]
    return linear_regression([math.log(s) for s in sizes], [math.log(t) for t in times]).slope


def _seconds(action: Action) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@contextmanager
def _garbage_collected_by_hand() -> Iterator[None]:
    gc.disable()
    gc.freeze()  # what exists already need not be searched again and again
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()
