"""Formulas: tensors, or a linear operator, in; tensors out. Nothing here knows of networks."""

from lightning_complexity.functional import bounds, compression, generalization, margins, size
from lightning_complexity.functional.bounds import *
from lightning_complexity.functional.compression import *
from lightning_complexity.functional.function import information, lann, region_bounds, regions, sensitivity
from lightning_complexity.functional.function.information import *
from lightning_complexity.functional.function.lann import *
from lightning_complexity.functional.function.region_bounds import *
from lightning_complexity.functional.function.regions import *
from lightning_complexity.functional.function.sensitivity import *
from lightning_complexity.functional.generalization import *
from lightning_complexity.functional.loss_surface import curvature, flatness, landscape, langevin, pac_bayes, stability
from lightning_complexity.functional.loss_surface.curvature import *
from lightning_complexity.functional.loss_surface.flatness import *
from lightning_complexity.functional.loss_surface.landscape import *
from lightning_complexity.functional.loss_surface.langevin import *
from lightning_complexity.functional.loss_surface.pac_bayes import *
from lightning_complexity.functional.loss_surface.stability import *
from lightning_complexity.functional.margins import *
from lightning_complexity.functional.numerics import eigen, lanczos, linear_operators, random, spectral_norms
from lightning_complexity.functional.numerics.eigen import *
from lightning_complexity.functional.numerics.lanczos import *
from lightning_complexity.functional.numerics.linear_operators import *
from lightning_complexity.functional.numerics.random import *
from lightning_complexity.functional.numerics.spectral_norms import *
from lightning_complexity.functional.representation import attention, collapse, features
from lightning_complexity.functional.representation.attention import *
from lightning_complexity.functional.representation.collapse import *
from lightning_complexity.functional.representation.features import *
from lightning_complexity.functional.size import *
from lightning_complexity.functional.weights import norms, paths, power_laws, random_matrices, spectra, topology
from lightning_complexity.functional.weights.norms import *
from lightning_complexity.functional.weights.paths import *
from lightning_complexity.functional.weights.power_laws import *
from lightning_complexity.functional.weights.random_matrices import *
from lightning_complexity.functional.weights.spectra import *
from lightning_complexity.functional.weights.topology import *

__all__ = [
    *attention.__all__,
    *bounds.__all__,
    *collapse.__all__,
    *compression.__all__,
    *curvature.__all__,
    *eigen.__all__,
    *features.__all__,
    *flatness.__all__,
    *information.__all__,
    *lanczos.__all__,
    *landscape.__all__,
    *langevin.__all__,
    *lann.__all__,
    *linear_operators.__all__,
    *margins.__all__,
    *norms.__all__,
    *pac_bayes.__all__,
    *paths.__all__,
    *power_laws.__all__,
    *random.__all__,
    *random_matrices.__all__,
    *region_bounds.__all__,
    *regions.__all__,
    *generalization.__all__,
    *sensitivity.__all__,
    *size.__all__,
    *spectra.__all__,
    *spectral_norms.__all__,
    *topology.__all__,
    *stability.__all__,
]
