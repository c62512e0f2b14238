"""Measures of the singular values of the weight matrices."""

from __future__ import annotations

from typing import Any, get_args

from torch import Tensor

from lightning_complexity.functional.norms import lp_norm
from lightning_complexity.functional.spectra import log_spectral_product, stable_rank
from lightning_complexity.metrics.base import LayerMetric
from lightning_complexity.network import ConvolutionNorm, Snapshot, Weight

__all__ = ["LogSpectralProduct", "StableRank"]


class _SpectralMetric(LayerMetric):
    def __init__(self, *, fold_batch_norm: bool = False, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        self.fold_batch_norm = fold_batch_norm
        if fold_batch_norm:
            self.needs = frozenset({"inputs"})

    def _weights(self, snapshot: Snapshot) -> list[Weight]:
        return snapshot.folded_weights if self.fold_batch_norm else snapshot.weights

    def _spectral_norms(self, snapshot: Snapshot) -> dict[str, Tensor]:
        return snapshot.folded_spectral_norms if self.fold_batch_norm else snapshot.spectral_norms

    def histograms(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Singular values of each weight."""
        if self.fold_batch_norm:
            return {f"folded_spectrum/{name}": values for name, values in snapshot.folded_spectra.items()}
        return {f"spectrum/{name}": values for name, values in snapshot.spectra.items()}


class LogSpectralProduct(_SpectralMetric):
    r"""Logarithm of the product of the layers' spectral norms, a bound on the network's Lipschitz constant.

    .. math:: \sum_i \ln \|W_i\|_2

    Which weights count: see :func:`lightning_complexity.network.read_weights`. With ``convolution="kernel"``
    (cheap, what the literature compares) the norm of a convolution is that of its kernel reshaped to
    ``(out, in * kernel)``; it is no bound on the convolution. With ``convolution="operator"`` it is that of the
    linear map at the real input size, with true stride, padding, dilation and groups; this needs inputs.

    ``-inf`` if a layer is zero, with no finite gradient there.

    Args:
        convolution: ``"kernel"`` or ``"operator"``.
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it, as in
            Jiang et al.; needs inputs. Only for kernels.
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
    formula = r"\sum_i \ln \lVert W_i \rVert_2"
    reference = "Bartlett et al., NeurIPS 2017; Jiang et al., ICLR 2020, eq. 32 (twice this)"

    def __init__(
        self,
        *,
        convolution: ConvolutionNorm = "kernel",
        fold_batch_norm: bool = False,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if convolution not in get_args(ConvolutionNorm):
            raise ValueError(f'convolution must be "kernel" or "operator", got {convolution!r}.')
        if convolution == "operator" and fold_batch_norm:
            raise ValueError('fold_batch_norm needs convolution="kernel"; an operator is that of the layer alone.')
        super().__init__(fold_batch_norm=fold_batch_norm, per_layer=per_layer, **kwargs)
        self.convolution = convolution
        if convolution == "operator":
            self.needs = frozenset({"inputs"})

    def layers(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Logarithm of each weight's norm."""
        norms = snapshot.operator_norms if self.convolution == "operator" else self._spectral_norms(snapshot)
        return {name: log_spectral_product(norm.unsqueeze(0)) for name, norm in norms.items()}

    def combine(self, values: Tensor) -> Tensor:
        """Sum of the logarithms."""
        return values.sum()


class StableRank(_SpectralMetric):
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
    formula = r"\frac{1}{L} \sum_i \lVert W_i \rVert_F^2 / \lVert W_i \rVert_2^2"
    reference = "Rudelson and Vershynin, J. ACM 2007; Jiang et al., ICLR 2020, eq. 33 (the sum)"

    def layers(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Stable rank of each weight."""
        norms = self._spectral_norms(snapshot)
        return {w.name: stable_rank(lp_norm(w.blocks), norms[w.name]) for w in self._weights(snapshot)}

    def combine(self, values: Tensor) -> Tensor:
        """Mean over layers."""
        return values.mean()
