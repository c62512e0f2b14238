"""The activation codes of a network's units."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_complexity.functional.regions import activation_codes
from lightning_complexity.network.errors import UnsupportedOperationError
from lightning_complexity.network.tracing.activations import Activation


def checked_activations(activations: list[Activation], measure: str) -> list[Activation]:
    """The activations, if each is linear between kinks and there are any.

    Raises:
        UnsupportedOperationError: At a smooth one.
        ValueError: If there are none.
    """
    for activation in activations:
        if not activation.piecewise_linear:
            raise UnsupportedOperationError(activation.function, activation.name, measure)
    if not activations:
        raise ValueError(
            f"{measure} needs a network with nonlinearities such as ReLU; this one has none that are known."
        )
    return activations


def unit_codes(activations: list[Activation], measure: str) -> Tensor:
    """Codes of all units, shape ``(n, units)``."""
    activations = checked_activations(activations, measure)
    return torch.cat([activation_codes(a.inputs.flatten(1), a.kinks) for a in activations], 1)


def has_nan(activations: list[Activation]) -> bool:
    """Whether a preactivation is not a number."""
    return any(a.inputs.isnan().any() for a in activations)
