"""Norms of the parameters, and how far they have moved."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_complexity.functional.norms import combine_norms, lp_norm
from lightning_complexity.metrics.base import LayerMetric
from lightning_complexity.network import Snapshot

__all__ = ["DistanceFromInitialization", "ParameterNorm"]


class _ParameterLpMetric(LayerMetric):
    def __init__(self, p: float = 2, *, per_layer: bool = False, **kwargs: Any) -> None:
        if not p >= 1:
            raise ValueError(f"p must be at least 1 for a norm, got {p!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.p = p

    def combine(self, values: Tensor) -> Tensor:
        """The norm of the norms."""
        return combine_norms(values, self.p)


class ParameterNorm(_ParameterLpMetric):
    r"""Norm of all parameters, biases and normalization layers included.

    .. math:: \|\theta\|_p = \Big( \sum_k |\theta_k|^p \Big)^{1/p}

    Tied parameters count once. The gradient at zero parameters is 0.

    Args:
        p: At least 1; ``inf`` for the largest absolute value.
        per_layer: Whether ``compute`` returns the norm of each parameter by name.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(1, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0], [4.0]]))
        >>> metric = ParameterNorm()
        >>> metric.update(net)
        >>> metric.compute()
        tensor(5.)
    """

    name = "parameter_norm"
    formula = r"\lVert \theta \rVert_p"
    reference = "Jiang et al., ICLR 2020, eq. 42 (its square, of weight matrices)"

    def layers(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Norm of each parameter."""
        return {name: lp_norm(p, self.p) for name, p in snapshot.parameters.items()}


class DistanceFromInitialization(_ParameterLpMetric):
    r"""How far all parameters have moved from where they started.

    .. math:: \|\theta - \theta_0\|_p

    Needs ``initial``, the parameters at the start; :class:`lightning_complexity.ComplexityMonitor` keeps them by
    itself. Where nothing has moved the gradient is 0.

    Args:
        p: At least 1; ``inf`` for the largest absolute change.
        per_layer: Whether ``compute`` returns the distance of each parameter by name.

    Raises:
        ValueError: In ``update``, if a parameter was not there at the start.

    Example:
        >>> import torch
        >>> from lightning_complexity.network import initial_parameters
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> start = initial_parameters(net)
        >>> _ = net.weight.data.add_(2.0)
        >>> metric = DistanceFromInitialization()
        >>> metric.update(net, initial=start)
        >>> metric.compute()
        tensor(2.)
    """

    name = "distance_from_initialization"
    needs = frozenset({"initial"})
    formula = r"\lVert \theta - \theta_0 \rVert_p"
    reference = "Nagarajan and Kolter, 2019; Jiang et al., ICLR 2020, eq. 40 (its square, of weight matrices)"

    def layers(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Distance of each parameter."""
        initial = snapshot.initial
        changed = [n for n, p in snapshot.parameters.items() if n not in initial or initial[n].shape != p.shape]
        if changed:
            raise ValueError(
                f"the initial parameters do not fit the network: {changed[0]!r} was not there, or had another shape."
            )
        return {name: lp_norm(p - initial[name].to(p), self.p) for name, p in snapshot.parameters.items()}
