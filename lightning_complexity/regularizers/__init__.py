"""Regularizers: each penalises what the metric of the same name measures. No Lightning needed."""

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

from lightning_complexity.regularizers.base import Regularizer
from lightning_complexity.regularizers.measure import TrainedMeasure, snapshot_for

if TYPE_CHECKING:
    from lightning_complexity.regularizers.curvature import *
    from lightning_complexity.regularizers.features import *
    from lightning_complexity.regularizers.fisher import *
    from lightning_complexity.regularizers.flatness import *
    from lightning_complexity.regularizers.gradients import *
    from lightning_complexity.regularizers.information import *
    from lightning_complexity.regularizers.lann import *
    from lightning_complexity.regularizers.margins import *
    from lightning_complexity.regularizers.norms import *
    from lightning_complexity.regularizers.paths import *
    from lightning_complexity.regularizers.regions import *
    from lightning_complexity.regularizers.relative_flatness import *
    from lightning_complexity.regularizers.sensitivity import *
    from lightning_complexity.regularizers.spectra import *
    from lightning_complexity.regularizers.stability import *

__all__ = ["Regularizer", "TrainedMeasure", "snapshot_for"]

# What a family exports is found here, so that a new file is all that a new family needs.
for _module in pkgutil.iter_modules(__path__):
    if _module.name not in ("base", "measure"):
        _family = import_module(f"{__name__}.{_module.name}")
        globals().update({name: getattr(_family, name) for name in _family.__all__})
        __all__ += _family.__all__
