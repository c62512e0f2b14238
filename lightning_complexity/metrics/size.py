"""How large a network is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_complexity.functional.size import num_entries
from lightning_complexity.metrics.base import LayerMetric
from lightning_complexity.network import Snapshot

__all__ = ["ParameterCount"]


class ParameterCount(LayerMetric):
    r"""Number of parameters, tied ones counted once.

    .. math:: \omega = \sum_i |\theta_i|

    Equation 20 of Jiang et al. (ICLR 2020) up to the biases, which count here. A network without
    parameters has 0.

    Args:
        trainable_only: Whether frozen parameters are left out.
        per_layer: Whether ``compute`` returns the count of each parameter by name.

    Example:
        >>> metric = ParameterCount()
        >>> metric.update(torch.nn.Linear(3, 2))
        >>> metric.compute()
        tensor(8)
    """

    name = "parameter_count"
    formula = r"\sum_i \lvert \theta_i \rvert"
    reference = "Jiang et al., ICLR 2020, eq. 20"

    def __init__(self, *, trainable_only: bool = False, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        self.trainable_only = trainable_only

    def layers(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Number of entries of each parameter."""
        parameters = snapshot.trainable if self.trainable_only else snapshot.parameters
        return {name: torch.tensor(num_entries([p]), device=p.device) for name, p in parameters.items()}

    def combine(self, values: Tensor) -> Tensor:
        """Sum of the counts."""
        return values.sum()
