"""How a network attends to the batch."""

from __future__ import annotations

import torch

from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.attention import Attention, capture_attention


@shared
def attention(snapshot: Snapshot) -> list[Attention]:
    """Entropy and largest logit of each call of attention, by sample, in running order. Needs inputs.

    Raises:
        MeasureError: If the network has no attention, or not for each sample apart.
    """
    parts = list(snapshot.run_chunks(capture_attention))
    if not parts[0]:
        raise MeasureError("needs a network with attention; this one computes none.")
    return [
        Attention(calls[0].name, torch.cat([c.entropy for c in calls]), torch.cat([c.largest_logit for c in calls]))
        for calls in zip(*parts, strict=True)
    ]
