"""Penalties on the singular values of the weight matrices."""

from __future__ import annotations

from lightning_complexity.metrics.weights import spectra
from lightning_complexity.network import ConvolutionNorm
from lightning_complexity.regularizers.base import Regularizer

__all__ = [
    "EffectiveRank",
    "LogSpectralProduct",
    "ParticipationRatio",
    "SchattenNorm",
    "SoftOrthogonality",
    "StableRank",
]


class LogSpectralProduct(Regularizer):
    """Penalty on :class:`metrics.LogSpectralProduct <lightning_complexity.metrics.LogSpectralProduct>`.

    The gradient goes through the top singular vectors of every layer. A layer that is zero has value
    ``-inf`` and no finite gradient.

    Args:
        strength: Factor.
        convolution: ``"kernel"``, ``"circular"`` or ``"operator"``.
        fold_batch_norm: Whether the BatchNorm behind a layer is multiplied into it.

    Example:
        >>> import torch
        >>> LogSpectralProduct(1e-3)(torch.nn.Linear(4, 2)).backward()
    """

    example_strength = 0.1

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

    example_strength = 0.05

    def __init__(self, strength: float = 1e-3, *, fold_batch_norm: bool = False) -> None:
        super().__init__(strength, spectra.StableRank(fold_batch_norm=fold_batch_norm))


class EffectiveRank(Regularizer):
    """Penalty on :class:`metrics.EffectiveRank <lightning_complexity.metrics.EffectiveRank>`.

    One singular value decomposition of every layer. Finite gradients at rank one; a layer that is zero has
    no effective rank, and value and gradient are ``nan`` there.

    Args:
        strength: Factor.
        fold_batch_norm: Whether the BatchNorm behind a layer is multiplied into it.

    Example:
        >>> import torch
        >>> EffectiveRank(1e-3)(torch.nn.Linear(4, 2)).backward()
    """

    example_strength = 0.03

    def __init__(self, strength: float = 1e-3, *, fold_batch_norm: bool = False) -> None:
        super().__init__(strength, spectra.EffectiveRank(fold_batch_norm=fold_batch_norm))


class ParticipationRatio(Regularizer):
    """Penalty on :class:`metrics.ParticipationRatio <lightning_complexity.metrics.ParticipationRatio>`.

    One singular value decomposition of every layer. Finite gradients at rank one; a layer that is zero has
    no participation ratio, and value and gradient are ``nan`` there.

    Args:
        strength: Factor.
        fold_batch_norm: Whether the BatchNorm behind a layer is multiplied into it.

    Example:
        >>> import torch
        >>> ParticipationRatio(1e-3)(torch.nn.Linear(4, 2)).backward()
    """

    example_strength = 0.03

    def __init__(self, strength: float = 1e-3, *, fold_batch_norm: bool = False) -> None:
        super().__init__(strength, spectra.ParticipationRatio(fold_batch_norm=fold_batch_norm))


class SchattenNorm(Regularizer):
    """Penalty on :class:`metrics.SchattenNorm <lightning_complexity.metrics.SchattenNorm>`: ``p=1`` is nuclear.

    One singular value decomposition of every layer. The gradient is finite everywhere.

    Args:
        strength: Factor.
        p: At least 1.
        fold_batch_norm: Whether the BatchNorm behind a layer is multiplied into it.

    Example:
        >>> import torch
        >>> SchattenNorm(1e-3)(torch.nn.Linear(4, 2)).backward()
    """

    example_strength = 0.02

    def __init__(self, strength: float = 1e-3, *, p: float = 1, fold_batch_norm: bool = False) -> None:
        super().__init__(strength, spectra.SchattenNorm(p, fold_batch_norm=fold_batch_norm))


class SoftOrthogonality(Regularizer):
    """Penalty on :class:`metrics.SoftOrthogonality <lightning_complexity.metrics.SoftOrthogonality>`.

    Smooth everywhere; one product of every layer with itself.

    Args:
        strength: Factor.
        fold_batch_norm: Whether the BatchNorm behind a layer is multiplied into it.

    Example:
        >>> import torch
        >>> SoftOrthogonality(1e-3)(torch.nn.Linear(4, 2)).backward()
    """

    example_strength = 0.01

    def __init__(self, strength: float = 1e-3, *, fold_batch_norm: bool = False) -> None:
        super().__init__(strength, spectra.SoftOrthogonality(fold_batch_norm=fold_batch_norm))
