"""Norms of the parameters, and how far they have moved."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from lightning_complexity.functional.norms import combine_norms, group_norm, lp_norm
from lightning_complexity.functional.spectra import schatten_norm
from lightning_complexity.metrics.base import LayerMetric, WeightMetric
from lightning_complexity.network import Snapshot

__all__ = ["DistanceFromInitialization", "LogNormProduct", "LogNormSum", "ParameterNorm"]

LayerNorm = Literal["frobenius", "spectral", "trace"] | tuple[float, float]


def _norm_name(norm: LayerNorm) -> str:
    if isinstance(norm, tuple) and len(norm) == 2 and all(order >= 1 for order in norm):
        return "_".join(f"{order:g}".replace(".", "p") for order in norm)
    if norm in ("frobenius", "spectral", "trace"):
        return str(norm)
    raise ValueError(f'norm must be "frobenius", "spectral", "trace" or a pair of numbers of at least 1, got {norm!r}.')


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


class LogNormProduct(WeightMetric):
    r"""Logarithm of the product of the layers' norms.

    .. math:: \sum_i \ln \|W_i\|

    ``norm="frobenius"`` gives half of equation 37 of Jiang et al.; ``norm="spectral"`` is
    :class:`lightning_complexity.metrics.LogSpectralProduct`; ``norm="trace"`` sums singular values; a pair
    ``(p, q)`` is the mixed norm :func:`lightning_complexity.functional.group_norm`, such as ``(1, math.inf)`` of
    Bartlett and Mendelson. Which weights count: see :func:`lightning_complexity.network.read_weights`. ``-inf`` if
    a layer is zero, with no finite gradient there.

    Args:
        norm: ``"frobenius"``, ``"spectral"``, ``"trace"`` or a pair ``(p, q)`` of numbers of at least 1. It is
            logged as ``log_<norm>_product``, a pair as ``log_p_q_product``.
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the norm's logarithm for each weight by name.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(1, 1))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> _ = net[1].weight.data.fill_(2.0)
        >>> metric = LogNormProduct()
        >>> metric.update(net)
        >>> metric.compute().exp().round()
        tensor(10.)
    """

    name = "log_frobenius_product"
    formula = r"\sum_i \ln \lVert W_i \rVert"
    reference = "Neyshabur et al., COLT 2015; Jiang et al., ICLR 2020, eq. 37 (twice this)"
    _suffix = "product"

    def __init__(
        self,
        norm: LayerNorm = "frobenius",
        *,
        fold_batch_norm: bool = False,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(fold_batch_norm=fold_batch_norm, per_layer=per_layer, **kwargs)
        self.norm = norm
        self.name = f"log_{_norm_name(norm)}_{self._suffix}"

    def layers(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Logarithm of each weight's norm."""
        if self.norm == "spectral":
            return {name: norm.log() for name, norm in self.spectral_norms(snapshot).items()}
        if self.norm == "trace":
            return {name: schatten_norm(spectrum, 1).log() for name, spectrum in self.spectra(snapshot).items()}
        p, q = (2.0, 2.0) if self.norm == "frobenius" else self.norm
        return {w.name: group_norm(w.blocks, p, q).log() for w in self.weights(snapshot)}

    def combine(self, values: Tensor) -> Tensor:
        """Sum of the logarithms."""
        return values.sum()


class LogNormSum(LogNormProduct):
    r"""Logarithm of the layers' number times the geometric mean of their squared norms.

    .. math:: \ln d + \frac{1}{d} \sum_{i=1}^d \ln \|W_i\|^2

    What Jiang et al. call the sum of norms: equation 39 for ``norm="frobenius"``, 35 for ``norm="spectral"``. Unlike
    the product it does not grow with depth by itself. ``-inf`` if a layer is zero, with no finite gradient
    there.

    Args:
        norm: As in :class:`LogNormProduct`. It is logged as ``log_<norm>_sum``.
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the norm's logarithm for each weight by name.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
        >>> for layer in net:
        ...     _ = layer.weight.data.fill_(2.0)
        >>> metric = LogNormSum()
        >>> metric.update(net)
        >>> metric.compute().exp().round()  # 2 * 4
        tensor(8.)
    """

    name = "log_frobenius_sum"
    formula = r"\ln d + \frac{1}{d} \sum_i \ln \lVert W_i \rVert^2"
    reference = "Jiang et al., ICLR 2020, eq. 39 and 35"
    _suffix = "sum"

    def combine(self, values: Tensor) -> Tensor:
        """Of the logarithms twice the mean, and the logarithm of their number."""
        return 2 * values.mean() + math.log(len(values))
