"""Metrics: each reads one number off a network, without changing it. No Lightning needed."""

from lightning_complexity.metrics import (
    bounds,
    curvature,
    features,
    generalization,
    gradients,
    lann,
    margins,
    mixup,
    norms,
    paths,
    regions,
    sensitivity,
    size,
    spectra,
    trajectories,
    units,
)
from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.metrics.bounds import *
from lightning_complexity.metrics.catalogue import SUITES, CatalogueEntry, catalogue, resolve
from lightning_complexity.metrics.curvature import *
from lightning_complexity.metrics.features import *
from lightning_complexity.metrics.generalization import *
from lightning_complexity.metrics.gradients import *
from lightning_complexity.metrics.lann import *
from lightning_complexity.metrics.margins import *
from lightning_complexity.metrics.mixup import *
from lightning_complexity.metrics.norms import *
from lightning_complexity.metrics.paths import *
from lightning_complexity.metrics.regions import *
from lightning_complexity.metrics.sensitivity import *
from lightning_complexity.metrics.size import *
from lightning_complexity.metrics.spectra import *
from lightning_complexity.metrics.trajectories import *
from lightning_complexity.metrics.units import *

__all__ = [
    "SUITES",
    "CatalogueEntry",
    "ComplexityMetric",
    "catalogue",
    "resolve",
    *bounds.__all__,
    *curvature.__all__,
    *features.__all__,
    *gradients.__all__,
    *lann.__all__,
    *margins.__all__,
    *mixup.__all__,
    *norms.__all__,
    *paths.__all__,
    *regions.__all__,
    *generalization.__all__,
    *sensitivity.__all__,
    *size.__all__,
    *spectra.__all__,
    *trajectories.__all__,
    *units.__all__,
]
