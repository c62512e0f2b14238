"""Parts of a probe that several processes measure, so that together they have measured the whole."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.network import Batches, Snapshot
from lightning_complexity.network.running.batches import can_be_cut, map_tensors
from lightning_complexity.network.running.ranks import Ranks

# Losses that are by default the mean of the samples' own, if each sample has as many entries.
_MEANS = (
    F.cross_entropy,
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.binary_cross_entropy_with_logits,
)
_MEAN_MODULES = (
    nn.CrossEntropyLoss,
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCEWithLogitsLoss,
)


def shard_of_samples(batches: Batches, ranks: Ranks) -> Batches | None:
    """Those samples, in order, that one process measures.

    Args:
        batches: The whole probe. Batches that cannot be cut into samples are given out whole.
        ranks: The processes.

    Returns:
        The shard; ``None`` where processes cannot have as many samples each.

    Example:
        >>> import torch
        >>> batches = Batches.of(torch.arange(6))
        >>> [shard_of_samples(batches, Ranks(rank, 2)).batches for rank in range(2)]
        [(tensor([0, 1, 2]),), (tensor([3, 4, 5]),)]
    """
    if not all(map(can_be_cut, batches.batches)):
        return _shard_of(list(zip(batches.batches, batches.sizes, strict=True)), batches.at_once, ranks)
    each, rest = divmod(batches.num_samples, ranks.count)
    if rest or not each:
        return None
    first, last = ranks.rank * each, (ranks.rank + 1) * each
    parts, start = [], 0
    for batch, size in zip(batches.batches, batches.sizes, strict=True):
        begin, end = max(first - start, 0), min(last - start, size)
        if begin < end:
            parts.append((_cut(batch, begin, end), end - begin))
        start += size
    cut, sizes = zip(*parts, strict=True)
    return Batches(tuple(cut), tuple(sizes), batches.at_once)


def shard_of_pieces(batches: Batches, ranks: Ranks) -> Batches | None:
    """What one process gives to a loss that takes batches: some of the pieces that it is given at once.

    All processes have as many, of the same sizes, since a step may gather the results of others.

    Returns:
        The shard; ``None`` where pieces cannot be given out evenly.
    """
    return _shard_of(list(batches.pieces()), batches.at_once, ranks)


def _shard_of(pieces: list[tuple[Any, int]], at_once: int | None, ranks: Ranks) -> Batches | None:
    each, rest = divmod(len(pieces), ranks.count)
    sizes = [size for _, size in pieces]
    if rest or not each or sizes != sizes[:each] * ranks.count:
        return None
    own = pieces[ranks.rank * each : (ranks.rank + 1) * each]
    return Batches(tuple(batch for batch, _ in own), tuple(size for _, size in own), at_once)


def _cut(batch: Any, begin: int, end: int) -> Any:
    return map_tensors(lambda t: t[begin:end] if t.ndim else t, batch)


def is_mean_over_samples(snapshot: Snapshot) -> bool:
    """Whether the loss of outputs and targets is surely the mean of its values on any equal parts of the samples.

    That cannot be told of a function that the user wrote, and does not hold where targets are ignored or weighted.
    """
    loss = snapshot.task.loss
    if loss is not None and not _is_plain_mean(loss):
        return False
    targets = snapshot.targets if snapshot.has("targets") else None
    if not isinstance(targets, Tensor):
        return False
    return targets.is_floating_point() or not bool((targets == snapshot.task.ignore_index).any())


def _is_plain_mean(loss: Callable[..., Any]) -> bool:
    if isinstance(loss, functools.partial):
        return (
            not loss.args and set(loss.keywords) <= {"label_smoothing", "delta", "beta"} and _is_plain_mean(loss.func)
        )
    if isinstance(loss, nn.Module):
        weighted = any(getattr(loss, name, None) is not None for name in ("weight", "pos_weight"))
        return type(loss) in _MEAN_MODULES and loss.reduction == "mean" and not weighted
    return loss in _MEANS
