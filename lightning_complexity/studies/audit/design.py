"""The networks of an audit, and the first figures that it is to confirm or to refute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lightning_complexity.studies.audit.grading import Audit
from lightning_complexity.studies.audit.trends import Interval
from lightning_complexity.studies.criteria.experiments import LEARNING_RATES
from lightning_complexity.studies.training.optimizers import OptimizerName
from lightning_complexity.studies.training.settings import Setting, Stop

if TYPE_CHECKING:
    import pandas as pd

SIZES = (100, 200, 400, 800, 1400)
AUDITED: tuple[OptimizerName, ...] = ("momentum", "sgd", "adam")
FACTORS = ("num_samples", "optimizer", "learning_rate", "batch_size", "width", "depth", "label_noise")
BASE = Setting(width=64, depth=2, optimizer="momentum", learning_rate=LEARNING_RATES["momentum"], num_samples=400)
STOP = Stop(loss=0.01, zero_error=False)
_KNOBS: dict[str, tuple[Any, ...]] = {
    "batch_size": (16, 64),
    "width": (32, 128),
    "depth": (1, 3),
    "label_noise": (0.1, 0.2),
}
_CURVATURE = ("HessianTrace", "RelativeFlatness")


def audited_metrics() -> tuple[str, ...]:
    """Those that are audited if none are asked for: the standard ones, and those of curvature that there are."""
    from lightning_complexity.metrics import catalogue

    known = {entry.metric.__name__ for entry in catalogue()}
    return ("standard", *(name for name in _CURVATURE if name in known))


def designed(num_seeds: int, num_available: int, *, quick: bool = False) -> tuple[Setting, ...]:
    """Training-set sizes under each optimizer; one knob at a time around a network in their midst; several seeds.

    Args:
        num_seeds: Networks of each kind.
        num_available: Samples that there are; sizes are at most as many.
        quick: Whether a few small networks do.
    """
    sizes = sorted({min(size, num_available) for size in (SIZES[:2] if quick else SIZES)})
    base = replace(BASE, width=16, num_samples=sizes[0]) if quick else replace(BASE, num_samples=sizes[len(sizes) // 2])
    kinds = [
        replace(base, num_samples=size, optimizer=name, learning_rate=LEARNING_RATES[name])
        for name in AUDITED
        for size in sizes
    ]
    if not quick:
        kinds += [replace(base, learning_rate=factor * base.learning_rate) for factor in (0.5, 2.0)]
        kinds += [replace(base, **{name: value}) for name, values in _KNOBS.items() for value in values]
    return tuple(replace(kind, seed=seed) for seed in range(num_seeds) for kind in dict.fromkeys(kinds))


def with_relative_rates(frame: pd.DataFrame) -> pd.DataFrame:
    """The table of an audit with each learning rate as a multiple of the optimizer's own, so that these compare."""
    own = frame["optimizer"].map({str(name): rate for name, rate in LEARNING_RATES.items()})
    return frame.assign(learning_rate=(frame["learning_rate"] / own).round(6))


def directions(measures: Sequence[str]) -> list[str]:
    """Those of measures, by log key, that are lower where a network is more complex."""
    from lightning_complexity.metrics import catalogue

    lower = {entry.name for entry in catalogue() if entry.metric.increases_with_complexity is False}
    return [name for name in measures if name.removeprefix("complexity/") in lower]


# First figures ------------------------------------------------------------------------------------

Found = Literal["confirmed", "refuted", "not decided", "not measured"]


@dataclass(frozen=True)
class Figure:
    """Something that was found elsewhere, and what an audit says about it.

    Attributes:
        claim: In words.
        found: Whether it is so here.
        why: The slopes with their intervals.
    """

    claim: str
    found: Found
    why: str


_RISING = ("log_path_norm", "log_spectral_product", "parameter_norm", "distance_from_initialization")
RISING = (*_RISING, "geometric_complexity")
TURNING = ("hessian_trace", "relative_flatness")
FALLING = ("jacobian_norm",)
GAP_EXPONENT = -0.59


def first_figures(audit: Audit) -> list[Figure]:
    """Confirm or refute what was found on digits with one MLP, before there was an audit.

    Args:
        audit: With ``num_samples`` and ``optimizer`` among its factors.
    """
    figures = [_gap_falls(audit), _gap_exponent(audit)]
    figures += [_same_sign(audit, name, 1, "rises") for name in RISING]
    figures += [_turns(audit, name) for name in TURNING]
    return figures + [_same_sign(audit, name, -1, "falls") for name in FALLING]


def _by_optimizer(audit: Audit, measure: str) -> dict[Any, Interval]:
    return audit.at_levels(measure, "num_samples", "optimizer")


def _gap_falls(audit: Audit) -> Figure:
    return _decided("the gap falls with n under each optimizer", _by_optimizer(audit, audit.gap), -1)


def _gap_exponent(audit: Audit) -> Figure:
    claim = f"the gap falls as n^{GAP_EXPONENT}"
    own = audit.slopes[(audit.slopes["measure"] == audit.gap) & (audit.slopes["factor"] == "num_samples")]
    if own.empty or own["measure_scale"].iloc[0] != "log":
        return Figure(claim, "not measured", "the gap has no exponent, as it is not always positive")
    found = Interval(*own[["slope", "low", "high"]].iloc[0].astype(float))
    if not math.isfinite(found.low):
        return Figure(claim, "not decided", "one seed has no interval")
    return Figure(claim, "confirmed" if found.low <= GAP_EXPONENT <= found.high else "refuted", f"exponent {found}")


def _same_sign(audit: Audit, name: str, sign: int, verb: str) -> Figure:
    return _decided(f"{name} {verb} with n under each optimizer", _by_optimizer(audit, f"complexity/{name}"), sign)


def _decided(claim: str, slopes: dict[Any, Interval], sign: int) -> Figure:
    if not slopes:
        return Figure(claim, "not measured", "")
    signs = {at.sign for at in slopes.values()}
    found: Found = "refuted" if -sign in signs else ("confirmed" if signs == {sign} else "not decided")
    return Figure(claim, found, _named(slopes))


def _turns(audit: Audit, name: str) -> Figure:
    claim = f"the slope of {name} in n changes sign with the optimizer"
    slopes = _by_optimizer(audit, f"complexity/{name}")
    if not slopes:
        return Figure(claim, "not measured", "")
    signs = {at.sign for at in slopes.values()}
    found: Found = (
        "confirmed" if {1, -1} <= signs else ("refuted" if len(signs) == 1 and 0 not in signs else "not decided")
    )
    return Figure(claim, found, _named(slopes))


def _named(slopes: dict[Any, Interval]) -> str:
    return ", ".join(f"{level} {at}" for level, at in slopes.items())
