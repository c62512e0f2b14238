"""Penalties on the rise of the loss around the parameters."""

from __future__ import annotations

from lightning_complexity.metrics.loss_surface import flatness
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["SAMSharpness"]


class SAMSharpness(Regularizer):
    r"""Penalty on :class:`metrics.SAMSharpness <lightning_complexity.metrics.SAMSharpness>` of the batch.

    Its gradient is that of :math:`L(w + e(w)) - L(w)`, with the derivative of the step :math:`e`: two forward and
    backward passes, and one product with the Hessian. :class:`callbacks.SharpnessAwareMinimization
    <lightning_complexity.callbacks.SharpnessAwareMinimization>` leaves that derivative out, and minimizes
    :math:`L(w + e)` alone, which costs two steps.

    Args:
        strength: Factor. With 1 the sum with the loss is :math:`L(w + e)`.
        rho: Length of the step.
        adaptive: Whether the length is relative to the parameters.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> SAMSharpness(1.0)(net, torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 0])).backward()
    """

    example_strength = 3.0

    def __init__(self, strength: float = 1.0, *, rho: float = 0.05, adaptive: bool = False) -> None:
        super().__init__(strength, flatness.SAMSharpness(rho, adaptive=adaptive))
