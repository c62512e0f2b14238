"""Which metrics there are, and how to name them."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from lightning_complexity.metrics.base import ComplexityMetric, Cost, Need, Suite
from lightning_complexity.metrics.base.words import Direction, in_units, more_complex

_HERE = Path(__file__).parent
_NO_FAMILIES = ("base", "catalogue")


def families() -> list[ModuleType]:
    """The modules beside this one and in the folders beside it, each a family of metrics, by name."""
    beside = [module for module in pkgutil.iter_modules([str(_HERE)]) if module.name not in _NO_FAMILIES]
    found = [module.name for module in beside if not module.ispkg]
    for folder in (module.name for module in beside if module.ispkg):
        found += [f"{folder}.{module.name}" for module in pkgutil.iter_modules([str(_HERE / folder)])]
    package = __name__.rpartition(".")[0]
    return [import_module(f"{package}.{name}") for name in sorted(found, key=lambda name: name.rpartition(".")[2])]


@dataclass(frozen=True)
class CatalogueEntry:
    """One metric of the catalogue, with the attributes of its class.

    Attributes:
        units: What its value is measured in, a logarithm written as one: ``"ln(output / input)"``.
    """

    metric: type[ComplexityMetric]
    family: str
    name: str
    needs: frozenset[Need]
    cost: Cost
    increases_with_complexity: bool | None
    units: str
    formula: str
    reference: str
    summary: str

    @property
    def more_complex(self) -> Direction | None:
        """Which value a more complex network has, ``"higher"`` or ``"lower"``; ``None`` for no such direction."""
        return more_complex(self.increases_with_complexity)


def _entry(metric: type[ComplexityMetric], family: str) -> CatalogueEntry:
    summary = (metric.__doc__ or "").strip().splitlines()[0]
    return CatalogueEntry(
        metric,
        family,
        metric.name,
        metric.needs,
        metric.cost,
        metric.increases_with_complexity,
        in_units(metric),
        metric.formula,
        metric.reference,
        summary,
    )


def catalogue() -> list[CatalogueEntry]:
    """Every metric class with its family, name, needs, cost, formula and reference.

    Example:
        >>> [entry.name for entry in catalogue() if entry.family == "size"][:3]
        ['activation_count', 'flop_count', 'parameter_count']
    """
    return [
        _entry(getattr(family, name), family.__name__.rpartition(".")[2])
        for family in families()
        for name in family.__all__
        if isinstance(getattr(family, name), type)
    ]


def _suites() -> dict[str, tuple[str, ...]]:
    """Names of the metrics of each suite, each with those of the one before, cheap ones first."""
    costs = get_args(Cost)
    ordered = sorted((entry.metric for entry in catalogue()), key=lambda metric: costs.index(metric.cost))
    sizes = get_args(Suite)
    return {
        suite: tuple(m.__name__ for m in ordered if m.suite is not None and sizes.index(m.suite) <= sizes.index(suite))
        for suite in sizes
    }


SUITES: dict[str, tuple[str, ...]] = _suites()


def _by_name() -> dict[str, type[ComplexityMetric]]:
    found: dict[str, type[ComplexityMetric]] = {}
    for entry in catalogue():
        found |= {entry.metric.__name__: entry.metric, entry.name: entry.metric}
    return found


def _build(metric: object, per_layer: bool) -> ComplexityMetric:
    if isinstance(metric, ComplexityMetric):
        return metric
    if isinstance(metric, type):
        raise TypeError(f"a metric must be an object, not a class; write {metric.__name__}().")
    if not isinstance(metric, str):
        raise TypeError(f"a metric must be a ComplexityMetric such as metrics.PathNorm(), or its name, got {metric!r}.")
    known = _by_name()
    if metric not in known:
        close = get_close_matches(metric, [*known, *SUITES], n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"there is no metric {metric!r}.{hint} `lightning-complexity list` shows all.")
    cls = known[metric]
    options: dict[str, Any] = {"per_layer": True} if per_layer and cls.has_layers else {}
    return cls(**options)


def resolve(
    metrics: str | ComplexityMetric | Iterable[str | ComplexityMetric], *, per_layer: bool = False
) -> list[ComplexityMetric]:
    """Metrics from a suite's name, metric names and metrics, in any mixture.

    Args:
        metrics: ``"standard"``, ``"fast"`` or ``"full"``; a metric's class or log name; a metric; or a list of these.
        per_layer: Whether metrics given by name report their layers, where they have any.

    Returns:
        Metrics with distinct names.

    Raises:
        ValueError: At an unknown name, with the closest ones, or at two metrics of the same name.

    Example:
        >>> [m.name for m in resolve(["path_norm", "StableRank"])]
        Traceback (most recent call last):
        ValueError: there is no metric 'path_norm'. Did you mean 'log_path_norm' or 'PathNorm' or ...
    """
    listed = [metrics] if isinstance(metrics, (str, ComplexityMetric)) else list(metrics)
    expanded = [m for item in listed for m in (SUITES[item] if isinstance(item, str) and item in SUITES else [item])]
    if not expanded:
        raise ValueError('needs at least one metric, such as "standard" or ["StableRank"].')
    built = [_build(metric, per_layer) for metric in expanded]
    names = [metric.name for metric in built]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two metrics would be logged as {twice[0]!r}; set .name of one of them to tell them apart.")
    return built
