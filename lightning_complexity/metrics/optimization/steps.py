"""What the optimizer's steps do: read while a training runs, at no extra pass."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.functional.weights.norms import combine_norms, lp_norm
from lightning_complexity.metrics.base import LayerMetric, LiveMetric, ParameterMetric, latest, live_steps
from lightning_complexity.network import Context, LiveSteps, MeasureError, Snapshot
from lightning_complexity.network.weights.norms import chosen_parameters

__all__ = [
    "LayerRotation",
    "PathLength",
    "StepGradientNorm",
    "StepsToLoss",
    "TrainingLossSum",
    "UpdateCosine",
    "UpdateRatio",
]


class _ByParameter(ParameterMetric, LiveMetric):
    """A number made from norms of each parameter's part of a step, of one parameter as of all."""

    @abstractmethod
    def norms(self, live: LiveSteps) -> dict[str, tuple[Tensor, ...]]:
        """By name the numbers of each parameter, of which :meth:`number` makes the value."""

    @abstractmethod
    def number(self, numbers: tuple[Tensor, ...]) -> Tensor:
        """From those of one parameter, or combined ones, 0-d."""

    def combine(self, numbers: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The numbers of several parameters together, norms by default."""
        return tuple(combine_norms(torch.stack(column)) for column in zip(*numbers, strict=True))

    def _values(self, snapshot: Snapshot, context: Context) -> tuple[list[str], Tensor]:
        trained = chosen_parameters(snapshot, context.layers).keys()
        by_name = {name: n for name, n in self.norms(live_steps(snapshot)).items() if name in trained}
        if not by_name:
            return [], torch.full((1,), torch.nan)
        numbers = list(by_name.values())
        return list(by_name), torch.stack([self.number(n) for n in (self.combine(numbers), *numbers)])

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The value of all parameters together."""
        return self._values(snapshot, context)[1][0]

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the values."""
        self.layer_names, values = self._values(snapshot, context)
        self.values = values.detach()


class StepGradientNorm(_ByParameter):
    r"""Norm of the gradient that the optimizer has used in a step, of the training's own batch.

    After accumulation, unscaling and clipping, in training mode. That of a fixed probe is :class:`GradientNorm`. Of
    the last step that was looked at; ``nan`` before the first.

    Args:
        every: How many optimizer steps one that is looked at stands for; a monitor takes the least of its metrics.
        per_layer: Whether ``compute`` returns the norm of each parameter's gradient by name.

    Raises:
        ValueError: In ``update``, where the steps cannot be read, as those of optimizers of other kinds than torch's.

    Example:
        >>> from lightning_complexity.network import LiveSteps
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        >>> live = LiveSteps(net).follow([optimizer])
        >>> net.weight.grad = torch.tensor([[3.0]])
        >>> optimizer.step()
        >>> metric = StepGradientNorm()
        >>> metric.update(net, live=live)
        >>> metric.compute()
        tensor(3.)
    """

    name = "step_gradient_norm"
    increases_with_complexity = None
    units = "loss / weight"
    formula = r"\lVert g_t \rVert_2"
    reference = "Zhao, Zhang and Hu, ICML 2022; McCandlish et al., 2018"
    misleads_when = "batches are small: noise adds to it; gradients were clipped, which it then shows"

    def norms(self, live: LiveSteps) -> dict[str, tuple[Tensor, ...]]:
        """The gradients' norms."""
        return {name: (norm,) for name, norm in live.gradient_norms.items()}

    def number(self, numbers: tuple[Tensor, ...]) -> Tensor:
        """The norm itself."""
        return numbers[0]


class UpdateRatio(_ByParameter):
    r"""Size of an optimizer step relative to the weights: of their root mean squares.

    .. math:: \frac{\operatorname{RMS}(\theta_{t+1} - \theta_t)}{\operatorname{RMS}(\theta_t)}

    Around 0.001 is usual; what is far above it in a layer is a learning rate that is too large there. Of the last step
    that was looked at; ``nan`` before the first, infinite for weights that were zero.

    Args:
        every: How many optimizer steps one that is looked at stands for; a monitor takes the least of its metrics.
        per_layer: Whether ``compute`` returns the ratio of each parameter by name.

    Raises:
        ValueError: In ``update``, where the steps cannot be read, as those of optimizers of other kinds than torch's.

    Example:
        >>> from lightning_complexity.network import LiveSteps
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(net.weight, 3.0)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        >>> live = LiveSteps(net).follow([optimizer])
        >>> net.weight.grad = torch.tensor([[3.0]])
        >>> optimizer.step()
        >>> metric = UpdateRatio()
        >>> metric.update(net, live=live)
        >>> metric.compute()
        tensor(0.5000)
    """

    name = "update_ratio"
    increases_with_complexity = None
    units = "pure number"
    formula = r"\operatorname{RMS}(\Delta\theta) / \operatorname{RMS}(\theta)"
    reference = "You, Gitman and Ginsburg, 2017 (its inverse scales LARS)"
    misleads_when = "weights start at zero, such as biases; the learning rate is being warmed up"

    def norms(self, live: LiveSteps) -> dict[str, tuple[Tensor, ...]]:
        """Norms of updates and weights."""
        weights = live.weight_norms
        return {name: (norm, weights[name]) for name, norm in live.update_norms.items()}

    def number(self, numbers: tuple[Tensor, ...]) -> Tensor:
        """Their ratio."""
        update, weight = numbers
        return update / weight


class UpdateCosine(_ByParameter):
    r"""Cosine of the angle between two successive updates.

    .. math:: \cos(\theta_{t+1} - \theta_t,\ \theta_t - \theta_{t-1})

    Positive while steps go on in a direction, negative where they jump across a valley: the learning rate is at the
    edge of stability then. Of the last two successive steps that were looked at; ``nan`` before, and where one did not
    move.

    Args:
        every: How many optimizer steps one that is looked at stands for; a monitor takes the least of its metrics.
        per_layer: Whether ``compute`` returns the cosine of each parameter by name.

    Raises:
        ValueError: In ``update``, where the steps cannot be read, as those of optimizers of other kinds than torch's.

    Example:
        >>> from lightning_complexity.network import LiveSteps
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        >>> live = LiveSteps(net).follow([optimizer])
        >>> for gradient in (3.0, -1.0):
        ...     net.weight.grad = torch.tensor([[gradient]])
        ...     optimizer.step()
        >>> metric = UpdateCosine()
        >>> metric.update(net, live=live)
        >>> metric.compute()
        tensor(-1.)
    """

    name = "update_cosine"
    increases_with_complexity = None
    units = "pure number"
    formula = r"\cos(\Delta\theta_t, \Delta\theta_{t-1})"
    reference = "Xing et al., A walk with SGD, 2018"
    misleads_when = "the optimizer has momentum, which makes it positive by itself; batches are small"

    def norms(self, live: LiveSteps) -> dict[str, tuple[Tensor, ...]]:
        """Products and norms of updates."""
        return dict(live.update_products)

    def combine(self, numbers: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The product of the whole updates, and their norms."""
        products, *norms = zip(*numbers, strict=True)
        return torch.stack(products).sum(), *(combine_norms(torch.stack(column)) for column in norms)

    def number(self, numbers: tuple[Tensor, ...]) -> Tensor:
        """The cosine."""
        product, before, after = numbers
        return product / (before * after)


class PathLength(LiveMetric):
    r"""Length of the way that the parameters have gone through their space since training started.

    .. math:: \sum_t \| \theta_{t+1} - \theta_t \|_2

    At least :class:`DistanceFromInitialization`, the displacement; much more where training goes back and forth. A step
    that was not looked at counts as long as the next one that was; with ``every=1`` the sum is exact. What callbacks
    change between steps is not in it. 0 before the first step.

    Args:
        every: How many optimizer steps one that is looked at stands for; a monitor takes the least of its metrics.

    Raises:
        ValueError: In ``update``, where the steps cannot be read, as those of optimizers of other kinds than torch's.

    Example:
        >>> from lightning_complexity.network import LiveSteps
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        >>> live = LiveSteps(net, every=1).follow([optimizer])
        >>> for gradient in (3.0, -1.0):
        ...     net.weight.grad = torch.tensor([[gradient]])
        ...     optimizer.step()
        >>> metric = PathLength()
        >>> metric.update(net, live=live)
        >>> round(metric.compute().item(), 4)
        2.0
    """

    name = "path_length"
    increases_with_complexity = None
    units = "weight"
    formula = r"\sum_t \lVert \theta_{t+1} - \theta_t \rVert_2"
    reference = "Arora et al., ICML 2019 (as a distance from initialization); length of a curve"
    misleads_when = "trainings have different lengths, learning rates or batch sizes: it grows with the steps"

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The length so far."""
        return live_steps(snapshot).path_length


class TrainingLossSum(LiveMetric):
    r"""Sum of the training losses of all optimizer steps so far, the training speed estimator.

    .. math:: \sum_{s \le t} L_s

    Of two trainings with the same data and number of steps, the one with the smaller sum learns faster, and is expected
    to generalize better. Losses are those that the steps were taken for, of their own batches, in training mode, with
    penalties; over processes their mean. 0 before the first step, and where ``training_step`` returns no loss.

    Args:
        every: Of no effect here.

    Example:
        >>> from lightning_complexity.network import LiveSteps
        >>> net = torch.nn.Linear(1, 1)
        >>> live = LiveSteps(net)
        >>> live.losses.add(torch.tensor(2.0)), live.losses.add(torch.tensor(1.0))
        (None, None)
        >>> metric = TrainingLossSum()
        >>> metric.update(net, live=live)
        >>> metric.compute()
        tensor(3., dtype=torch.float64)
    """

    name = "training_loss_sum"
    increases_with_complexity = None
    units = "loss"
    formula = r"\sum_{s \le t} L_s"
    reference = "Ru et al., NeurIPS 2021; Lyle et al., NeurIPS 2020"
    misleads_when = "numbers of steps, batch sizes or losses differ; dropout or a penalty adds to the training loss"

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The sum so far."""
        losses = snapshot.live.losses
        losses.settle()
        return torch.tensor(losses.total, dtype=torch.float64)


class StepsToLoss(LiveMetric):
    r"""Optimizer steps until the training loss of a step was first below a level; ``nan`` until it was.

    .. math:: \min \{ t : L_t < \ell \}

    Losses are those of :class:`TrainingLossSum`; of single batches, so that a lucky one counts.

    Args:
        levels: Levels; the value is that of the lowest, those of all are details, ``<name>/<level>``.
        every: Of no effect here.

    Raises:
        ValueError: If there are no levels, or one that is not finite.

    Example:
        >>> from lightning_complexity.network import LiveSteps
        >>> net = torch.nn.Linear(1, 1)
        >>> live = LiveSteps(net)
        >>> for loss in (2.0, 0.9, 0.4):
        ...     live.losses.add(torch.tensor(loss))
        >>> metric = StepsToLoss((1.0, 0.5))
        >>> metric.update(net, live=live)
        >>> metric.report()
        {'steps_to_loss': tensor(3., dtype=torch.float64), 'steps_to_loss/1': tensor(2., ...), ...}
    """

    name = "steps_to_loss"
    increases_with_complexity = None
    units = "steps"
    formula = r"\min \{ t : L_t < \ell \}"
    reference = "Jiang et al., ICLR 2020 (steps to a cross-entropy of 0.1)"
    misleads_when = "batches are small, so that one of them is easy; learning rates or batch sizes differ"

    values: Tensor

    def __init__(self, levels: tuple[float, ...] = (0.1,), **kwargs: Any) -> None:
        if not levels or not all(math.isfinite(level) for level in levels):
            raise ValueError(f"levels must be one or more finite numbers, such as (1.0, 0.1), got {levels!r}.")
        self.levels = tuple(sorted(levels, reverse=True))
        super().__init__(**kwargs)

    def _prepare_state(self) -> None:
        self.add_state("values", torch.full((len(self.levels),), torch.nan), dist_reduce_fx=latest)

    def _steps(self, snapshot: Snapshot) -> Tensor:
        losses = snapshot.live.losses
        losses.settle()
        found = [losses.first_below(level) for level in self.levels]
        return torch.tensor([math.nan if step is None else step for step in found], dtype=torch.float64)

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Steps to the lowest level."""
        return self._steps(snapshot)[-1]

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the steps."""
        self.values = self._steps(snapshot)

    def total(self) -> Tensor:
        """Steps to the lowest level."""
        return self.values[-1]

    def details(self) -> dict[str, Tensor]:
        """Steps to each level, where there are several."""
        if len(self.levels) == 1:
            return {}
        return {f"{level:g}": steps for level, steps in zip(self.levels, self.values, strict=True)}


class LayerRotation(LayerMetric):
    r"""How far the layers have turned away from where they started: mean cosine distance of weights of layers.

    .. math:: \frac1L \sum_l \big( 1 - \cos(\theta_l, \theta_l^0) \big)

    Over the parameters with two dimensions or more, each as a vector; 1 where a layer has become orthogonal to its
    start. Needs ``initial``, the state at the start. ``nan`` for weights that are or were zero.

    Args:
        per_layer: Whether ``compute`` returns the distance of each parameter by name.

    Raises:
        ValueError: In ``update``, if a parameter was not there at the start, or none has two dimensions.

    Example:
        >>> from lightning_complexity.network import initial_state
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> start = initial_state(net)
        >>> _ = net.weight.data.copy_(torch.tensor([[4.0, 3.0]]))
        >>> metric = LayerRotation()
        >>> metric.update(net, initial=start)
        >>> metric.compute()  # 1 - 24 / 25
        tensor(0.0400)
    """

    name = "layer_rotation"
    units = "pure number"
    increases_with_complexity = True
    needs = frozenset({"initial"})
    reads_samples = False
    chooses_layers = True
    no_penalty_reason = "weights at their start have no angle to turn by"
    formula = r"\frac1L \sum_l 1 - \cos(\theta_l, \theta_l^0)"
    reference = "Carbonnelle and De Vleeschouwer, 2019"
    misleads_when = "networks are compared whose layers start at other sizes; normalization is followed by no scale"

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """The distance of each parameter."""
        start = snapshot.at_initialization.parameters
        now = {name: p for name, p in chosen_parameters(snapshot, context.layers).items() if p.ndim > 1 and p.numel()}
        if not now:
            raise MeasureError("LayerRotation needs a parameter with two dimensions or more; there is none.")
        return {name: _cosine_distance(p, start[name].detach()) for name, p in now.items()}

    def combine(self, values: Tensor) -> Tensor:
        """Mean over layers."""
        return values.mean()


def _cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    real = (torch.view_as_real(t) if t.is_complex() else t for t in (a, b))
    first, second = (t.flatten() / lp_norm(t) for t in real)
    return 1 - torch.dot(first, second)
