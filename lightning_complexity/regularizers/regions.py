"""Penalties on how near the boundaries of linear regions are."""

from __future__ import annotations

from lightning_complexity.metrics.function import regions
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["SmoothLocalComplexity"]


class SmoothLocalComplexity(Regularizer):
    """Penalty on the kinks that pass near the samples of the batch.

    That is :class:`metrics.SmoothLocalComplexity <lightning_complexity.metrics.SmoothLocalComplexity>`.
    Moves kinks away from the samples, so that the network has fewer linear regions near them. Every call draws a new
    neighbourhood; the first call draws that of the metric. A forward and backward pass of ``2 num_directions``
    rows for each sample: with the default it costs several training steps.

    Args:
        strength: Factor.
        radius: Distance of the vertices from the sample, to be chosen after the scale of the data.
        num_directions: Directions of the neighbourhood; default 25, or the number of inputs if that is less.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> SmoothLocalComplexity(1e-2, radius=0.5, num_directions=2)(net, torch.randn(5, 4)).backward()
    """

    example_strength = 0.03

    def __init__(self, strength: float = 1e-2, *, radius: float = 0.05, num_directions: int | None = None) -> None:
        super().__init__(strength, regions.SmoothLocalComplexity(radius, num_directions=num_directions))
