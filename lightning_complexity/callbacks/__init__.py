"""Callbacks for Lightning: measure during training, or hold complexity down."""

from lightning_complexity.callbacks.monitoring.monitor import ComplexityMonitor
from lightning_complexity.callbacks.penalties.constraint import ComplexityConstraint
from lightning_complexity.callbacks.penalties.penalty import ComplexityPenalty
from lightning_complexity.callbacks.penalties.schedules import Anneal, Warmup
from lightning_complexity.callbacks.pruning import NeuronPruning
from lightning_complexity.callbacks.sharpness_aware import SharpnessAwareMinimization
from lightning_complexity.callbacks.update_limit import UpdateRatioLimit

__all__ = [
    "Anneal",
    "ComplexityConstraint",
    "ComplexityMonitor",
    "ComplexityPenalty",
    "NeuronPruning",
    "SharpnessAwareMinimization",
    "UpdateRatioLimit",
    "Warmup",
]
