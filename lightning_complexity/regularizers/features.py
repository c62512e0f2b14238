"""Penalties on the features of a network."""

from __future__ import annotations

from lightning_complexity.metrics.representation import features
from lightning_complexity.network.tracing.calls import Layer
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["FeatureEffectiveRank"]


class FeatureEffectiveRank(Regularizer):
    """Penalty on :class:`metrics.FeatureEffectiveRank <lightning_complexity.metrics.FeatureEffectiveRank>`.

    That of the batch. One singular value decomposition of the features. A negative strength keeps features from
    collapsing. Features that are all zero have no rank, and value and gradient are ``nan`` there.

    Args:
        strength: Factor.
        layer: A module's name, or a place among the linear and convolution modules in running order, whose input the
            features are.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> FeatureEffectiveRank(1e-2)(net, torch.randn(5, 4)).backward()
    """

    example_strength = 0.02

    def __init__(self, strength: float = 1e-2, *, layer: Layer = -1) -> None:
        super().__init__(strength, features.FeatureEffectiveRank(layer))
