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
    from lightning_complexity.selection.samplers.evolution import AgingEvolutionSampler
    from lightning_complexity.selection.samplers.fitness import scalar_fitness
    from lightning_complexity.selection.samplers.genetic import MicroGeneticSampler
    from lightning_complexity.selection.samplers.progressive import ProgressiveSampler
    from lightning_complexity.selection.simplest import Choice, Model, simplest_within_one_standard_error
    from lightning_complexity.selection.sources import Points, read_points
    from lightning_complexity.selection.spaces.cells import CellSpace
    from lightning_complexity.selection.spaces.dense import DenseSpace
    from lightning_complexity.selection.spaces.macro import MacroSpace
    from lightning_complexity.selection.stopping.pruner import EarlyVerdictPruner

# pandas, Optuna and what else is needed is loaded when a name is used.
_MODULES = {
    "AgingEvolutionSampler": "samplers.evolution",
    "CellSpace": "spaces.cells",
    "Choice": "simplest",
    "DenseSpace": "spaces.dense",
    "EarlyVerdictPruner": "stopping.pruner",
    "Front": "pareto",
    "MacroSpace": "spaces.macro",
    "MicroGeneticSampler": "samplers.genetic",
    "Model": "simplest",
    "Points": "sources",
    "ProgressiveSampler": "samplers.progressive",
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
    "scalar_fitness": "samplers.fitness",
    "search_efficiency": "design_spaces.efficiency",
    "simplest_within_one_standard_error": "simplest",
}

__all__ = [
    "AgingEvolutionSampler",
    "CellSpace",
    "Choice",
    "DenseSpace",
    "EarlyVerdictPruner",
    "Front",
    "MacroSpace",
    "MicroGeneticSampler",
    "Model",
    "Points",
    "ProgressiveSampler",
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
    "scalar_fitness",
    "search_efficiency",
    "simplest_within_one_standard_error",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        try:
            module = import_module(f"{__name__}.{_MODULES[name]}")
        except ModuleNotFoundError as error:
            if error.name not in ("optuna", "pandas"):
                raise
            needed = f"choosing a model needs {error.name}: pip install lightning-complexity[selection]"
            raise ImportError(needed) from error
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
