"""Callbacks for Lightning: measure during training, or hold complexity down."""

from lightning_complexity.callbacks.constraint import ComplexityConstraint
from lightning_complexity.callbacks.monitor import ComplexityMonitor
from lightning_complexity.callbacks.penalty import ComplexityPenalty
from lightning_complexity.callbacks.pruning import NeuronPruning
from lightning_complexity.callbacks.schedules import Anneal, Warmup

__all__ = [
    "Anneal",
    "ComplexityConstraint",
    "ComplexityMonitor",
    "ComplexityPenalty",
    "NeuronPruning",
    "Warmup",
]
