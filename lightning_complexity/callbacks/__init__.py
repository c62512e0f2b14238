"""Callbacks for Lightning: measure during training, or hold complexity down."""

from lightning_complexity.callbacks.constraint import ComplexityConstraint
from lightning_complexity.callbacks.monitor import ComplexityMonitor
from lightning_complexity.callbacks.penalty import ComplexityPenalty
from lightning_complexity.callbacks.pruning import NeuronPruning
from lightning_complexity.callbacks.schedules import Anneal, Warmup
from lightning_complexity.plots.curves import plot_histories
from lightning_complexity.recording.record import Measurement, curve, read_record

__all__ = [
    "Anneal",
    "ComplexityConstraint",
    "ComplexityMonitor",
    "ComplexityPenalty",
    "Measurement",
    "NeuronPruning",
    "Warmup",
    "curve",
    "plot_histories",
    "read_record",
]
