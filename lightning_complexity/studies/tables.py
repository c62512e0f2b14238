"""Tables of trained networks: one row a network, with columns that the caller declares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from lightning_complexity.studies.records import OVERHEAD, read_records

Source: TypeAlias = "pd.DataFrame | str | Path"
Filters: TypeAlias = "Sequence[str] | Mapping[str, Any]"

SAME_VALUE = 1e-6
"""Numbers of a hyper-parameter that differ by less, relatively, are one value."""

# pandas would also take the word None, which is a value for a hyper-parameter.
_WORDS = {"None": np.nan, "NaN": np.nan, "nan": np.nan, "": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
_NOT_A_NUMBER = ("", "nan", "NaN", "NAN", "NA", "N/A", "<NA>", "null", "#N/A")


@dataclass(frozen=True)
class Table:
    """Trained networks that can be compared, and which column is what.

    Attributes:
        frame: One row a network, without those that were left out.
        hyperparameters: Columns that name a configuration together.
        measures: Columns of measures.
        gap: Column of what they should explain.
        seed: Column that tells networks of one configuration apart, if any.
        rows: How many rows were read.
        left_out: How many were left out, by reason.
        missing: What happens to rows where a measure is not finite: ``"rows"`` or ``"measure"``.
    """

    frame: pd.DataFrame
    hyperparameters: tuple[str, ...]
    measures: tuple[str, ...]
    gap: str
    seed: str | None
    rows: int
    left_out: dict[str, int]
    missing: str

    def by_missing(self) -> list[Table]:
        """Split into tables whose measures are finite in all rows; one, unless ``missing="measure"``."""
        groups: dict[bytes, list[str]] = {}
        for name in self.measures:
            groups.setdefault(np.isfinite(self.frame[name].to_numpy(float)).tobytes(), []).append(name)
        if len(groups) == 1 and self.missing == "rows":
            return [self]
        parts = []
        for names in groups.values():
            kept = self.frame[np.isfinite(self.frame[names[0]].to_numpy(float))].reset_index(drop=True)
            _check_varied(kept, self.hyperparameters, f" where {names[0]!r} is finite")
            parts.append(replace(self, frame=kept, measures=tuple(names)))
        return parts


def read_table(
    source: Source,
    *,
    hyperparameters: Sequence[str],
    measures: Sequence[str] | None = None,
    gap: str,
    seed: str | None = None,
    filters: Filters = (),
    missing: str = "rows",
    settings: str = "settings.json",
) -> Table:
    """Read a table of trained networks and check that it can be ranked.

    Rows where the gap or a hyper-parameter is missing or not finite are left out, and so are rows where a
    measure is, so that all measures are judged on the same networks; ``left_out`` of the result counts them.

    Args:
        source: A pandas frame; a CSV; or a folder with one record ``complexity.jsonl`` a network, with a JSON
            of its hyper-parameters beside each (see :func:`read_records`).
        hyperparameters: Columns that were varied. Networks that agree in all of them are repeats of one
            configuration. Numbers that agree to six digits are one value.
        measures: Columns of measures; if not given, all whose name begins with ``complexity``, but not those of
            single layers (``complexity/<measure>/<layer>``).
        gap: Column of the generalization gap, or of anything else that measures should explain.
        seed: Column of the seed, if networks were repeated. The same seed in several configurations is
            taken to be one thing that they share.
        filters: Columns that must be true; or a mapping from a column to the value that it must have, to a
            list of values, or to a function that is true for values to keep.
        missing: ``"measure"`` leaves a row out only for those measures that are not finite in it. Measures are
            then judged on different networks.
        settings: Name of the JSON beside each record.

    Raises:
        FileNotFoundError: If there is no such file or folder, or no record in it.
        ValueError: If a column is unknown (with those of a similar name), has two roles, or holds words where
            numbers are needed; if no row is left; if a hyper-parameter has one value only.
        TypeError: If ``source`` is something else, or a name alone stands where a sequence of names is needed.

    Example:
        >>> frame = pd.DataFrame({"width": [8, 8, 16, 16], "norm": [1.0, 2.0, 3.0, float("nan")], "gap": 0.1})
        >>> table = read_table(frame, hyperparameters=["width"], measures=["norm"], gap="gap")
        >>> len(table.frame), table.left_out
        (3, {"'norm' missing or not finite": 1})
    """
    if missing not in ("rows", "measure"):
        raise ValueError(f"missing must be 'rows' or 'measure', got {missing!r}.")
    frame = read_frame(source, settings)
    if measures is None:
        measures = [c for c in frame.columns if str(c).startswith("complexity") and str(c).count("/") < 2]
        measures = [c for c in measures if c not in (gap, OVERHEAD)]
        if not measures:
            raise ValueError(f"measures are needed: no column begins with 'complexity'; there are {_some(frame)}.")
    roles = {
        "hyperparameters": column_names(hyperparameters, "hyperparameters"),
        "measures": column_names(measures, "measures"),
        "gap": (gap,),
        "seed": () if seed is None else (seed,),
    }
    _check_columns(frame, roles, filters)
    kept, left_out = filtered(frame, filters)
    columns = [name for names in roles.values() for name in names]
    kept = kept[columns].copy()
    for name in (*roles["measures"], gap):
        kept[name] = as_numbers(kept[name])
    for name in roles["hyperparameters"]:
        kept[name] = same_values(kept[name])
    needed = columns if missing == "rows" else [c for c in columns if c not in roles["measures"]]
    kept, not_finite = _finite(kept, needed)
    left_out |= not_finite
    if kept.empty:
        raise ValueError(f"no row is left of {len(frame)}; left out are {counted(left_out) or 'none'}.")
    for name in roles["measures"]:
        if not np.isfinite(kept[name].to_numpy(float)).any():
            raise ValueError(f"{name!r} is finite in none of {len(kept)} rows: leave it out of measures.")
    _check_varied(kept, roles["hyperparameters"], "")
    kept = kept.reset_index(drop=True)
    return Table(kept, roles["hyperparameters"], roles["measures"], gap, seed, len(frame), left_out, missing)


def read_frame(source: Source, settings: str) -> pd.DataFrame:
    """The table of a frame, a CSV or a folder of records, as it is; see :func:`read_table` for its errors."""
    if isinstance(source, pd.DataFrame):
        frame = source
    elif isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            frame = read_records(path, settings=settings)
        elif path.suffix == ".jsonl":
            raise ValueError(f"{path} is the record of one network; give the folder that holds those of all.")
        else:
            frame = pd.read_csv(path, keep_default_na=False, na_values=list(_NOT_A_NUMBER), low_memory=False)
    else:
        raise TypeError(f"source must be a pandas DataFrame or a path, got {type(source).__name__}.")
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ValueError(f"columns must have different names, got {twice[0]!r} more than once.")
    return frame


def column_names(names: Sequence[str], role: str) -> tuple[str, ...]:
    """Names of columns, of which there is one at least."""
    if isinstance(names, str):
        raise TypeError(f"{role} must be a sequence of column names, got {names!r}; write [{names!r}].")
    found = tuple(names)
    if not found:
        raise ValueError(f"{role} must name at least one column.")
    if wrong := [name for name in found if not isinstance(name, str)]:
        raise TypeError(f"{role} must be names of columns, got {wrong[0]!r}.")
    return found


def _check_columns(frame: pd.DataFrame, roles: Mapping[str, Sequence[str]], filters: Filters) -> None:
    if isinstance(filters, str):
        raise TypeError(f"filters must be a sequence or mapping of column names, got {filters!r}.")
    for role, names in [*roles.items(), ("filters", list(filters))]:
        for name in names:
            if name not in frame.columns:
                raise ValueError(f"{role}: there is no column {name!r}; {similar_columns(frame, name)}.")
    seen: dict[str, str] = {}
    for role, names in roles.items():
        for name in names:
            if name in seen:
                raise ValueError(f"column {name!r} is declared twice: as {seen[name]} and as {role}.")
            seen[name] = role


def similar_columns(frame: pd.DataFrame, name: str) -> str:
    """The end of a sentence about a column that is not there: which ones are."""
    known = [str(column) for column in frame.columns]
    lower = {column.lower(): column for column in known}
    word = str(name).lower()
    close = [lower[c] for c in get_close_matches(word, list(lower), n=3, cutoff=0.6)]
    close += [c for c in known if word in c.lower() and c not in close]
    return f"similar are {', '.join(close[:5])}" if close else f"there are {_some(frame)}"


def _some(frame: pd.DataFrame, limit: int = 12) -> str:
    known = [str(column) for column in frame.columns]
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return (", ".join(known[:limit]) + more) or "no columns"


def filtered(frame: pd.DataFrame, filters: Filters) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rows that pass, and how many did not, by reason."""
    left_out: dict[str, int] = {}
    items: Iterable[tuple[str, Any]] = (
        filters.items() if isinstance(filters, Mapping) else ((name, True) for name in filters)
    )
    for name, wanted in items:
        keep = _passes(frame[name], wanted)
        reason = f"{name!r} not {wanted if not callable(wanted) else 'as filtered'}"
        if not keep.all():
            left_out[reason] = int((~keep).sum())
        frame = frame[keep]
    return frame, left_out


def _passes(column: pd.Series[Any], wanted: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    if callable(wanted):
        function: Callable[[Any], Any] = wanted
        return np.array([bool(function(value)) for value in column], dtype=bool)
    if wanted is True or wanted is False:
        words = column.map(lambda v: str(v).strip().lower())
        known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "nan": not wanted}
        other = words[~words.isin(list(known))]
        if len(other):
            raise ValueError(f"filters: {column.name!r} must hold true and false, got {other.tolist()[0]!r}.")
        return np.array([known[word] is wanted for word in words], dtype=bool)
    if isinstance(wanted, (list, tuple, set, frozenset)):
        return column.isin(list(wanted)).to_numpy(bool)
    return (column == wanted).to_numpy(bool)


def as_numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers, also from words such as ``Infinity``; what is missing becomes NaN."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.astype(float)
    words = column.map(lambda v: _WORDS.get(v, v) if isinstance(v, str) else v)
    numbers = pd.to_numeric(words, errors="coerce")
    wrong = column[numbers.isna() & words.notna()]
    if len(wrong):
        raise ValueError(f"{column.name!r} must hold numbers, got {wrong.tolist()[0]!r}.")
    return numbers.astype(float)


def same_values(column: pd.Series[Any]) -> pd.Series[Any]:
    """One number for all that agree to six digits; words and truth values as they are."""
    if not pd.api.types.is_float_dtype(column.dtype):
        return column
    values = np.unique(column.to_numpy(float))
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return column
    far = np.abs(np.diff(values)) > SAME_VALUE * np.maximum(np.abs(values[1:]), np.abs(values[:-1]))
    first = values[np.concatenate([[True], far])]
    numbers = column.to_numpy(float)
    place = np.clip(np.searchsorted(first, numbers, side="right") - 1, 0, None)
    return pd.Series(np.where(np.isfinite(numbers), first[place], numbers), index=column.index, name=column.name)


def _finite(frame: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rows that are finite in all columns, and how many each column costs; a row counts for its first one."""
    keep = np.ones(len(frame), dtype=bool)
    left_out = {}
    for name in columns:
        column = frame[name]
        known = column.notna().to_numpy(bool)
        if pd.api.types.is_float_dtype(column.dtype):
            known = known & np.isfinite(column.to_numpy(float))
        if lost := int((keep & ~known).sum()):
            left_out[f"{name!r} missing or not finite"] = lost
        keep &= known
    return frame[keep], left_out


def _check_varied(frame: pd.DataFrame, hyperparameters: Sequence[str], where: str) -> None:
    for name in hyperparameters:
        values = frame[name].unique().tolist()
        if len(values) < 2:
            raise ValueError(
                f"hyper-parameter {name!r} has one value, {values[0]!r}, in all {len(frame)} rows{where}: "
                "leave it out of hyperparameters, or keep rows with other values."
            )


def counted(left_out: Mapping[str, int]) -> str:
    """What was left out, as words."""
    return ", ".join(f"{count} ({reason})" for reason, count in left_out.items())
