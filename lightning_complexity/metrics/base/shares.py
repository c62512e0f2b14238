"""What several processes have measured of one network, put together as if one had measured it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.running.ranks import Ranks, in_words

if TYPE_CHECKING:
    from lightning_complexity.metrics.base.metric import ComplexityMetric

LARGE = 2**16
"""Number of entries from which on a state does not travel with the rest."""


class Large(NamedTuple):
    """What is said of a state that travels by itself."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Share:
    """What one process has measured.

    Attributes:
        failure: Why it could not.
        has_measured: Whether it did.
        states: Tensors on the CPU by name, ``None`` for lists without any.
        notes: What else the metric knows, such as names of layers.
    """

    failure: str | None = None
    has_measured: bool = False
    states: dict[str, Tensor | Large | None] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def share_of(metric: ComplexityMetric) -> Share:
    """What this process tells the others about a metric."""
    if metric.failure is not None or not metric.has_measured:
        return Share(metric.failure)
    try:
        states = {name: _told(_state(metric, name)) for name in metric._reductions}
    except Exception as error:  # for lack of memory
        return Share(in_words(error))
    return Share(None, True, states, {name: getattr(metric, name) for name in metric._notes})


def _state(metric: ComplexityMetric, name: str) -> Tensor | None:
    state: Any = getattr(metric, name)
    if isinstance(state, Tensor):
        return state
    return dim_zero_cat(state) if state else None


def _told(state: Tensor | None) -> Tensor | Large | None:
    if state is None:
        return None
    return state.detach().cpu() if state.numel() <= LARGE else Large(tuple(state.shape), state.dtype)


def synchronize(metric: ComplexityMetric, ranks: Ranks) -> bool:
    """Let a metric have the states of all processes, which must all come here.

    Returns:
        Whether any has measured something.

    Raises:
        MeasureError: On all of them, if one could not measure, with its reason.
    """
    shares = ranks.gathered(share_of(metric))
    reason = ranks.reason([share.failure for share in shares])
    if reason is not None:
        raise MeasureError(f"{type(metric).__name__} could not be measured on every process. {reason}")
    if not any(share.has_measured for share in shares):
        return False
    combine(metric, shares, ranks)
    return True


def combine(metric: ComplexityMetric, shares: list[Share], ranks: Ranks) -> None:
    """Give a metric the states of all processes, as they declare to be reduced; all must come here.

    What does not depend on samples is that of the first process that measured it.

    Args:
        metric: Of this process.
        shares: Of all processes, of which none has failed.
        ranks: The processes.

    Raises:
        MeasureError: On all of them, where the parts cannot be put together.
    """
    measured = [share for share in shares if share.has_measured]
    _check_shapes(metric, measured)
    device, is_whole = metric.device, metric.single_update_reason is not None
    states = {name: _gathered(metric, name, shares, ranks) for name in metric._reductions}
    if is_whole and not all(map(_are_equal, states.values())):
        raise MeasureError(
            f"{type(metric).__name__} takes one snapshot, since {metric.single_update_reason}, but processes have "
            "measured different ones. Give all of them the same samples, or measure on one."
        )
    for name, reduction in metric._reductions.items():
        parts = states[name]
        if is_whole or not metric.reads_samples:
            parts = parts[:1]
        setattr(metric, name, _reduced(reduction, parts, metric._defaults[name], device))
    for name, note in measured[0].notes.items():
        setattr(metric, name, copy.copy(note))


def _check_shapes(metric: ComplexityMetric, measured: list[Share]) -> None:
    for name in metric._reductions:
        is_list = isinstance(metric._defaults[name], list)
        shapes = {tuple(s.shape[is_list:]) for s in (share.states[name] for share in measured) if s is not None}
        if len(shapes) > 1:
            raise MeasureError(
                f"{type(metric).__name__} has values of the shapes {sorted(shapes)} on different processes, which "
                "cannot be put together. Give all of them the same network and samples of one shape."
            )


def _gathered(metric: ComplexityMetric, name: str, shares: list[Share], ranks: Ranks) -> list[Tensor]:
    """The states of those that have one, by rank."""
    told = [share.states.get(name) for share in shares]
    large = next((state for state in told if isinstance(state, Large)), None)
    if large is None:
        return [state for state in told if isinstance(state, Tensor)]
    own = _state(metric, name) if shares[ranks.rank].has_measured else None
    if own is None:
        shape = (0, *large.shape[1:]) if isinstance(metric._defaults[name], list) else large.shape
        own = torch.zeros(shape, dtype=large.dtype, device=metric.device)
    everyone = gather_all_tensors(own.detach(), ranks.group)
    return [state for state, said in zip(everyone, told, strict=True) if said is not None]


def _are_equal(states: list[Tensor]) -> bool:
    return all(
        s.shape == states[0].shape and torch.allclose(s, states[0].to(s.device), rtol=1e-4, equal_nan=True)
        for s in states
    )


def _reduced(
    reduction: str | Callable[..., Any] | None, parts: list[Tensor], default: Any, device: torch.device
) -> list[Tensor] | Tensor:
    on_device = [part.to(device) for part in parts]
    if isinstance(default, list):
        return on_device
    if len(on_device) == 1 or not callable(reduction):
        return on_device[0]
    result: Tensor = reduction(torch.stack(on_device))
    return result
