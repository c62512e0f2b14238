"""Networks of a space, to know it by: read from a table, or drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lightning_complexity.selection.design_spaces.distributions import Floats
from lightning_complexity.studies.tables import Source, as_numbers, counted, read_frame, similar_columns

if TYPE_CHECKING:
    from lightning_complexity.selection.spaces.base import Space, Structure

_PATIENCE = 200
"""Draws for each structure that is wanted, of which none was new, after which a space is taken to have no more."""


@dataclass(frozen=True)
class SpaceSample:
    """Random networks of a space.

    Attributes:
        name: Of the space.
        errors: One a network.
        complexity: One a network, if it was asked for.
        error: What the error is called.
        complexity_name: What the complexity is called.
        left_out: How many networks were left out, by reason.
    """

    name: str
    errors: Floats
    complexity: Floats | None
    error: str
    complexity_name: str | None
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.errors)


def read_space(
    source: Source, *, error: str = "error", complexity: str | None = None, name: str | None = None
) -> SpaceSample:
    """Read random networks of a space from a table.

    Rows where the error or the complexity is missing or not finite are left out and counted. This flatters a space
    some of whose trainings diverge: give such networks the error of guessing.

    Args:
        source: A pandas frame, a CSV, or a folder of records; a row a network (see
            :func:`lightning_complexity.studies.read_table`).
        error: Column of what should be small.
        complexity: Column of parameters, FLOPs, latency or any measure.
        name: Of the space; that of the file if not given.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If there is no such column, it holds words, or no row is left.

    Example:
        >>> frame = pd.DataFrame({"error": [0.1, 0.2, float("nan")], "size": [10, 20, 30]})
        >>> sample = read_space(frame, complexity="size", name="small")
        >>> len(sample), sample.left_out
        (2, {"'error' missing or not finite": 1})
    """
    if isinstance(source, (str, Path)) and not Path(source).exists():
        raise FileNotFoundError(f"there is no file or folder {source}; give a CSV with a row a network, or records.")
    try:
        frame = read_frame(source, "settings.json")
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as reason:
        raise ValueError(f"{source} is no CSV with a row a network: {str(reason).strip()}") from None
    shown = name or (Path(source).stem if isinstance(source, (str, Path)) else "space")
    columns = [error] if complexity is None else [error, complexity]
    for column in columns:
        if column not in frame.columns:
            raise ValueError(f"{shown}: there is no column {column!r}; {similar_columns(frame, column)}.")
    values = {column: as_numbers(frame[column]).to_numpy(float) for column in columns}
    keep = np.ones(len(frame), dtype=bool)
    left_out = {}
    for column in columns:
        known = np.isfinite(values[column])
        if lost := int((keep & ~known).sum()):
            left_out[f"{column!r} missing or not finite"] = lost
        keep &= known
    if not keep.any():
        raise ValueError(f"{shown}: no network is left of {len(frame)}; left out are {counted(left_out) or 'none'}.")
    measured = None if complexity is None else values[complexity][keep]
    return SpaceSample(shown, values[error][keep], measured, error, complexity, left_out)


def draw_structures(space: Space, count: int, *, seed: int = 0, distinct: bool = True) -> list[Structure]:
    """Draw random structures of a space.

    Each parameter that the space asks for is drawn at random, by Optuna's ``RandomSampler``. Where parameters depend on
    others this is not the uniform distribution over structures: with a number of layers and the units of each, small
    numbers of layers have fewer structures, and each of these is drawn more often.

    Args:
        space: Of structures.
        count: How many.
        seed: Of the draws.
        distinct: Whether structures that came before are drawn anew.

    Raises:
        ValueError: If ``count`` is not positive, or there are not so many different structures to be found.

    Example:
        >>> from lightning_complexity.selection.spaces.dense import DenseSpace
        >>> sorted(draw_structures(DenseSpace(1, units=(8, 16)), 2))
        [(Layer(units=8, ...),), (Layer(units=16, ...),)]
    """
    import optuna

    from lightning_complexity.studies.sweeping.storage import quiet_optuna

    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    drawn: list[Structure] = []
    seen: set[Structure] = set()
    since = 0
    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        while len(drawn) < count:
            structure = space.suggest(study.ask())
            since += 1
            if distinct and structure in seen:
                if since > _PATIENCE + len(drawn):
                    raise ValueError(
                        f"{count} different structures were asked for, and no more than {len(drawn)} were found: "
                        f"{since} more draws gave no other. Ask for {len(drawn)}, or take distinct=False."
                    )
                continue
            seen.add(structure)
            drawn.append(structure)
            since = 0
    return drawn


def sample_space(
    space: Space,
    count: int,
    evaluate: Callable[[Structure], Mapping[str, float]] | None = None,
    *,
    seed: int = 0,
    distinct: bool = True,
) -> pd.DataFrame:
    """Draw random structures of a space, and find out about each.

    A structure whose evaluation ends in a ``ValueError`` or ``RuntimeError``, such as a network that does not take the
    inputs, keeps its row, with the message in the column ``failed`` and no numbers.

    Args:
        space: Of structures.
        count: How many.
        evaluate: From a structure to numbers by name, such as ``error`` and ``parameters``. If not given, what a
            :class:`TableSpace` knows; of other spaces, nothing.
        seed: Of the draws.
        distinct: Whether structures are different.

    Returns:
        A row each, in the order of the draws: ``structure``, in words, its parameters, and what was found out.

    Raises:
        ValueError: As :func:`draw_structures`.

    Example:
        >>> from lightning_complexity.selection.spaces.dense import DenseSpace
        >>> frame = sample_space(DenseSpace(2, units=(8, 16)), 3, lambda layers: {"depth": len(layers)})
        >>> list(frame.columns)
        ['structure', 'layers', 'units_0', 'units_1', 'depth']
    """
    from lightning_complexity.selection.spaces.base import TableSpace

    found = evaluate or (space.outcome if isinstance(space, TableSpace) else lambda _: {})
    rows = []
    for structure in draw_structures(space, count, seed=seed, distinct=distinct):
        row = {"structure": space.describe(structure), **space.parameters(structure)}
        try:
            row |= found(structure)
        except (ValueError, RuntimeError) as error:
            row["failed"] = (str(error).splitlines() or [type(error).__name__])[0]
        rows.append(row)
    return pd.DataFrame(rows)
