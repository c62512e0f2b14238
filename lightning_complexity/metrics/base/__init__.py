"""What metrics are made from: bases by what the number is."""

from lightning_complexity.metrics.base.layers import LayerMetric, SpectrumMetric, WeightMetric, stacked
from lightning_complexity.metrics.base.metric import ComplexityMetric, Cost, Need, Suite, latest
from lightning_complexity.metrics.base.probes import ProbedMetric
from lightning_complexity.metrics.base.samples import (
    SampleDistributionMetric,
    SampleMeanMetric,
    WeightsAndSamplesMetric,
)

__all__ = [
    "ComplexityMetric",
    "Cost",
    "LayerMetric",
    "Need",
    "ProbedMetric",
    "SampleDistributionMetric",
    "SampleMeanMetric",
    "SpectrumMetric",
    "Suite",
    "WeightMetric",
    "WeightsAndSamplesMetric",
    "latest",
    "stacked",
]
