"""What a network does to closed trajectories through its samples: how often units switch, how long they become."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.function.regions import (
    ellipse_through,
    shifted_images,
    trajectory_length,
    transitions,
)
from lightning_complexity.metrics.base import LayerMetric, SampleMeanMetric
from lightning_complexity.metrics.base.checks import check_at_least
from lightning_complexity.network import Context, MeasureError, Snapshot
from lightning_complexity.network.regions.patterns import activations_on, has_nan, unit_codes

__all__ = ["TrajectoryLength", "Transitions"]

Trajectory = Literal["ellipse", "shifts"]


def trajectories(snapshot: Snapshot, along: Trajectory, num_points: int, num_trajectories: int) -> list[Tensor]:
    """Closed trajectories through samples, each of shape ``(num_points, ...)``.

    Args:
        snapshot: With inputs.
        along: ``"ellipse"`` takes three samples a trajectory, from the start where they run out; ``"shifts"`` one.
        num_points: Points of each.
        num_trajectories: At most how many.

    Raises:
        ValueError: For shifts of samples that are not images.
    """
    snapshot.check_samples_apart("a trajectory")
    x = snapshot.float_inputs.detach()
    if along == "shifts":
        if x.ndim < 3:
            raise MeasureError(f"shifted images need inputs of shape (n, ..., height, width), got {tuple(x.shape)}.")
        return [shifted_images(image, num_points) for image in x[:num_trajectories]]
    count = max(1, min(len(x) // 3, num_trajectories))
    index = torch.arange(3 * count, device=x.device) % len(x)
    return [ellipse_through(x[corners], num_points) for corners in index.split(3)]


def _check_trajectory(along: Trajectory, num_points: int, num_trajectories: int) -> None:
    if along not in get_args(Trajectory):
        raise ValueError(f'along must be "ellipse" or "shifts", got {along!r}.')
    if num_points < 2 or num_points % 2:
        raise ValueError(f"num_points must be even and at least 2, got {num_points!r}.")
    check_at_least(1, num_trajectories=num_trajectories)


def _samples_used(along: Trajectory, num_trajectories: int, available: int) -> int:
    return min(available, num_trajectories * (3 if along == "ellipse" else 1))


class Transitions(SampleMeanMetric):
    r"""Mean number of changes of the units' activation codes along closed trajectories through the samples.

    .. math:: \sum_i \lVert c(z_i) - c(z_{i+1}) \rVert_0, \quad z_{k} = z_0

    Every unit behind which there is a piecewise linear activation counts, those of ReLU6 or Hardtanh with
    codes of three values; max pooling does not. More points can only find more, up to the number of kinks crossed: the
    report says under ``<name>/found_by_doubling`` which share of the value half of the points miss, and a warning says,
    once, if that is more than 1 %. Even on a converged trajectory it is not a count of linear regions, see
    :class:`LinearRegions` for that. It was found not to go along with generalization where the Jacobian does.

    Args:
        along: ``"ellipse"`` through three samples at a time (fewer samples are repeated, so that a single sample
            has 0), or ``"shifts"`` of each image sideways with wrap-around.
        num_points: Points of a trajectory, even.
        num_trajectories: At most how many.
        per_layer: Must be ``False``.

    Raises:
        UnsupportedOperationError: In ``update``, at a smooth activation.
        ValueError: In ``update``, if the network has no activation, or the samples to shift are not images.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.ReLU())
        >>> metric = Transitions(num_points=60)
        >>> metric.update(net, torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]]))
        >>> metric.compute()  # a line through an ellipse
        tensor(2., dtype=torch.float64)
    """

    name = "transitions"
    no_penalty_reason = "an integer has no gradient"
    needs = frozenset({"inputs"})
    cost = "sampling"
    single_update_reason = "its trajectories run through several samples"
    formula = r"\sum_i \lVert c(z_i) - c(z_{i+1}) \rVert_0"
    reference = "Novak et al., ICLR 2018"
    increases_with_complexity = True
    units = "changes / trajectory"
    misleads_when = "trajectories of another length are compared; wide networks have more units that change"

    sum_of_half: Tensor

    def __init__(
        self,
        along: Trajectory = "ellipse",
        *,
        num_points: int = 1024,
        num_trajectories: int = 4,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        _check_trajectory(along, num_points, num_trajectories)
        super().__init__(per_layer=per_layer, **kwargs)
        self.along, self.num_points, self.num_trajectories = along, num_points, num_trajectories
        self._warned = False

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_state("sum_of_half", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def samples_used(self, available: int) -> int:
        """Those that the trajectories run through."""
        return _samples_used(self.along, self.num_trajectories, available)

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Transitions of each trajectory."""
        return self._counts(snapshot)[0]

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the trajectories' counts."""
        counts, from_half = self._counts(snapshot)
        self.add_values(counts)
        self.sum_of_half = self.sum_of_half + from_half.sum()
        if self._missed_by_half() > 0.01 and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__}: {self.num_points} points are too few to find all transitions; half of them "
                f"miss {100 * float(self._missed_by_half()):.0f} %. Raise num_points.",
                stacklevel=4,
            )

    def _counts(self, snapshot: Snapshot) -> tuple[Tensor, Tensor]:
        """Of each trajectory, and with every second point only."""
        found = []
        for points in trajectories(snapshot, self.along, self.num_points, self.num_trajectories):
            parts, finite = [], True
            for activations in activations_on(snapshot, points):
                parts.append(unit_codes(activations, type(self).__name__).to(torch.int8))
                finite = finite and not has_nan(activations)
            codes = torch.cat(parts)
            counts = torch.stack([transitions(codes), transitions(codes[::2])]).double()
            found.append(counts if finite else torch.full_like(counts, torch.nan))
        whole, half = torch.stack(found, 1)
        return whole, half

    def _missed_by_half(self) -> Tensor:
        return (
            1 - self.sum_of_half / self.sum_of_values
            if self.sum_of_values > 0
            else torch.zeros_like(self.sum_of_values)
        )

    def details(self) -> dict[str, Tensor]:
        """The standard error, and the share that half of the points miss."""
        return {**super().details(), "found_by_doubling": self._missed_by_half()}


class TrajectoryLength(LayerMetric):
    r"""How much longer a closed trajectory through the samples is behind the last nonlinearity than at the input.

    .. math:: \int \lVert \dot z^{(l)}(t) \rVert \, dt \Big/ \int \lVert \dot x(t) \rVert \, dt

    Per layer: behind each nonlinearity. Smooth activations have lengths as well. A trajectory through a single sample
    or equal ones is a point, with the value ``nan``. At the usual initialization with variance 2 / fan-in, length does
    not grow with depth; it does for larger weights.

    Args:
        along: ``"ellipse"`` through three samples at a time, or ``"shifts"`` of each image sideways.
        num_points: Points of a trajectory, even.
        num_trajectories: At most how many; the value is that of their total length.
        per_layer: Whether ``compute`` returns the value of each nonlinearity by name.

    Raises:
        ValueError: In ``update``, if the network has no activation, or the samples to shift are not images.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.LeakyReLU(1.0))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[0.0, -3.0], [3.0, 0.0]]))
        >>> metric = TrajectoryLength(num_points=60)
        >>> metric.update(net, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        >>> metric.compute()
        tensor(3.0000, dtype=torch.float64)
    """

    name = "trajectory_length"
    no_penalty_reason = "JacobianNorm is what one trains with"
    needs = frozenset({"inputs"})
    cost = "sampling"
    single_update_reason = "its trajectories run through several samples"
    formula = r"\int \lVert \dot z^{(L)}(t) \rVert \, dt \Big/ \int \lVert \dot x(t) \rVert \, dt"
    reference = "Raghu et al., ICML 2017"
    increases_with_complexity = True
    units = "pure number"
    misleads_when = "trajectories of another shape are compared; wide networks lengthen them at initialization already"

    def __init__(
        self,
        along: Trajectory = "ellipse",
        *,
        num_points: int = 512,
        num_trajectories: int = 4,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        _check_trajectory(along, num_points, num_trajectories)
        super().__init__(per_layer=per_layer, **kwargs)
        self.along, self.num_points, self.num_trajectories = along, num_points, num_trajectories

    def samples_used(self, available: int) -> int:
        """Those that the trajectories run through."""
        return _samples_used(self.along, self.num_trajectories, available)

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Relative length behind each nonlinearity."""
        lengths: dict[str, Tensor] = {}
        at_input = torch.zeros((), dtype=torch.float64)
        for points in trajectories(snapshot, self.along, self.num_points, self.num_trajectories):
            at_input = at_input + trajectory_length(
                points.double().flatten(1) if points.ndim > 1 else points.double()[:, None]
            )
            for name, length in self._lengths(snapshot, points).items():
                lengths[name] = lengths.get(name, 0) + length
        if not lengths:
            raise MeasureError(f"{type(self).__name__} needs a network with nonlinearities; this one has none.")
        known = torch.where(at_input > 0, 1.0, torch.nan)
        return {name: known * length / at_input for name, length in lengths.items()}

    def _lengths(self, snapshot: Snapshot, points: Tensor) -> dict[str, Tensor]:
        lengths: dict[str, Tensor] = {}
        first: dict[str, Tensor] = {}
        last: dict[str, Tensor] = {}
        for activations in activations_on(snapshot, points):
            for a in activations:
                z = a.outputs.double().flatten(1)
                steps = z if a.name not in last else torch.cat([last[a.name], z])
                lengths[a.name] = lengths.get(a.name, 0) + trajectory_length(steps, closed=False)
                first.setdefault(a.name, z[:1])
                last[a.name] = z[-1:]
        return {
            name: length + trajectory_length(torch.cat([last[name], first[name]]), closed=False)
            for name, length in lengths.items()
        }

    def combine(self, values: Tensor) -> Tensor:
        """That of the last nonlinearity."""
        return values[-1]
