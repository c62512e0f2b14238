"""Which model has the appropriate complexity. Needs ``lightning-complexity[selection]``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_complexity.selection.design_spaces.comparing import SpaceComparison, compare_spaces
    from lightning_complexity.selection.design_spaces.efficiency import search_efficiency
    from lightning_complexity.selection.design_spaces.sampling import read_space, sample_space
    from lightning_complexity.selection.design_spaces.sizes import sample_size
    from lightning_complexity.selection.pareto import Front, hypervolume, knee, pareto_front
    from lightning_complexity.selection.pictures import picture_of_front
    from lightning_complexity.selection.simplest import Choice, Model, simplest_within_one_standard_error
    from lightning_complexity.selection.sources import Points, read_points

# pandas and what else is needed is loaded when a name is used.
_MODULES = {
    "Choice": "simplest",
    "Front": "pareto",
    "Model": "simplest",
    "Points": "sources",
    "SpaceComparison": "design_spaces.comparing",
    "compare_spaces": "design_spaces.comparing",
    "hypervolume": "pareto",
    "knee": "pareto",
    "pareto_front": "pareto",
    "picture_of_front": "pictures",
    "read_points": "sources",
    "read_space": "design_spaces.sampling",
    "sample_size": "design_spaces.sizes",
    "sample_space": "design_spaces.sampling",
    "search_efficiency": "design_spaces.efficiency",
    "simplest_within_one_standard_error": "simplest",
}

__all__ = [
    "Choice",
    "Front",
    "Model",
    "Points",
    "SpaceComparison",
    "compare_spaces",
    "hypervolume",
    "knee",
    "pareto_front",
    "picture_of_front",
    "read_points",
    "read_space",
    "sample_size",
    "sample_space",
    "search_efficiency",
    "simplest_within_one_standard_error",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        try:
            module = import_module(f"{__name__}.{_MODULES[name]}")
        except ModuleNotFoundError as error:
            if error.name != "pandas":
                raise
            raise ImportError("choosing a model needs pandas: pip install lightning-complexity[selection]") from error
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
