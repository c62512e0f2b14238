"""The finished trials of an Optuna study as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

TRIAL = "trial"
NOT_MET = "a constraint not met"


def study_frame(study: Study) -> tuple[pd.DataFrame, dict[str, str], dict[str, int]]:
    """A row for each finished trial that meets its constraints.

    Columns are ``trial``, objectives, parameters and user attributes. Entries of an attribute that is an object get
    names such as ``sizes.parameters``. Where two would have one name, the later is ``params.<name>`` or
    ``user_attrs.<name>``.

    Returns:
        The table; the direction of each objective; how many trials are no part of the table, by reason.

    Raises:
        TypeError: If ``study`` is no Optuna study.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> trial = optuna.trial.create_trial(value=0.2, user_attrs={"size": 7})
        >>> study.add_trial(trial)
        >>> study_frame(study)[0].to_dict("records")
        [{'trial': 0, 'value': 0.2, 'size': 7}]
    """
    if not hasattr(study, "get_trials") or not hasattr(study, "directions"):
        raise TypeError(f"source must be an Optuna study, a pandas DataFrame or a path, got {type(study).__name__}.")
    objectives = _objectives(study)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name != "COMPLETE":
            reason = f"trial {trial.state.name.lower()}"
        elif any(value > 0 for value in trial.constraints.values()):
            reason = NOT_MET
        else:
            rows.append(_row(trial, list(objectives)))
            continue
        left_out[reason] = left_out.get(reason, 0) + 1
    return pd.DataFrame(rows), objectives, left_out


def _objectives(study: Study) -> dict[str, str]:
    directions = [direction.name.lower() for direction in study.directions]
    names = study.metric_names
    if names is None:
        names = ["value"] if len(directions) == 1 else [f"value_{i}" for i in range(len(directions))]
    return dict(zip(names, directions, strict=True))


def _row(trial: FrozenTrial, objectives: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {TRIAL: trial.number, **dict(zip(objectives, trial.values, strict=True))}
    for prefix, entries in (("params", trial.params), ("user_attrs", dict(_flat(trial.user_attrs)))):
        row |= {f"{prefix}.{name}" if name in row else name: value for name, value in entries.items()}
    return row


def _flat(entries: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in entries.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
