"""The linear pieces of a network along a segment, exactly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from lightning_complexity.network.errors import MeasureError, UnsupportedOperationError
from lightning_complexity.network.outputs import checked_predictions
from lightning_complexity.network.running.task import main_tensor
from lightning_complexity.network.tracing.activations import Activation, run_capturing

# Kinks closer than this share of the domain are one.
RESOLUTION = 1e-10
# Slopes that differ by less than this share of the largest one are equal.
SAME_SLOPE = 1e-9
_NO_SLOPE = 1e-12
_BENDS = "that bends the function between the kinks known here, or rounds it to a lower precision"


class NotFiniteError(ArithmeticError):
    """The network has values that are not finite, so that it has no pieces."""


@dataclass(frozen=True)
class AffineParts:
    """Values and slopes of one quantity at some points, of which each stands for the piece that it is on.

    Attributes:
        values: Shape ``(points, units)``.
        slopes: For the coordinates, shape ``(points, units, dim)``.
    """

    values: Tensor
    slopes: Tensor

    def checked(self) -> AffineParts:
        """The same, unless something is not finite."""
        if not (self.values.isfinite().all() and self.slopes.isfinite().all()):
            raise NotFiniteError("the network's values on this piece of its inputs are not finite.")
        return self


class Restriction:
    r"""A piecewise linear network as a function of a few coordinates, :math:`t \mapsto f(x_0 + \sum_i t_i u_i)`.

    What a layer does on the piece around a point, value and slope, comes from the network itself by
    forward differentiation at that point, so that a piece may be arbitrarily small.

    Args:
        call: Runs a function of the model in double precision.
        origin: :math:`x_0`, shape of one input.
        directions: :math:`u_i`, shape ``(dim, ...)``.
        measure: Name of the measure, for errors.
        chunk_size: How many points go through the network at once.
    """

    def __init__(
        self,
        call: Callable[[Callable[[nn.Module], AffineParts]], AffineParts],
        origin: Tensor,
        directions: Tensor,
        *,
        measure: str,
        chunk_size: int = 256,
    ) -> None:
        self.call, self.measure, self.chunk_size = call, measure, chunk_size
        self.origin, self.directions = origin.detach().double(), directions.detach().double()
        self.kinks: list[tuple[float, ...]] = []
        self.outputs(torch.zeros(1, len(directions), dtype=torch.float64))

    def points(self, coordinates: Tensor) -> Tensor:
        """Inputs of the network at coordinates of shape ``(points, dim)``."""
        return self.origin + torch.tensordot(coordinates.to(self.origin), self.directions, 1)

    def outputs(self, coordinates: Tensor) -> AffineParts:
        """The network's outputs at coordinates of shape ``(points, dim)``."""
        return _joined([self._parts(chunk, None) for chunk in coordinates.split(self.chunk_size)]).checked()

    def layer(self, coordinates: Tensor, index: int) -> Iterator[AffineParts]:
        """Preactivation minus kink, for each kink of each unit of one nonlinearity, chunk by chunk."""
        for chunk in coordinates.split(self.chunk_size):
            yield self._parts(chunk, index).checked()

    def _parts(self, coordinates: Tensor, index: int | None) -> AffineParts:
        return self.call(lambda model: self._differentiated(model, coordinates, index))

    def _differentiated(self, model: nn.Module, coordinates: Tensor, index: int | None) -> AffineParts:
        dim, points = len(self.directions), self.points(coordinates)
        repeated = points.repeat_interleave(dim, 0)
        tangents = self.directions.repeat(len(points), *[1] * self.origin.ndim)
        with warnings.catch_warnings(), forward_ad.dual_level():
            # torch's own, when it loads the rules of differentiation.
            warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
            outputs, found = run_capturing(
                model, forward_ad.make_dual(repeated, tangents), pooling=True, measure=self.measure
            )
            outputs = checked_predictions(main_tensor(outputs), len(repeated))
            self._check(outputs, found, len(repeated))
            wanted = outputs if index is None else _above_kinks(found[index])
            values, slopes = forward_ad.unpack_dual(wanted)
            slopes = torch.zeros_like(values) if slopes is None else slopes
        values, slopes = values.detach().flatten(1), slopes.detach().flatten(1)
        return AffineParts(values[::dim], slopes.unflatten(0, (-1, dim)).transpose(1, 2))

    def _check(self, outputs: Tensor, found: list[Activation], num_rows: int) -> None:
        lower = next((t.dtype for t in (outputs, *(a.inputs for a in found)) if t.dtype != torch.float64), None)
        if lower is not None:
            raise MeasureError(
                f"{self.measure} runs the network in double precision, but a part of it computes in {lower}, where "
                "rounding makes steps. Let it keep the precision of its inputs, or leave this measure out."
            )
        kinks = [a.kinks for a in found]
        if self.kinks and kinks != self.kinks:
            raise ValueError(f"{self.measure} needs a network whose operations do not depend on the inputs.")
        if any(len(a.inputs) != num_rows for a in found):
            raise ValueError(f"{self.measure} needs samples in the first dimension of every activation.")
        self.kinks = kinks

    def check_linear(self, coordinates: Tensor, others: Tensor, parts: AffineParts) -> None:
        """Raise an error unless the outputs at other points of the same pieces are what their slopes say."""
        actual = self.outputs(others).values
        change = ((others - coordinates).to(parts.slopes).unsqueeze(1) * parts.slopes).sum(-1)
        scale = parts.values.abs().amax() + change.abs().amax()
        if not torch.allclose(actual, parts.values + change, rtol=0, atol=float(1e-9 * scale)):
            raise UnsupportedOperationError(_BENDS, "", self.measure)


def _above_kinks(activation: Activation) -> Tensor:
    flat = activation.inputs.reshape(len(activation.inputs), -1)
    return torch.cat([flat - kink for kink in activation.kinks], 1)


def _joined(parts: list[AffineParts]) -> AffineParts:
    return AffineParts(torch.cat([p.values for p in parts]), torch.cat([p.slopes for p in parts]))


def bends(slopes: Tensor) -> Tensor:
    """Which units have a slope at all, shape ``(points, units)``; the others' is rounding."""
    sizes = torch.linalg.vector_norm(slopes, dim=2)
    return sizes > _NO_SLOPE * sizes.amax().clamp(min=torch.finfo(sizes.dtype).tiny)


@dataclass(frozen=True)
class SegmentPieces:
    """The pieces of a network along a segment, from left to right.

    Attributes:
        breakpoints: Where pieces meet, as shares of the segment, with 0 and 1; shape ``(pieces + 1,)``.
        slopes: Of the outputs on each piece, shape ``(pieces, outputs)``.
        num_activation_regions: Pieces before those on which the outputs go on with the same slope were merged.
    """

    breakpoints: Tensor
    slopes: Tensor
    num_activation_regions: int

    @property
    def num_linear_regions(self) -> int:
        """How many pieces there are."""
        return len(self.slopes)


def segment_pieces(restriction: Restriction) -> SegmentPieces:
    """Cut the segment from 0 to 1 wherever the network bends.

    Layer by layer: on the pieces that the layers before left, a preactivation is affine, so that its
    kinks are solved for. Each piece takes one row in one forward pass a layer. Kinks that coincide are one; at the end
    neighbours with equal slopes are merged, since a unit may bend without the outputs doing so.

    Args:
        restriction: The network along one direction.

    Raises:
        UnsupportedOperationError: If the network is not piecewise linear.
        NotFiniteError: If its values are not finite.
    """
    edges = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for index in range(len(restriction.kinks)):
        edges = _cut(restriction, edges, index)
    middles = (edges[1:] + edges[:-1])[:, None] / 2
    parts = restriction.outputs(middles)
    # Off the middle, where a parabola would go unnoticed.
    restriction.check_linear(middles, torch.lerp(edges[:-1], edges[1:], 0.8)[:, None], parts)
    slopes = parts.slopes[..., 0].cpu()
    differ = (slopes.diff(dim=0).abs() > SAME_SLOPE * slopes.abs().amax()).any(1)
    ends, starts = torch.ones(1, dtype=torch.bool), torch.cat([torch.ones(1, dtype=torch.bool), differ])
    return SegmentPieces(edges[torch.cat([starts, ends])], slopes[starts], len(slopes))


def _cut(restriction: Restriction, edges: Tensor, index: int) -> Tensor:
    found, done = [edges], 0
    middles = (edges[1:] + edges[:-1]) / 2
    for parts in restriction.layer(middles[:, None], index):
        pieces = slice(done, done + len(parts.values))
        done = pieces.stop
        values, slopes, bending = parts.values.cpu(), parts.slopes[..., 0].cpu(), bends(parts.slopes).cpu()
        low, high = edges[:-1][pieces, None], edges[1:][pieces, None]
        crossings = middles[pieces, None] - values / torch.where(bending, slopes, 1.0)
        inside = bending & (crossings > low + RESOLUTION) & (crossings < high - RESOLUTION)
        found.append(crossings[inside])
    ordered = torch.cat(found).sort().values
    apart = ordered.diff(prepend=ordered.new_tensor([-1.0])) > RESOLUTION
    apart[0] = True
    return ordered[apart]
