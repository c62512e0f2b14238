"""The network of a snapshot on segments and planes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from lightning_complexity.network.errors import MeasureError, NetworkError
from lightning_complexity.network.outputs import check_not_quantized, check_real, predictions
from lightning_complexity.network.regions.planes import PlaneRegions, plane_regions, rectangle_around
from lightning_complexity.network.regions.segments import Restriction
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot

Result = TypeVar("Result")


def restriction(snapshot: Snapshot, origin: Tensor, directions: Tensor, *, measure: str) -> Restriction:
    """The network on a segment or a plane, in double precision; see :class:`Restriction`."""
    call = partial(in_double_precision, snapshot, measure)
    return Restriction(call, origin, directions, measure=measure, chunk_size=snapshot.chunk_size)


def in_double_precision(snapshot: Snapshot, measure: str, function: Callable[[nn.Module], Result]) -> Result:
    """Call ``function(model)`` with parameters and buffers in double precision.

    Raises:
        MeasureError: If the network does not run so, or a sample's outputs depend on other samples.
    """
    snapshot.check_samples_apart(measure)
    check_not_quantized(snapshot)
    check_real(snapshot)
    try:
        return snapshot.run(function, dtype=torch.float64)
    except NetworkError as error:
        predictions(snapshot)  # whose error is the network's own
        next(snapshot.run_chunks(lambda model, x: model(x), snapshot.float_inputs[:1]))  # also on a sample alone
        kinds = sorted({str(p.dtype).removeprefix("torch.") for p in snapshot.model.parameters()})
        raise MeasureError(
            f"{measure} runs the network in double precision, which this one does not take: somewhere it converts "
            f"numbers to a precision that is written down in it. Its parameters are {' and '.join(kinds)}. Let it "
            "convert to that of its weights or inputs, as in x.to(layer.weight.dtype), or leave this measure out."
        ) from error


@shared
def regions_around_samples(snapshot: Snapshot, margin: float, measure: str = "LinearRegions") -> PlaneRegions:
    """Linear regions in the rectangle around the first three samples; see :func:`rectangle_around`.

    Raises:
        MeasureError: If there are fewer than three samples, or they are on a line.
    """
    if snapshot.num_samples < 3:
        raise MeasureError(f"{measure} in a plane needs three samples, got {snapshot.num_samples}.")
    origin, directions, _, corners = rectangle_around(snapshot.float_inputs[:3].detach(), margin)
    return plane_regions(restriction(snapshot, origin, directions, measure=measure), corners)
