"""Formulas: tensors, or a linear operator, in; tensors out. Nothing here knows of networks."""

from lightning_complexity.functional import (
    bounds,
    curvature,
    eigen,
    features,
    generalization,
    lann,
    linear_operators,
    margins,
    norms,
    paths,
    power_laws,
    random,
    region_bounds,
    regions,
    sensitivity,
    size,
    spectra,
    spectral_norms,
)
from lightning_complexity.functional.bounds import *
from lightning_complexity.functional.curvature import *
from lightning_complexity.functional.eigen import *
from lightning_complexity.functional.features import *
from lightning_complexity.functional.generalization import *
from lightning_complexity.functional.lann import *
from lightning_complexity.functional.linear_operators import *
from lightning_complexity.functional.margins import *
from lightning_complexity.functional.norms import *
from lightning_complexity.functional.paths import *
from lightning_complexity.functional.power_laws import *
from lightning_complexity.functional.random import *
from lightning_complexity.functional.region_bounds import *
from lightning_complexity.functional.regions import *
from lightning_complexity.functional.sensitivity import *
from lightning_complexity.functional.size import *
from lightning_complexity.functional.spectra import *
from lightning_complexity.functional.spectral_norms import *

__all__ = [
    *bounds.__all__,
    *curvature.__all__,
    *eigen.__all__,
    *features.__all__,
    *lann.__all__,
    *linear_operators.__all__,
    *margins.__all__,
    *norms.__all__,
    *paths.__all__,
    *power_laws.__all__,
    *random.__all__,
    *region_bounds.__all__,
    *regions.__all__,
    *generalization.__all__,
    *sensitivity.__all__,
    *size.__all__,
    *spectra.__all__,
    *spectral_norms.__all__,
]
