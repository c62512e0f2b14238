"""Metrics as laws over all of them measure: those that draw, search or integrate do so fewer times."""

from __future__ import annotations

from typing import Any

from lightning_complexity.metrics import ComplexityMetric, resolve

FEWER: dict[str, dict[str, Any]] = {
    "CompressionBound": {"levels": (3, 5)},
    "CriticalSharpness": {"tolerance": 0.01},
    "EffectiveDimension": {"num_probes": 2, "num_steps": 4},
    "FunctionalVariance": {"num_draws": 6, "burn_in": 3},
    "LargestHessianEigenvalue": {"max_products": 8},
    "LearningCoefficient": {"num_draws": 6, "burn_in": 3},
    "LinearRegions": {"num_segments": 1},
    "LossSlice": {"num_points": 3},
    "ModeConnectivityBarrier": {"num_points": 3},
    "NegativeCurvature": {"num_probes": 2, "num_steps": 4},
    "NoiseTolerance": {"num_draws": 1},
    "PACBayesBound": {"num_draws": 2, "sigmas": (0.2, 0.02)},
    "PreconditionedSharpness": {"max_products": 8},
    "SharpnessMeasure": {"num_starts": 2, "max_steps": 1},
    "SmallestHessianEigenvalue": {"max_products": 8},
    "TrajectoryLength": {"num_points": 64},
    "Transitions": {"num_points": 64},
    "WorstCaseSharpness": {"num_starts": 2, "max_steps": 4},
    "WorstCaseTolerance": {"num_starts": 2, "max_steps": 1},
}
"""Options of the dearest, by class; searches may end early. Default options are measured by ``test_contract``."""


def quick(cls: type[ComplexityMetric], **options: Any) -> ComplexityMetric:
    """One of a class, with fewer draws where it draws many."""
    return cls(**{**FEWER.get(cls.__name__, {}), **options})


def quick_suite(name: str, *, per_layer: bool = False) -> list[ComplexityMetric]:
    """The metrics of a suite, the dearest with the fewest draws."""
    chosen = resolve(name, per_layer=per_layer)
    return [type(m)(**{**FEWER.get(type(m).__name__, {}), "per_layer": m.per_layer}) for m in chosen]
