"""Which measures explain generalization on a set of trained networks. Needs ``lightning-complexity[studies]``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_complexity.studies.capacity import (
        DegreesOfFreedom,
        RademacherEstimate,
        SampleCapacity,
        effective_model_complexity,
        empirical_rademacher_complexity,
        generalized_degrees_of_freedom,
    )
    from lightning_complexity.studies.early import EarlyVerdict, early_table, early_verdict
    from lightning_complexity.studies.ranking import Ranking, rank, rank_over_time, rank_pairs
    from lightning_complexity.studies.records import read_records, read_series
    from lightning_complexity.studies.tables import Table, read_table

# pandas and what else studies need is loaded when a name is used.
_MODULES = {
    "DegreesOfFreedom": "capacity",
    "EarlyVerdict": "early",
    "RademacherEstimate": "capacity",
    "SampleCapacity": "capacity",
    "early_table": "early",
    "early_verdict": "early",
    "effective_model_complexity": "capacity",
    "empirical_rademacher_complexity": "capacity",
    "generalized_degrees_of_freedom": "capacity",
    "Ranking": "ranking",
    "Table": "tables",
    "rank": "ranking",
    "rank_pairs": "ranking",
    "rank_over_time": "ranking",
    "read_records": "records",
    "read_series": "records",
    "read_table": "tables",
}

__all__ = [
    "DegreesOfFreedom",
    "EarlyVerdict",
    "RademacherEstimate",
    "Ranking",
    "SampleCapacity",
    "Table",
    "early_table",
    "early_verdict",
    "effective_model_complexity",
    "empirical_rademacher_complexity",
    "generalized_degrees_of_freedom",
    "rank",
    "rank_over_time",
    "rank_pairs",
    "read_records",
    "read_series",
    "read_table",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        try:
            module = import_module(f"{__name__}.{_MODULES[name]}")
        except ModuleNotFoundError as error:
            if error.name != "pandas":
                raise
            raise ImportError("studies need pandas: pip install lightning-complexity[studies]") from error
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
