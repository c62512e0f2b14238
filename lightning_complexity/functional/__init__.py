"""Formulas: tensors, or a product with a matrix, in; tensors out. Nothing here knows of networks."""

from lightning_complexity.functional import (
    bounds,
    curvature,
    features,
    generalization,
    lann,
    margins,
    norms,
    paths,
    region_bounds,
    regions,
    sensitivity,
    size,
    spectra,
)
from lightning_complexity.functional.bounds import *
from lightning_complexity.functional.curvature import *
from lightning_complexity.functional.features import *
from lightning_complexity.functional.generalization import *
from lightning_complexity.functional.lann import *
from lightning_complexity.functional.margins import *
from lightning_complexity.functional.norms import *
from lightning_complexity.functional.paths import *
from lightning_complexity.functional.region_bounds import *
from lightning_complexity.functional.regions import *
from lightning_complexity.functional.sensitivity import *
from lightning_complexity.functional.size import *
from lightning_complexity.functional.spectra import *

__all__ = [
    *bounds.__all__,
    *curvature.__all__,
    *features.__all__,
    *lann.__all__,
    *margins.__all__,
    *norms.__all__,
    *paths.__all__,
    *region_bounds.__all__,
    *regions.__all__,
    *generalization.__all__,
    *sensitivity.__all__,
    *size.__all__,
    *spectra.__all__,
]
