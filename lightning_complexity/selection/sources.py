"""Models to choose from: out of an Optuna study, a table, or a folder of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from lightning_complexity.selection import pareto
from lightning_complexity.selection.pareto import Front, check_direction
from lightning_complexity.selection.simplest import (
    Choice,
    mean_and_standard_error,
    simplest_within_one_standard_error,
)
from lightning_complexity.selection.trials import TRIAL, study_frame
from lightning_complexity.studies.records import FOLDER
from lightning_complexity.studies.tables import (
    Filters,
    as_numbers,
    column_names,
    counted,
    filtered,
    read_frame,
    same_values,
    similar_columns,
)

if TYPE_CHECKING:
    from optuna import Study

Source: TypeAlias = "pd.DataFrame | str | Path | Study"


@dataclass(frozen=True)
class Points:
    """Models, each with a value of every objective.

    Attributes:
        names: Of the models.
        values: One row a model and one column an objective; means, where models were repeated.
        standard_errors: The same shape; NaN where it is not known.
        repeats: How many rows were averaged, for each model.
        directions: ``"minimize"`` or ``"maximize"``, by objective.
        rows: How many rows or trials were read.
        left_out: How many of them were left out, by reason.
    """

    names: tuple[str, ...]
    values: pd.DataFrame
    standard_errors: pd.DataFrame
    repeats: tuple[int, ...]
    directions: dict[str, str]
    rows: int
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.names)

    def front(self) -> Front:
        """The models that no other dominates; see :func:`pareto_front`."""
        return pareto.pareto_front(self.values.to_numpy(float), list(self.directions.values()))

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """What the models dominate, up to a value for each objective; see :func:`hypervolume`.

        Raises:
            ValueError: If the reference is not one number for each objective.
        """
        if set(reference) != set(self.directions):
            raise ValueError(
                f"reference must have a number for each of {list(self.directions)}, got {list(reference)}."
            )
        bound = [reference[name] for name in self.directions]
        return pareto.hypervolume(self.values.to_numpy(float), bound, list(self.directions.values()))

    def knee(self) -> str | None:
        """Name of the model at the knee, if there are two objectives and a knee; see :func:`knee`."""
        row = pareto.knee(self.values.to_numpy(float), list(self.directions.values()))
        return None if row is None else self.names[row]

    def simplest(self, score: str | None = None, cost: str | None = None) -> Choice:
        """The cheapest model within one standard error of the best; see :func:`simplest_within_one_standard_error`.

        Args:
            score: The objective that says how good a model is; the first one if not given.
            cost: The objective that says how complex it is; the second one if not given.

        Raises:
            ValueError: If there is no such objective, if the cost is to be maximized, or if the standard error of the
                best model's score is not known.
        """
        objectives = list(self.directions)
        if len(objectives) < 2:
            raise ValueError(f"a score and a cost are needed, got one objective, {objectives[0]!r}.")
        score = objectives[0] if score is None else score
        cost = objectives[1] if cost is None else cost
        for role, name in (("score", score), ("cost", cost)):
            if name not in self.directions:
                raise ValueError(f"{role} must be one of {objectives}, got {name!r}.")
        if score == cost:
            raise ValueError(f"score and cost must be two objectives, got {score!r} for both.")
        if self.directions[cost] != "minimize":
            raise ValueError(f"the cost {cost!r} must be an objective to minimize, it is to be maximized.")
        if not np.isfinite(self.standard_errors[score]).any():
            raise ValueError(
                f"the standard error of {score!r} is needed: give models=, the columns that the repeats of a model "
                "share, and at least two repeats; or standard_errors=, its column."
            )
        return simplest_within_one_standard_error(
            self.values[score].to_numpy(float).tolist(),
            self.values[cost].to_numpy(float).tolist(),
            standard_errors=self.standard_errors[score].to_numpy(float).tolist(),
            direction=self.directions[score],
            names=self.names,
            score=score,
            cost=cost,
        )


def read_points(
    source: Source,
    objectives: Mapping[str, str] | None = None,
    *,
    models: Sequence[str] | None = None,
    standard_errors: Mapping[str, str] | None = None,
    filters: Filters = (),
    settings: str = "settings.json",
) -> Points:
    """Read models and their objectives.

    Rows where an objective is missing or not finite are left out, with all repeats of that model: a mean over the
    trainings that went well would flatter it. Trials that failed, were pruned or are not finished are left out too,
    and so are those that do not meet a constraint of ``trial.set_constraint``. ``left_out`` of the result counts them
    by reason.

    Args:
        source: An Optuna study, whose columns are its objectives (by ``study.metric_names``, or ``value``, or
            ``value_0``, ``value_1``, ...), parameters and user attributes; a pandas frame; a CSV, such as the
            ``networks.csv`` of a sweep; or a folder of records (see :func:`lightning_complexity.studies.read_records`).
        objectives: Columns to compare models by, and whether each is to ``"minimize"`` or to ``"maximize"``. A study's
            own objectives if not given.
        models: Columns that name a model. Rows that agree in all of them, where a missing value is a value too, are its
            repeats over seeds or folds; their means are compared, and have standard errors. If not given, each row is
            a model.
        standard_errors: Columns with the standard error of an objective, by objective, where each row is a model.
        filters: Columns that must be true, or a mapping from columns to what they must hold (see
            :func:`lightning_complexity.studies.read_table`).
        settings: Name of the JSON beside each record.

    Raises:
        FileNotFoundError: If there is no such file or folder, or no record in it.
        ValueError: If a column or direction is unknown, an objective holds words, a standard error is negative, a model
            with a given standard error is repeated, or no model is left.
        TypeError: If ``source`` is something else.

    Example:
        >>> frame = pd.DataFrame({"width": [8, 8, 64, 64], "error": [0.12, 0.10, 0.10, 0.11]})
        >>> frame["size"] = 11 * frame["width"]
        >>> points = read_points(frame, {"error": "minimize", "size": "minimize"}, models=["width"])
        >>> points.names, points.simplest().chosen.name
        (('width=8', 'width=64'), 'width=8')
    """
    left_out: dict[str, int] = {}
    if isinstance(source, (pd.DataFrame, str, Path)):
        frame = read_frame(source, settings)
        num_rows = len(frame)
        if objectives is None:
            raise ValueError("objectives are needed: columns and 'minimize' or 'maximize' for each.")
    else:
        frame, own, left_out = study_frame(source)
        num_rows = len(source.get_trials(deepcopy=False))
        objectives = own if objectives is None else objectives
    if frame.empty:
        raise ValueError(f"no model is left of {num_rows}; left out are {counted(left_out) or 'none'}.")
    errors = dict(standard_errors or {})
    _check(frame, objectives, models, errors, filters)
    frame, not_kept = filtered(frame, filters)
    left_out |= not_kept
    frame = frame.copy()
    for name in (*objectives, *errors.values()):
        frame[name] = as_numbers(frame[name])
    labels = _labels(frame, models)
    frame, labels, not_finite = _finite(frame, labels, list(objectives))
    left_out |= not_finite
    if frame.empty:
        raise ValueError(f"no model is left of {num_rows}; left out are {counted(left_out) or 'none'}.")
    return _averaged(frame, labels, dict(objectives), errors, num_rows, left_out)


def _check(
    frame: pd.DataFrame,
    objectives: Mapping[str, str],
    models: Sequence[str] | None,
    errors: Mapping[str, str],
    filters: Filters,
) -> None:
    if isinstance(filters, str):
        raise TypeError(f"filters must be a sequence or mapping of column names, got {filters!r}.")
    if not isinstance(objectives, Mapping):
        raise TypeError(f"objectives must be a mapping such as {{'error': 'minimize'}}, got {objectives!r}.")
    if not objectives:
        raise ValueError("objectives must name at least one column.")
    for direction in objectives.values():
        check_direction(direction)
    if unknown := [name for name in errors if name not in objectives]:
        raise ValueError(f"standard_errors: {unknown[0]!r} is no objective; there are {', '.join(objectives)}.")
    named = {
        "objectives": list(objectives),
        "models": [] if models is None else list(column_names(models, "models")),
        "standard_errors": list(errors.values()),
        "filters": list(filters),
    }
    for role, names in named.items():
        for name in names:
            if name not in frame.columns:
                raise ValueError(f"{role}: there is no column {name!r}; {similar_columns(frame, name)}.")
    if both := [name for name in named["models"] if name in objectives]:
        raise ValueError(f"column {both[0]!r} is declared twice: in models and in objectives.")


def _labels(frame: pd.DataFrame, models: Sequence[str] | None) -> list[str]:
    """A name for each row; the same one for repeats of a model."""
    if models is not None:
        columns = [same_values(frame[name]).tolist() for name in models]
        return [
            ", ".join(f"{name}={_word(value)}" for name, value in zip(models, values, strict=True))
            for values in zip(*columns, strict=True)
        ]
    if TRIAL in frame.columns:
        return [f"trial {number}" for number in frame[TRIAL]]
    if FOLDER in frame.columns and frame[FOLDER].is_unique:
        return [str(folder) for folder in frame[FOLDER]]
    if not frame.index.is_unique:
        return [f"row {place}" for place in range(len(frame))]
    return [row if isinstance(row, str) else f"row {row}" for row in frame.index]


def _word(value: Any) -> str:
    if pd.isna(value):
        return "none"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.9g}"
    return str(value)


def _finite(
    frame: pd.DataFrame, labels: list[str], objectives: list[str]
) -> tuple[pd.DataFrame, list[str], dict[str, int]]:
    """Leave out models with an objective that is not finite in any repeat; counted by the first such objective."""
    left_out = {}
    for name in objectives:
        wrong = ~np.isfinite(frame[name].to_numpy(float))
        bad = {label for label, is_wrong in zip(labels, wrong, strict=True) if is_wrong}
        keep = np.array([label not in bad for label in labels], dtype=bool)
        if bad:
            left_out[f"{name!r} missing or not finite, or so in a repeat"] = int((~keep).sum())
        frame, labels = frame[keep], [label for label in labels if label not in bad]
    return frame, labels, left_out


def _averaged(
    frame: pd.DataFrame,
    labels: list[str],
    objectives: dict[str, str],
    errors: dict[str, str],
    num_rows: int,
    left_out: dict[str, int],
) -> Points:
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    values = pd.DataFrame(index=range(len(places)), columns=list(objectives), dtype=float)
    spread = values.copy()
    for name in objectives:
        column = frame[name].to_numpy(float)
        pairs = [mean_and_standard_error(column[rows]) for rows in places.values()]
        values[name] = [pair[0] for pair in pairs]
        spread[name] = [pair[1] for pair in pairs]
    for name, column_name in errors.items():
        given = frame[column_name].to_numpy(float)
        if len(places) < len(labels):
            repeated = next(label for label, rows in places.items() if len(rows) > 1)
            raise ValueError(
                f"standard_errors: {repeated} has several rows, whose standard error is computed; leave it out."
            )
        if (given < 0).any():
            raise ValueError(f"standard_errors: {column_name!r} must not be negative, got {given.min()}.")
        spread[name] = given
    repeats = tuple(len(rows) for rows in places.values())
    return Points(tuple(places), values, spread, repeats, objectives, num_rows, left_out)
