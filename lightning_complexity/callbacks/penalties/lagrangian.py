"""The augmented Lagrangian that holds one measure under a limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Number = TypeVar("Number", Tensor, float)

_GROWTH, _ENOUGH = 1.5, 0.8  # of the penalty parameter, unless the violation has fallen to this share
_NEGLIGIBLE = 0.01  # violation
_STIFFEST = 10.0


@dataclass
class AugmentedLagrangian:
    r"""A limit, and the multiplier that holds a measure under it.

    .. math:: \frac{1}{2 \rho} \Big( \max(0, \lambda + \rho\, g)^2 - \lambda^2 \Big), \quad
              g = (\text{measure} - \text{limit}) / s

    Args:
        limit: In the measure's units.
        in_units_of_limit: Whether :math:`s` is the limit's size rather than 1; a limit of 0 has 1.
        max_multiplier: Where the multiplier stops.

    Attributes:
        multiplier: :math:`\lambda`.
        penalty_parameter: :math:`\rho`.
        violation: :math:`g` at the last update of the multiplier; negative where there is slack.

    Example:
        >>> lagrangian = AugmentedLagrangian(limit=2.0)
        >>> lagrangian.update_multiplier(3.0)  # half of the limit above it
        >>> lagrangian.multiplier
        0.5
    """

    limit: float
    in_units_of_limit: bool = True
    max_multiplier: float = math.inf
    multiplier: float = 0.0
    penalty_parameter: float = 1.0
    violation: float = math.inf

    def excess(self, value: Number) -> Number:
        """:math:`g` of a value of the measure."""
        return (value - self.limit) / (abs(self.limit) if self.in_units_of_limit and self.limit else 1.0)

    def pushed(self, value: Tensor) -> Tensor:
        """How strongly the measure is pushed down from a value; 0 where there is enough slack."""
        return (self.multiplier + self.penalty_parameter * self.excess(value)).clamp(min=0)

    def term(self, value: Tensor) -> Tensor:
        """What is added to the loss for a value of the measure."""
        pushed = self.pushed(value)
        return (pushed.square() - self.multiplier**2) / (2 * self.penalty_parameter)

    def update_multiplier(self, value: float) -> None:
        """Raise the multiplier where a value exceeds the limit, lower it where there is slack."""
        violation = self.excess(value)
        if violation > max(_ENOUGH * self.violation, _NEGLIGIBLE):
            self.penalty_parameter = min(_GROWTH * self.penalty_parameter, _STIFFEST)
        self.violation = violation
        self.multiplier = min(max(0.0, self.multiplier + self.penalty_parameter * violation), self.max_multiplier)

    @property
    def is_saturated(self) -> bool:
        """Whether the largest multiplier does not hold the measure under the limit."""
        return self.multiplier == self.max_multiplier and self.violation > 0
