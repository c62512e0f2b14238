"""Penalties on the size of the parameters and on how far they move."""

from __future__ import annotations

from lightning_complexity.metrics.weights import norms
from lightning_complexity.metrics.weights.norms import Origin
from lightning_complexity.network import ConvolutionNorm, MatrixNorm
from lightning_complexity.regularizers.base import Regularizer

__all__ = [
    "DistanceFromInitialization",
    "LogNormProduct",
    "LogNormSum",
    "LogSpectralComplexity",
    "ParameterNorm",
    "WeightDistance",
]


class ParameterNorm(Regularizer):
    """Penalty on :class:`metrics.ParameterNorm <lightning_complexity.metrics.ParameterNorm>`.

    This is the norm, not its square: its gradient has length ``strength`` however small the parameters are,
    and is 0 at zero parameters. Weight decay of an optimizer penalises half the square.

    Args:
        strength: Factor.
        p: At least 1.

    Example:
        >>> import torch
        >>> penalty = ParameterNorm(0.5)
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(net.weight, -3.0)
        >>> penalty(net)
        tensor(1.5000, grad_fn=<MulBackward0>)
    """

    example_strength = 0.05

    def __init__(self, strength: float = 1e-4, *, p: float = 2) -> None:
        super().__init__(strength, norms.ParameterNorm(p))


class DistanceFromInitialization(Regularizer):
    """Penalty on :class:`metrics.DistanceFromInitialization <lightning_complexity.metrics.DistanceFromInitialization>`.

    Distances are from the parameters at the first call, or from ``.initial`` where that is set before;
    :class:`lightning_complexity.ComplexityPenalty` keeps them in the checkpoint. The gradient where nothing has moved
    is 0. Elsewhere, for ``p = 2``, it has length ``strength`` however small the distance is: where the gradient of the
    loss is shorter than that, the network does not leave its start.

    Args:
        strength: Factor.
        p: At least 1.

    Example:
        >>> import torch
        >>> penalty = DistanceFromInitialization(1.0)
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight)
        >>> penalty(net)
        tensor(0., grad_fn=<MulBackward0>)
        >>> _ = net.weight.data.add_(2.0)
        >>> penalty(net)
        tensor(2., grad_fn=<MulBackward0>)
    """

    example_strength = 0.05

    def __init__(self, strength: float = 1e-4, *, p: float = 2) -> None:
        super().__init__(strength, norms.DistanceFromInitialization(p))


class LogNormProduct(Regularizer):
    """Penalty on :class:`metrics.LogNormProduct <lightning_complexity.metrics.LogNormProduct>`.

    A layer that is zero has value ``-inf`` and no finite gradient.

    Args:
        strength: Factor.
        norm: ``"frobenius"``, ``"spectral"``, ``"trace"``, ``("schatten", p)`` or a pair ``(p, q)``.
        convolution: With ``norm="spectral"``: ``"kernel"``, ``"circular"`` or ``"operator"``.
        fold_batch_norm: Whether the BatchNorm behind a layer is multiplied into it.

    Example:
        >>> import torch
        >>> LogNormProduct(1e-3)(torch.nn.Linear(4, 2)).backward()
    """

    example_strength = 0.05

    def __init__(
        self,
        strength: float = 1e-4,
        *,
        norm: MatrixNorm = "frobenius",
        convolution: ConvolutionNorm = "kernel",
        fold_batch_norm: bool = False,
    ) -> None:
        metric = norms.LogNormProduct(norm, convolution=convolution, fold_batch_norm=fold_batch_norm)
        super().__init__(strength, metric)


class LogNormSum(Regularizer):
    """Penalty on :class:`metrics.LogNormSum <lightning_complexity.metrics.LogNormSum>`.

    A layer that is zero has value ``-inf`` and no finite gradient.

    Args:
        strength: Factor.
        norm: ``"frobenius"``, ``"spectral"``, ``"trace"``, ``("schatten", p)`` or a pair ``(p, q)``.
        convolution: With ``norm="spectral"``: ``"kernel"``, ``"circular"`` or ``"operator"``.
        fold_batch_norm: Whether the BatchNorm behind a layer is multiplied into it.

    Example:
        >>> import torch
        >>> LogNormSum(1e-3)(torch.nn.Linear(4, 2)).backward()
    """

    example_strength = 0.1

    def __init__(
        self,
        strength: float = 1e-4,
        *,
        norm: MatrixNorm = "frobenius",
        convolution: ConvolutionNorm = "kernel",
        fold_batch_norm: bool = False,
    ) -> None:
        metric = norms.LogNormSum(norm, convolution=convolution, fold_batch_norm=fold_batch_norm)
        super().__init__(strength, metric)


class LogSpectralComplexity(Regularizer):
    """Penalty on :class:`metrics.LogSpectralComplexity <lightning_complexity.metrics.LogSpectralComplexity>`.

    With ``origin="initialization"`` distances are from the state at the first call, or from ``.initial`` where that is
    set before, and there the value is ``-inf`` and the gradient not finite: set another origin, or start later.
    Likewise if a layer is zero.

    Args:
        strength: Factor.
        origin: ``"zero"`` or ``"initialization"``.
        fold_batch_norm: Whether the BatchNorm behind a layer is multiplied into it.

    Example:
        >>> import torch
        >>> LogSpectralComplexity(1e-3)(torch.nn.Linear(4, 2)).backward()
    """

    example_strength = 0.05

    def __init__(self, strength: float = 1e-4, *, origin: Origin = "zero", fold_batch_norm: bool = False) -> None:
        super().__init__(strength, norms.LogSpectralComplexity(origin=origin, fold_batch_norm=fold_batch_norm))


class WeightDistance(Regularizer):
    """Penalty on :class:`metrics.WeightDistance <lightning_complexity.metrics.WeightDistance>`.

    Distances are from the state at the first call, or from ``.initial`` where that is set before. The gradient where
    nothing has moved is 0.

    Args:
        strength: Factor.
        norm: ``"spectral"``, ``"frobenius"``, ``"trace"``, ``("schatten", p)`` or a pair ``(p, q)``.
        fold_batch_norm: Whether the BatchNorm behind a layer is multiplied into it.

    Example:
        >>> import torch
        >>> WeightDistance(1e-3)(torch.nn.Linear(4, 2)).backward()
    """

    example_strength = 0.05

    def __init__(self, strength: float = 1e-3, *, norm: MatrixNorm = "spectral", fold_batch_norm: bool = False) -> None:
        super().__init__(strength, norms.WeightDistance(norm, fold_batch_norm=fold_batch_norm))
