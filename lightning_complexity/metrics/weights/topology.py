"""Topology of the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_complexity.functional.weights.topology import neural_persistence
from lightning_complexity.metrics.base import WeightMetric
from lightning_complexity.network import Context, Snapshot

__all__ = ["NeuralPersistence", "WeightVariance"]


class NeuralPersistence(WeightMetric):
    r"""Normalized neural persistence, mean over layers.

    .. math:: \frac{1}{L} \sum_l \frac{1}{\sqrt{v_l - 1}} \Big( 1 + \sum_{e \in T_l} (1 - w_e)^2 \Big)^{1/2},
        \quad w = |W| / \max |W|

    :math:`T_l` is the maximum spanning tree of the bipartite graph of a layer's :math:`v_l` inputs and outputs; the
    largest weight is that of all layers, chosen or not, so that they depend on each other. The authors look at linear
    layers; of a convolution it is the matrix ``(out, in * kernel)`` here, and a group is a graph of its own. Biases do
    not count. Its rise was proposed to end training early. Later work found that it says little more than the variance
    of the weights (:class:`WeightVariance`): look at both. Undefined, ``nan``, where all weights are zero.

    Args:
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the value of each weight by name.

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 0.5], [0.25, 0.1]]))
        >>> metric = NeuralPersistence()
        >>> metric.update(net)
        >>> metric.compute()  # sqrt((1 + 0.25 + 0.5625) / 3)
        tensor(0.7773)
    """

    name = "neural_persistence"
    units = "pure number"
    no_penalty_reason = "its gradient moves the weights of a spanning tree alone, which is another one the step after"
    increases_with_complexity = None
    formula = r"\operatorname{mean}_l (v_l - 1)^{-1/2} \big( 1 + \sum_{e \in T_l} (1 - w_e)^2 \big)^{1/2}"
    reference = "Rieck et al., ICLR 2019; against the variance of weights: Girrbach et al., 2023"
    misleads_when = "it is read as more than spread of the weights: shuffling them leaves it nearly unchanged"

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """The persistence of each weight."""
        of_all = self.weights(snapshot, Context())
        largest = torch.stack([w.blocks.detach().abs().amax() for w in of_all]).double().amax()
        chosen = self.weights(snapshot, context)
        return {w.name: neural_persistence(w.blocks, largest).to(w.blocks) for w in chosen}

    def combine(self, values: Tensor) -> Tensor:
        """Mean over layers."""
        return values.mean()


class WeightVariance(WeightMetric):
    r"""Variance of the entries of the weight matrices, mean over layers.

    .. math:: \frac{1}{L} \sum_l \operatorname{Var}(W_l)

    What :class:`NeuralPersistence` has to beat. 0 for a layer with a single weight. In double precision.

    Args:
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the value of each weight by name.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 3.0]]))
        >>> metric = WeightVariance()
        >>> metric.update(net)
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    name = "weight_variance"
    increases_with_complexity = True
    units = "weight²"
    no_penalty_reason = "it is ParameterNorm's up to the mean of the weights, which is near zero"
    formula = r"\frac{1}{L} \sum_l \operatorname{Var}(W_l)"
    reference = "as a baseline for neural persistence: Girrbach et al., 2023"
    misleads_when = "layers are followed by normalization, so that their scale does not matter"

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """The variance of each weight."""
        return {w.name: w.blocks.double().var(correction=0) for w in self.weights(snapshot, context)}

    def combine(self, values: Tensor) -> Tensor:
        """Mean over layers."""
        return values.mean()
