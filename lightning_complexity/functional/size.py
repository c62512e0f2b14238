"""How large a network is."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

__all__ = ["num_entries"]


def num_entries(tensors: Iterable[Tensor]) -> int:
    """Number of entries of all tensors together, each tensor counted once.

    Args:
        tensors: Any tensors; the same object may come twice.

    Returns:
        The count.

    Example:
        >>> import torch
        >>> w = torch.zeros(3, 2)
        >>> num_entries([w, w, torch.zeros(4)])
        10
    """
    return sum({id(t): t.numel() for t in tensors}.values())
