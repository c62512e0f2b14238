"""Penalties on how much the function changes with its input."""

from __future__ import annotations

from lightning_complexity.metrics.function import sensitivity
from lightning_complexity.network.derivatives import JacobianOf
from lightning_complexity.regularizers.base import Regularizer

__all__ = ["GeometricComplexity", "InputGradientNorm", "JacobianNorm"]


class JacobianNorm(Regularizer):
    """Penalty on :class:`metrics.JacobianNorm <lightning_complexity.metrics.JacobianNorm>` of the batch.

    With ``num_projections`` every call draws new random vectors. The gradient where the Jacobian is zero is 0.

    Args:
        strength: Factor.
        of: ``"softmax"`` or ``"logits"``; by default probabilities where there are classes, else the outputs.
        num_projections: ``None`` for exact, at one double backward pass for each output.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> JacobianNorm(1e-2, num_projections=1)(net, torch.randn(5, 4)).backward()
    """

    example_strength = 0.1

    def __init__(
        self, strength: float = 1e-3, *, of: JacobianOf | None = None, num_projections: int | None = None
    ) -> None:
        super().__init__(strength, sensitivity.JacobianNorm(of, num_projections=num_projections))


class GeometricComplexity(Regularizer):
    """Penalty on :class:`metrics.GeometricComplexity <lightning_complexity.metrics.GeometricComplexity>` of the batch.

    With ``num_projections`` every call draws new random vectors; the gradient is then unbiased.

    Args:
        strength: Factor.
        num_projections: ``None`` for exact, at one double backward pass for each output.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> GeometricComplexity(1e-2, num_projections=1)(net, torch.randn(5, 4)).backward()
    """

    example_strength = 1e-3

    def __init__(self, strength: float = 1e-3, *, num_projections: int | None = None) -> None:
        super().__init__(strength, sensitivity.GeometricComplexity(num_projections=num_projections))


class InputGradientNorm(Regularizer):
    """Penalty on :class:`metrics.InputGradientNorm <lightning_complexity.metrics.InputGradientNorm>` of the batch.

    One forward, backward and double backward pass. The gradient where the loss does not depend on an input is 0.

    Args:
        strength: Factor.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> InputGradientNorm(1e-2)(net, torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 0])).backward()
    """

    example_strength = 0.1

    def __init__(self, strength: float = 1e-3) -> None:
        super().__init__(strength, sensitivity.InputGradientNorm())
