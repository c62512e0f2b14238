"""How a piecewise linear network divides its inputs: linear regions, and how near their boundaries are."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.function.region_bounds import (
    log_region_bound,
    montufar_upper_bound,
    serra_upper_bound,
)
from lightning_complexity.functional.function.regions import cut_depths, cut_units, region_boundary_distances
from lightning_complexity.metrics.base import ComplexityMetric, SampleMeanMetric
from lightning_complexity.metrics.base.checks import check_at_least
from lightning_complexity.network import (
    Context,
    MeasureError,
    NotFiniteError,
    Snapshot,
    capture_activations,
    segment_pieces,
)
from lightning_complexity.network.outputs import check_not_quantized
from lightning_complexity.network.regions.patterns import activations_by_sample, checked_activations, has_nan
from lightning_complexity.network.regions.restrictions import in_double_precision, regions_around_samples, restriction
from lightning_complexity.network.tracing.chains import chain_widths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LinearRegions", "LocalComplexity", "RegionBound", "RegionBoundaryDistance", "SmoothLocalComplexity"]

Line = Literal["segment", "plane"]
# Small samples go through the network in larger chunks, up to this many numbers: 8 MB in double precision.
_NUMBERS_AT_ONCE = 2**20


class LinearRegions(ComplexityMetric):
    r"""Number of linear regions along segments between samples, or in a plane through three samples; exact.

    .. math:: \#\{ \text{maximal connected sets on which } f \text{ is one affine map} \}

    Segments join each sample to the next; the value is the mean over them. The plane is cut to the
    rectangle around its three samples, enlarged by ``margin``. Counted in double precision, by cutting layer by layer
    where units have kinks and merging neighbours with the same affine map: kinks that coincide or do not
    reach the outputs are not counted. Max pooling counts too. At initialization the number along a segment is about
    that of the kinks times how far the segment reaches, whatever the depth; in a plane it grows with its square.

    A single sample, and two equal ones, are a segment with one region. ``nan`` for a network with such values.

    Args:
        along: ``"segment"`` or ``"plane"``, which takes the first three samples.
        num_segments: At most how many segments.
        margin: How far the rectangle in the plane reaches beyond the samples, as a share of their extent.
        max_units: Networks with more units than this are refused: their regions would take hours.
        per_layer: Must be ``False``, a region is one of the whole network.

    Raises:
        UnsupportedOperationError: In ``update``, if the network is not piecewise linear: smooth activations,
            attention, normalization by the sample's own statistics.
        ValueError: In ``update``, if the network has more units; along a plane for fewer than three samples, or three
            on a line.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> for p, v in zip(net.parameters(), ([[1.0], [1.0]], [-1.0, -2.0], [[1.0, 1.0]], [0.0])):
        ...     _ = p.data.copy_(torch.tensor(v))
        >>> metric = LinearRegions()
        >>> metric.update(net, torch.tensor([[0.0], [3.0]]))  # bends at 1 and 2
        >>> metric.compute()
        tensor(3., dtype=torch.float64)
    """

    name = "linear_regions"
    no_penalty_reason = "an integer has no gradient"
    needs = frozenset({"inputs"})
    cost = "sampling"
    single_update_reason = "it looks at segments between samples that follow each other"
    formula = r"\#\{ \text{maximal connected sets on which } f \text{ is one affine map} \}"
    reference = "Montufar et al., NeurIPS 2014; Hanin and Rolnick, ICML 2019"
    increases_with_complexity = True
    units = "regions"
    misleads_when = (
        "segments or planes are of other lengths or places: it counts along them, not in the whole input space; "
        "smooth activations have no regions"
    )

    def __init__(
        self,
        along: Line = "segment",
        *,
        num_segments: int = 8,
        margin: float = 0.25,
        max_units: int = 4096,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if along not in get_args(Line):
            raise ValueError(f'along must be "segment" or "plane", got {along!r}.')
        check_at_least(1, num_segments=num_segments)
        if margin < 0:
            raise ValueError(f"margin must not be negative, got {margin!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.along, self.num_segments, self.margin, self.max_units = along, num_segments, margin, max_units

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The number of regions."""
        snapshot.check_samples_apart(type(self).__name__)
        sample = snapshot.float_inputs[:1].double()
        activations = in_double_precision(
            snapshot, type(self).__name__, lambda model: capture_activations(model, sample)
        )
        _check_size(self, sum(a.inputs.numel() for a in activations), self.max_units)
        try:
            count = self._in_plane(snapshot) if self.along == "plane" else self._along_segments(snapshot)
        except NotFiniteError:
            count = torch.nan
        return torch.tensor(count, dtype=torch.float64)

    def samples_used(self, available: int) -> int:
        """The ends of the segments, or the three corners of the plane."""
        return min(available, 3 if self.along == "plane" else self.num_segments + 1)

    def _in_plane(self, snapshot: Snapshot) -> float:
        return regions_around_samples(snapshot, self.margin).num_linear_regions

    def _along_segments(self, snapshot: Snapshot) -> float:
        points = snapshot.float_inputs.detach().double()[: self.num_segments + 1]
        ends = points[1:] if len(points) > 1 else points
        counts = [
            segment_pieces(
                restriction(snapshot, start, (end - start)[None], measure=type(self).__name__)
            ).num_linear_regions
            for start, end in zip(points, ends, strict=False)
        ]
        return sum(counts) / len(counts)

    def figures(self, snapshot: Snapshot) -> dict[str, Figure]:
        """Along a plane: the regions in it, and where the decision changes."""
        if self.along != "plane" or not torch.as_tensor(self.compute()).isfinite():
            return {}
        from lightning_complexity.network.regions.figure import draw_regions

        # TensorBoard shows a tag as what it was first, so that the number and the picture need one each.
        return {f"{self.name}/picture": draw_regions(snapshot, self.margin)}


class RegionBoundaryDistance(SampleMeanMetric):
    r"""Mean distance from a sample to the nearest point at which some unit has its kink.

    .. math:: \frac{1}{n} \sum_i \min_j \frac{|z_j(x_i) - b_j|}{\lVert \nabla z_j(x_i) \rVert}

    Exact for piecewise linear networks, up to boundaries of max pooling, which are not looked at. One backward pass for
    each unit. At initialization it is about inversely proportional to the number of units. Infinite if no
    unit depends on the input.

    Args:
        max_units: Networks with more units than this are refused.
        per_layer: Must be ``False``.

    Raises:
        UnsupportedOperationError: In ``update``, at a smooth activation.
        ValueError: In ``update``, if the network has more units, or none.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.ReLU())
        >>> for p, v in zip(net.parameters(), ([[3.0, 4.0]], [2.0])):
        ...     _ = p.data.copy_(torch.tensor(v))
        >>> metric = RegionBoundaryDistance()
        >>> metric.update(net, torch.tensor([[1.0, 0.0]]))  # 5 / 5
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    name = "region_boundary_distance"
    no_penalty_reason = "SmoothLocalComplexity is what one trains with"
    needs = frozenset({"inputs"})
    increases_with_complexity = False
    cost = "sampling"
    formula = r"\frac{1}{n} \sum_i \min_j |z_j(x_i) - b_j| \,/\, \lVert \nabla z_j(x_i) \rVert"
    reference = "Hanin and Rolnick, ICML 2019"
    units = "input"
    misleads_when = "units that matter little have their kinks nearby: every kink counts alike; inputs were scaled"

    def __init__(self, *, max_units: int = 4096, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        self.max_units = max_units

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Distance of each sample."""
        snapshot.check_samples_apart(type(self).__name__)
        check_not_quantized(snapshot)
        return torch.cat([self._distances(snapshot, x) for x in snapshot.float_inputs.split(snapshot.chunk_size)])

    def _distances(self, snapshot: Snapshot, inputs: Tensor) -> Tensor:
        def forward(model: torch.nn.Module) -> Tensor:
            with torch.enable_grad():
                x = inputs.detach().clone().requires_grad_()
                activations = checked_activations(activations_by_sample(model, x), type(self).__name__)
                _check_size(self, sum(a.inputs[0].numel() for a in activations), self.max_units)
                distances = [
                    region_boundary_distances(a.inputs, a.kinks, x, create_graph=snapshot.differentiable)
                    for a in activations
                    if a.inputs.requires_grad
                ]
                return torch.stack(distances).amin(0) if distances else x.new_full((len(x),), torch.inf)

        return snapshot.run(forward)


def _check_size(metric: ComplexityMetric, num_units: int, max_units: int) -> None:
    if num_units > max_units:
        raise MeasureError(
            f"{type(metric).__name__} looks at each of {num_units} units, more than max_units={max_units}. "
            "Raise max_units if that is meant."
        )


Bound = Literal["any", "serra", "montufar"]


class RegionBound(ComplexityMetric):
    r"""Logarithm of an upper bound on the number of linear regions, from the number of units and kinks alone.

    .. math:: \ln \prod_l \sum_{j \le n_0} \binom{N_l}{j}

    Does not change while a network is trained; it is what :class:`LinearRegions` and the like are far below of. The
    bound for ``"any"`` network holds with skip connections, convolutions, max pooling and several kinks a unit.
    Those of Serra et al. and Montufar are sharper, and hold for units with one kink whose layers follow each other in a
    chain. A network without activations has one region, with the value 0.

    Args:
        of: ``"any"``, ``"serra"`` or ``"montufar"`` (2017).
        per_layer: Must be ``False``.

    Raises:
        UnsupportedOperationError: In ``update``, if the network is not piecewise linear, or not a chain where one is
            needed.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))
        >>> metric = RegionBound()
        >>> metric.update(net, torch.zeros(1, 2))
        >>> metric.compute().exp()
        tensor(79.0000, dtype=torch.float64)
    """

    name = "log_region_bound"
    reads_samples = False
    no_penalty_reason = "depends on the architecture alone, so that its gradient is zero"
    needs = frozenset({"inputs"})
    increases_with_complexity = None
    cost = "forward"
    formula = r"\ln \prod_l \sum_{j \le n_0} \binom{N_l}{j}"
    reference = "Zaslavsky, 1975; Montufar, 2017; Serra et al., ICML 2018"
    units = "regions"
    misleads_when = (
        "any two networks of one architecture are compared: it does not see weights, and is far above what there is"
    )

    def __init__(self, of: Bound = "any", *, per_layer: bool = False, **kwargs: Any) -> None:
        if of not in get_args(Bound):
            raise ValueError(f'of must be "any", "serra" or "montufar", got {of!r}.')
        super().__init__(per_layer=per_layer, **kwargs)
        self.of = of

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The logarithm of the bound."""
        sample, measure = snapshot.float_inputs[:1].detach(), type(self).__name__
        if self.of == "any":
            found = snapshot.run(lambda model: capture_activations(model, sample, pooling=True, measure=measure))
            bound = log_region_bound(sample.numel(), [a.inputs.numel() * len(a.kinks) for a in found])
            return torch.tensor(bound, dtype=torch.float64)
        widths = snapshot.run(lambda model: chain_widths(model, sample, measure=measure))
        exact = serra_upper_bound if self.of == "serra" else montufar_upper_bound
        return torch.tensor(math.log(exact(sample.numel(), widths)) if widths else 0.0, dtype=torch.float64)


class NeighbourhoodMetric(SampleMeanMetric):
    """A mean over samples of how units' kinks pass through a small neighbourhood of the sample.

    The neighbourhood has the vertices ``x +- r s_p`` for ``P`` orthonormal directions.

    Args:
        radius: Distance ``r`` of the vertices from the sample.
        num_directions: ``P``; default 25, or the number of inputs if that is less.
        per_layer: Must be ``False``.
    """

    needs = frozenset({"inputs"})
    cost = "sampling"

    def __init__(
        self, radius: float = 0.05, *, num_directions: int | None = None, per_layer: bool = False, **kwargs: Any
    ) -> None:
        if not radius > 0:
            raise ValueError(f"radius must be positive, got {radius!r}.")
        if num_directions is not None:
            check_at_least(1, num_directions=num_directions)
        super().__init__(per_layer=per_layer, **kwargs)
        self.radius, self.num_directions = radius, num_directions

    @abstractmethod
    def at_vertices(self, preactivations: Tensor, kinks: tuple[float, ...]) -> Tensor:
        """The value, shape ``(n,)``, from the preactivations of one layer, shape ``(n, vertices, units)``."""

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The sum over layers for each sample."""
        snapshot.check_samples_apart(type(self).__name__)
        x = snapshot.float_inputs.detach()
        frame = self._frame(context, x)
        offsets = torch.cat([frame, -frame]) * self.radius
        rows = max(snapshot.chunk_size, _NUMBERS_AT_ONCE // x[0].numel())
        at_once = max(1, rows // len(offsets))
        return torch.cat([self._around(snapshot, part, offsets) for part in x.split(at_once)])

    def _frame(self, context: Context, x: Tensor) -> Tensor:
        dim = x[0].numel()
        num_directions = min(25, dim) if self.num_directions is None else self.num_directions
        if num_directions > dim:
            raise MeasureError(f"num_directions must be at most the number of inputs, {dim}, got {num_directions}.")
        noise = torch.randn(dim, num_directions, generator=context.generator(), dtype=torch.float64)
        return torch.linalg.qr(noise)[0].T.to(x).reshape(-1, *x.shape[1:])

    def _around(self, snapshot: Snapshot, x: Tensor, offsets: Tensor) -> Tensor:
        vertices = (x.unsqueeze(1) + offsets).flatten(0, 1)
        activations = snapshot.run(lambda model: activations_by_sample(model, vertices))
        values = [
            self.at_vertices(a.inputs.flatten(1).unflatten(0, (len(x), len(offsets))), a.kinks)
            for a in checked_activations(activations, type(self).__name__)
        ]
        total = torch.stack(values).sum(0)
        return torch.full_like(total, torch.nan) if has_nan(activations) else total


class LocalComplexity(NeighbourhoodMetric):
    r"""Mean number of units whose kink passes through a small neighbourhood of a sample.

    .. math:: \frac{1}{n} \sum_i \#\{ j : z_j - b_j \text{ has both signs among } x_i \pm r s_1, \dots, x_i \pm r s_P \}

    The neighbourhood is spanned by ``P`` orthonormal directions, drawn with the seed and the same for all
    samples. For the first layer this is exactly ``r max_p |w s_p| > |w x + b|``; in deeper layers a kink that
    comes in and goes out between the vertices is missed. Units of the last layer do not count, nor does max pooling.
    One forward pass of ``2 P`` rows for each sample, chunked. Choose the radius after the scale of the data.

    Args:
        radius: Distance ``r`` of the vertices from the sample.
        num_directions: ``P``; default 25, or the number of inputs if that is less.
        per_layer: Must be ``False``.

    Raises:
        UnsupportedOperationError: In ``update``, at a smooth activation.
        ValueError: In ``update``, if there are more directions than inputs, or no activation.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU())
        >>> for p, v in zip(net.parameters(), ([[1.0], [1.0]], [0.1, 3.0])):
        ...     _ = p.data.copy_(torch.tensor(v))
        >>> metric = LocalComplexity(radius=1.0)
        >>> metric.update(net, torch.tensor([[0.0], [5.0]]))  # the kink at -0.1 is near the first
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    name = "local_complexity"
    no_penalty_reason = "SmoothLocalComplexity is what one trains with"
    formula = (
        r"\frac{1}{n} \sum_i \#\{ j : z_j - b_j \text{ has both signs among } x_i \pm r s_1, \dots, x_i \pm r s_P \}"
    )
    reference = "Humayun, Balestriero and Baraniuk, ICML 2024"
    increases_with_complexity = True
    units = "kinks / sample"
    misleads_when = (
        "neighbourhoods of another radius are compared: they are a choice; wide networks have more kinks everywhere"
    )

    def at_vertices(self, preactivations: Tensor, kinks: tuple[float, ...]) -> Tensor:
        """How many units do not have the same code at all vertices."""
        return cut_units(preactivations, kinks).double()


class SmoothLocalComplexity(NeighbourhoodMetric):
    r"""Mean over samples of how deeply units' kinks cut a small neighbourhood; what one trains with.

    .. math:: \frac{1}{n} \sum_i \sum_j \frac{2 \min(\max_v z_{jv} - b_j, \; b_j - \min_v z_{jv})_+}
        {\max_v z_{jv} - \min_v z_{jv}}

    Over the same vertices as :class:`LocalComplexity`. A unit counts 1 if its kink passes through the sample itself, 0
    if it leaves all vertices on one side, so that this is at most the local complexity. For a unit of the first layer
    it is ``1 - |w x + b| / (r max_p |w s_p|)`` where that is positive: a hinge on the distance to its kink.

    Args:
        radius: Distance ``r`` of the vertices from the sample.
        num_directions: ``P``; default 25, or the number of inputs if that is less.
        per_layer: Must be ``False``.

    Raises:
        UnsupportedOperationError: In ``update``, at a smooth activation.
        ValueError: In ``update``, if there are more directions than inputs, or no activation.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU())
        >>> for p, v in zip(net.parameters(), ([[1.0], [1.0]], [0.25, 3.0])):
        ...     _ = p.data.copy_(torch.tensor(v))
        >>> metric = SmoothLocalComplexity(radius=1.0)
        >>> metric.update(net, torch.tensor([[0.0]]))  # 1 - 0.25 / 1
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    name = "smooth_local_complexity"
    formula = (
        r"\frac{1}{n} \sum_i \sum_j 2 \min(\max_v z_{jv} - b_j, b_j - \min_v z_{jv})_+ "
        r"\,/\, (\max_v z_{jv} - \min_v z_{jv})"
    )
    reference = "a smooth form of Humayun, Balestriero and Baraniuk, ICML 2024"
    increases_with_complexity = True
    units = "kinks / sample"
    misleads_when = "its radius or sharpness is of another scale than the data's"

    def at_vertices(self, preactivations: Tensor, kinks: tuple[float, ...]) -> Tensor:
        """Sum over units of how deeply they cut."""
        return cut_depths(preactivations, kinks)
