"""Penalties on the gradient of the loss."""

from __future__ import annotations

from lightning_complexity.metrics.optimization import gradients
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["GradientNorm"]


class GradientNorm(Regularizer):
    r"""Penalty on :class:`metrics.GradientNorm <lightning_complexity.metrics.GradientNorm>` of the batch.

    Its gradient is one product with the Hessian of the loss: :math:`H g / \|g\|_2` for the gradient :math:`g`, or
    :math:`2 H g` where the norm is squared. One forward, backward and double backward pass; ``outputs=`` saves the
    first. The gradient where :math:`g` is zero is 0. A loss that is linear in the parameters adds a constant.
    The force of the norm does not fade as the gradient becomes small, as that of its square does: at small strengths it
    leaves the parameters moving about, and gradients larger than without it.

    Args:
        strength: Factor.
        squared: Whether to square the norm. Gradient descent with step size :math:`h` adds :math:`h / 4` times the
            square by itself.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> GradientNorm(1e-2)(net, torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 0])).backward()
    """

    example_strength = 0.3

    def __init__(self, strength: float = 1e-2, *, squared: bool = False) -> None:
        super().__init__(strength, gradients.GradientNorm(squared=squared))
