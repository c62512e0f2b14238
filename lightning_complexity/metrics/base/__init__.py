"""What metrics are made from: bases by what the number is."""

from lightning_complexity.metrics.base.curves import Curve
from lightning_complexity.metrics.base.features import ClassFeatureMetric, FeatureMetric
from lightning_complexity.metrics.base.layers import LayerMetric, ParameterMetric, SpectrumMetric, WeightMetric, stacked
from lightning_complexity.metrics.base.live import LiveMetric, live_steps
from lightning_complexity.metrics.base.metric import ComplexityMetric, Cost, Need, Suite, latest
from lightning_complexity.metrics.base.probes import ProbedMetric
from lightning_complexity.metrics.base.samples import (
    SampleDistributionMetric,
    SampleMeanByParameter,
    SampleMeanMetric,
    WeightsAndSamplesMetric,
)

__all__ = [
    "ClassFeatureMetric",
    "ComplexityMetric",
    "Cost",
    "Curve",
    "FeatureMetric",
    "LayerMetric",
    "LiveMetric",
    "Need",
    "ParameterMetric",
    "ProbedMetric",
    "SampleDistributionMetric",
    "SampleMeanByParameter",
    "SampleMeanMetric",
    "SpectrumMetric",
    "Suite",
    "WeightMetric",
    "WeightsAndSamplesMetric",
    "latest",
    "live_steps",
    "stacked",
]
