"""Margins of a classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_complexity.functional.margins import margin_percentile
from lightning_complexity.metrics.base import SampleDistributionMetric
from lightning_complexity.network import Snapshot

__all__ = ["MarginPercentile"]


class MarginPercentile(SampleDistributionMetric):
    r"""A percentile of the signed margins of the samples.

    .. math:: \text{percentile}_i \big( f(x_i)_{y_i} - \max_{c \ne y_i} f(x_i)_c \big)

    Negative while more than that share of samples is misclassified. It has the units of the logits:
    compare it between networks only after dividing by a norm. Keeps one number for every sample, so
    that any number of batches gives the percentile of all of them.

    Args:
        percentile: Between 0 and 100.
        per_layer: Must be ``False``, a margin has no layers.

    Example:
        >>> import torch
        >>> metric = MarginPercentile(percentile=0)
        >>> metric.update(torch.nn.Identity(), torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(1.)
    """

    name = "margin_percentile"
    needs = frozenset({"inputs", "targets"})
    cost = "forward"
    increases_with_complexity = None
    formula = r"\text{percentile}_i \big( f(x_i)_{y_i} - \max_{c \neq y_i} f(x_i)_c \big)"
    reference = "Jiang et al., ICLR 2020, eq. 22 (its inverse square)"

    def __init__(self, percentile: float = 10, *, per_layer: bool = False, **kwargs: Any) -> None:
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile must be between 0 and 100, got {percentile!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.percentile = percentile

    def per_sample(self, snapshot: Snapshot) -> Tensor:
        """Signed margins."""
        return snapshot.margins

    def summarize(self, values: Tensor) -> Tensor:
        """The percentile."""
        return margin_percentile(values, self.percentile)

    def histograms(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """All margins."""
        return {"margin": snapshot.margins}
