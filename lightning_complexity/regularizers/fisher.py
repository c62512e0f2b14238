"""Penalties on the Fisher information."""

from __future__ import annotations

from lightning_complexity.metrics.loss_surface import fisher
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["FisherRaoNorm"]


class FisherRaoNorm(Regularizer):
    """Penalty on :class:`metrics.FisherRaoNorm <lightning_complexity.metrics.FisherRaoNorm>` of the batch.

    A forward pass and three backward passes. The gradient where the norm is zero is 0.

    Args:
        strength: Factor.
        biases: Whether parameters of one dimension count.
        squared: Whether to square the norm.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> FisherRaoNorm(1e-2)(net, torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 0])).backward()
    """

    example_strength = 0.02

    def __init__(self, strength: float = 1e-2, *, biases: bool = True, squared: bool = False) -> None:
        super().__init__(strength, fisher.FisherRaoNorm(biases=biases, squared=squared))
