"""What a metric is called, which way is more complex, and what it is measured in, in words for people."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lightning_complexity.metrics.base.metric import ComplexityMetric

Direction = Literal["higher", "lower"]


def title(metric: ComplexityMetric | type[ComplexityMetric]) -> str:
    """The term of the literature, which the class is named by.

    Example:
        >>> from lightning_complexity.metrics import LANNComplexity, PathNorm
        >>> title(PathNorm), title(LANNComplexity())
        ('Path Norm', 'LANN Complexity')
    """
    cls = metric if isinstance(metric, type) else type(metric)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", cls.__name__.lstrip("_"))


def more_complex(increases_with_complexity: bool | None) -> Direction | None:
    """Which value a more complex network has; ``None`` where there is no such direction."""
    return None if increases_with_complexity is None else "higher" if increases_with_complexity else "lower"


def in_units(metric: ComplexityMetric | type[ComplexityMetric]) -> str:
    """What the value is measured in, a logarithm written as one; empty where the class does not say.

    Example:
        >>> from lightning_complexity.metrics import PathNorm, JacobianNorm
        >>> in_units(PathNorm()), in_units(PathNorm(log=False)), in_units(JacobianNorm)
        ('ln(output / input)', 'output / input', 'output / input')
    """
    return f"ln({metric.units})" if metric.is_logarithm and metric.units else metric.units
