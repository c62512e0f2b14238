"""What a search can be made of, by name: spaces, strategies and pruners, each loaded when it is used."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

from lightning_complexity.selection.spaces import base
from lightning_complexity.studies.importing import load_object

_PACKAGE = "lightning_complexity.selection"

NEEDS = {
    "ProgressiveSpace": "with levels of complexity",
    "EvolvableSpace": "whose structures can be mutated",
    "CrossableSpace": "whose structures can be crossed",
}


class SpaceEntry(NamedTuple):
    """A space by name: what makes it, and what it is."""

    factory: str
    summary: str


class StrategyEntry(NamedTuple):
    """A strategy by name.

    Attributes:
        factory: Import path of ``function(space, *, seed, **options)``, which makes a sampler.
        summary: What it does.
        needs: The class of spaces that it is for.
        draws_by_trial: Whether what the sampler draws for a trial already depends on the trial's number and the seed
            alone. Otherwise it is made anew for each trial, with a seed of its own.
    """

    factory: str
    summary: str
    needs: str = "Space"
    draws_by_trial: bool = False


class PrunerEntry(NamedTuple):
    """A pruner by name.

    Attributes:
        factory: Import path of a class of Optuna's pruners; or, with ``watches``, of ``function(trial, search,
            **options)``, which makes a :class:`~lightning_complexity.selection.searching.pruning.Watch`.
        summary: What it does.
        watches: Whether it is the latter, which may prune searches with several objectives.
    """

    factory: str
    summary: str
    watches: bool = False


SPACES: dict[str, SpaceEntry] = {
    "mlp": SpaceEntry(f"{_PACKAGE}.spaces.dense:DenseSpace", "fully connected networks, layer by layer"),
    "cells": SpaceEntry(f"{_PACKAGE}.spaces.cells:CellSpace", "stacked cells of blocks, the space of Liu et al. 2018"),
    "small-cells": SpaceEntry(f"{_PACKAGE}.spaces.cells:small_cells", "small ones, for images of 8 x 8 pixels"),
    "nas-bench-macro": SpaceEntry(
        f"{_PACKAGE}.spaces.macro:MacroSpace", "networks trained by others; needs --space_options path=FILE"
    ),
}

STRATEGIES: dict[str, StrategyEntry] = {
    "random": StrategyEntry(f"{_PACKAGE}.searching.strategies:random", "each at random; the one to compare with"),
    "tpe": StrategyEntry(f"{_PACKAGE}.searching.strategies:tpe", "near those that did well (Optuna's TPE)"),
    "nsga2": StrategyEntry(f"{_PACKAGE}.searching.strategies:nsga2", "a population on the front (Optuna's NSGA-II)"),
    "progressive": StrategyEntry(
        f"{_PACKAGE}.samplers.progressive:ProgressiveSampler",
        "from the simplest on, the next level by what the last ones say (after Liu et al. 2018)",
        needs="ProgressiveSpace",
        draws_by_trial=True,
    ),
    "evolution": StrategyEntry(
        f"{_PACKAGE}.samplers.evolution:AgingEvolutionSampler",
        "mutants of the young and good (after Real et al. 2019)",
        needs="EvolvableSpace",
        draws_by_trial=True,
    ),
    "genetic": StrategyEntry(
        f"{_PACKAGE}.samplers.genetic:MicroGeneticSampler",
        "one number for error and size, few trainings (automatic model selection, after Laredo et al. 2020)",
        needs="CrossableSpace",
        draws_by_trial=True,
    ),
}

PRUNERS: dict[str, PrunerEntry] = {
    "median": PrunerEntry("optuna.pruners:MedianPruner", "worse than the median at the same epoch"),
    "hyperband": PrunerEntry("optuna.pruners:HyperbandPruner", "successive halving with several budgets"),
    "early": PrunerEntry(
        f"{_PACKAGE}.searching.pruning:early_verdict",
        "predicted to end dominated, for any number of objectives (early verdict)",
        watches=True,
    ),
    "halving": PrunerEntry("optuna.pruners:SuccessiveHalvingPruner", "a share goes on at each rung"),
}

Entry = TypeVar("Entry", SpaceEntry, StrategyEntry, PrunerEntry)


def entry_of(table: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """The entry of a name.

    Args:
        table: One of those above.
        name: In it.
        kind: What it is called in errors.

    Raises:
        ValueError: If there is none of that name, with those that there are.
    """
    if name in table:
        return table[name]
    close = get_close_matches(name, table, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(f"there is no {kind} {name!r}; there are {', '.join(table)}.{hint}")


def make_space(name: str, options: Mapping[str, Any]) -> base.Space:
    """The space of a name.

    Args:
        name: Of :data:`SPACES`; or the import path of a class, ``package.module:Class``.
        options: Of its class.

    Raises:
        ValueError: If there is none of that name, or it has no such option.

    Example:
        >>> make_space("mlp", {"max_layers": 2}).max_layers
        2
    """
    factory = load_object(name if ":" in name else entry_of(SPACES, name, "space").factory, "--space")
    try:
        check_options(factory, options, f"space {name}")
        _check_complete(factory, options, name)
        made = factory(**options)
    except TypeError as error:
        raise ValueError(f"space {name}: an option has a wrong type: {error}.") from error
    if not isinstance(made, base.Space):
        raise ValueError(f"--space {name} must make a Space, got {type(made).__name__}.")
    return made


def _check_complete(factory: Any, options: Mapping[str, Any], name: str) -> None:
    for option, parameter in inspect.signature(factory).parameters.items():
        is_variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not is_variable and option not in options:
            raise ValueError(f"space {name} needs its {option}: give --space_options {option}=...")


def check_options(factory: Any, options: Mapping[str, Any], what: str) -> None:
    """Say which option a factory does not take.

    Args:
        factory: A class or function.
        options: By name.
        what: Whose options they are, for the error.

    Raises:
        ValueError: At an unknown one, with those that there are.
    """
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [name for name in parameters if name not in ("space", "seed", "self")]
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"{what} has no option {name!r}; it has {', '.join(known) or 'none'}.{hint}")
