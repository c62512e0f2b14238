"""What came out of a search: a table, the front, the model that is chosen and why, and what went wrong."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lightning_complexity.selection.pictures import picture_of_front
from lightning_complexity.selection.searching.description import Search
from lightning_complexity.selection.searching.running import (
    CONSTRAINED,
    MODEL,
    SAME_AS,
    STANDARD_ERROR,
    STRUCTURE,
    make_sampler,
    problem_of,
    search_of,
)
from lightning_complexity.selection.searching.strategies import has_given_up
from lightning_complexity.selection.simplest import Choice
from lightning_complexity.selection.sources import Points, read_points
from lightning_complexity.studies.sweeping.worker import ERROR, last_attempts

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

TOP = 10
_REASONS = 5
_DIED = "its worker died, again and again"


@dataclass(frozen=True)
class Report:
    """What is said at the end.

    Attributes:
        text: All of it.
        files: That were written.
        has_model: Whether there is a model to choose.
    """

    text: str
    files: tuple[Path, ...]
    has_model: bool


def report(study: Study, output: Path) -> Report:
    """Write and say what came out of a search.

    Args:
        study: Of a search.
        output: Folder for ``trials.csv``, ``trade-off.png``, ``chosen.json``, and what the problem writes of the chosen
            model.
    """
    search, trials = search_of(study), last_attempts(study)
    output.mkdir(parents=True, exist_ok=True)
    table = output / "trials.csv"
    trials_table(search, trials).to_csv(table, index=False)
    wrong = _what_went_wrong(trials)
    complete = _different([trial for trial in trials if trial.state.name == "COMPLETE"])
    feasible = [trial for trial in complete if _is_feasible(trial)]
    if not feasible:
        lines = [_nobody_meets(search, complete)] if complete else [_all_failed(study, trials)]
        return Report("\n\n".join([*lines, *wrong, f"Written: {table}"]), (table,), has_model=False)
    points = _points(study, search, feasible)
    choice = _choice(points, search)
    chosen = _chosen_trial(points, choice, feasible)
    found, lines = _finished(study, chosen, output)
    chosen_file = output / "chosen.json"
    _write_chosen(chosen_file, search, chosen, choice, found)
    files = [table, chosen_file]
    if len(search.goals) > 1:
        files.insert(1, output / "trade-off.png")
        picture_of_front(points, choice).savefig(files[1])
    parts = [
        _top(search, points, feasible),
        "\n".join([_sentence(points, choice, search), *lines]),
        *_front(points, search),
        *([said] if (said := make_sampler(study).summary(study)) else []),
        *wrong,
        f"Written: {', '.join(map(str, files))}",
    ]
    return Report("\n\n".join(parts), tuple(files), has_model=True)


# The table --------------------------------------------------------------------------------------------


def trials_table(search: Search, trials: list[FrozenTrial]) -> pd.DataFrame:
    """A row for each trial: what became of it, its model, objectives, bounded quantities, and parameters.

    Args:
        search: The search.
        trials: Its trials.
    """
    return pd.DataFrame([_row(search, trial) for trial in trials])


def _row(search: Search, trial: FrozenTrial) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": trial.number,
        "state": _state(trial),
        "model": trial.user_attrs.get(MODEL),
    }
    values = trial.values if trial.state.name == "COMPLETE" else [None] * len(search.goals)
    spread = trial.user_attrs.get(STANDARD_ERROR, {})
    for name, value in zip(search.goals, values, strict=True):
        row[name] = value
        if search.repeats > 1:
            row[f"{name}/standard_error"] = spread.get(name)
    row |= {name: value for name, value in trial.user_attrs.get(CONSTRAINED, {}).items() if name not in row}
    row |= {(f"params.{name}" if name in row else name): value for name, value in trial.params.items()}
    start, end = trial.datetime_start, trial.datetime_complete
    row["seconds"] = round((end - start).total_seconds(), 2) if start and end else None
    row["same_as"] = trial.user_attrs.get(SAME_AS)
    row["reason"] = _reason(trial) if trial.state.name == "FAIL" else None
    return row


def _state(trial: FrozenTrial) -> str:
    name = trial.state.name.lower()
    return "constraint not met" if name == "complete" and not _is_feasible(trial) else name


def _is_feasible(trial: FrozenTrial) -> bool:
    return all(value <= 0 for value in trial.constraints.values())


def _reason(trial: FrozenTrial) -> str:
    text = str(trial.user_attrs.get(ERROR, _DIED)).removeprefix("TrialError: ")
    return text.strip().splitlines()[0] if text.strip() else "no reason given"


def _different(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The first trial of each model; two workers may have had one at the same time."""
    first: dict[Any, FrozenTrial] = {}
    for trial in trials:
        first.setdefault(trial.user_attrs[STRUCTURE], trial)
    return list(first.values())


# The choice -------------------------------------------------------------------------------------------


def _points(study: Study, search: Search, feasible: list[FrozenTrial]) -> Points:
    errors = {name: f"{STANDARD_ERROR}.{name}" for name in search.goals} if search.repeats > 1 else {}
    points = read_points(study, standard_errors=errors)
    models = {f"trial {trial.number}": trial.user_attrs[MODEL] for trial in feasible}
    rows = [row for row, name in enumerate(points.names) if name in models]
    return replace(
        points,
        names=tuple(f"{points.names[row]} ({models[points.names[row]]})" for row in rows),
        values=points.values.iloc[rows].reset_index(drop=True),
        standard_errors=points.standard_errors.iloc[rows].reset_index(drop=True),
        repeats=tuple(points.repeats[row] for row in rows),
    )


def _choice(points: Points, search: Search) -> Choice | None:
    """The simplest within one standard error of the best, where there is a cost and the error is known."""
    if len(search.goals) < 2 or search.repeats < 2 or list(search.goals.values())[1] != "minimize":
        return None
    return points.simplest()


def _best_row(points: Points) -> int:
    name, direction = next(iter(points.directions.items()))
    column = points.values[name].to_numpy(float)
    return int(column.argmin() if direction == "minimize" else column.argmax())


def _chosen_trial(points: Points, choice: Choice | None, feasible: list[FrozenTrial]) -> FrozenTrial:
    name = points.names[_best_row(points)] if choice is None else choice.chosen.name
    return next(trial for trial in feasible if name.startswith(f"trial {trial.number} ("))


def _sentence(points: Points, choice: Choice | None, search: Search) -> str:
    if choice is not None:
        sentence = choice.sentence
        return sentence[0].upper() + sentence[1:]
    row, name = _best_row(points), next(iter(search.goals))
    text = f"{points.names[row]} is chosen: its {name} of {points.values[name][row]:.4g} is the best of {len(points)}."
    text = text[0].upper() + text[1:]
    if len(search.goals) > 1 and search.repeats < 2:
        text += " Whether a simpler model is as good within the noise, --repeats 3 would tell."
    return text


def _finished(study: Study, chosen: FrozenTrial, output: Path) -> tuple[dict[str, Any], list[str]]:
    problem = problem_of(study)
    try:
        return problem.finished(problem.space.read(chosen.params), output)
    except Exception as error:  # what was found stays found
        return {}, [f"It could not be trained once more: {type(error).__name__}: {error}."]


def _write_chosen(path: Path, search: Search, trial: FrozenTrial, choice: Choice | None, found: dict[str, Any]) -> None:
    content = {
        "trial": trial.number,
        "model": trial.user_attrs[MODEL],
        "parameters": trial.params,
        "objectives": dict(zip(search.goals, trial.values, strict=True)),
        "why": "the best" if choice is None else choice.sentence,
        **found,
    }
    path.write_text(json.dumps(content, indent=1))


# Words ------------------------------------------------------------------------------------------------


def _top(search: Search, points: Points, feasible: list[FrozenTrial]) -> str:
    """The best trials by the first objective; those on the front have a star."""
    first, direction = next(iter(search.goals.items()))
    front = {points.names[row] for row in points.front().rows}
    by_name = {f"trial {trial.number} ({trial.user_attrs[MODEL]})": trial for trial in feasible}
    order = points.values[first].sort_values(ascending=direction == "minimize", kind="stable").index
    header = ["", "trial", *search.goals, "model"]
    rows = [header]
    for row in order[:TOP]:
        name = points.names[row]
        cells = [
            _number(points.values[goal][row], points.standard_errors[goal][row] if goal == first else math.nan)
            for goal in search.goals
        ]
        trial = by_name[name]
        rows.append(["*" if name in front else "", str(trial.number), *cells, trial.user_attrs[MODEL]])
    widths = [max(len(row[place]) for row in rows) for place in range(len(header) - 1)]
    lines = [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
    more = f"\n... and {len(points) - TOP} more" if len(points) > TOP else ""
    ordered = f"\nBy {first}" + (" (± its standard error)" if search.repeats > 1 else "")
    return "\n".join(lines) + more + ordered + ("; * on the front." if len(search.goals) > 1 else ".")


def _number(value: float, spread: float) -> str:
    text = f"{value:,.0f}" if value == round(value) and abs(value) < 1e12 else f"{value:.4g}"
    return text if math.isnan(spread) else f"{text} ± {spread:.2g}"


def _front(points: Points, search: Search) -> list[str]:
    if len(search.goals) < 2:
        return []
    text = f"On the front: {len(points.front().rows)} of {len(points)} models"
    knee = points.knee() if len(search.goals) == 2 else None
    text += f", its knee {knee}" if knee else ""
    if len(search.goals) == 2:
        worst = {
            name: float(points.values[name].max() if direction == "minimize" else points.values[name].min())
            for name, direction in search.goals.items()
        }
        reference = ", ".join(f"{name} {_number(value, math.nan)}" for name, value in worst.items())
        text += f". Hypervolume up to the worst values, {reference}: {points.hypervolume(worst):.6g}"
    return [text + "."]


def _what_went_wrong(trials: list[FrozenTrial]) -> list[str]:
    states = Counter(map(_state, trials))
    lines = []
    if failed := [trial for trial in trials if trial.state.name == "FAIL"]:
        reasons: dict[str, list[FrozenTrial]] = {}
        for trial in failed:
            reasons.setdefault(_reason(trial), []).append(trial)
        lines.append(f"{len(failed)} of {len(trials)} trials failed:")
        lines += [f"  {_which(found)}: {reason}" for reason, found in list(reasons.items())[:_REASONS]]
        lines += [f"  and {len(reasons) - _REASONS} other reasons, in trials.csv"] if len(reasons) > _REASONS else []
    if count := sum(SAME_AS in trial.user_attrs for trial in trials):
        lines.append(f"{count} of {len(trials)} trials had a model that was there before, and took its values.")
    if count := states["pruned"]:
        lines.append(f"{count} of {len(trials)} trials were pruned.")
    if count := states["constraint not met"]:
        missed = Counter(name for trial in trials for name, value in trial.constraints.items() if value > 0)
        lines.append(
            f"{count} of {len(trials)} trials do not meet a constraint: "
            f"{', '.join(f'{name} by {number}' for name, number in missed.items())}."
        )
    if count := states["running"] + states["waiting"]:
        lines.append(f"{count} trials are not finished.")
    return ["\n".join(lines)] if lines else []


def _which(trials: list[FrozenTrial]) -> str:
    numbers = ", ".join(str(trial.number) for trial in trials[:4]) + (", ..." if len(trials) > 4 else "")
    model = trials[0].user_attrs.get(MODEL)
    about = f" ({model})" if model and len(trials) == 1 else f" ({len(trials)} of them)" if len(trials) > 4 else ""
    return f"trial{'s' if len(trials) > 1 else ''} {numbers}{about}"


def _all_failed(study: Study, trials: list[FrozenTrial]) -> str:
    if has_given_up(study):
        return f"No model: the first {len(trials)} trials all failed, and the search was given up."
    if any(trial.state.name == "PRUNED" for trial in trials):
        return "No model: every trial failed or was pruned."
    return "No model: all trials failed." if trials else "No model: there was no trial."


def _nobody_meets(search: Search, complete: list[FrozenTrial]) -> str:
    """Which constraints nobody meets, and how near the best came."""
    lines = [f"No model: none of {len(complete)} meets the constraints."]
    for bound in search.bounds:
        near = min(complete, key=lambda trial: trial.constraints[bound.text])
        excess = near.constraints[bound.text]
        count = sum(trial.constraints[bound.text] <= 0 for trial in complete)
        value = bound.bound + excess if bound.is_upper else bound.bound - excess
        lines.append(
            f"  {bound.text}: {count} meet it"
            + (
                f"; the nearest is trial {near.number} ({near.user_attrs[MODEL]}) with {_number(value, math.nan)}"
                if not count
                else ""
            )
        )
    if all(any(trial.constraints[b.text] <= 0 for trial in complete) for b in search.bounds):
        least = min(complete, key=lambda trial: sum(value > 0 for value in trial.constraints.values()))
        missed = [name for name, value in least.constraints.items() if value > 0]
        lines.append(f"  each is met, but not together; trial {least.number} misses {', '.join(missed)} only")
    return "\n".join(lines)
