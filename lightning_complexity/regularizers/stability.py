"""Penalties on how sharp the loss is along a step."""

from __future__ import annotations

from lightning_complexity.metrics.loss_surface import stability
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["CriticalSharpness"]


class CriticalSharpness(Regularizer):
    r"""Penalty on :class:`metrics.CriticalSharpness <lightning_complexity.metrics.CriticalSharpness>` of the batch.

    Along the negative gradient, for no optimizer is given here: an upper limit :math:`2 / \eta` in a
    :class:`lightning_complexity.ComplexityConstraint` keeps plain gradient steps of rate :math:`\eta` from raising the
    loss. The gradient is exact: the step :math:`\eta_c` is where :math:`L(\theta - \eta_c g) = L(\theta)`, and
    differentiating this equation takes one product with the Hessian and a gradient at the other end. Where the step is
    not found, as where the loss falls without end, the penalty is a constant.

    Args:
        strength: Factor.
        tolerance: Of the step, relative.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> CriticalSharpness(1e-2)(net, torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 0])).backward()
    """

    example_strength = 0.01

    def __init__(self, strength: float = 1e-2, *, tolerance: float = 1e-5) -> None:
        super().__init__(strength, stability.CriticalSharpness(tolerance=tolerance))
