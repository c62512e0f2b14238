"""Measures of how far weight matrices are from random ones."""

from __future__ import annotations

from typing import Any, get_args

from torch import Tensor

from lightning_complexity.functional.weights.random_matrices import BulkVariance, marchenko_pastur_soft_rank
from lightning_complexity.metrics.base import WeightMetric
from lightning_complexity.network import Context, Snapshot

__all__ = ["MarchenkoPasturSoftRank"]


class MarchenkoPasturSoftRank(WeightMetric):
    r"""Mean share of the weight matrices' largest eigenvalues that random entries would explain.

    .. math:: \frac{1}{L} \sum_i \frac{\lambda_i^+}{\lambda_{i, \max}}, \quad
        \lambda_i^+ = \sigma_i^2 \big( \sqrt{N_i} + \sqrt{M_i} \big)^2

    with :math:`\lambda = s^2` and :math:`\sigma_i^2` the variance of the random part of the layer's entries. About 1
    for a layer with independent entries, as at initialization; training lowers it when single directions grow out of
    the bulk. Unchanged when a layer is scaled. A layer with few eigenvalues has no bulk to speak of, and a value that
    means little; it can be above 1. ``nan`` if a layer is zero.

    Args:
        variance: What :math:`\sigma_i^2` is taken from: ``"median"``, the median eigenvalue; or ``"entries"``, the mean
            of the squared entries, which a large eigenvalue raises too. It is logged with ``_of_entries`` then. See
            :func:`lightning_complexity.functional.marchenko_pastur_soft_rank`.
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the value of each weight by name.

    Raises:
        ValueError: If ``variance`` is none of the two; in ``update``, if the network has no weight matrix.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([3.0, 1.0])))
        >>> metric = MarchenkoPasturSoftRank("entries")
        >>> metric.update(net)
        >>> metric.compute()  # 10 / 4 * 8 / 9
        tensor(2.2222)
    """

    name = "marchenko_pastur_soft_rank"
    no_penalty_reason = "where the bulk ends is an estimate, from the median eigenvalue alone"
    increases_with_complexity = None
    formula = (
        r"\frac{1}{L} \sum_i \sigma_i^2 \big( \sqrt{N_i} + \sqrt{M_i} \big)^2 / \lambda_{i, \max}, "
        r"\quad \lambda = s^2"
    )
    reference = "after Martin and Mahoney, JMLR 2021; variance from the median: Gavish and Donoho, 2014"
    units = "pure number"
    misleads_when = "layers are small, or initialized otherwise than by independent entries: they have no random bulk"

    def __init__(
        self,
        variance: BulkVariance = "median",
        *,
        fold_batch_norm: bool = False,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if variance not in get_args(BulkVariance):
            raise ValueError(f"variance must be one of {', '.join(get_args(BulkVariance))}, got {variance!r}.")
        super().__init__(fold_batch_norm=fold_batch_norm, per_layer=per_layer, **kwargs)
        self.variance = variance
        if variance == "entries":
            self.name = f"{self.name}_of_entries"

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """The value of each weight."""
        spectra, values = self.spectra(snapshot, context), {}
        for weight in self.weights(snapshot, context):
            rows, columns = weight.blocks.shape[-2:]
            value = marchenko_pastur_soft_rank(spectra[weight.name], rows, columns, self.variance)
            values[weight.name] = value.to(weight.blocks.dtype)
        return values

    def combine(self, values: Tensor) -> Tensor:
        """Mean over layers."""
        return values.mean()
