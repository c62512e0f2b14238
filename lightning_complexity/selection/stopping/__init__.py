"""Stop trials whose end, as predicted from a share of their training, would be no use. Needs Optuna."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_complexity.selection.stopping.callback import EarlyVerdictCallback
    from lightning_complexity.selection.stopping.pruner import EarlyVerdictPruner

# The callback needs Lightning, the pruner does not.
_MODULES = {"EarlyVerdictCallback": "callback", "EarlyVerdictPruner": "pruner"}

__all__ = ["EarlyVerdictCallback", "EarlyVerdictPruner"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        try:
            module = import_module(f"{__name__}.{_MODULES[name]}")
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            raise ImportError("pruners need Optuna 5: pip install lightning-complexity[selection]") from error
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
