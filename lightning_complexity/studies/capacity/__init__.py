"""Capacity by training: how many samples a model fits, and how well it fits random signs."""

from lightning_complexity.studies.capacity.fitting import Fit, SettingFit
from lightning_complexity.studies.capacity.freedom import DegreesOfFreedom, generalized_degrees_of_freedom
from lightning_complexity.studies.capacity.samples import SampleCapacity, effective_model_complexity
from lightning_complexity.studies.capacity.signs import RademacherEstimate, empirical_rademacher_complexity

__all__ = [
    "DegreesOfFreedom",
    "Fit",
    "RademacherEstimate",
    "SampleCapacity",
    "SettingFit",
    "effective_model_complexity",
    "empirical_rademacher_complexity",
    "generalized_degrees_of_freedom",
]
