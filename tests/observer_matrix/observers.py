"""What must not be noticed: a monitor, a penalty of strength 0, a constraint that is far away."""

from __future__ import annotations

from typing import Any

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, ComplexityPenalty, metrics, regularizers
from tests.observer_matrix.comparing import first_difference
from tests.observer_matrix.design import Case, Setting, settings
from tests.observer_matrix.training import EPOCHS, Moment, trained
from tests.quick import quick_suite

STEPS = 4
NO_LIMIT: Any = 1e9  # a share of the training time that no measurement takes
FEWEST_VALUES = {"fast": 8, "standard": 10, "full": 30}


def monitor_of(case: Case) -> ComplexityMonitor:
    measures = quick_suite(case.suite)
    return ComplexityMonitor(measures, every_n_steps=1 if case.cadence == "step" else None, budget=NO_LIMIT)


def with_monitor(case: Case, plain: list[Moment]) -> str | None:
    """What a monitor changed, or that it measured less than it should."""
    monitor = monitor_of(case)
    found = first_difference(plain, trained(case.setting, monitor))
    expected = 1 + (STEPS if case.cadence == "step" else EPOCHS)
    if found is None and len(monitor.history) != expected:
        return f"{len(monitor.history)} measurements, expected {expected}"
    if found is None and len(monitor.history[-1].values) < FEWEST_VALUES[case.suite]:
        return f"only {len(monitor.history[-1].values)} values"
    return found


def plainly_trained(setting: Setting) -> list[Moment] | None:
    """A training without an observer; ``None`` where this processor has none (an LSTM in bfloat16 on some)."""
    try:
        return trained(setting)
    except RuntimeError as error:
        if "could not create a primitive" not in str(error):  # of the library that torch's kernels are from
            raise
        return None


def compared(cases: list[Case]) -> dict[str, str]:
    """What differed first in each case where something did."""
    found = {}
    for setting, group in settings(cases):
        plain = plainly_trained(setting)
        if plain is None:
            continue
        differences = {str(case): with_monitor(case, plain) for case in group}
        found |= {case: difference for case, difference in differences.items() if difference is not None}
    return found


def without_strength() -> ComplexityPenalty:
    classes = regularizers.ParameterNorm, regularizers.GradientNorm, regularizers.LogSpectralProduct
    return ComplexityPenalty(*(cls(0.0) for cls in classes))


def far_constraint() -> ComplexityConstraint:
    limited = metrics.ParameterNorm(), metrics.GradientNorm()
    return ComplexityConstraint(*limited, at_most=[1e6, 1e6], every_n_steps=1)


def compared_with_penalties(chosen: list[Setting]) -> dict[str, str]:
    """What a penalty of strength 0 and a far constraint changed first in each training where they did."""
    found = {}
    for setting in chosen:
        plain = plainly_trained(setting)
        if plain is None:
            continue
        for make in (without_strength, far_constraint):
            difference = first_difference(plain, trained(setting, make()))
            if difference is not None:
                found[f"{make.__name__} on {setting}"] = difference
    return found
