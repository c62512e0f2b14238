"""Penalties on how nonlinear the units of a network are."""

from __future__ import annotations

from lightning_complexity.metrics.function import lann
from lightning_complexity.metrics.function.lann import Coefficient
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["CustomizedL1"]


class CustomizedL1(Regularizer):
    """Penalty on :class:`metrics.CustomizedL1 <lightning_complexity.metrics.CustomizedL1>` of the batch.

    The gradient is that of an L1 penalty with a strength of its own for each unit, which each batch sets anew; the
    coefficients themselves are not differentiated.

    Args:
        strength: Factor.
        coefficient: ``"slope"``, ``"curvature"``, ``"pieces"`` or ``"uniform"``.
        degree: Of the linear pieces, where they are the coefficient.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> CustomizedL1(1e-3)(net, torch.randn(5, 4)).backward()
    """

    example_strength = 3e-4

    def __init__(self, strength: float = 1e-3, coefficient: Coefficient = "slope", *, degree: float = 0.1) -> None:
        super().__init__(strength, lann.CustomizedL1(coefficient, degree=degree))
