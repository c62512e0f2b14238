"""What objects show is how they are written, with the arguments that are not their defaults."""

from __future__ import annotations

import pytest
from torch import nn

from lightning_complexity import metrics, regularizers
from lightning_complexity.metrics import CatalogueEntry, catalogue


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.name)
def test_a_metric_without_arguments_shows_none(entry: CatalogueEntry) -> None:
    name = entry.metric.__name__
    of_margin = ("CapacityOverMargin", "NormalizedMargin")
    assert repr(entry.metric()) == (f"{name}(capacity=LogSpectralProduct())" if name in of_margin else f"{name}()")


WRITTEN = [
    "PathNorm(q=1.0, log=False)",
    "HessianTrace(num_probes=7)",
    "SpectralBound(log=False, num_samples=100)",
    "SpectralFrobeniusBound(delta=0.1)",
    "LinearRegions(along='plane')",
    "DeadUnits(count='always_on')",
    "ParameterNorm(per_layer=True)",
    "GeneralizationMeasure(of='path_norm', adjusted=True, num_samples=50)",
    "NormalizedMargin(capacity=PathNorm(q=1.0), percentile=20)",
    "ParameterNorm().on('encoder.*', Conv2d)",
    "NoiseSensitivity(of='softmax', sigma=0.5)",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_what_is_shown_makes_the_same_again(text: str) -> None:
    names = {entry.metric.__name__: entry.metric for entry in catalogue()} | {"Conv2d": nn.Conv2d}
    assert repr(eval(text, names)) == text


def test_penalties_show_their_strength_and_what_they_measure() -> None:
    assert repr(regularizers.PathNorm(0.1)) == "PathNorm(0.1)"
    assert repr(regularizers.JacobianNorm(0.01, num_projections=1)) == "JacobianNorm(0.01, num_projections=1)"
    assert repr(regularizers.Regularizer(1.0, metrics.PathNorm(q=1.0))) == "Regularizer(1.0, PathNorm(q=1.0))"
    assert repr(regularizers.StableRank(0.5).on("head")) == "StableRank(0.5).on('head')"
