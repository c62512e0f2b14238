"""Everything that measures, by name: metrics, some of their options, and penalties."""

from __future__ import annotations

import random
from collections.abc import Callable

from lightning_complexity import metrics, regularizers
from lightning_complexity.metrics import ComplexityMetric, catalogue
from lightning_complexity.regularizers import Regularizer
from tests.quick import quick

_DEAR = {"LinearRegions", "LinearRegions in a plane", "SpectralBound", "HessianTrace", "StableRank", "FlopCount"} | {
    *("LearningCoefficient", "FunctionalVariance", "LossSlice", "WorstCaseTolerance", "SharpnessMeasure"),
}


def _metrics() -> dict[str, Callable[[], ComplexityMetric]]:
    found: dict[str, Callable[[], ComplexityMetric]] = {}
    for entry in catalogue():
        found[entry.metric.__name__] = lambda cls=entry.metric: quick(cls)
    return found


METRICS = {
    **_metrics(),
    "JacobianNorm by projections": lambda: metrics.JacobianNorm(num_projections=2),
    "JacobianNorm of the probabilities": lambda: metrics.JacobianNorm(of="softmax"),
    "GeometricComplexity by projections": lambda: metrics.GeometricComplexity(num_projections=2),
    "PathNorm by output": lambda: metrics.PathNorm(q=1),
    "LogSpectralProduct folded": lambda: metrics.LogSpectralProduct(fold_batch_norm=True),
    "LogSpectralProduct of the operator": lambda: metrics.LogSpectralProduct(convolution="operator"),
    "StableRank by layer": lambda: metrics.StableRank(per_layer=True),
    "HessianTrace by layer": lambda: metrics.HessianTrace(num_probes=2, per_layer=True),
    "LinearRegions in a plane": lambda: metrics.LinearRegions("plane"),
    "RegionBound for a chain": lambda: metrics.RegionBound("serra"),
    "DeadUnits by layer": lambda: metrics.DeadUnits(per_layer=True),
    "TrajectoryLength by shifts": lambda: metrics.TrajectoryLength("shifts", num_points=64),
    "CapacityOverMargin of the path norm": lambda: metrics.CapacityOverMargin(metrics.PathNorm()),
}
PENALTIES = {
    name: cls
    for name in regularizers.__all__
    if isinstance(cls := getattr(regularizers, name), type) and issubclass(cls, Regularizer) and cls is not Regularizer
}
COUNTERPARTS: dict[str, Callable[[], ComplexityMetric]] = {
    **{name: getattr(metrics, name) for name in PENALTIES},
    # A step draws fewer than a measurement.
    "HessianTrace": lambda: metrics.HessianTrace(num_probes=1, estimator="hutchinson"),
    "GaussNewtonTrace": lambda: metrics.GaussNewtonTrace(num_probes=1),
}


def some(seed: int, share: float) -> tuple[list[str], list[str]]:
    """Names of a share of the metrics, of fewer of the dear ones, and of the penalties."""
    draw = random.Random(seed)
    chosen = [name for name in METRICS if draw.random() < share * (0.3 if name in _DEAR else 1)]
    return chosen, [name for name in PENALTIES if draw.random() < share]
