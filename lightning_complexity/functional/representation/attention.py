"""How widely attention looks."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["attention_entropy"]


def attention_entropy(weights: Tensor) -> Tensor:
    r"""Entropy of the attention of each query, in nats.

    .. math:: -\sum_j p_j \ln p_j

    Args:
        weights: Attention weights, those of a query along the last dimension, shape ``(..., keys)``.

    Returns:
        Shape ``(...)``, between 0 and the logarithm of the number of keys.

    References:
        Zhai et al., "Stabilizing transformer training by preventing attention entropy collapse", ICML 2023.

    Example:
        >>> causal = torch.ones(16, 16).tril()
        >>> attention_entropy(causal / causal.sum(1, keepdim=True)).mean()  # ln(16!) / 16
        tensor(1.9170)
    """
    return -torch.xlogy(weights, weights).sum(-1)
