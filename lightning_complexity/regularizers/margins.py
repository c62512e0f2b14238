"""Penalties on small margins."""

from __future__ import annotations

from lightning_complexity.metrics import margins
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["SmoothMarginLoss"]


class SmoothMarginLoss(Regularizer):
    """Penalty on :class:`metrics.SmoothMarginLoss <lightning_complexity.metrics.SmoothMarginLoss>` of the batch.

    Smooth everywhere; weights that are zero are no exception. It pushes margins up to ``margin`` and little further,
    unlike the cross-entropy, which is the same with ``margin=0``.

    Args:
        strength: Factor.
        margin: Margin that is aimed at.
        temperature: How smooth, positive.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(4, 3)
        >>> SmoothMarginLoss(0.1)(net, torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).backward()
    """

    example_strength = 1.0

    def __init__(self, strength: float = 1e-2, *, margin: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__(strength, margins.SmoothMarginLoss(margin, temperature=temperature))
