"""Which networks can be compared: configurations, their repeats, and pairs that differ in one hyper-parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_complexity.studies.tables import Table

Floats: TypeAlias = "NDArray[np.float64]"
Ints: TypeAlias = "NDArray[np.int64]"
Bools: TypeAlias = "NDArray[np.bool_]"

_SUMS_OVERFLOW = 1e300


@dataclass(frozen=True)
class Pairs:
    """Pairs of configurations that differ in one hyper-parameter only, each once.

    Attributes:
        first: Index of one configuration, shape ``(pairs,)``.
        second: Index of the other.
        group: Which setting of the other hyper-parameters the pair belongs to.
    """

    first: Ints
    second: Ints
    group: Ints


@dataclass(frozen=True)
class Design:
    """Networks of a table, arranged by configuration.

    Attributes:
        names: The hyper-parameters.
        codes: Index of the value of each configuration, shape ``(configurations, hyperparameters)``.
        configuration: Configuration of each run.
        slots: Run of each configuration and repeat, ``-1`` where there is none. A column belongs to one seed where
            seeds are shared by configurations.
        shared_seeds: Whether columns of ``slots`` belong to seeds.
        seeds: Values of the seed, in order.
        seed: Index of the seed of each run.
    """

    names: tuple[str, ...]
    codes: Ints
    configuration: Ints
    slots: Ints
    shared_seeds: bool
    seeds: tuple[Any, ...]
    seed: Ints

    @classmethod
    def of(cls, table: Table) -> Design:
        """Arrange the networks of a table."""
        frame = table.frame
        runs = np.stack([_coded(frame[name])[0] for name in table.hyperparameters], axis=1)
        codes, configuration = np.unique(runs, axis=0, return_inverse=True)
        configuration = configuration.reshape(-1)
        if table.seed is None:
            seed, seeds = np.zeros(len(frame), dtype=np.int64), ()
        else:
            seed, seeds = _coded(frame[table.seed])
        repeats = int(np.bincount(configuration).max())
        shared = bool(seeds) and len(seeds) <= 2 * repeats
        slots = _slots(configuration, seed if shared else None)
        return cls(table.hyperparameters, codes, configuration, slots, shared, seeds, seed)

    @cached_property
    def pairs(self) -> tuple[Pairs, ...]:
        """For each hyper-parameter, the pairs that differ in it alone."""
        return tuple(differing_in(self.codes, i) for i in range(len(self.names)))

    @property
    def repeats(self) -> int:
        """The most runs of one configuration."""
        return int((self.slots >= 0).sum(1).max())

    def means(self, values: Floats) -> Floats:
        """Mean of each configuration over its runs, shape ``(configurations, columns)``.

        They are pandas' means, which add the runs in the order of rows. Two means that agree to the last digit but
        one may be a tie in one order and not in another.
        """
        return pd.DataFrame(values).groupby(self.configuration).mean().to_numpy(float)


def without_overflow(values: Floats) -> Floats:
    """Scale columns whose sums would overflow, by a power of two; only the order of their values counts."""
    return values * np.where(np.abs(values).max(0) > _SUMS_OVERFLOW, 2.0**-64, 1.0)


def _coded(column: pd.Series[Any]) -> tuple[Ints, tuple[Any, ...]]:
    values = list(column.unique())
    try:
        values.sort()
    except TypeError:  # numbers and words
        values.sort(key=lambda v: (isinstance(v, str), str(v)))
    place = {value: i for i, value in enumerate(values)}
    return np.array([place[value] for value in column], dtype=np.int64), tuple(values)


def _slots(configuration: Ints, seed: Ints | None) -> Ints:
    """Runs of each configuration in columns, those of a seed in the same columns everywhere."""
    num_runs, num_configurations = len(configuration), int(configuration.max()) + 1
    cell = configuration if seed is None else configuration * (int(seed.max()) + 1) + seed
    order = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    counts = np.diff(starts, append=num_runs)
    within = np.empty(num_runs, dtype=np.int64)
    within[order] = np.arange(num_runs) - np.repeat(starts, counts)
    most, num_seeds = int(counts.max()), 1 if seed is None else int(seed.max()) + 1
    column = within if seed is None else seed * most + within
    slots = np.full((num_configurations, num_seeds * most), -1, dtype=np.int64)
    slots[configuration, column] = np.arange(num_runs)
    return slots


def settings(codes: Ints, chosen: Sequence[int]) -> Ints:
    """Number the different values of some columns, row by row.

    Example:
        >>> settings(np.array([[0, 1], [0, 2], [1, 1]]), [0])
        array([0, 0, 1])
    """
    if not chosen:
        return np.zeros(len(codes), dtype=np.int64)
    return np.unique(codes[:, list(chosen)], axis=0, return_inverse=True)[1].reshape(-1)


def differing_in(codes: Ints, hyperparameter: int) -> Pairs:
    """Pairs of rows that differ in one column only.

    Args:
        codes: Different rows of integers.
        hyperparameter: The column.

    Example:
        >>> pairs = differing_in(np.array([[0, 0], [0, 1], [1, 1]]), 1)
        >>> pairs.first, pairs.second
        (array([0]), array([1]))
    """
    group = settings(codes, [i for i in range(codes.shape[1]) if i != hyperparameter])
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    first, second = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for distance in range(1, int(sizes.max())):
        same = np.flatnonzero(group[order[distance:]] == group[order[:-distance]])
        first.append(order[same])
        second.append(order[same + distance])
    one, other = np.concatenate(first), np.concatenate(second)
    return Pairs(one, other, group[one])
