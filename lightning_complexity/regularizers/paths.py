"""Penalties on norms over paths."""

from __future__ import annotations

from lightning_complexity.metrics.weights import paths
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["PathNorm"]


class PathNorm(Regularizer):
    """Penalty on :class:`metrics.PathNorm <lightning_complexity.metrics.PathNorm>`, by default its logarithm.

    One extra forward and backward pass of a single sample. BatchNorm counts with its running statistics,
    which are constants to the gradient. With ``log=True`` the value is ``-inf`` and the gradient
    ``nan`` if all paths are zero; the gradient of the logarithm grows as the norm shrinks, so
    that a large strength with a large learning rate overshoots and can end higher than without the penalty.

    Args:
        strength: Factor.
        q: Exponent, at least 1.
        log: Whether the logarithm is penalised.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> PathNorm(1e-4)(net, torch.zeros(1, 4)).backward()
    """

    example_strength = 0.05

    def __init__(self, strength: float = 1e-4, *, q: float = 2, log: bool = True) -> None:
        super().__init__(strength, paths.PathNorm(q, log=log))
