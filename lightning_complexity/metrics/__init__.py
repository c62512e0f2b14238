"""Metrics: each reads one number off a network, without changing it. No Lightning needed."""

from typing import TYPE_CHECKING

from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.metrics.catalogue import SUITES, CatalogueEntry, catalogue, families, resolve

if TYPE_CHECKING:
    from lightning_complexity.metrics.bounds import *
    from lightning_complexity.metrics.compression import *
    from lightning_complexity.metrics.function.information import *
    from lightning_complexity.metrics.function.lann import *
    from lightning_complexity.metrics.function.mixup import *
    from lightning_complexity.metrics.function.regions import *
    from lightning_complexity.metrics.function.sensitivity import *
    from lightning_complexity.metrics.function.trajectories import *
    from lightning_complexity.metrics.generalization import *
    from lightning_complexity.metrics.generalization_by_boxes import *
    from lightning_complexity.metrics.loss_surface.curvature import *
    from lightning_complexity.metrics.loss_surface.fisher import *
    from lightning_complexity.metrics.loss_surface.flatness import *
    from lightning_complexity.metrics.loss_surface.hessian_spectrum import *
    from lightning_complexity.metrics.loss_surface.landscape import *
    from lightning_complexity.metrics.loss_surface.learning_coefficient import *
    from lightning_complexity.metrics.loss_surface.pac_bayes import *
    from lightning_complexity.metrics.loss_surface.relative_flatness import *
    from lightning_complexity.metrics.loss_surface.stability import *
    from lightning_complexity.metrics.margins import *
    from lightning_complexity.metrics.optimization.gradient_noise import *
    from lightning_complexity.metrics.optimization.gradients import *
    from lightning_complexity.metrics.optimization.steps import *
    from lightning_complexity.metrics.optimization.weight_trajectory import *
    from lightning_complexity.metrics.representation.attention import *
    from lightning_complexity.metrics.representation.collapse import *
    from lightning_complexity.metrics.representation.features import *
    from lightning_complexity.metrics.representation.units import *
    from lightning_complexity.metrics.size import *
    from lightning_complexity.metrics.weights.norms import *
    from lightning_complexity.metrics.weights.paths import *
    from lightning_complexity.metrics.weights.power_laws import *
    from lightning_complexity.metrics.weights.random_matrices import *
    from lightning_complexity.metrics.weights.spectra import *
    from lightning_complexity.metrics.weights.topology import *

__all__ = ["SUITES", "CatalogueEntry", "ComplexityMetric", "catalogue", "resolve"]

# What a family exports is found here, so that a new file is all that a new family needs.
for _family in families():
    globals().update({name: getattr(_family, name) for name in _family.__all__})
    __all__ += _family.__all__
