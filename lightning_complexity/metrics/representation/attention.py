"""How a network's attention is spread."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_complexity.metrics.base import SampleDistributionMetric
from lightning_complexity.network import Context, Snapshot
from lightning_complexity.network.attention import attention
from lightning_complexity.network.tracing.attention import Attention

__all__ = ["AttentionEntropy", "LargestAttentionLogit"]


class _AttentionMetric(SampleDistributionMetric):
    """A number of each sample and each call of attention; keeps them."""

    needs = frozenset({"inputs"})
    cost = "forward"
    has_layers = True
    suite = None
    layer_names: list[str]

    @abstractmethod
    def of_call(self, call: Attention) -> Tensor:
        """The number of each sample, shape ``(n,)``."""

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The numbers of each call, shape ``(n, calls)``."""
        calls = attention(snapshot)
        self.layer_names = [call.name for call in calls]
        return torch.stack([self.of_call(call) for call in calls], 1)

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_note("layer_names", [])

    def parts(self) -> dict[str, Tensor]:
        """The values of each call of attention, by the module that calls it."""
        return dict(zip(self.layer_names, map(self.summarize, dim_zero_cat(self.values).unbind(1)), strict=True))


class AttentionEntropy(_AttentionMetric):
    r"""Entropy of the attention of a query, mean over samples, layers, heads and queries, in nats.

    .. math:: -\sum_j p_j \ln p_j, \quad p = \operatorname{softmax}(q K^T / \sqrt{d})

    0 where every query looks at one key, the logarithm of the number of keys where it looks at all alike. After the
    authors a collapse towards 0 goes with unstable training. Attention is a softmax over the last dimension whose
    result a matrix product takes as its first factor: that of ``scaled_dot_product_attention``,
    ``MultiheadAttention``, and attention that a network writes out. Queries that padding stands for count too.

    Args:
        per_layer: Whether ``compute`` returns the values by the module that calls attention.

    Raises:
        MeasureError: In ``update``, if the network has no attention.

    Example:
        >>> layer = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        >>> metric = AttentionEntropy()
        >>> metric.update(layer, torch.zeros(3, 5, 4))
        >>> metric.compute()  # ln 5
        tensor(1.6094)
    """

    name = "attention_entropy"
    units = "nats"
    no_penalty_reason = "the spectral norms of query and key weights bound it, and are what one trains with"
    increases_with_complexity = False
    formula = r"-\sum_j p_j \ln p_j \text{ of the attention weights of a query}"
    reference = "Zhai et al., ICML 2023"
    misleads_when = "sequences differ in length or much of them is padding: it is at most the logarithm of their length"

    def of_call(self, call: Attention) -> Tensor:
        """Entropy of each sample."""
        return call.entropy

    def summarize(self, values: Tensor) -> Tensor:
        """Mean."""
        return values.mean()


class LargestAttentionLogit(_AttentionMetric):
    r"""Largest number that goes into the softmax of attention, over samples, layers, heads, queries and keys.

    .. math:: \max_{ij} \; q_i \cdot k_j / \sqrt{d}

    with what is added to it, such as masks and biases of positions. Its growth precedes attention that looks at one key
    alone, and losses that diverge in low precision.

    Args:
        per_layer: Whether ``compute`` returns the values by the module that calls attention.

    Raises:
        MeasureError: In ``update``, if the network has no attention.

    Example:
        >>> layer = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        >>> metric = LargestAttentionLogit()
        >>> metric.update(layer, torch.zeros(3, 5, 4))
        >>> metric.compute()
        tensor(0.)
    """

    name = "largest_attention_logit"
    increases_with_complexity = True
    units = "logit"
    no_penalty_reason = "one pair of positions decides it; normalized queries and keys bound it"
    formula = r"\max_{ij} \; q_i \cdot k_j / \sqrt{d}"
    reference = "after Dehghani et al., Scaling vision transformers to 22 billion parameters, ICML 2023"
    misleads_when = "a constant is added to all logits of a query, which attention does not see"

    def of_call(self, call: Attention) -> Tensor:
        """Largest logit of each sample."""
        return call.largest_logit

    def summarize(self, values: Tensor) -> Tensor:
        """Maximum."""
        return values.amax()
