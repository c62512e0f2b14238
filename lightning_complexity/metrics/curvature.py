"""Curvature of the loss at the current parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_complexity.functional.curvature import hutchinson_samples
from lightning_complexity.metrics.base import ProbedMetric
from lightning_complexity.network import Context, HessianOperator, Snapshot

__all__ = ["HessianTrace"]


class HessianTrace(ProbedMetric):
    r"""Trace of the Hessian of the mean loss with respect to the trained parameters, by Hutchinson's estimator.

    .. math:: \operatorname{tr} H \approx \frac{1}{m} \sum_{j=1}^{m} v_j^T H v_j, \quad v_j \in \{-1, 1\}^d

    Unbiased; ``standard_error()`` is over the ``m`` probes. One backward pass over a retained graph for each.
    The probes are the same every time, so that a curve over training does not jump. Per layer: the trace
    of each parameter's diagonal block. For a piecewise-linear network this is also the trace of the
    Gauss-Newton matrix, as the network is linear in each single parameter.

    Args:
        num_probes: Number ``m`` of random vectors.
        per_layer: Whether ``compute`` returns the trace for each parameter by name.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> metric = HessianTrace(num_probes=1)
        >>> metric.update(net, torch.tensor([[3.0]]), torch.zeros(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # the second derivative of (3 w)^2
        tensor(18., dtype=torch.float64)
    """

    name = "hessian_trace"
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "hessian"
    order = 2
    formula = r"\operatorname{tr} \nabla_\theta^2 L"
    reference = "Hutchinson, 1990; Yao et al., PyHessian, 2020"
    misleads_when = (
        "layers were rescaled: with ReLU the same function has any trace; near zero training loss it vanishes "
        "with the loss, whatever was learned; optimizers with large steps lower it without lowering the gap"
    )

    def __init__(self, num_probes: int = 8, *, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(num_probes, per_layer=per_layer, **kwargs)

    def probe(self, snapshot: Snapshot, context: Context) -> tuple[list[str], Tensor]:
        """Samples of the trace of each parameter's block."""
        hessian = HessianOperator(snapshot, context.layers)
        samples = hutchinson_samples(hessian, self.num_probes, generator=context.generator())
        return list(hessian.blocks), samples
