"""The loss away from the current parameters: along random directions, and on the way to another network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.curvature import standard_error
from lightning_complexity.functional.loss_surface.landscape import loss_barrier
from lightning_complexity.metrics.base import ComplexityMetric, latest
from lightning_complexity.metrics.base.checks import check_at_least
from lightning_complexity.network import Context, Snapshot
from lightning_complexity.network.landscape.modes import ModeConnectivity, Statistics, check_way, connected
from lightning_complexity.network.landscape.slices import loss_at, random_directions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LossSlice", "ModeConnectivityBarrier"]


class LossSlice(ComplexityMetric):
    r"""Rise of the loss along random filter-normalized directions, and the picture of the loss along them.

    .. math:: \operatorname{mean}_{d, \pm} L(\theta \pm r d) - L(\theta), \quad
        d_i = \frac{\xi_i}{\|\xi_i\|} \|\theta_i\|, \quad \xi \sim N(0, 1)

    for each filter ``i``, the weights into one unit (a slice along a weight's first dimension). So a distance means the
    same for a network whose filters were rescaled, as far as normalization or ReLU behind them make that the same
    function. Weights of one dimension, biases and the parameters of BatchNorm, are not moved; BatchNorm keeps its
    running statistics. A filter of zeros stays zero. The directions are drawn from the same numbers every time, so that
    slices of different moments compare. :meth:`figures` draws the loss along each direction or, with ``plane=True``, in
    the plane of both; :attr:`losses` has the numbers. The standard error is that over directions, ``nan`` for one.

    Args:
        num_directions: Number of directions; each takes ``num_points - 1`` forward passes.
        radius: :math:`r`, up to where the loss is looked at, in norms of each filter.
        num_points: Number of points along a direction, odd, so that the parameters themselves are among them.
        plane: Whether to look at all ``num_points ** 2`` combinations of two directions.
        seed: Of the directions.

    Raises:
        ValueError: If an option is out of its range.
        MeasureError: In ``update``, if no weight of at least two dimensions is trained.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = net.weight.data.fill_(2.0)
        >>> metric = LossSlice(radius=0.5)
        >>> metric.update(net, torch.ones(1, 1), torch.full((1, 1), 2.0), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # both directions are 2 or -2: half of it, squared
        tensor(1., dtype=torch.float64)
    """

    name = "loss_slice"
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "sampling"
    chooses_layers = True
    increases_with_complexity = True
    units = "loss"
    no_penalty_reason = "it is the loss at a few random points; GradientNorm penalises its slope everywhere"
    formula = r"\operatorname{mean}_d L(\theta \pm r d) - L(\theta)"
    reference = "Li et al., NeurIPS 2018"
    misleads_when = (
        "few directions are taken for all: random ones hardly meet the sharpest; losses of networks trained to "
        "different losses are compared"
    )

    weighted: Tensor
    count: Tensor

    def __init__(
        self,
        num_directions: int = 2,
        *,
        radius: float = 0.5,
        num_points: int = 11,
        plane: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        check_at_least(1, num_directions=num_directions)
        if plane and num_directions != 2:
            raise ValueError(f"plane=True takes num_directions=2, got {num_directions!r}.")
        if num_points < 3 or num_points % 2 == 0:
            raise ValueError(f"num_points must be odd and at least 3, got {num_points!r}.")
        if not 0 < radius < math.inf:
            raise ValueError(f"radius must be a positive number, got {radius!r}.")
        super().__init__(**kwargs)
        self.num_directions, self.radius, self.num_points = num_directions, radius, num_points
        self.plane, self.seed = plane, seed

    @property
    def positions(self) -> Tensor:
        """Where the loss is looked at along a direction, shape ``(num_points,)``."""
        return torch.linspace(-self.radius, self.radius, self.num_points, dtype=torch.float64)

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The mean rise."""
        return self._rises(self._looked_at(snapshot, context)).mean()

    def _looked_at(self, snapshot: Snapshot, context: Context) -> Tensor:
        directions = random_directions(snapshot, self.num_directions, self.seed, context.layers)
        positions = self.positions.tolist()
        positions[self.num_points // 2] = 0.0
        if self.plane:
            rows = [[loss_at(snapshot, directions, [a, b]) for b in positions] for a in positions]
        else:
            rows = [[loss_at(snapshot, [direction], [a]) for a in positions] for direction in directions]
        return torch.stack([torch.stack(row) for row in rows]).double()

    def _rises(self, losses: Tensor) -> Tensor:
        """Mean rise at both ends of each direction, shape ``(num_directions,)``."""
        middle = self.num_points // 2
        along = torch.stack([losses[:, middle], losses[middle]]) if self.plane else losses
        return (along[:, 0] + along[:, -1]) / 2 - along[:, middle]

    def _prepare_state(self) -> None:
        self.add_state("weighted", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the losses, weighted by the number of samples in the batch."""
        self.weighted = self.weighted + self._looked_at(snapshot, context) * snapshot.num_samples
        self.count = self.count + snapshot.num_samples

    @property
    def losses(self) -> Tensor:
        """Mean losses so far, shape ``(num_directions, num_points)``, or ``(num_points, num_points)`` in the plane."""
        return self.weighted / self.count

    def total(self) -> Tensor:
        """The mean rise of the losses so far."""
        return self._rises(self.losses).mean()

    def standard_error(self) -> Tensor:
        """Standard error of the mean over directions; ``nan`` for one direction."""
        return standard_error(self._rises(self.losses))

    def details(self) -> dict[str, Tensor]:
        """The standard error."""
        return {"standard_error": self.standard_error()}

    def figures(self, snapshot: Snapshot) -> dict[str, Figure]:
        """The loss along the directions, or in their plane."""
        from lightning_complexity.network.landscape.figures import draw_plane, draw_slices

        losses = self.losses
        if not losses.isfinite().all():
            return {}
        draw = draw_plane if self.plane else draw_slices
        return {f"{self.name}/picture": draw(self.positions, losses)}


class ModeConnectivityBarrier(ComplexityMetric):
    r"""Height of the loss on the straight way from another network, that at the start of training by default.

    .. math:: \max_\alpha L((1 - \alpha) \theta_0 + \alpha \theta) - (1 - \alpha) L(\theta_0) - \alpha L(\theta)

    Zero where the loss falls or rises evenly, or bends down. Against a checkpoint of another training, whose hidden
    units come in another order, ``matching=True`` puts them into the order in which its weights are nearest to the
    present ones. :func:`lightning_complexity.network.linear_mode_connectivity` does the same for any two states.
    :meth:`figures` draws the losses on the way, :attr:`losses` has them.

    Args:
        other: State of the other network by name, such as the ``state_dict()`` of a checkpoint; default the initial
            state.
        num_points: Number of networks on the way, both ends included: as many forward passes.
        matching: Whether to match hidden units.
        statistics: What BatchNorm normalizes with on the way: ``"interpolated"`` running statistics, or those of the
            samples, ``"reset"``.

    Raises:
        ValueError: If an option is out of its range.
        MeasureError: In ``update``, if the other state does not fit the network.
        UnsupportedOperationError: In ``update``, with ``matching=True``, behind grouped convolutions, attention and
            other operations through which units cannot be followed.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = net.weight.data.fill_(1.0)
        >>> metric = ModeConnectivityBarrier({"weight": torch.tensor([[-1.0]])})
        >>> metric.update(net, torch.ones(1, 1), torch.zeros(1, 1), loss=lambda o, t: (o.square() - 1).square().mean())
        >>> metric.compute()  # of (w^2 - 1)^2 between -1 and 1
        tensor(1., dtype=torch.float64)
    """

    name = "mode_connectivity_barrier"
    needs = frozenset({"inputs", "targets", "loss", "initial"})
    cost = "sampling"
    increases_with_complexity = None
    units = "loss"
    single_update_reason = "units and statistics are matched on all samples"
    no_penalty_reason = "it is about the way to another network, not about this one"
    formula = r"\max_\alpha L((1 - \alpha) \theta_0 + \alpha \theta) - (1 - \alpha) L(\theta_0) - \alpha L(\theta)"
    reference = "Frankle et al., ICML 2020; matching: Ainsworth et al., ICLR 2023"
    misleads_when = (
        "networks of BatchNorm are connected with interpolated statistics, which fit none on the way; a barrier is "
        "taken for distance although another order of units would take it away"
    )

    losses: Tensor

    def __init__(
        self,
        other: Mapping[str, Tensor] | None = None,
        *,
        num_points: int = 11,
        matching: bool = False,
        statistics: Statistics = "interpolated",
        **kwargs: Any,
    ) -> None:
        check_way(num_points, statistics)
        super().__init__(**kwargs)
        self.other, self.num_points, self.matching, self.statistics = other, num_points, matching, statistics
        if other is not None:
            self.needs = self.needs - {"initial"}

    def way(self, snapshot: Snapshot) -> ModeConnectivity:
        """The way from the present network to the other."""
        other = snapshot.initial if self.other is None else self.other
        return connected(snapshot, snapshot.state, other, self.num_points, self.matching, self.statistics)

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The barrier."""
        return self.way(snapshot).barrier.double()

    def _prepare_state(self) -> None:
        self.add_state("losses", torch.full((2,), torch.nan, dtype=torch.float64), dist_reduce_fx=latest)

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the losses on the way."""
        self.losses = self.way(snapshot).losses.double().flip(0)

    def total(self) -> Tensor:
        """The barrier."""
        return loss_barrier(self.losses, self._positions)

    @property
    def _positions(self) -> Tensor:
        return torch.linspace(0, 1, len(self.losses), dtype=torch.float64)

    def figures(self, snapshot: Snapshot) -> dict[str, Figure]:
        """The loss on the way."""
        from lightning_complexity.network.landscape.figures import draw_way

        return {f"{self.name}/picture": draw_way(self._positions, self.losses)}
