"""Penalties on how sure a network is."""

from __future__ import annotations

from lightning_complexity.metrics.function import information
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["OutputEntropy"]


class OutputEntropy(Regularizer):
    """Penalty on :class:`metrics.OutputEntropy <lightning_complexity.metrics.OutputEntropy>` of the batch.

    A negative strength, as by default, is the confidence penalty: it keeps the network from being sure. Smooth
    everywhere; weights that are zero are no exception.

    Args:
        strength: Factor.

    References:
        Pereyra et al., "Regularizing neural networks by penalizing confident output distributions", 2017.

    Example:
        >>> import torch
        >>> OutputEntropy(-0.1)(torch.nn.Linear(4, 3), torch.randn(5, 4)).backward()
    """

    example_strength = -0.2

    def __init__(self, strength: float = -0.1) -> None:
        super().__init__(strength, information.OutputEntropy())
