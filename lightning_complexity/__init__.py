"""Watch how complex a neural network becomes while PyTorch Lightning trains it, and hold that down.

``Trainer(callbacks=[ComplexityMonitor()])`` draws the curves; ``regularizers.PathNorm(1e-4)(net, x)`` is a penalty
to add to a loss; ``metrics.StableRank()`` measures without Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_complexity import (
        callbacks,
        functional,
        metrics,
        network,
        plots,
        recording,
        regularizers,
        selection,
        studies,
    )
    from lightning_complexity.callbacks import ComplexityConstraint, ComplexityMonitor, ComplexityPenalty

__version__ = "0.1.0"

_SUBPACKAGES = (
    *("callbacks", "functional", "metrics", "network", "plots", "recording", "regularizers", "selection", "studies"),
)

__all__ = [
    "ComplexityConstraint",
    "ComplexityMonitor",
    "ComplexityPenalty",
    "callbacks",
    "functional",
    "metrics",
    "network",
    "plots",
    "recording",
    "regularizers",
    "selection",
    "studies",
]


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import; whoever wants a formula shall not wait for it.
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        return getattr(import_module(f"{__name__}.callbacks"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
