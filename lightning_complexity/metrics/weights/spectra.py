"""Measures of the singular values of the weight matrices."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lightning_complexity.functional.weights.norms import lp_norm
from lightning_complexity.functional.weights.spectra import (
    effective_rank,
    log_condition_number,
    log_spectral_product,
    log_volume,
    participation_ratio,
    soft_orthogonality,
    stable_rank,
)
from lightning_complexity.metrics.base import SpectrumMetric, WeightMetric
from lightning_complexity.network import Context, ConvolutionNorm, MatrixNorm, Snapshot, check_convolution, layer_norms

__all__ = [
    "EffectiveRank",
    "LogConditionNumber",
    "LogSpectralProduct",
    "LogVolume",
    "ParticipationRatio",
    "SchattenNorm",
    "SoftOrthogonality",
    "StableRank",
]


class LogSpectralProduct(WeightMetric):
    r"""Logarithm of the product of the layers' spectral norms, a bound on the network's Lipschitz constant.

    .. math:: \sum_i \ln \|W_i\|_2

    Which weights count: see :func:`lightning_complexity.network.read_weights`. With ``convolution="kernel"``
    (cheap, what the literature compares) the norm of a convolution is that of its kernel reshaped to
    ``(out, in * kernel)``; it is no bound on the convolution. With ``convolution="circular"`` it is that of the
    convolution with stride 1 on a torus of the input's size, which Fourier transforms give. With
    ``convolution="operator"`` it is that of the linear map itself, with true stride, padding, dilation and
    groups. The last two need inputs.

    ``-inf`` if a layer is zero, with no finite gradient there.

    Args:
        convolution: ``"kernel"``, ``"circular"`` or ``"operator"``.
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it, as in
            Jiang et al.; needs inputs.
        per_layer: Whether ``compute`` returns the norm's logarithm for each weight by name.

    Raises:
        ValueError: In ``update``, if the network has no weight matrix.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        >>> for layer in net:
        ...     _ = layer.weight.data.copy_(torch.diag(torch.tensor([3.0, 1.0])))
        >>> metric = LogSpectralProduct()
        >>> metric.update(net)
        >>> metric.compute().exp().round()
        tensor(9.)
    """

    name = "log_spectral_product"
    suite = "fast"
    is_logarithm = True
    formula = r"\sum_i \ln \lVert W_i \rVert_2"
    reference = "Bartlett et al., NeurIPS 2017; Jiang et al., ICLR 2020, eq. 32 (twice this)"
    increases_with_complexity = True
    units = "output / input"
    misleads_when = (
        "compared across depths: the product is far above the network's slope, the more the deeper; weights "
        "before a BatchNorm count unless folded"
    )

    def __init__(
        self,
        *,
        convolution: ConvolutionNorm = "kernel",
        fold_batch_norm: bool = False,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        check_convolution(convolution)
        super().__init__(fold_batch_norm=fold_batch_norm, per_layer=per_layer, **kwargs)
        self.convolution = convolution
        if convolution != "kernel":
            self.needs, self.cost = frozenset({"inputs"}), "forward"

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Logarithm of each weight's norm."""
        norms = layer_norms(
            snapshot,
            convolution=self.convolution,
            folded=self.fold_batch_norm,
            layers=context.layers,
            warm_start=context.warm_start,
        )
        return {name: log_spectral_product(norm.unsqueeze(0)) for name, norm in norms.items()}

    def combine(self, values: Tensor) -> Tensor:
        """Sum of the logarithms."""
        return values.sum()


class SoftOrthogonality(WeightMetric):
    r"""Mean squared distance of the weight matrices from orthonormal rows, or columns where there are fewer.

    .. math:: \frac{1}{L} \sum_i \|W_i W_i^T - I\|_F^2

    Zero where every layer keeps lengths in the space it acts on. Products with the matrix only, no
    decomposition; smooth everywhere.

    Args:
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the value of each weight by name.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([2.0, 1.0])))
        >>> metric = SoftOrthogonality()
        >>> metric.update(net)
        >>> metric.compute()  # (4 - 1)^2
        tensor(9.)
    """

    name = "soft_orthogonality"
    increases_with_complexity = None
    formula = r"\frac{1}{L} \sum_i \lVert W_i W_i^T - I \rVert_F^2"
    reference = "Bansal et al., NeurIPS 2018"
    units = "pure number"
    misleads_when = "weights are scaled: it is small for orthonormal rows only, and no measure of a function"

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Defect of each weight."""
        return {w.name: soft_orthogonality(w.blocks) for w in self.weights(snapshot, context)}

    def combine(self, values: Tensor) -> Tensor:
        """Mean over layers."""
        return values.mean()


class StableRank(WeightMetric):
    r"""Mean stable rank of the weight matrices: in how many directions a layer acts with full strength.

    .. math:: \frac{1}{L} \sum_i \frac{\|W_i\|_F^2}{\|W_i\|_2^2}

    Unchanged when a layer is scaled. Which weights count: see
    :func:`lightning_complexity.network.read_weights`; a convolution is its kernel reshaped to
    ``(out, in * kernel)``, with groups block diagonal. ``nan``, value and gradient, if a layer is zero.

    Args:
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the stable rank of each weight by name.

    Raises:
        ValueError: In ``update``, if the network has no weight matrix.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(3, 3)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
        >>> metric = StableRank()
        >>> metric.update(net)
        >>> metric.compute()
        tensor(1.5000)
    """

    name = "stable_rank"
    suite = "fast"
    formula = r"\frac{1}{L} \sum_i \lVert W_i \rVert_F^2 / \lVert W_i \rVert_2^2"
    reference = "Rudelson and Vershynin, J. ACM 2007; Jiang et al., ICLR 2020, eq. 33 (the sum)"
    increases_with_complexity = True
    units = "directions"
    misleads_when = (
        "used alone: it says in how many directions a layer acts, not how strongly; random matrices have a high one"
    )

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Stable rank of each weight."""
        folded, layers = self.fold_batch_norm, context.layers
        norms = layer_norms(snapshot, folded=folded, layers=layers, warm_start=context.warm_start)
        return {w.name: stable_rank(lp_norm(w.blocks), norms[w.name]) for w in self.weights(snapshot, context)}

    def combine(self, values: Tensor) -> Tensor:
        """Mean over layers."""
        return values.mean()


class EffectiveRank(SpectrumMetric):
    r"""Mean effective rank of the weight matrices: how many directions a layer uses, by entropy.

    .. math:: \frac{1}{L} \sum_i \exp \Big( -\sum_k p_{ik} \ln p_{ik} \Big), \quad p_{ik} = s_{ik} / \sum_j s_{ij}

    Unchanged when a layer is scaled. Smoother than the stable rank, which looks at the largest singular value
    alone. ``nan``, value and gradient, if a layer is zero; finite gradients at any other, rank one included.

    Args:
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the effective rank of each weight by name.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(3, 3)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([2.0, 2.0, 0.0])))
        >>> metric = EffectiveRank()
        >>> metric.update(net)
        >>> metric.compute()
        tensor(2.)
    """

    name = "effective_rank"
    formula = r"\frac{1}{L} \sum_i \exp \big( -\sum_k p_{ik} \ln p_{ik} \big)"
    reference = "Roy and Vetterli, EUSIPCO 2007"
    increases_with_complexity = True
    units = "directions"
    misleads_when = (
        "compared across widths, which bound it, or soon after initialization, when random matrices have nearly "
        "full rank"
    )

    def of_spectrum(self, spectrum: Tensor) -> Tensor:
        """The value of one layer."""
        return effective_rank(spectrum)


class ParticipationRatio(SpectrumMetric):
    r"""Mean participation ratio of the weight matrices: how many directions a layer uses, by squared singular values.

    .. math:: \frac{1}{L} \sum_i \frac{(\sum_k s_{ik}^2)^2}{\sum_k s_{ik}^4}

    Unchanged when a layer is scaled. Small singular values count for less than in the effective rank. ``nan``, value
    and gradient, if a layer is zero; finite gradients at any other, rank one included.

    Args:
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the participation ratio of each weight by name.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(3, 3)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([2.0, 2.0, 0.0])))
        >>> metric = ParticipationRatio()
        >>> metric.update(net)
        >>> metric.compute()
        tensor(2.)
    """

    name = "participation_ratio"
    formula = r"\frac{1}{L} \sum_i \big( \sum_k s_{ik}^2 \big)^2 / \sum_k s_{ik}^4"
    reference = "Gao et al., bioRxiv 214262, 2017"
    increases_with_complexity = True
    units = "directions"
    misleads_when = "compared across widths, which bound it, or soon after initialization"

    def of_spectrum(self, spectrum: Tensor) -> Tensor:
        """The value of one layer."""
        return participation_ratio(spectrum)


class SchattenNorm(WeightMetric):
    r"""Mean Schatten norm of the weight matrices: nuclear (trace) for ``p=1``, Frobenius for 2, spectral for ``inf``.

    .. math:: \frac{1}{L} \sum_i \Big( \sum_k s_{ik}^p \Big)^{1/p}

    Args:
        p: At least 1.
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the norm of each weight by name.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([3.0, 4.0])))
        >>> metric = SchattenNorm()
        >>> metric.update(net)
        >>> metric.compute()
        tensor(7.)
    """

    name = "schatten_norm"
    formula = r"\frac{1}{L} \sum_i \big( \sum_k s_{ik}^p \big)^{1/p}"
    reference = "Schatten, 1960; as a complexity Neyshabur et al., COLT 2015"
    increases_with_complexity = True
    units = "weight"
    misleads_when = "layers were rescaled or are of different sizes: it is a mean of norms"

    def __init__(self, p: float = 1, *, fold_batch_norm: bool = False, per_layer: bool = False, **kwargs: Any) -> None:
        if not p >= 1:
            raise ValueError(f"p must be at least 1 for a norm, got {p!r}.")
        super().__init__(fold_batch_norm=fold_batch_norm, per_layer=per_layer, **kwargs)
        self.p = p

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Norm of each weight; orders 2 and ``inf`` need no spectrum."""
        norm: MatrixNorm = ("schatten", self.p)
        if self.p in (2, math.inf):
            norm = "frobenius" if self.p == 2 else "spectral"
        folded, layers = self.fold_batch_norm, context.layers
        return layer_norms(snapshot, norm, folded=folded, layers=layers, warm_start=context.warm_start)

    def combine(self, values: Tensor) -> Tensor:
        """Mean over layers."""
        return values.mean()


class LogConditionNumber(SpectrumMetric):
    r"""Mean logarithm of the condition numbers of the weight matrices.

    .. math:: \frac{1}{L} \sum_i \ln \frac{\max_k s_{ik}}{\min_k s_{ik}}

    Zero for orthogonal layers; ``inf`` if a layer does not have full rank.

    Args:
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the logarithm for each weight by name.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([1.0, 4.0])))
        >>> metric = LogConditionNumber()
        >>> metric.update(net)
        >>> metric.compute().exp()
        tensor(4.)
    """

    name = "log_condition_number"
    no_penalty_reason = "SoftOrthogonality is what one trains with"
    is_logarithm = True
    increases_with_complexity = None
    formula = r"\frac{1}{L} \sum_i \ln ( \max_k s_{ik} / \min_k s_{ik} )"
    reference = "Golub and Van Loan, Matrix Computations"
    units = "pure number"
    misleads_when = "one singular value is tiny: it alone decides, though nothing passes through it"

    def of_spectrum(self, spectrum: Tensor) -> Tensor:
        """The value of one layer."""
        return log_condition_number(spectrum)


class LogVolume(SpectrumMetric):
    r"""Logarithm of the product of the weight matrices' volumes.

    .. math:: \sum_i \sum_k \ln s_{ik} = \tfrac12 \sum_i \ln \det W_i W_i^T

    (of :math:`W_i^T W_i` for a tall matrix). ``-inf`` if a layer does not have full rank.

    Args:
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the logarithm for each weight by name.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([2.0, 3.0])))
        >>> metric = LogVolume()
        >>> metric.update(net)
        >>> metric.compute().exp().round()
        tensor(6.)
    """

    name = "log_volume"
    no_penalty_reason = "SoftOrthogonality is what one trains with"
    is_logarithm = True
    formula = r"\sum_i \sum_k \ln s_{ik}"
    reference = "half the log-determinant of the Gram matrix"
    increases_with_complexity = True
    units = "volume"
    misleads_when = "one singular value is tiny: the logarithm makes it dominate; layers were rescaled"

    def of_spectrum(self, spectrum: Tensor) -> Tensor:
        """The value of one layer."""
        return log_volume(spectrum)

    def combine(self, values: Tensor) -> Tensor:
        """Sum over layers."""
        return values.sum()
