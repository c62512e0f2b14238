"""How much the function changes with its input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.sensitivity import (
    class_jacobian_norms,
    jacobian_norms,
    jacobian_spectral_norms,
    safe_sqrt,
    softmax_jacobian_grams,
    squared_jacobian_norms,
    unit_directions,
)
from lightning_complexity.metrics.base import SampleDistributionMetric, SampleMeanMetric
from lightning_complexity.network import Snapshot

__all__ = [
    "GeometricComplexity",
    "InputGradientNorm",
    "JacobianNorm",
    "LocalLipschitzConstant",
    "NoiseSensitivity",
    "ShiftSensitivity",
]

JacobianOf = Literal["softmax", "logits"]


def _check_of(of: str) -> None:
    if of not in get_args(JacobianOf):
        raise ValueError(f'of must be "softmax" or "logits", got {of!r}.')


def _check_projections(num_projections: int | None) -> None:
    if num_projections is not None and num_projections < 1:
        raise ValueError(f"num_projections must be at least 1 or None for exact, got {num_projections!r}.")


def _grams(snapshot: Snapshot, of: JacobianOf) -> Tensor:
    grams = snapshot.jacobian_grams
    return softmax_jacobian_grams(grams, snapshot.jacobian_outputs) if of == "softmax" else grams


def _estimated_squares(snapshot: Snapshot, of: JacobianOf, num_projections: int) -> Tensor:
    parts = []
    for inputs, logits in snapshot.input_output_chunks():
        with torch.enable_grad():
            outputs = logits.softmax(-1) if of == "softmax" else logits
            normals = torch.randn(
                num_projections, 1, outputs.shape[-1], generator=snapshot.generator(), dtype=outputs.dtype
            )
            directions = unit_directions(normals).expand(-1, len(outputs), -1)
            parts.append(squared_jacobian_norms(outputs, inputs, directions, create_graph=snapshot.live))
    return torch.cat(parts)


class JacobianNorm(SampleMeanMetric):
    r"""Mean over samples of the Frobenius norm of the Jacobian of the outputs with respect to the inputs.

    .. math:: \frac{1}{n} \sum_i \Big\| \frac{\partial f(x_i)}{\partial x_i} \Big\|_F

    Exact, it takes one backward pass for each output, which all exact measures of the Jacobian share. With
    ``num_projections=k`` it takes ``k``, along random unit vectors; the squared norm is then unbiased, the norm itself
    slightly low for few projections. The reported standard error is over samples. Scaling the inputs scales the value
    inversely, so compare networks on the same inputs. A saturated softmax has a small Jacobian also in a bad network:
    look at ``of="logits"`` too. The gradient where the Jacobian is zero is 0.

    Public code also has the mean over classes of the norms of single rows, which is another number.

    Args:
        of: ``"softmax"`` for the class probabilities, as in the paper, or ``"logits"``.
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
    needs = frozenset({"inputs"})
    cost = "backward"
    formula = r"\frac{1}{n} \sum_i \lVert \partial f(x_i) / \partial x_i \rVert_F"
    reference = "Novak et al., ICLR 2018"

    def __init__(
        self,
        of: JacobianOf = "softmax",
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

    def per_sample(self, snapshot: Snapshot) -> Tensor:
        """Norm of each sample's Jacobian; with ``per_class=True`` in the first column, before those of its rows."""
        if self.num_projections is not None:
            return safe_sqrt(_estimated_squares(snapshot, self.of, self.num_projections))
        grams = _grams(snapshot, self.of)
        norms = jacobian_norms(grams)
        return torch.cat([norms.unsqueeze(1), class_jacobian_norms(grams)], dim=1) if self.per_class else norms

    def measure(self, snapshot: Snapshot) -> Tensor:
        """Mean over the snapshot's samples."""
        values = self.per_sample(snapshot)
        return (values[:, 0] if self.per_class else values).mean()

    def compute(self) -> Tensor | dict[str, Tensor]:  # type: ignore[override]
        """Mean over all samples so far; with ``per_class=True`` of each class."""
        mean = super().compute()
        return self._by_class(mean) if self.per_class else mean

    @staticmethod
    def _by_class(values: Tensor) -> dict[str, Tensor]:
        return {str(index): value for index, value in enumerate(values[1:])}

    def report(self) -> dict[str, Tensor]:
        """The mean and its standard error, and with ``per_class=True`` each class's mean as ``name/<class>``."""
        mean, error = super().compute(), self.standard_error()
        if not self.per_class:
            return {self.name: mean, f"{self.name}/standard_error": error}
        classes = {f"{self.name}/{index}": value for index, value in self._by_class(mean).items()}
        return {self.name: mean[0], f"{self.name}/standard_error": error[0], **classes}


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
    needs = frozenset({"inputs"})
    cost = "backward"
    formula = r"\frac1n \sum_i \lVert \partial f(x_i) / \partial x_i \rVert_F^2"
    reference = "Dherin et al., NeurIPS 2022"

    def __init__(self, *, num_projections: int | None = None, per_layer: bool = False, **kwargs: Any) -> None:
        _check_projections(num_projections)
        super().__init__(per_layer=per_layer, **kwargs)
        self.num_projections = num_projections

    def per_sample(self, snapshot: Snapshot) -> Tensor:
        """Squared norm of each sample's Jacobian."""
        if self.num_projections is not None:
            return _estimated_squares(snapshot, "logits", self.num_projections)
        return snapshot.jacobian_grams.diagonal(dim1=-2, dim2=-1).sum(-1)


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
    needs = frozenset({"inputs"})
    cost = "backward"
    formula = r"\max_i \lVert \partial f(x_i) / \partial x_i \rVert_2"
    reference = "Weng et al., ICLR 2018 (local Lipschitz constants)"

    def __init__(self, of: JacobianOf = "logits", *, per_layer: bool = False, **kwargs: Any) -> None:
        _check_of(of)
        super().__init__(per_layer=per_layer, **kwargs)
        self.of = of

    def per_sample(self, snapshot: Snapshot) -> Tensor:
        """Largest singular value of each sample's Jacobian."""
        return jacobian_spectral_norms(_grams(snapshot, self.of))

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
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "backward"
    formula = r"\frac1n \sum_i \lVert \partial \ell(f(x_i), y_i) / \partial x_i \rVert_2"
    reference = "Drucker and Le Cun, 1992, as double backpropagation (its square)"

    def per_sample(self, snapshot: Snapshot) -> Tensor:
        """Norm of each sample's gradient."""
        return safe_sqrt(torch.cat([g.flatten(1).square().sum(1) for g in snapshot.input_gradients()]))


class _OutputChange(SampleMeanMetric):
    """Mean distance of the outputs on changed inputs from those on the inputs themselves."""

    needs = frozenset({"inputs"})
    cost = "forward"

    def __init__(self, of: JacobianOf = "softmax", *, per_layer: bool = False, **kwargs: Any) -> None:
        _check_of(of)
        super().__init__(per_layer=per_layer, **kwargs)
        self.of = of

    def changed_inputs(self, snapshot: Snapshot) -> Iterator[Tensor]:
        """Each change, made to all inputs."""
        raise NotImplementedError

    def per_sample(self, snapshot: Snapshot) -> Tensor:
        """Mean distance over the changes, for each sample."""
        outputs = self._outputs(snapshot.outputs)
        changes = [self._outputs(snapshot.outputs_on(x)) - outputs for x in self.changed_inputs(snapshot)]
        return torch.stack([torch.linalg.vector_norm(change.flatten(1), dim=1) for change in changes]).mean(0)

    def _outputs(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1) if self.of == "softmax" else outputs


class NoiseSensitivity(_OutputChange):
    r"""Mean distance that outputs move when Gaussian noise is added to the inputs.

    .. math:: \frac{1}{n m} \sum_{i, k} \| f(x_i + \sigma \epsilon_k) - f(x_i) \|_2, \quad \epsilon_k \sim N(0, I)

    The same ``m`` draws for every sample, so that batches of any size give the same value. For small :math:`\sigma` it
    tends to :math:`\sigma` times a mean of :math:`\|J \epsilon\|_2`, which the Jacobian's Frobenius norm bounds.

    Args:
        of: ``"softmax"`` or ``"logits"``.
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
    formula = r"\frac{1}{nm} \sum_{i,k} \lVert f(x_i + \sigma \epsilon_k) - f(x_i) \rVert_2"
    reference = "Novak et al., ICLR 2018, sec. 3.1 (the motivation of the Jacobian norm)"

    def __init__(
        self,
        of: JacobianOf = "softmax",
        *,
        sigma: float = 0.1,
        num_draws: int = 4,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if not 0 < sigma < float("inf"):
            raise ValueError(f"sigma must be positive and finite, got {sigma!r}.")
        if num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {num_draws!r}.")
        super().__init__(of, per_layer=per_layer, **kwargs)
        self.sigma, self.num_draws = sigma, num_draws

    def changed_inputs(self, snapshot: Snapshot) -> Iterator[Tensor]:
        """The inputs with each draw of the noise."""
        x, generator = snapshot.float_inputs, snapshot.generator()
        for _ in range(self.num_draws):
            noise = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
            yield x + self.sigma * noise.to(x)


class ShiftSensitivity(_OutputChange):
    r"""Mean distance that outputs move when images are shifted, what leaves one side entering at the other.

    .. math:: \frac{1}{n s} \sum_{i, s} \| f(\text{shift}_s\, x_i) - f(x_i) \|_2

    over shifts in both directions along every spatial dimension.

    Args:
        of: ``"softmax"`` or ``"logits"``.
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
    formula = r"\frac{1}{ns} \sum_{i,s} \lVert f(\text{shift}_s\, x_i) - f(x_i) \rVert_2"
    reference = "after Novak et al., ICLR 2018 (the trajectories of shifts)"

    def __init__(self, of: JacobianOf = "softmax", *, pixels: int = 1, per_layer: bool = False, **kwargs: Any) -> None:
        if pixels < 1:
            raise ValueError(f"pixels must be at least 1, got {pixels!r}.")
        super().__init__(of, per_layer=per_layer, **kwargs)
        self.pixels = pixels

    def changed_inputs(self, snapshot: Snapshot) -> Iterator[Tensor]:
        """The inputs, shifted each way."""
        x = snapshot.float_inputs
        if x.ndim < 3:
            raise ValueError(f"a shift needs inputs of shape (n, channels, ...), got {tuple(x.shape)}.")
        for dim in range(2, x.ndim):
            for step in (self.pixels, -self.pixels):
                yield x.roll(step, dim)
