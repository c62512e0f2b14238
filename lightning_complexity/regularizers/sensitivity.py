"""Penalties on how much the function changes with its input."""

from __future__ import annotations

from lightning_complexity.metrics import sensitivity
from lightning_complexity.metrics.sensitivity import JacobianOf
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["JacobianNorm"]


class JacobianNorm(Regularizer):
    """Penalty on :class:`metrics.JacobianNorm <lightning_complexity.metrics.JacobianNorm>` of the batch.

    With ``num_projections`` every call draws new random vectors; the first call draws those of the metric. The
    gradient where the Jacobian is zero is 0.

    Args:
        strength: Factor.
        of: ``"softmax"`` or ``"logits"``.
        num_projections: ``None`` for exact, at one double backward pass for each output.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> JacobianNorm(1e-2, num_projections=1)(net, torch.randn(5, 4)).backward()
    """

    def __init__(
        self, strength: float = 1e-3, *, of: JacobianOf = "softmax", num_projections: int | None = None
    ) -> None:
        super().__init__(strength, sensitivity.JacobianNorm(of, num_projections=num_projections))
