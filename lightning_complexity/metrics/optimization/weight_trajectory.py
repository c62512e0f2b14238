"""The shape of the way that the weights have gone lately."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from lightning_complexity.functional.weights.topology import (
    minimum_spanning_tree_sum,
    persistent_homology_dimension,
    positive_magnitude,
)
from lightning_complexity.metrics.base import LiveMetric, live_steps
from lightning_complexity.network import Context, MeasureError, Snapshot

__all__ = ["TrajectoryDimension", "TrajectoryMagnitude", "TrajectoryTreeLength"]

_REFERENCE = "Andreeva et al., NeurIPS 2024"


class _TrajectoryMetric(LiveMetric):
    """A number of the last places of the weights.

    Args:
        window: How many places count, the last ones.
        every: How many optimizer steps lie between two places; a monitor takes the least of its metrics.
    """

    def __init__(self, *, window: int = 500, every: int = 1, **kwargs: Any) -> None:
        super().__init__(every=every, **kwargs)
        if isinstance(window, bool) or not isinstance(window, int) or window < 2:
            raise ValueError(f"window must be a whole number of at least 2, got {window!r}.")
        self.window = window

    @abstractmethod
    def of_points(self, points: Tensor) -> Tensor:
        """The value, 0-d, from points of shape ``(n, d)``."""

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The value of the places that are kept."""
        trajectory = live_steps(snapshot).trajectory
        if trajectory is None:
            raise MeasureError("needs places of the weights; pass LiveSteps(model, trajectory=WeightTrajectory()).")
        points = trajectory.points()[-self.window :]
        return self.of_points(points) if len(points) else points.new_tensor(float("nan"))


class TrajectoryDimension(_TrajectoryMetric):
    r"""Persistent-homology dimension of the last places of the weights.

    .. math:: d = \frac{1}{1 - m}, \quad E_1(n) \propto n^m

    for the length :math:`E_1` of the Euclidean minimum spanning tree of :math:`n` of the places; see
    :func:`lightning_complexity.functional.persistent_homology_dimension`. After the authors it is low for trainings
    that generalize; they take thousands of places near the end of a training, at which it no longer goes anywhere.
    Places are projected (:class:`lightning_complexity.network.WeightTrajectory`). ``nan`` for fewer than 10 places.

    Args:
        window: How many places count, the last ones.
        every: How many optimizer steps lie between two places; a monitor takes the least of its metrics.

    Raises:
        ValueError: In ``update``, where the steps cannot be read, as those of optimizers of other kinds than torch's.

    Example:
        >>> import torch
        >>> from lightning_complexity.network import LiveSteps, WeightTrajectory
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        >>> live = LiveSteps(net, trajectory=WeightTrajectory()).follow([optimizer])
        >>> for _ in range(50):  # along a line
        ...     net.weight.grad = torch.ones(1, 1)
        ...     optimizer.step()
        >>> metric = TrajectoryDimension()
        >>> metric.update(net, live=live)
        >>> bool(0.8 < metric.compute() < 1.2)
        True
    """

    name = "trajectory_dimension"
    increases_with_complexity = True
    units = "dimensions"
    formula = r"1 / (1 - m), \quad E_1(n) \propto n^m"
    reference = "Birdal et al., NeurIPS 2021"
    misleads_when = "weights still go somewhere: a path is one-dimensional; learning rates or batch sizes differ"

    def of_points(self, points: Tensor) -> Tensor:
        """The dimension."""
        return persistent_homology_dimension(points)


class TrajectoryTreeLength(_TrajectoryMetric):
    r"""Sum of the edge lengths, to a power, of the minimum spanning tree of the last places of the weights.

    .. math:: E_\alpha = \sum_{e \in T} |e|^\alpha

    The lifetimes of connected components of the places. Places are projected. Compare it for equal numbers of places.

    Args:
        exponent: :math:`\alpha`, positive.
        window: How many places count, the last ones.
        every: How many optimizer steps lie between two places; a monitor takes the least of its metrics.

    Raises:
        ValueError: If ``exponent`` is not positive; in ``update``, where the steps cannot be read.

    Example:
        >>> import torch
        >>> from lightning_complexity.network import LiveSteps, WeightTrajectory
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        >>> live = LiveSteps(net, trajectory=WeightTrajectory()).follow([optimizer])
        >>> for gradient in (1.0, 4.0, -2.0):
        ...     net.weight.grad = torch.tensor([[gradient]])
        ...     optimizer.step()
        >>> metric = TrajectoryTreeLength()
        >>> metric.update(net, live=live)
        >>> round(metric.compute().item(), 4)  # 2 back to a place between the other two
        2.0
    """

    name = "trajectory_tree_length"
    increases_with_complexity = True
    units = "weight"
    formula = r"\sum_{e \in T} \lvert e \rvert^\alpha \text{ of the minimum spanning tree of the last weights}"
    reference = _REFERENCE
    misleads_when = "learning rates, batch sizes or scales of weights differ: it grows with the length of a step"

    def __init__(self, exponent: float = 1.0, *, window: int = 500, every: int = 1, **kwargs: Any) -> None:
        if not exponent > 0:
            raise ValueError(f"exponent must be positive, got {exponent!r}.")
        super().__init__(window=window, every=every, **kwargs)
        self.exponent = exponent

    def of_points(self, points: Tensor) -> Tensor:
        """The sum."""
        return minimum_spanning_tree_sum(points, exponent=self.exponent)


class TrajectoryMagnitude(_TrajectoryMetric):
    r"""Positive magnitude of the last places of the weights: how many places they are, as seen at a scale.

    .. math:: \sum_i \max(0, \beta_i), \quad Z \beta = 1, \quad Z_{ij} = e^{-s \lVert \theta_i - \theta_j \rVert}

    Between 1, where all places are close together at that scale, and their number. Places are projected.

    Args:
        scale: :math:`s`, positive; the authors take 0.01, or the root of the number of training samples.
        window: How many places count, the last ones.
        every: How many optimizer steps lie between two places; a monitor takes the least of its metrics.

    Raises:
        ValueError: If ``scale`` is not positive; in ``update``, where the steps cannot be read.

    Example:
        >>> import torch
        >>> from lightning_complexity.network import LiveSteps, WeightTrajectory
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        >>> live = LiveSteps(net, trajectory=WeightTrajectory()).follow([optimizer])
        >>> for gradient in (0.0, 3.0):
        ...     net.weight.grad = torch.tensor([[gradient]])
        ...     optimizer.step()
        >>> metric = TrajectoryMagnitude()
        >>> metric.update(net, live=live)
        >>> round(metric.compute().item(), 4)  # 2 / (1 + e^-1.5)
        1.6351
    """

    name = "trajectory_magnitude"
    increases_with_complexity = True
    units = "places"
    formula = r"\sum_i \max(0, \beta_i), \quad Z \beta = 1, \quad Z_{ij} = \exp(-s \lVert \theta_i - \theta_j \rVert)"
    reference = _REFERENCE
    misleads_when = "learning rates, batch sizes or scales of weights differ: it grows with the length of a step"

    def __init__(self, scale: float = 1.0, *, window: int = 500, every: int = 1, **kwargs: Any) -> None:
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale!r}.")
        super().__init__(window=window, every=every, **kwargs)
        self.scale = scale

    def of_points(self, points: Tensor) -> Tensor:
        """The magnitude."""
        return positive_magnitude(points, scale=self.scale)
