"""Flatness of the loss that does not change when layers are rescaled."""

from __future__ import annotations

from torch import Tensor

from lightning_complexity.metrics.base import SampleMeanMetric
from lightning_complexity.network import Context, Snapshot
from lightning_complexity.network.curvature.last_layer import last_layer
from lightning_complexity.network.curvature.output_curvature import output_curvature

__all__ = ["RelativeFlatness"]


class RelativeFlatness(SampleMeanMetric):
    r"""Relative flatness of the last layer: its curvature, weighted by its weights.

    .. math:: \kappa = \sum_{s, t} \langle w_s, w_t \rangle \operatorname{tr} H_{st}

    with :math:`w_s` the weights of output :math:`s` and :math:`H_{st}` the block of the Hessian for two of them. One
    forward pass, since it is a mean over samples of :math:`\lVert \phi \rVert^2 \operatorname{tr} W^T H_z W` with the
    features :math:`\phi` that enter the layer and the Hessian :math:`H_z` of the loss for the outputs: for the
    cross-entropy
    :math:`\lVert \phi \rVert^2 \big( \sum_s p_s \lVert w_s \rVert^2 - \lVert \sum_s p_s w_s \rVert^2 \big)`. It does
    not change when the layer is multiplied and its features divided by a number. Low is flat. The standard error is
    over samples.

    Args:
        per_layer: Must be ``False``.

    Raises:
        ValueError: In ``update``, if the outputs are not those of a linear layer for one row of features a sample, or
        if the loss is no convex function of outputs and targets.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(net.weight, 2.0)
        >>> metric = RelativeFlatness()
        >>> metric.update(net, torch.tensor([[3.0]]), torch.zeros(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # 2^2 times the second derivative, 18
        tensor(72., dtype=torch.float64)
    """

    name = "relative_flatness"
    units = "loss"
    increases_with_complexity = True
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "forward"
    order = 0
    formula = r"\sum_{s, t} \langle w_s, w_t \rangle \operatorname{tr} H_{st}"
    reference = "Petzka et al., NeurIPS 2021"
    misleads_when = "training loss is near zero, where it vanishes with the loss; features change, as in other networks"

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The part of each sample."""
        layer = last_layer(snapshot)
        traces = output_curvature(snapshot).trace_between(layer.weight)
        return snapshot.num_samples * layer.features.square().sum(1) * traces
