"""Curvature of the loss at the current parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_complexity.functional.curvature import hutchinson_samples
from lightning_complexity.functional.linear_operators import LinearOperator
from lightning_complexity.metrics.base import ProbedMetric
from lightning_complexity.network import Snapshot

__all__ = ["HessianTrace"]


class _Hessian(LinearOperator):
    """The Hessian of a snapshot's mean loss, one block for each trained parameter."""

    def __init__(self, snapshot: Snapshot) -> None:
        parameters = snapshot.trainable
        blocks = {name: p.numel() for name, p in parameters.items()}
        first, size = next(iter(parameters.values())), sum(blocks.values())
        super().__init__((size, size), dtype=first.dtype, device=first.device, blocks=blocks)
        self.snapshot = snapshot

    def matvec(self, v: Tensor) -> Tensor:
        """The product with a vector."""
        return self.snapshot.hvp(v)


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
    formula = r"\operatorname{tr} \nabla_\theta^2 L"
    reference = "Hutchinson, 1990; Yao et al., PyHessian, 2020"

    def __init__(self, num_probes: int = 8, *, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(num_probes, per_layer=per_layer, **kwargs)

    def probe(self, snapshot: Snapshot) -> tuple[list[str], Tensor]:
        """Samples of the trace of each parameter's block."""
        hessian = _Hessian(snapshot)
        return list(hessian.blocks), hutchinson_samples(hessian, self.num_probes, generator=snapshot.generator())
