"""What is searched, and how: written down in the study, so that any worker can go on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from lightning_complexity.selection.searching.quantities import Constraint, parsed_constraint, parsed_objective

VERSION = 1


@dataclass(frozen=True)
class Search:
    """A search, without the number of its trials, which may be raised.

    Attributes:
        space: A name of :data:`~lightning_complexity.selection.searching.tables.SPACES`, or the YAML file.
        space_options: Of the space by name.
        parameters: What the YAML file says.
        strategy: A name of :data:`~lightning_complexity.selection.searching.tables.STRATEGIES`.
        strategy_options: Of its sampler.
        objectives: Names, each with ``:minimize`` or ``:maximize`` where its name does not say so.
        constraints: Such as ``"parameters<=5000"``.
        data: ``"digits"`` or a folder of IDX files, for networks of a space.
        num_samples: Of the data that are used for training and validation; all with ``None``.
        max_epochs: Of each training.
        batch_size: Of networks of a space.
        learning_rate: Of networks of a space.
        optimizer: Of networks of a space.
        weight_decay: Of networks of a space.
        repeats: Trainings of each model: folds, or seeds of a module of one's own.
        model: Import path of a module of one's own.
        datamodule: Import path of its data.
        monitor: The logged value that is the first objective.
        pruner: A name of :data:`~lightning_complexity.selection.searching.tables.PRUNERS`, or ``None``.
        pruner_options: Of the pruner.
        probe: How many samples measures are taken on.
        seed: Of all that is drawn.
    """

    space: str = "mlp"
    space_options: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, dict[str, Any]] | None = None
    strategy: str = "tpe"
    strategy_options: dict[str, Any] = field(default_factory=dict)
    objectives: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    data: str = "digits"
    num_samples: int | None = None
    max_epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.01
    optimizer: str = "adam"
    weight_decay: float = 0.0
    repeats: int = 5
    model: str | None = None
    datamodule: str | None = None
    monitor: str | None = None
    pruner: str | None = None
    pruner_options: dict[str, Any] = field(default_factory=dict)
    probe: int = 256
    seed: int = 0

    @property
    def goals(self) -> dict[str, str]:
        """The direction of each objective."""
        return dict(map(parsed_objective, self.objectives))

    @property
    def bounds(self) -> list[Constraint]:
        """The constraints."""
        return [parsed_constraint(text) for text in self.constraints]

    @property
    def names(self) -> list[str]:
        """The quantities that objectives and constraints need, each once."""
        return list(dict.fromkeys([*self.goals, *(bound.name for bound in self.bounds)]))

    def check(self) -> None:
        """Say which value is out of range.

        Raises:
            ValueError: At the first one.
        """
        for name in ("max_epochs", "batch_size", "repeats", "probe", "num_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}.")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"--learning_rate must be a positive number, got {self.learning_rate}.")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"--weight_decay must not be negative, got {self.weight_decay}.")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, got {self.seed}.")
        if len(self.goals) < len(self.objectives):
            raise ValueError(f"--objectives has a name twice: {', '.join(self.objectives)}.")
        texts = [bound.text for bound in self.bounds]
        if twice := [text for place, text in enumerate(texts) if text in texts[:place]]:
            raise ValueError(f"--constraint {twice[0]} is there twice.")

    def written(self) -> dict[str, Any]:
        """As a study keeps it."""
        plain: dict[str, Any] = json.loads(json.dumps({"version": VERSION, **asdict(self)}))
        return plain


def read_search(written: Mapping[str, Any], name: str) -> Search:
    """The search that a study keeps.

    Args:
        written: By :meth:`Search.written`.
        name: Of the study, for the error.

    Raises:
        ValueError: If another version of this library wrote it.

    Example:
        >>> read_search(Search(seed=3).written(), "s").seed
        3
    """
    known = {f.name for f in fields(Search)}
    entries = {key: value for key, value in written.items() if key != "version"}
    if written.get("version") != VERSION or entries.keys() != known:
        raise ValueError(
            f"study {name!r} was begun by another version of this library (format {written.get('version')}, here "
            f"{VERSION}): go on with that version, or choose another --study."
        )
    entries |= {key: tuple(entries[key]) for key in ("objectives", "constraints")}
    return Search(**entries)


def difference(known: Search, asked: Mapping[str, Any]) -> str:
    """What of that which was asked for is not so in a search that exists; nothing where all is.

    Args:
        known: The search that exists.
        asked: Attributes that were given.

    Example:
        >>> difference(Search(), {"seed": 1, "data": "digits"})
        'seed is 0 there and 1 here'
    """
    before, now = known.written(), replace(known, **asked).written()
    return "; ".join(
        f"{name} is {before[name]} there and {now[name]} here" for name in asked if before[name] != now[name]
    )
