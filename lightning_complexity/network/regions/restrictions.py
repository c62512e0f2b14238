"""The network of a snapshot on segments and planes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.regions.planes import PlaneRegions, plane_regions, rectangle_around
from lightning_complexity.network.regions.segments import Restriction
from lightning_complexity.network.snapshot import Snapshot, shared


def restriction(snapshot: Snapshot, origin: Tensor, directions: Tensor, *, measure: str) -> Restriction:
    """The network on a segment or a plane, in double precision; see :class:`Restriction`."""
    snapshot.check_samples_apart(measure)
    call = partial(snapshot.run, dtype=torch.float64)
    return Restriction(call, origin, directions, measure=measure, chunk_size=snapshot.chunk_size)


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
