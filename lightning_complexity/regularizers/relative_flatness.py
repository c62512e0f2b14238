"""Penalties on flatness."""

from __future__ import annotations

from lightning_complexity.metrics.loss_surface import relative_flatness
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["RelativeFlatness"]


class RelativeFlatness(Regularizer):
    """Penalty on :class:`metrics.RelativeFlatness <lightning_complexity.metrics.RelativeFlatness>` of the batch.

    The one curvature penalty that takes no second derivative of the network: a forward and a backward pass.

    Args:
        strength: Factor.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> RelativeFlatness(1e-3)(net, torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 0])).backward()
    """

    example_strength = 0.01

    def __init__(self, strength: float = 1e-3) -> None:
        super().__init__(strength, relative_flatness.RelativeFlatness())
