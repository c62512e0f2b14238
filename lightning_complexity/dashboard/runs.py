"""A training that was measured, as it was read from its folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from lightning_complexity.recording import Measurement
from lightning_complexity.recording.tags import STANDARD_ERROR as STANDARD_ERROR

Setting: TypeAlias = "str | float | int | bool | None"

TRAIN_LOSS, TRAIN_ACCURACY = "probe/train_loss", "probe/train_accuracy"
GAPS = ("probe/generalization_gap", "probe/accuracy_gap")
OVERHEAD = "complexity/overhead"
_SEED = re.compile(r"(^|[._])seed([._]|$)")
_FITTED = 1 - 1e-9


@dataclass(frozen=True)
class Histogram:
    """How values were distributed at one step.

    Attributes:
        step: Completed optimizer steps.
        edges: Of the bins, one more than there are counts.
        counts: Of the bins.
    """

    step: int
    edges: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True)
class Picture:
    """A picture at one step.

    Attributes:
        step: Completed optimizer steps.
        png: The file.
    """

    step: int
    png: bytes


@dataclass(frozen=True)
class Run:
    """A training that was measured.

    Attributes:
        name: Its folder, below the one that was asked for.
        path: Its folder.
        history: What was measured, in the order of steps.
        settings: Hyper-parameters; those of objects have names such as ``optimizer.lr``.
        source: ``"record"`` or ``"events"``.
        histograms: By log key.
        pictures: By log key.
    """

    name: str
    path: Path
    history: list[Measurement]
    settings: dict[str, Setting] = field(default_factory=dict)
    source: str = "record"
    histograms: dict[str, list[Histogram]] = field(default_factory=dict)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """All log keys, in the order in which they were first measured."""
        return tuple(dict.fromkeys(key for m in self.history for key in m.values))

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one log key; both empty where it was never measured."""
        points = [(m.step, m.values[key]) for m in self.history if key in m.values]
        return [step for step, _ in points], [value for _, value in points]

    def last(self, key: str) -> float | None:
        """The last value of a log key, if it was ever measured."""
        return next((m.values[key] for m in reversed(self.history) if key in m.values), None)

    @cached_property
    def fitted_step(self) -> int | None:
        """The first step at which all samples of the training probe were classified correctly, if there is one."""
        found = (m.step for m in self.history if m.values.get(TRAIN_ACCURACY, 0.0) >= _FITTED)
        return next(found, None)

    @property
    def configuration(self) -> dict[str, Setting]:
        """The settings without seeds."""
        return {name: value for name, value in self.settings.items() if not is_seed(name)}


@dataclass(frozen=True)
class Group:
    """Runs whose settings are equal but for the seed.

    Attributes:
        name: The settings in which groups differ, or the run's name where there are none.
        runs: Which runs, by their place.
        settings: The settings in which groups differ.
    """

    name: str
    runs: tuple[int, ...]
    settings: dict[str, Setting]


def is_seed(setting: str) -> bool:
    """Whether a setting is a seed, by its name.

    Example:
        >>> is_seed("seed"), is_seed("data.seed_everything"), is_seed("seedling_count")
        (True, True, False)
    """
    return _SEED.search(setting) is not None


def varied_settings(runs: Iterable[Run]) -> list[str]:
    """Settings, other than seeds, that are not the same in all runs; missing is a value too."""
    configurations = [run.configuration for run in runs]
    names = dict.fromkeys(name for settings in configurations for name in settings)
    return [name for name in names if len({repr(settings.get(name)) for settings in configurations}) > 1]


def grouped(runs: list[Run]) -> list[Group]:
    """Put runs together whose settings are equal but for the seed; a run without a seed is by itself.

    Example:
        >>> runs = [Run(n, Path(n), [], {"width": w, "seed": s}) for n, w, s in (("a", 1, 0), ("b", 1, 1), ("c", 2, 0))]
        >>> [(group.name, group.runs) for group in grouped(runs)]
        [('width=1', (0, 1)), ('width=2', (2,))]
    """
    varied = varied_settings(runs)
    places: dict[tuple[object, ...], list[int]] = {}
    for place, run in enumerate(runs):
        repeats = any(is_seed(name) for name in run.settings)
        key = tuple((name, repr(value)) for name, value in sorted(run.configuration.items()))
        places.setdefault(("seeds", key) if repeats else ("alone", place), []).append(place)
    names = [_name(runs, members, varied) for members in places.values()]
    unique = len(set(names)) == len(names)
    return [
        Group(
            name if unique else runs[members[0]].name,
            tuple(members),
            {setting: runs[members[0]].settings[setting] for setting in varied if setting in runs[members[0]].settings},
        )
        for name, members in zip(names, places.values(), strict=True)
    ]


def by_seed(runs: Sequence[Run], group: Group) -> list[tuple[int, ...]]:
    """Runs of a group by their seeds: runs of one seed are no repeats of each other, and count as one.

    Example:
        >>> runs = [Run(n, Path(n), [], {"seed": seed}) for n, seed in (("a", 0), ("b", 1), ("c", 0))]
        >>> by_seed(runs, grouped(runs)[0])
        [(0, 2), (1,)]
    """
    places: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for place in group.runs:
        seeds = ((name, repr(value)) for name, value in runs[place].settings.items() if is_seed(name))
        places.setdefault(tuple(sorted(seeds)), []).append(place)
    return [tuple(members) for members in places.values()]


def _name(runs: list[Run], members: list[int], varied: list[str]) -> str:
    first = runs[members[0]]
    words = [f"{name}={first.settings[name]}" for name in varied if name in first.settings]
    if words:
        return ", ".join(words)
    return first.name if len(members) == 1 else "all seeds"
