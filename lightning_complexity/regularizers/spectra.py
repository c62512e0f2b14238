"""Penalties on the singular values of the weight matrices."""

from __future__ import annotations

from lightning_complexity.metrics import spectra
from lightning_complexity.network import ConvolutionNorm
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["LogSpectralProduct", "StableRank"]


class LogSpectralProduct(Regularizer):
    """Penalty on :class:`metrics.LogSpectralProduct <lightning_complexity.metrics.LogSpectralProduct>`.

    The gradient goes through the top singular vectors of every layer. A layer that is zero has value
    ``-inf`` and no finite gradient.

    Args:
        strength: Factor.
        convolution: ``"kernel"`` or ``"operator"``.
        fold_batch_norm: Whether the BatchNorm behind a layer is multiplied into it.

    Example:
        >>> import torch
        >>> LogSpectralProduct(1e-3)(torch.nn.Linear(4, 2)).backward()
    """

    def __init__(
        self, strength: float = 1e-4, *, convolution: ConvolutionNorm = "kernel", fold_batch_norm: bool = False
    ) -> None:
        super().__init__(strength, spectra.LogSpectralProduct(convolution=convolution, fold_batch_norm=fold_batch_norm))


class StableRank(Regularizer):
    """Penalty on :class:`metrics.StableRank <lightning_complexity.metrics.StableRank>`.

    Differentiable; a layer that is zero has no stable rank, and value and gradient are ``nan`` there.

    Args:
        strength: Factor.
        fold_batch_norm: Whether the BatchNorm behind a layer is multiplied into it.

    Example:
        >>> import torch
        >>> StableRank(1e-3)(torch.nn.Linear(4, 2)).backward()
    """

    def __init__(self, strength: float = 1e-3, *, fold_batch_norm: bool = False) -> None:
        super().__init__(strength, spectra.StableRank(fold_batch_norm=fold_batch_norm))
