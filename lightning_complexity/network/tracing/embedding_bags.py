"""Bags of embeddings with dense gradients, and made from operations that can be differentiated twice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dense_embedding_bag(
    input: Tensor,  # noqa: A002 (the operation's signature)
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,  # noqa: ARG001
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """``F.embedding_bag`` with a dense gradient."""
    return F.embedding_bag(
        input,
        weight,
        offsets,
        max_norm,
        norm_type,
        scale_grad_by_freq,
        mode,
        False,
        per_sample_weights,
        include_last_offset,
        padding_idx,
    )


def embedding_bag(
    input: Tensor,  # noqa: A002 (the operation's signature)
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,  # noqa: ARG001
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """``F.embedding_bag``, which torch differentiates once, as an embedding whose rows are added up.

    Example:
        >>> embedding_bag(torch.tensor([[0, 1]]), torch.tensor([[1.0], [5.0]]))
        tensor([[3.]])
    """
    bags, num_bags = _bags(input, offsets, include_last_offset)
    indices = input.reshape(-1)[: len(bags)]
    rows = F.embedding(indices, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1, 1)[: len(bags)]
    if padding_idx is not None:
        used = indices != padding_idx % len(weight)
        bags, rows = bags[used], rows[used]
    empty = rows.new_zeros(num_bags, weight.shape[1])
    if mode == "max":
        return empty.scatter_reduce(0, bags[:, None].expand_as(rows), rows, "amax", include_self=False)
    sums = empty.index_add(0, bags, rows)
    if mode == "sum":
        return sums
    return sums / torch.bincount(bags, minlength=num_bags).clamp(min=1)[:, None]


def _bags(indices: Tensor, offsets: Tensor | None, include_last_offset: bool) -> tuple[Tensor, int]:
    """The bag of each index, and how many bags there are."""
    if offsets is None:
        return torch.arange(len(indices), device=indices.device).repeat_interleave(indices.shape[1]), len(indices)
    count = int(offsets[-1]) if include_last_offset else len(indices)
    starts = offsets[:-1] if include_last_offset else offsets
    positions = torch.arange(count, device=indices.device)
    return torch.searchsorted(starts.contiguous(), positions, right=True) - 1, len(starts)
