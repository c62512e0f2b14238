"""How much the function changes with its input."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.function.sensitivity import (
    class_jacobian_norms,
    jacobian_norms,
    jacobian_spectral_norms,
    safe_sqrt,
    squared_jacobian_norms,
    unit_directions,
)
from lightning_complexity.functional.numerics.random import normal_by_sample, sample_keys
from lightning_complexity.metrics.base import SampleDistributionMetric, SampleMeanMetric
from lightning_complexity.metrics.base.checks import check_at_least
from lightning_complexity.network import (
    Context,
    MeasureError,
    Snapshot,
    input_gradients,
    jacobian_grams,
    predictions,
)
from lightning_complexity.network.derivatives import JacobianOf, as_rows, input_output_chunks, nan_where_undefined
from lightning_complexity.network.errors import missing_derivatives_named
from lightning_complexity.network.leaves import check_leaf
from lightning_complexity.network.outputs import class_dim, predictions_on

__all__ = [
    "GeometricComplexity",
    "InputGradientNorm",
    "JacobianNorm",
    "LocalLipschitzConstant",
    "NoiseSensitivity",
    "ShiftSensitivity",
]

_LOGGER = logging.getLogger(__name__)


def _check_of(of: str | None) -> None:
    if of is not None and of not in get_args(JacobianOf):
        raise ValueError(f'of must be "softmax" or "logits", or None for what the outputs are, got {of!r}.')


def _kind(snapshot: Snapshot, of: JacobianOf | None, name: str) -> JacobianOf:
    """What is taken of the outputs: probabilities where there are classes, unless the user says."""
    check_leaf(snapshot)  # those that cannot be differentiated are named before the network is run on them
    has_classes = class_dim(snapshot) is not None
    if of == "softmax" and not has_classes:
        raise MeasureError(
            f'{name} of="softmax" needs outputs of several classes, got shape {tuple(predictions(snapshot).shape)}. '
            "Leave of out to take the outputs themselves."
        )
    if of is None:
        of = "softmax" if has_classes else "logits"
        _LOGGER.info("%s is that of the %s.", name, "class probabilities" if has_classes else "outputs themselves")
    return of


def _check_projections(num_projections: int | None) -> None:
    if num_projections is not None and num_projections < 1:
        raise ValueError(f"num_projections must be at least 1 or None for exact, got {num_projections!r}.")


def _estimated_squares(snapshot: Snapshot, context: Context, of: JacobianOf, num_projections: int) -> Tensor:
    parts = []
    generator = context.generator() if snapshot.differentiable else None
    dim = class_dim(snapshot) if of == "softmax" else None
    for inputs, outputs in input_output_chunks(snapshot):
        with torch.enable_grad(), missing_derivatives_named(2):
            rows = as_rows(outputs, of, dim)
            normals = _normals(inputs, (num_projections, rows.shape[1]), context.seed, generator)
            directions = unit_directions(normals.to(rows.dtype).movedim(1, 0))
            squares = squared_jacobian_norms(rows, inputs, directions, create_graph=snapshot.differentiable)
            parts.append(nan_where_undefined(squares, rows))
    return torch.cat(parts)


def _normals(samples: Tensor, shape: tuple[int, ...], seed: int, generator: torch.Generator | None) -> Tensor:
    """Normal numbers for each sample: its own, so that batches of any size give the same, or from a generator."""
    if generator is not None:
        return torch.randn(len(samples), *shape, generator=generator).to(samples)
    return normal_by_sample(sample_keys(samples.detach(), seed), shape, samples.dtype)


class JacobianNorm(SampleMeanMetric):
    r"""Mean over samples of the Frobenius norm of the Jacobian of the outputs with respect to the inputs.

    .. math:: \frac{1}{n} \sum_i \Big\| \frac{\partial f(x_i)}{\partial x_i} \Big\|_F

    Exact, it takes one backward pass for each output, which all exact measures of the Jacobian share. With
    ``num_projections=k`` it takes ``k``, along random unit vectors of each sample's own; the squared norm is then
    unbiased, the norm itself slightly low for few projections. The standard error covers samples and projections.
    Where a sample has several positions, as in segmentation, its Jacobian is that of all of them, with a softmax at
    each. Scaling the inputs scales the value inversely, so compare networks on the same inputs. A saturated softmax
    has a small Jacobian also in a bad network: look at ``of="logits"`` too. The gradient where the
    Jacobian is zero is 0.

    Public code also has the mean over classes of the norms of single rows, which is another number.

    Args:
        of: ``"softmax"`` for the class probabilities, as in the paper; ``"logits"`` for the outputs themselves; by
            default the probabilities where there are classes, else the outputs, and which of them is logged at level
            ``INFO``. There are classes if there are several outputs and targets, where given, are class indices or
            probabilities.
        num_projections: ``None`` for exact.
        per_class: Whether ``compute`` returns a dictionary with the mean norm of each output's gradient alone, by the
            output's number; only exact.
        per_layer: Must be ``False``, the Jacobian is that of the whole network.

    Raises:
        MissingInputError: In ``update``, if the inputs are not one floating-point tensor.

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> metric = JacobianNorm(of="logits")
        >>> metric.update(net, torch.ones(5, 2))
        >>> metric.compute()
        tensor(5., dtype=torch.float64)
    """

    name = "jacobian_norm"
    suite = "standard"
    order = 1
    differentiates_inputs = True
    needs = frozenset({"inputs"})
    cost = "backward"
    formula = r"\frac{1}{n} \sum_i \lVert \partial f(x_i) / \partial x_i \rVert_F"
    reference = "Novak et al., ICLR 2018"
    increases_with_complexity = True
    units = "output / input"
    misleads_when = (
        "outputs or inputs were scaled: longer training with cross-entropy raises it for any labels; it is local, "
        "and says nothing between samples"
    )

    def __init__(
        self,
        of: JacobianOf | None = None,
        *,
        num_projections: int | None = None,
        per_class: bool = False,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        _check_of(of)
        _check_projections(num_projections)
        if per_class and num_projections is not None:
            raise ValueError("per_class needs the exact Jacobian; leave num_projections out.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.of, self.num_projections, self.per_class = of, num_projections, per_class

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Norm of each sample's Jacobian; with ``per_class=True`` in the first column, before those of its rows."""
        of = _kind(snapshot, self.of, type(self).__name__)
        if self.num_projections is not None:
            return safe_sqrt(_estimated_squares(snapshot, context, of, self.num_projections))
        grams = jacobian_grams(snapshot, of)
        norms = jacobian_norms(grams)
        return torch.cat([norms.unsqueeze(1), class_jacobian_norms(grams)], dim=1) if self.per_class else norms

    @property
    def splits(self) -> bool:
        """Whether ``compute`` returns the parts."""
        return self.per_class

    def parts(self) -> dict[str, Tensor]:
        """The mean norm of each class's gradient alone."""
        return {str(index): mean for index, mean in enumerate(self.means()[1:])} if self.per_class else {}


class GeometricComplexity(SampleMeanMetric):
    r"""Mean over samples of the squared Frobenius norm of the logits' Jacobian.

    .. math:: \frac1n \sum_i \Big\| \frac{\partial f(x_i)}{\partial x_i} \Big\|_F^2

    A discrete Dirichlet energy of the network on the data. Unlike :class:`JacobianNorm` it takes the logits and
    squares. Exact by one backward pass for each output; with ``num_projections=k`` an unbiased estimate by ``k``.
    Smooth where the network is.

    Args:
        num_projections: ``None`` for exact.
        per_layer: Must be ``False``, the Jacobian is that of the whole network.

    Raises:
        MissingInputError: In ``update``, if the inputs are not one floating-point tensor.

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> metric = GeometricComplexity()
        >>> metric.update(net, torch.ones(5, 2))
        >>> metric.compute()
        tensor(25., dtype=torch.float64)
    """

    name = "geometric_complexity"
    suite = "standard"
    order = 1
    differentiates_inputs = True
    needs = frozenset({"inputs"})
    cost = "backward"
    formula = r"\frac1n \sum_i \lVert \partial f(x_i) / \partial x_i \rVert_F^2"
    reference = "Dherin et al., NeurIPS 2022"
    increases_with_complexity = True
    units = "output² / input²"
    misleads_when = (
        "outputs or inputs were scaled: longer training with cross-entropy raises it for any labels; compare at "
        "equal loss"
    )

    def __init__(self, *, num_projections: int | None = None, per_layer: bool = False, **kwargs: Any) -> None:
        _check_projections(num_projections)
        super().__init__(per_layer=per_layer, **kwargs)
        self.num_projections = num_projections

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Squared norm of each sample's Jacobian."""
        if self.num_projections is not None:
            return _estimated_squares(snapshot, context, "logits", self.num_projections)
        return jacobian_grams(snapshot).diagonal(dim1=-2, dim2=-1).sum(-1)


class LocalLipschitzConstant(SampleDistributionMetric):
    r"""Largest singular value of the Jacobian over the samples, a lower bound on the Lipschitz constant.

    .. math:: \max_i \Big\| \frac{\partial f(x_i)}{\partial x_i} \Big\|_2

    The upper bound is the exponential of ``LogSpectralProduct(convolution="operator")``, for a network that is a chain
    of layers and rectifiers. Exact by one backward pass for each output, shared with the other measures of the
    Jacobian. Keeps one number for every sample.

    Args:
        of: ``"logits"`` or ``"softmax"``.
        per_layer: Must be ``False``, the Jacobian is that of the whole network.

    Raises:
        MissingInputError: In ``update``, if the inputs are not one floating-point tensor.

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> metric = LocalLipschitzConstant()
        >>> metric.update(net, torch.ones(5, 2))
        >>> metric.compute()
        tensor(4.)
    """

    name = "local_lipschitz_constant"
    order = 1
    differentiates_inputs = True
    no_penalty_reason = "one sample decides it; JacobianNorm bounds it"
    needs = frozenset({"inputs"})
    cost = "backward"
    formula = r"\max_i \lVert \partial f(x_i) / \partial x_i \rVert_2"
    reference = "Weng et al., ICLR 2018 (local Lipschitz constants)"
    increases_with_complexity = True
    units = "output / input"
    misleads_when = "more samples are taken, with which a largest value rises; outputs or inputs were scaled"

    def __init__(self, of: JacobianOf = "logits", *, per_layer: bool = False, **kwargs: Any) -> None:
        _check_of(of)
        super().__init__(per_layer=per_layer, **kwargs)
        self.of = of

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Largest singular value of each sample's Jacobian."""
        return jacobian_spectral_norms(jacobian_grams(snapshot, _kind(snapshot, self.of, type(self).__name__)))

    def summarize(self, values: Tensor) -> Tensor:
        """The largest."""
        return values.amax()


class InputGradientNorm(SampleMeanMetric):
    r"""Mean over samples of the norm of the loss's gradient with respect to the input.

    .. math:: \frac1n \sum_i \Big\| \frac{\partial \ell(f(x_i), y_i)}{\partial x_i} \Big\|_2

    One forward and one backward pass. The loss must be a mean over samples, each depending on its own input alone. The
    gradient where it is zero is 0.

    Args:
        per_layer: Must be ``False``, the gradient is that of the whole network.

    Raises:
        MissingInputError: In ``update``, if the inputs are not one floating-point tensor.

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = torch.nn.init.zeros_(net.weight)
        >>> metric = InputGradientNorm()
        >>> metric.update(net, torch.ones(5, 2), torch.zeros(5, dtype=torch.long))
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    name = "input_gradient_norm"
    order = 1
    differentiates_inputs = True
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "backward"
    formula = r"\frac1n \sum_i \lVert \partial \ell(f(x_i), y_i) / \partial x_i \rVert_2"
    reference = "Drucker and Le Cun, 1992, as double backpropagation (its square)"
    increases_with_complexity = True
    units = "loss / input"
    misleads_when = "training loss is near zero: it vanishes with the loss, also for random labels"

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Norm of each sample's gradient."""
        return safe_sqrt(torch.cat([g.flatten(1).square().sum(1) for g in input_gradients(snapshot)]))


class _OutputChange(SampleMeanMetric):
    """Mean distance of the outputs on changed inputs from those on the inputs themselves."""

    needs = frozenset({"inputs"})
    cost = "forward"

    def __init__(self, of: JacobianOf | None = None, *, per_layer: bool = False, **kwargs: Any) -> None:
        _check_of(of)
        super().__init__(per_layer=per_layer, **kwargs)
        self.of = of

    @abstractmethod
    def changed_inputs(self, snapshot: Snapshot, context: Context) -> Iterator[Tensor]:
        """Each change, made to all inputs."""

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Mean distance over the changes, for each sample."""
        outputs = predictions(snapshot)
        of, dim = _kind(snapshot, self.of, type(self).__name__), class_dim(snapshot)
        rows = as_rows(outputs, of, dim)
        changes = [as_rows(predictions_on(snapshot, x), of, dim) - rows for x in self.changed_inputs(snapshot, context)]
        return torch.stack([torch.linalg.vector_norm(change, dim=1) for change in changes]).mean(0)


class NoiseSensitivity(_OutputChange):
    r"""Mean distance that outputs move when Gaussian noise is added to the inputs.

    .. math:: \frac{1}{n m} \sum_{i, k} \| f(x_i + \sigma \epsilon_k) - f(x_i) \|_2, \quad \epsilon_k \sim N(0, I)

    Each sample has ``m`` draws of its own, which depend on its numbers alone, so that batches of any size give the same
    value and the standard error covers them. For small :math:`\sigma` it
    tends to :math:`\sigma` times a mean of :math:`\|J \epsilon\|_2`, which the Jacobian's Frobenius norm bounds.

    Args:
        of: ``"softmax"`` or ``"logits"``; by default as for :class:`JacobianNorm`.
        sigma: Standard deviation of the noise, positive, in units of the inputs.
        num_draws: Number of draws, one forward pass each.
        per_layer: Must be ``False``, the function is that of the whole network.

    Raises:
        MissingInputError: In ``update``, if the inputs are not one floating-point tensor.

    Example:
        >>> metric = NoiseSensitivity()
        >>> metric.update(torch.nn.Identity(), torch.ones(5, 2))
        >>> bool(0 < metric.compute() < 0.1)
        True
    """

    name = "noise_sensitivity"
    no_penalty_reason = "JacobianNorm is its limit, at less noise"
    formula = r"\frac{1}{nm} \sum_{i,k} \lVert f(x_i + \sigma \epsilon_k) - f(x_i) \rVert_2"
    reference = "Novak et al., ICLR 2018, sec. 3.1 (the motivation of the Jacobian norm)"
    increases_with_complexity = True
    units = "output"
    misleads_when = "noise is of another scale than the data's; outputs were scaled"

    def __init__(
        self,
        of: JacobianOf | None = None,
        *,
        sigma: float = 0.1,
        num_draws: int = 4,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if not 0 < sigma < float("inf"):
            raise ValueError(f"sigma must be positive and finite, got {sigma!r}.")
        check_at_least(1, num_draws=num_draws)
        super().__init__(of, per_layer=per_layer, **kwargs)
        self.sigma, self.num_draws = sigma, num_draws

    def changed_inputs(self, snapshot: Snapshot, context: Context) -> Iterator[Tensor]:
        """The inputs with each draw of the noise."""
        x = snapshot.float_inputs
        for draw in range(self.num_draws):
            keys = sample_keys(x.detach(), seed=context.seed * self.num_draws + draw)
            yield x + self.sigma * normal_by_sample(keys, tuple(x.shape[1:]), x.dtype)


class ShiftSensitivity(_OutputChange):
    r"""Mean distance that outputs move when images are shifted, what leaves one side entering at the other.

    .. math:: \frac{1}{n s} \sum_{i, s} \| f(\text{shift}_s\, x_i) - f(x_i) \|_2

    over shifts in both directions along every spatial dimension; ``nan`` or ``inf`` where the network's outputs are for
    a shifted image.

    Args:
        of: ``"softmax"`` or ``"logits"``; by default as for :class:`JacobianNorm`.
        pixels: By how many pixels, at least 1.
        per_layer: Must be ``False``, the function is that of the whole network.

    Raises:
        ValueError: In ``update``, if the inputs are not of the shape ``(n, channels, ...)`` with a spatial dimension.

    Example:
        >>> metric = ShiftSensitivity(of="logits")
        >>> metric.update(torch.nn.Flatten(), torch.ones(5, 1, 4, 4))
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    name = "shift_sensitivity"
    suite = None
    no_penalty_reason = "shifting the training images is what one trains with"
    formula = r"\frac{1}{ns} \sum_{i,s} \lVert f(\text{shift}_s\, x_i) - f(x_i) \rVert_2"
    reference = "after Novak et al., ICLR 2018 (the trajectories of shifts)"
    increases_with_complexity = True
    units = "output"
    misleads_when = "images have borders that matter, which a shift wraps around; outputs were scaled"

    def __init__(
        self, of: JacobianOf | None = None, *, pixels: int = 1, per_layer: bool = False, **kwargs: Any
    ) -> None:
        check_at_least(1, pixels=pixels)
        super().__init__(of, per_layer=per_layer, **kwargs)
        self.pixels = pixels

    def changed_inputs(self, snapshot: Snapshot, context: Context) -> Iterator[Tensor]:
        """The inputs, shifted each way."""
        x = snapshot.float_inputs
        if x.ndim < 3:
            raise MeasureError(f"a shift needs inputs of shape (n, channels, ...), got {tuple(x.shape)}.")
        for dim in range(2, x.ndim):
            for step in (self.pixels, -self.pixels):
                yield x.roll(step, dim)
