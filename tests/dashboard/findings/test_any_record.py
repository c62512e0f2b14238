"""Findings never fail, are the same every time, and take little time."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_complexity.dashboard.findings import SEVERITIES, findings
from lightning_complexity.dashboard.runs import Run
from lightning_complexity.recording import Measurement
from tests.dashboard.findings.written import ALIASES

KEYS = [
    *ALIASES.values(),
    *("probe/generalization_gap", "probe/accuracy_gap", "complexity/overhead", "complexity/sharpness"),
    *("complexity/dead_units", "complexity/dead_units/a", "complexity/feature_effective_rank", "complexity/"),
    *(
        "complexity/gradient_norm/a.weight",
        "complexity/gradient_norm/b.weight",
        "complexity/jacobian_norm/standard_error",
    ),
    *("complexity/distance_from_initialization/a.weight", "complexity/distance_from_initialization/b"),
    *("complexity/margin_percentile", "complexity/margin_over_spectral_product", "complexity/log_spectral_product"),
    *("constraint/a/violation", "constraint/a/multiplier", "constraint//violation", "penalty/a", "loss/task", "", "/"),
]
VALUES = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, -1e300, 1.7e308, math.inf, -math.inf, math.nan, 5e-324]


def any_value(draw: random.Random) -> Any:
    kind = draw.random()
    if kind < 0.3:
        return draw.choice(VALUES)
    if kind < 0.35:
        return draw.choice([0, 7, 10**400, True, None, "NaN", [1.0]])
    return draw.random() if kind < 0.7 else draw.lognormvariate(0, 5) * draw.choice([1, -1])


def any_run(draw: random.Random) -> Run:
    keys = draw.sample(KEYS, draw.randrange(len(KEYS) + 1))
    kept = draw.random()
    always = {key: any_value(draw) for key in keys} if draw.random() < 0.3 else {}
    history = [
        Measurement(
            draw.choice([i, 0, draw.randrange(-3, 1000), 10**12, 10**400]),
            draw.choice([0, i, 3]),
            draw.random(),
            {key: always.get(key, any_value(draw)) for key in keys if draw.random() < kept},
        )
        for i in range(draw.choice([0, 1, 2, 3, 4, 7, 20, 40]))
    ]
    settings = {"optimizer.lr": any_value(draw), "learning_rate": any_value(draw), "lr": any_value(draw)}
    return Run(draw.choice(["a", "", "<b>"]), Path(), history, settings)


@pytest.mark.parametrize("seed", range(60))
def test_no_record_makes_them_fail(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(8):
        runs = [any_run(draw) for _ in range(draw.choice([1, 1, 1, 3, 12]))]
        found = findings(runs)
        assert found
        assert repr(found) == repr(findings(runs))
        order = [(SEVERITIES.index(f.severity), -f.confidence) for f in found]
        assert order == sorted(order)
        for f in found:
            assert 0 <= f.confidence <= 1
            assert f.value is None or math.isfinite(f.value), f
            assert f.standard_error is None or (math.isfinite(f.standard_error) and f.standard_error >= 0), f
            assert f.interval is None or all(map(math.isfinite, f.interval)), f


def test_fifty_long_runs_take_less_than_two_seconds() -> None:
    draw = np.random.default_rng(0)
    layers = [
        f"complexity/{m}/layer.{i}.weight" for m in ("gradient_norm", "dead_units", "stable_rank") for i in range(14)
    ]
    names = [*list(ALIASES.values()), *layers, *(f"complexity/m{i}" for i in range(10))]
    assert len(names) == 60
    runs = []
    for r in range(50):
        table = np.exp(-np.linspace(0, 3, 1000))[:, None] * draw.uniform(0.9, 1, (1000, 60))
        history = [
            Measurement(10 * i, i // 100, 0.0, dict(zip(names, row, strict=True)))
            for i, row in enumerate(table.tolist())
        ]
        runs.append(Run(str(r), Path(str(r)), history))
    start = time.process_time()
    findings(runs)
    assert time.process_time() - start < 2
