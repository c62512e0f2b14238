"""What belongs to one measure and not to the network: seed, layer choice, warm starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_complexity.network.weights.choice import LayerChoice


@dataclass
class Context:
    """What a measure needs beside a snapshot.

    Attributes:
        seed: Start of the random numbers that estimators draw; equal seeds draw equal numbers.
        layers: Which layers count; ``None`` for all.
        warm_start: Singular vectors by layer that spectral norms start from and bring up to date, so that those of the
            next training step cost less; ``None`` to compute them anew.
    """

    seed: int = 0
    layers: LayerChoice | None = None
    warm_start: dict[str, Tensor] | None = None

    def generator(self) -> torch.Generator:
        """A fresh CPU generator with the seed."""
        return torch.Generator().manual_seed(self.seed)
