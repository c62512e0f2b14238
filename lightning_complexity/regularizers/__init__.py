"""Regularizers: each penalises what the metric of the same name measures. No Lightning needed."""

from lightning_complexity.regularizers import (
    curvature,
    features,
    gradients,
    lann,
    margins,
    norms,
    paths,
    regions,
    sensitivity,
    spectra,
)
from lightning_complexity.regularizers.base import Regularizer
from lightning_complexity.regularizers.curvature import *
from lightning_complexity.regularizers.features import *
from lightning_complexity.regularizers.gradients import *
from lightning_complexity.regularizers.lann import *
from lightning_complexity.regularizers.margins import *
from lightning_complexity.regularizers.measure import TrainedMeasure, snapshot_for
from lightning_complexity.regularizers.norms import *
from lightning_complexity.regularizers.paths import *
from lightning_complexity.regularizers.regions import *
from lightning_complexity.regularizers.sensitivity import *
from lightning_complexity.regularizers.spectra import *

__all__ = [
    "Regularizer",
    "TrainedMeasure",
    "snapshot_for",
    *curvature.__all__,
    *features.__all__,
    *gradients.__all__,
    *lann.__all__,
    *margins.__all__,
    *norms.__all__,
    *paths.__all__,
    *regions.__all__,
    *sensitivity.__all__,
    *spectra.__all__,
]
