"""Metrics: each reads one number off a network, without changing it. No Lightning needed."""

from typing import TYPE_CHECKING

from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.metrics.catalogue import SUITES, CatalogueEntry, catalogue, families, resolve

if TYPE_CHECKING:
    from lightning_complexity.metrics.bounds import *
    from lightning_complexity.metrics.curvature import *
    from lightning_complexity.metrics.features import *
    from lightning_complexity.metrics.generalization import *
    from lightning_complexity.metrics.gradients import *
    from lightning_complexity.metrics.lann import *
    from lightning_complexity.metrics.margins import *
    from lightning_complexity.metrics.mixup import *
    from lightning_complexity.metrics.norms import *
    from lightning_complexity.metrics.paths import *
    from lightning_complexity.metrics.power_laws import *
    from lightning_complexity.metrics.regions import *
    from lightning_complexity.metrics.sensitivity import *
    from lightning_complexity.metrics.size import *
    from lightning_complexity.metrics.spectra import *
    from lightning_complexity.metrics.trajectories import *
    from lightning_complexity.metrics.units import *

__all__ = ["SUITES", "CatalogueEntry", "ComplexityMetric", "catalogue", "resolve"]

# What a family exports is found here, so that a new file is all that a new family needs.
for _family in families():
    globals().update({name: getattr(_family, name) for name in _family.__all__})
    __all__ += _family.__all__
