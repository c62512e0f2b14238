"""Compare runs: the front of accuracy against cost and what one would pick, and measures against the gap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from lightning_complexity.dashboard.measured import Measure, gaps_of, scores_of
from lightning_complexity.dashboard.numbers import rounded
from lightning_complexity.dashboard.runs import Group, Run, by_seed, is_seed, varied_settings
from lightning_complexity.selection.pareto import Floats, pareto_front
from lightning_complexity.selection.simplest import mean_and_standard_error, simplest_within_one_standard_error

_DRAWS, _LEAST_RUNS, _MOST_VARIED = 400, 4, 6
CONFOUNDED = (
    "Within one run nearly everything grows with time, so that a correlation along a run is confounded by time: "
    "what is compared here are the ends of different runs."
)


def models_of(runs: Sequence[Run], groups: Sequence[Group], measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Each group as a model: means over its seeds of what was measured last, and their standard errors."""
    keys = [measure.key for measure in measures if measure.role != "part"]
    models = []
    for group in groups:
        means, errors = {}, {}
        seeds = by_seed(runs, group)
        for key in keys:
            last = {place: value for place in group.runs if (value := runs[place].last(key)) is not None}
            if len(last) == len(group.runs):
                of_seeds = [mean_and_standard_error([last[place] for place in places])[0] for places in seeds]
                mean, error = mean_and_standard_error(of_seeds)
                means[key] = mean
                errors[key] = error
        models.append({"name": group.name, "means": means, "errors": errors})
    return models


def fronts_of(models: Sequence[dict[str, Any]], measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """For each score and each cost that a model can have: the front, and the simplest within one standard error."""
    scores = scores_of(measure.key for measure in measures)
    costs = [measure for measure in measures if measure.role == "complexity" and measure.more_complex]
    return [
        front
        for score, direction in scores.items()
        for cost in sorted(costs, key=lambda measure: measure.label not in ("parameter_count", "flop_count"))
        if (front := _front(models, score, direction, cost)) is not None
    ]


def _front(models: Sequence[dict[str, Any]], score: str, direction: str, cost: Measure) -> dict[str, Any] | None:
    rows = [row for row, model in enumerate(models) if {score, cost.key} <= model["means"].keys()]
    if not rows:
        return None
    simpler = "maximize" if cost.more_complex == "lower" else "minimize"
    values = [[models[row]["means"][score], models[row]["means"][cost.key]] for row in rows]
    front = pareto_front(values, [direction, simpler])
    found = {
        "score": score,
        "cost": cost.key,
        "directions": [direction, simpler],
        "front": [rows[row] for row in front.rows],
        "left_out": [rows[row] for row in front.left_out],
    }
    if simpler == "maximize":
        return found | {"sentence": "Of this measure less is more complex: the front is drawn, and no model is chosen."}
    return found | _choice(models, rows, score, direction, cost)


def _choice(
    models: Sequence[dict[str, Any]], rows: list[int], score: str, direction: str, cost: Measure
) -> dict[str, Any]:
    if len(models) == 1:
        return {"sentence": "There is one model: nothing to compare."}
    if not any(math.isfinite(models[row]["errors"][score]) for row in rows):
        return {"sentence": "No model is chosen: a standard error needs runs that differ in nothing but their seed."}
    try:
        choice = simplest_within_one_standard_error(
            [models[row]["means"][score] for row in rows],
            [models[row]["means"][cost.key] for row in rows],
            standard_errors=[models[row]["errors"][score] for row in rows],
            direction=direction,
            names=[models[row]["name"] for row in rows],
            score=score.removeprefix("probe/"),
            cost=cost.label,
        )
    except ValueError:
        finite = any(math.isfinite(models[row]["means"][score] + models[row]["means"][cost.key]) for row in rows)
        why = (
            "the best was trained once, so that its standard error is not known: train it with other seeds."
            if finite
            else "none has a finite score and cost."
        )
        return {"sentence": f"No model is chosen: {why}"}
    return {
        "chosen": rows[choice.chosen.row],
        "best": rows[choice.best.row],
        "bound": rounded(choice.bound),
        "standard_error": rounded(choice.standard_error),
        "within": [rows[row] for row in choice.within],
        "sentence": choice.sentence,
    }


def rankings_of(runs: Sequence[Run], measures: Sequence[Measure]) -> dict[str, Any]:
    """How each measure orders runs against each gap, at what was measured last.

    Returns:
        ``by_gap``: for each gap ``method`` in words and ``rows`` with ``measure``, ``runs``, ``tau`` (Kendall's tau-b),
        ``low`` and ``high`` of its interval, ``sign_error``, ``sign_low`` and ``sign_high``; and ``notes``.
    """
    gaps = gaps_of(measure.key for measure in measures)
    keys = [measure.key for measure in measures if measure.role == "complexity"]
    if not gaps or not keys:
        return {"notes": ["No gap was measured: it needs a validation loader."], "by_gap": {}}
    if len(runs) < _LEAST_RUNS:
        are = "is" if len(runs) == 1 else "are"
        note = f"A correlation across runs needs at least {_LEAST_RUNS} runs; there {are} {len(runs)}."
        return {"notes": [note, CONFOUNDED], "by_gap": {}}
    if find_spec("pandas") is None:
        return {"notes": ["Rankings need pandas: pip install lightning-complexity[studies]"], "by_gap": {}}
    return {"notes": [CONFOUNDED], "by_gap": {gap: _against(runs, keys, gap) for gap in gaps}}


def _against(runs: Sequence[Run], keys: list[str], gap: str) -> dict[str, Any]:
    try:
        return _as_study(runs, keys, gap)
    except ValueError:
        return _over_runs(runs, keys, gap)


def _as_study(runs: Sequence[Run], keys: list[str], gap: str) -> dict[str, Any]:
    """As in a study: on means over seeds, with intervals over seeds.

    Raises:
        ValueError: If the settings are no design in which pairs differ in one of them.
    """
    import pandas as pd

    from lightning_complexity.studies.ranking import rank

    varied = varied_settings(runs)
    seeds = [name for name in dict.fromkeys(n for run in runs for n in run.settings) if is_seed(name)]
    if not 0 < len(varied) <= _MOST_VARIED or len(seeds) != 1 or not all(seeds[0] in run.settings for run in runs):
        raise ValueError("no design: none or too many settings that vary, or not one seed")
    settings: dict[str, list[Any]] = {name: [str(run.settings.get(name)) for run in runs] for name in varied}
    settings[seeds[0]] = [run.settings[seeds[0]] for run in runs]
    measured = {key: _last(runs, key) for key in (*keys, gap)}
    found = rank(
        pd.DataFrame({**settings, **measured}),
        hyperparameters=varied,
        measures=keys,
        gap=gap,
        seed=seeds[0],
        missing="measure",
        interval_of=("tau_b", "sign_error"),
        min_effective_samples=1.0,
    )
    if found.intervals.empty:
        raise ValueError("one seed")
    ends = {place: (float(low), float(high)) for place, _, low, high in found.intervals.itertuples()}
    listed = []
    for key in keys:
        networks, tau, sign = found.frame.loc[key, ["networks", "tau_b", "sign_error"]].astype(float).tolist()
        listed.append(_row(key, int(networks), tau, ends[key, "tau_b"], sign) | _sign_ends(ends[key, "sign_error"]))
    method = (
        "Kendall's tau-b over means of equal settings; mean sign error over pairs that differ in one setting; "
        "95 % intervals over seeds, from drawing them with replacement."
    )
    return {"rows": _by_strength(listed), "method": method}


def _over_runs(runs: Sequence[Run], keys: list[str], gap: str) -> dict[str, Any]:
    from lightning_complexity.studies.ranking.kendall import kendall

    gaps = _last(runs, gap)
    listed = []
    for key in keys:
        values = _last(runs, key)
        finite = np.isfinite(values) & np.isfinite(gaps)
        number = int(finite.sum())
        if number < _LEAST_RUNS:
            listed.append(_row(key, number, math.nan, (math.nan, math.nan), math.nan))
            continue
        tau_a, tau_b = kendall(values[finite], gaps[finite])
        tau_ends, sign_ends = _drawn_ends(values[finite], gaps[finite])
        listed.append(_row(key, number, tau_b, tau_ends, (1 - tau_a) / 2) | _sign_ends(sign_ends))
    method = (
        "Kendall's tau-b over runs; sign error over all pairs of runs, ties counted one half; 95 % intervals are "
        "percentiles over draws of runs."
    )
    return {"rows": _by_strength(listed), "method": method}


def _last(runs: Sequence[Run], key: str) -> Floats:
    return np.array([math.nan if (last := run.last(key)) is None else last for run in runs])


def _drawn_ends(values: Floats, gaps: Floats) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of the intervals of tau-b and of the sign error over draws of runs.

    A run that is drawn twice is not compared with itself, which would be a tie.
    """
    number = len(values)
    draws = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=_DRAWS).astype(float)
    one, other = np.sign(values[:, None] - values), np.sign(gaps[:, None] - gaps)
    total, untied, untied_gap, pairs = (
        np.einsum("di,ij,dj->d", draws, weights, draws, optimize=True)
        for weights in (one * other, one**2, other**2, 1 - np.eye(number))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return _percentiles(total / np.sqrt(untied * untied_gap)), _percentiles((1 - total / pairs) / 2)


def _percentiles(drawn: Floats) -> tuple[float, float]:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def _sign_ends(ends: Sequence[float]) -> dict[str, float | None]:
    low, high = ends
    return {"sign_low": rounded(low), "sign_high": rounded(high)}


def _row(key: str, runs: int, tau: float, ends: Sequence[float], sign_error: float) -> dict[str, Any]:
    low, high = ends
    names = ("tau", "low", "high", "sign_error")
    numbers = dict(zip(names, map(rounded, (float(tau), float(low), float(high), float(sign_error))), strict=True))
    return {"measure": key, "runs": runs, **numbers}


def _by_strength(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -2.0 if row["tau"] is None else row["tau"], reverse=True)
