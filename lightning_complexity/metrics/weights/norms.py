"""Norms of the parameters, and how far they have moved."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.weights.norms import combine_norms, lp_norm
from lightning_complexity.functional.weights.spectra import log_spectral_complexity
from lightning_complexity.metrics.base import ComplexityMetric, LayerMetric, Need, WeightMetric
from lightning_complexity.network import (
    Context,
    ConvolutionNorm,
    MatrixNorm,
    Snapshot,
    check_convolution,
    distance_norms,
    layer_norms,
    norm_name,
)
from lightning_complexity.network.weights.norms import chosen_parameters

__all__ = [
    "DistanceFromInitialization",
    "LogNormProduct",
    "LogNormSum",
    "LogSpectralComplexity",
    "ParameterNorm",
    "WeightDistance",
]


class _ParameterLpMetric(LayerMetric):
    chooses_layers = True
    reads_samples = False
    suite = "fast"

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
    increases_with_complexity = True
    units = "weight"
    misleads_when = (
        "layers were rescaled, or feed a BatchNorm: the same function has any norm; trainings have different "
        "lengths or weight decay"
    )

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Norm of each parameter."""
        return {name: lp_norm(p, self.p) for name, p in chosen_parameters(snapshot, context.layers).items()}


class DistanceFromInitialization(_ParameterLpMetric):
    r"""How far all parameters have moved from where they started.

    .. math:: \|\theta - \theta_0\|_p

    Needs ``initial``, the state at the start; :class:`lightning_complexity.ComplexityMonitor` keeps them by
    itself. Where nothing has moved the gradient is 0.

    Args:
        p: At least 1; ``inf`` for the largest absolute change.
        per_layer: Whether ``compute`` returns the distance of each parameter by name.

    Raises:
        ValueError: In ``update``, if a parameter was not there at the start.

    Example:
        >>> import torch
        >>> from lightning_complexity.network import initial_state
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight)
        >>> start = initial_state(net)
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
    increases_with_complexity = True
    units = "weight"
    misleads_when = (
        "trainings have different lengths, learning rates or numbers of samples: it grows with the steps; layers "
        "were rescaled"
    )

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Distance of each parameter."""
        start = snapshot.at_initialization.parameters
        return {
            name: lp_norm(p - start[name].detach(), self.p)
            for name, p in chosen_parameters(snapshot, context.layers).items()
        }


class WeightDistance(WeightMetric):
    r"""How far the weight matrices have moved from where they started.

    .. math:: \sqrt{ \sum_i \|W_i - W_i^0\|^2 }

    Needs ``initial``, the state at the start. With ``norm="frobenius"`` it is
    :class:`DistanceFromInitialization` without biases and normalization layers; its square is equation 40 of
    Jiang et al., that of ``norm="spectral"`` equation 41. ``norm=(2, 1)`` is what Bartlett et al. measure distances
    with. Where nothing has moved the gradient is 0.

    Args:
        norm: As in :class:`LogNormProduct`. It is logged as ``<norm>_distance``.
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it, at the start
            with the statistics it had then; needs inputs.
        per_layer: Whether ``compute`` returns the distance of each weight by name.

    Raises:
        ValueError: In ``update``, if the initial state does not fit the network.

    Example:
        >>> import torch
        >>> from lightning_complexity.network import initial_state
        >>> net = torch.nn.Linear(2, 2)
        >>> start = initial_state(net)
        >>> _ = net.weight.data.add_(torch.diag(torch.tensor([3.0, 1.0])))
        >>> metric = WeightDistance()
        >>> metric.update(net, initial=start)
        >>> metric.compute().round()
        tensor(3.)
    """

    name = "spectral_distance"
    needs = frozenset({"initial"})
    formula = r"\big( \sum_i \lVert W_i - W_i^0 \rVert^2 \big)^{1/2}"
    reference = "Bartlett et al., NeurIPS 2017; Jiang et al., ICLR 2020, eq. 40 and 41 (its square)"
    increases_with_complexity = True
    units = "weight"
    misleads_when = "trainings have different lengths or learning rates; layers were rescaled"

    def __init__(
        self, norm: MatrixNorm = "spectral", *, fold_batch_norm: bool = False, per_layer: bool = False, **kwargs: Any
    ) -> None:
        self.name = f"{norm_name(norm)}_distance"
        super().__init__(fold_batch_norm=fold_batch_norm, per_layer=per_layer, **kwargs)
        self.norm = norm
        self.needs = self.needs | {"initial"}

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Distance of each weight."""
        options: Any = {"folded": self.fold_batch_norm, "layers": context.layers, "warm_start": context.warm_start}
        return distance_norms(snapshot, self.norm, **options)

    def combine(self, values: Tensor) -> Tensor:
        """Root of the sum of squares."""
        return combine_norms(values)


Origin = Literal["zero", "initialization"]


class LogSpectralComplexity(ComplexityMetric):
    r"""Logarithm of the spectral complexity: product of spectral norms, corrected by distances from an origin.

    .. math:: \ln \bigg( \prod_i \|W_i\|_2 \;
              \Big( \sum_i \big( \|W_i - M_i\|_{2,1} / \|W_i\|_2 \big)^{2/3} \Big)^{3/2} \bigg)

    :math:`\|\cdot\|_{2,1}` is the sum of the :math:`\ell_2` norms of the units' weights, and :math:`M_i` zero or the
    weights at the start. Public code often has Frobenius norms there, as later papers do. ``nan`` if a layer is zero;
    ``-inf`` where no layer has moved from the start.

    Args:
        origin: ``"zero"``, or ``"initialization"``, which needs the state at the start.
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Must be ``False``, the sum does not split into layers.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([3.0, 4.0])))
        >>> metric = LogSpectralComplexity()
        >>> metric.update(net)
        >>> metric.compute().exp().round()  # 4 * ((3 + 4) / 4)
        tensor(7.)
    """

    name = "log_spectral_complexity"
    reads_samples = False
    is_logarithm = True
    formula = (
        r"\ln \big( \prod_i \lVert W_i \rVert_2 \; \big( \sum_i ( \lVert W_i - M_i \rVert_{2,1} "
        r"/ \lVert W_i \rVert_2 )^{2/3} \big)^{3/2} \big)"
    )
    reference = "Bartlett et al., NeurIPS 2017, eq. 1.2"
    increases_with_complexity = True
    units = "output / input"
    misleads_when = (
        "compared across widths or lengths of training: distances from the origin grow with both while test error falls"
    )

    def __init__(
        self, *, origin: Origin = "zero", fold_batch_norm: bool = False, per_layer: bool = False, **kwargs: Any
    ) -> None:
        if origin not in get_args(Origin):
            raise ValueError(f'origin must be "zero" or "initialization", got {origin!r}.')
        super().__init__(per_layer=per_layer, **kwargs)
        self.origin, self.fold_batch_norm = origin, fold_batch_norm
        needs: dict[Need, bool] = {"initial": origin == "initialization", "inputs": fold_batch_norm}
        self.needs = frozenset(need for need, needed in needs.items() if needed)
        self.cost = "forward" if fold_batch_norm else "weights"

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The logarithm."""
        folded = self.fold_batch_norm
        norms = layer_norms(snapshot, folded=folded, warm_start=context.warm_start)
        from_origin = layer_norms if self.origin == "zero" else distance_norms
        distances = from_origin(snapshot, (2, 1), folded=folded)
        return log_spectral_complexity(*(torch.stack(list(n.values())) for n in (norms, distances)))


class LogNormProduct(WeightMetric):
    r"""Logarithm of the product of the layers' norms.

    .. math:: \sum_i \ln \|W_i\|

    ``norm="frobenius"`` gives half of equation 37 of Jiang et al.; ``norm="spectral"`` is
    :class:`lightning_complexity.metrics.LogSpectralProduct`; ``norm="trace"`` sums singular values;
    ``("schatten", p)`` takes their norm of order ``p``; a pair ``(p, q)`` is the mixed norm
    :func:`lightning_complexity.functional.mixed_norm`, such as ``(1, math.inf)`` of Bartlett and Mendelson. Which
    weights count: see :func:`lightning_complexity.network.read_weights`. ``-inf`` if a layer is zero, with no
    finite gradient there.

    Args:
        norm: ``"frobenius"``, ``"spectral"``, ``"trace"``, ``("schatten", p)`` or a pair ``(p, q)``, with numbers of at
            least 1. It is logged as ``log_<norm>_product``, the last two as ``log_schatten_p_product`` and
            ``log_p_q_product``.
        convolution: With ``norm="spectral"`` what the norm of a convolution is, see :class:`LogSpectralProduct`.
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
    is_logarithm = True
    formula = r"\sum_i \ln \lVert W_i \rVert"
    reference = "Neyshabur et al., COLT 2015; Jiang et al., ICLR 2020, eq. 37 (twice this)"
    increases_with_complexity = True
    units = "output / input"
    misleads_when = (
        "compared across depths, with which it grows or falls exponentially; weights before a BatchNorm, whose "
        "scale has no effect, count unless folded"
    )
    _suffix = "product"

    def __init__(
        self,
        norm: MatrixNorm = "frobenius",
        *,
        convolution: ConvolutionNorm = "kernel",
        fold_batch_norm: bool = False,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        self.name = f"log_{norm_name(norm)}_{self._suffix}"
        check_convolution(convolution, norm)
        super().__init__(fold_batch_norm=fold_batch_norm, per_layer=per_layer, **kwargs)
        self.norm, self.convolution = norm, convolution
        if convolution != "kernel":
            self.needs, self.cost = frozenset({"inputs"}), "forward"

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Logarithm of each weight's norm."""
        norms = layer_norms(
            snapshot,
            self.norm,
            convolution=self.convolution,
            folded=self.fold_batch_norm,
            layers=context.layers,
            warm_start=context.warm_start,
        )
        return {name: norm.log() for name, norm in norms.items()}

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
        convolution: With ``norm="spectral"`` what the norm of a convolution is, see :class:`LogSpectralProduct`.
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
    is_logarithm = True
    formula = r"\ln d + \frac{1}{d} \sum_i \ln \lVert W_i \rVert^2"
    reference = "Jiang et al., ICLR 2020, eq. 39 and 35"
    increases_with_complexity = True
    units = "weight²"
    misleads_when = "compared across widths, with which Frobenius norms grow; the number of layers is a factor"
    _suffix = "sum"

    def combine(self, values: Tensor) -> Tensor:
        """Of the logarithms twice the mean, and the logarithm of their number."""
        return 2 * values.mean() + math.log(len(values))
