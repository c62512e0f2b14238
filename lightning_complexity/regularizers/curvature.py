"""Penalties on the curvature of the loss."""

from __future__ import annotations

from lightning_complexity.metrics.loss_surface import curvature
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["GaussNewtonTrace", "HessianTrace"]


class HessianTrace(Regularizer):
    r"""Penalty on :class:`metrics.HessianTrace <lightning_complexity.metrics.HessianTrace>` of the batch.

    Every call draws new probes; the first call draws those of the metric. The gradient is the exact one of the estimate
    :math:`\frac1m \sum_j v_j^T H v_j`, and so an unbiased one of the trace. It takes third derivatives: a forward pass
    and three backward passes, each through the one before, two of them for every probe. A loss that is
    quadratic in the parameters adds a constant. Where it is not convex in them the trace can be negative, and lowering
    it then strengthens negative curvature. The estimate is noisy: in twelve trainings of an MLP on digits with one
    probe a call, a strength of 0.01 lowered the trace by a tenth or more in nine, and raised it by more than half in
    two; with four probes a call it fell by 55 to 87 % in each of three. Take several probes where it must fall.

    Args:
        strength: Factor.
        num_probes: Number ``m`` of random vectors a call.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> HessianTrace(1e-3)(net, torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 0])).backward()
    """

    example_strength = 0.01

    def __init__(self, strength: float = 1e-3, *, num_probes: int = 1) -> None:
        super().__init__(strength, curvature.HessianTrace(num_probes, estimator="hutchinson"))


class GaussNewtonTrace(Regularizer):
    r"""Penalty on :class:`metrics.GaussNewtonTrace <lightning_complexity.metrics.GaussNewtonTrace>` of the batch.

    One backward pass for each probe, and one through it: less than half of what :class:`HessianTrace` costs, for the
    same curvature where the network is piecewise linear or fits well. Never negative. Every call draws new signs; with
    no more outputs than probes it is exact.

    Args:
        strength: Factor.
        num_probes: Backward passes a call at most.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> GaussNewtonTrace(1e-3)(net, torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 0])).backward()
    """

    example_strength = 0.01

    def __init__(self, strength: float = 1e-3, *, num_probes: int = 1) -> None:
        super().__init__(strength, curvature.GaussNewtonTrace(num_probes))
