"""The tables of an experiment: what was trained, and what came out for each measure."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning_complexity.studies.criteria.comparing import POINTS, Results, Row
from lightning_complexity.studies.criteria.experiments import Experiment
from lightning_complexity.studies.criteria.verdicts import Verdict


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a CSV with a column for each key, in the order in which they come; empty where a row has none."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def verdict_rows(experiment: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row for each measure and point."""
    return [
        {
            "criterion": experiment,
            "measure": row.measure,
            "point": row.point,
            "verdict": row.verdict.outcome,
            "effect": row.verdict.effect,
            "low": row.verdict.low,
            "high": row.verdict.high,
            "scale": row.verdict.scale,
            "agreement": row.verdict.agreement,
            "seeds": row.verdict.num_seeds,
            "pairs": row.verdict.num_pairs,
            "complexity_is": row.direction,
            "steps_lower": row.steps_lower,
            "steps_higher": row.steps_higher,
            "reason": row.verdict.reason,
        }
        for row in rows
    ]


def network_rows(results: Results, excluded: dict[tuple[str, int], str]) -> list[dict[str, Any]]:
    """A row for each network: its condition, its hyper-parameters, how it ended, its measures at the end."""
    rows = []
    for (condition, seed), result in sorted(results.items(), key=lambda item: item[0][1]):
        end = result.end
        rows.append(
            {
                "condition": condition,
                **result.asked.get("setting", {}),
                "seed": seed,
                "ended": result.ended,
                "excluded": excluded.get((condition, seed), ""),
                "steps": end.step,
                "seconds": end.seconds,
                "train_loss": end.train.loss,
                "train_accuracy": end.train.accuracy,
                "test_loss": end.test.loss,
                "test_accuracy": end.test.accuracy,
                "generalization_gap": end.generalization_gap,
                "accuracy_gap": end.accuracy_gap,
                **end.measures,
            }
        )
    return rows


def networks_table(experiment: Experiment, results: Results) -> str:
    """What was trained: steps and seconds to each loss and to the end, and errors, in the mean over seeds."""
    losses = [loss for loss in experiment.moments.losses if loss > experiment.stop.loss]
    header = ["", "networks", *(f"steps to {loss:g}" for loss in losses), "steps", "seconds", "test error", "gap"]
    lines = [header]
    for condition in experiment.conditions:
        found = [result for (name, _), result in results.items() if name == condition.name]
        ends = [result.end for result in found]
        moments = [[result.moment(f"loss {loss:g}") for result in found] for loss in losses]
        lines.append(
            [
                condition.name,
                str(len(found)),
                *(_mean((m.step for m in at if m is not None), "{:,.0f}") for at in moments),
                _mean((end.step for end in ends), "{:,.0f}"),
                _mean((end.seconds for end in ends), "{:.1f}"),
                _mean((100 * (1 - a) for a in (end.test.accuracy for end in ends) if a is not None), "{:.1f} %"),
                _mean((gap for gap in (end.generalization_gap for end in ends) if gap is not None), "{:.3g}"),
            ]
        )
    return aligned(lines)


def verdicts_table(rows: Sequence[Row]) -> str:
    """Measure by measure, the verdict at each point with its effect and interval."""
    by_measure: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_measure.setdefault(row.measure, {})[row.point] = row
    lines = [["", *(f"at {point}" if point != "end" else "at the end" for point in POINTS)]]
    for measure, found in by_measure.items():
        mark = _MARKS[next(iter(found.values())).direction]
        lines.append([measure + mark, *(_cell(found[point].verdict) if point in found else "" for point in POINTS)])
    return aligned(lines, left=True)


_MARKS = {"higher": "", "lower": " (more complex if lower)", "none": " (no direction, judged as if higher)"}


def _cell(verdict: Verdict) -> str:
    if not verdict.num_pairs:
        return "inconclusive: nothing to compare"
    if verdict.num_seeds < 2:
        return f"inconclusive: one seed, {_number(verdict.effect, verdict)}"
    shown = [_number(value, verdict) for value in (verdict.effect, verdict.low, verdict.high)]
    return f"{verdict.outcome} {shown[0]} [{shown[1]}, {shown[2]}]"


def _number(value: float, verdict: Verdict) -> str:
    return f"x {value:.3g}" if verdict.scale == "ratio" else f"{value:+.2g} sd"


def _mean(values: Iterable[float], form: str) -> str:
    found = [value for value in values if math.isfinite(value)]
    return form.format(fmean(found)) if found else "-"


def aligned(lines: Sequence[Sequence[str]], *, left: bool = False) -> str:
    """Columns of equal width, the first one to the left, the others to the right unless ``left``.

    Example:
        >>> print(aligned([["", "steps"], ["adam", "7"]]))
              steps
        adam      7
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if left or index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
