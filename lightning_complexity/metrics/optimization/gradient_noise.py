"""How the gradients of single samples differ from one another."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from lightning_complexity.functional.optimization.gradient_noise import (
    gradient_coherence,
    gradient_cosine,
    gradient_noise_scale,
    gradient_variance,
    jackknife_error,
    signal_to_noise,
)
from lightning_complexity.metrics.base import ParameterMetric, SampleMeanByParameter, latest
from lightning_complexity.network import Context, Snapshot, trainable
from lightning_complexity.network.per_sample import BySample, sample_gradient_products, squared_sample_gradients
from lightning_complexity.network.weights.choice import chosen

__all__ = [
    "GradientCoherence",
    "GradientCosine",
    "GradientNoiseScale",
    "GradientSignalToNoise",
    "GradientVariance",
    "SampleGradientNorm",
]


def _columns(found: BySample, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
    return chosen(found.values, context.layers, snapshot.model)


def _with_total(columns: dict[str, Tensor]) -> Tensor:
    """Shape ``(n, 1 + parameters)``: the sum over parameters before them."""
    by_parameter = torch.stack(list(columns.values()), 1)
    return torch.cat([by_parameter.sum(1, keepdim=True), by_parameter], 1)


class SampleGradientNorm(SampleMeanByParameter):
    r"""Mean over samples of the norm of each sample's gradient for the trained parameters.

    .. math:: \frac1n \sum_i \| g_i \|_2, \quad g_i = \nabla_\theta\, \ell(f_\theta(x_i), y_i)

    Without gradients of single samples in memory, by one forward and one backward pass, whose factors at each layer
    give the norms; where an operation is not known (``<name>/one_by_one`` counts the parameters), the network is run on
    each sample alone. For a loss that is no mean over samples, :math:`g_i` is ``n`` times what the sample adds to the
    gradient, so that the gradient is always the mean of the :math:`g_i`.

    Args:
        per_layer: Whether ``compute`` returns the value of each parameter by name.

    Raises:
        ValueError: In ``update``, where samples are not apart: batches that cannot be cut, normalization over the
            batch, a loss that couples samples.

    Example:
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight)
        >>> metric = SampleGradientNorm()
        >>> x, y = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.ones(2, 1)
        >>> metric.update(net, x, y, loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # 2 (0 - 1) times the input: norms 10 and 2
        tensor(6., dtype=torch.float64)
    """

    name = "sample_gradient_norm"
    units = "loss / weight"
    increases_with_complexity = True
    no_penalty_reason = "GradientNorm is what one trains with"
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "backward"
    order = 1
    formula = r"\frac1n \sum_i \lVert \nabla_\theta \ell_i \rVert_2"
    reference = "Goodfellow, 2015 (the norms without the gradients)"
    misleads_when = "training loss is near zero, where it vanishes with the loss; layers were rescaled"

    alone: Tensor

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_state("alone", torch.zeros((), dtype=torch.long), dist_reduce_fx="max")

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The norms of the whole gradient and of each parameter's part."""
        found = squared_sample_gradients(snapshot)
        columns = _columns(found, snapshot, context)
        self.layer_names = list(columns)
        self.alone = torch.tensor(len(found.one_by_one & columns.keys()), device=self.alone.device)
        return _with_total(columns).sqrt()

    def details(self) -> dict[str, Tensor]:
        """The standard error, and how many parameters took a pass for each sample, if any."""
        return {**super().details(), **({"one_by_one": self.alone} if self.alone else {})}


class _GradientMetric(ParameterMetric):
    """A number made from the squared norms of the samples' gradients and their products with the mean."""

    no_penalty_reason = "GradientNorm is what one trains with"
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "backward"
    order = 1
    single_update_reason = "each sample's gradient is compared with the mean of all"

    errors: Tensor
    alone: Tensor

    @staticmethod
    @abstractmethod
    def number(n: int, squares: Tensor, of_mean: Tensor) -> Tensor:
        """The number, see :mod:`lightning_complexity.functional.optimization.gradient_noise`."""

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_state("errors", torch.full((1,), torch.nan), dist_reduce_fx=latest)
        self.add_state("alone", torch.zeros((), dtype=torch.long), dist_reduce_fx=latest)

    def _moments(self, snapshot: Snapshot, context: Context) -> tuple[Tensor, Tensor, list[str], int]:
        products = _columns(sample_gradient_products(snapshot), snapshot, context)
        found = squared_sample_gradients(snapshot)
        columns = _columns(found, snapshot, context)
        squares, of_mean = _with_total(columns), _with_total(products)
        # A gradient that is the mean up to rounding is the mean: nothing is left to divide by where all are.
        rounding = 16 * max(torch.finfo(p.dtype).eps for p in trainable(snapshot).values())
        of_mean = torch.where((squares - of_mean).abs() <= rounding * squares, squares, of_mean)
        return squares, of_mean, list(columns), len(found.one_by_one & columns.keys())

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The number on the snapshot's samples."""
        squares, products, _, _ = self._moments(snapshot, context)
        return self.number(len(squares), squares.mean(0), products.mean(0))[0]

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the numbers and their standard errors."""
        squares, products, self.layer_names, alone = self._moments(snapshot, context)
        self.values = self.number(len(squares), squares.mean(0), products.mean(0))
        self.errors = jackknife_error(self.number, squares, products)
        self.alone = torch.tensor(alone, device=self.values.device)

    def standard_error(self) -> Tensor:
        """Standard error as an estimate of the number over all data; ``nan`` for fewer than three samples."""
        return self.errors[0]

    def details(self) -> dict[str, Tensor]:
        """The standard error; those of the layers where these are reported; parameters that were run one by one."""
        found = {"standard_error": self.standard_error(), **({"one_by_one": self.alone} if self.alone else {})}
        if self.splits:
            found |= {f"{name}/standard_error": e for name, e in zip(self.layer_names, self.errors[1:], strict=True)}
        return found


class GradientVariance(_GradientMetric):
    r"""Trace of the covariance of the samples' gradients, unbiased.

    .. math:: \operatorname{tr} C = \frac{1}{n-1} \sum_i \| g_i - \bar g \|_2^2

    For the gradients see :class:`SampleGradientNorm`; their products with the mean take a second pass. The gradient of
    a batch of ``b`` samples has this variance divided by ``b``. The standard error is the jackknife's. ``nan`` for a
    single sample.

    Args:
        per_layer: Whether ``compute`` returns the value of each parameter by name; they add up to that of the whole.

    Raises:
        ValueError: In ``update``, where samples are not apart, as for :class:`SampleGradientNorm`.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight)
        >>> metric = GradientVariance()
        >>> metric.update(net, torch.ones(2, 1), torch.tensor([[1.0], [2.0]]), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # gradients -2 and -4
        tensor(2., dtype=torch.float64)
    """

    name = "gradient_variance"
    units = "loss² / weight²"
    increases_with_complexity = True
    formula = r"\frac{1}{n-1} \sum_i \lVert g_i - \bar g \rVert_2^2"
    reference = "McCandlish et al., 2018"
    misleads_when = "training loss is near zero, where it vanishes with the loss; layers were rescaled"

    number = staticmethod(gradient_variance)


class GradientSignalToNoise(_GradientMetric):
    r"""Squared norm of the expected gradient over the trace of the covariance of the samples' gradients.

    .. math:: \frac{\| G \|_2^2}{\operatorname{tr} C}, \quad
        \| G \|^2 \approx \frac{1}{n(n-1)} \sum_{i \ne j} \langle g_i, g_j \rangle

    Both estimates are unbiased; the first, and so the value, can be negative where it is small. The inverse of
    :class:`GradientNoiseScale`, with a standard error that can be relied on where the signal is weak. ``nan`` for a
    single sample, and where all gradients are zero; ``inf`` where they are equal.

    Args:
        per_layer: Whether ``compute`` returns the value of each parameter by name.

    Raises:
        ValueError: In ``update``, where samples are not apart, as for :class:`SampleGradientNorm`.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight)
        >>> metric = GradientSignalToNoise()
        >>> metric.update(net, torch.ones(2, 1), torch.tensor([[1.0], [2.0]]), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # gradients -2 and -4: their product 8, their variance 2
        tensor(4., dtype=torch.float64)
    """

    name = "gradient_signal_to_noise"
    units = "pure number"
    increases_with_complexity = False
    formula = r"\lVert G \rVert_2^2 / \operatorname{tr} C"
    reference = "McCandlish et al., 2018 (its inverse); Liu et al., ICLR 2020"
    misleads_when = "samples are few: it is known to about one part in their number; it falls in any training"

    number = staticmethod(signal_to_noise)


class GradientNoiseScale(_GradientMetric):
    r"""Simple gradient noise scale: the batch size at which noise and signal of the batch's gradient are equal.

    .. math:: B = \frac{\operatorname{tr} C}{\| G \|_2^2}

    A ratio of two unbiased estimates, as in :class:`GradientSignalToNoise`. Larger batches than this hardly speed up
    training per sample. Where it is larger than the number of samples, the estimate of the signal is near zero: the
    value jumps, can be negative, and its standard error means little; give more samples, or look at the inverse.
    ``nan`` for a single sample.

    Args:
        per_layer: Whether ``compute`` returns the value of each parameter by name.

    Raises:
        ValueError: In ``update``, where samples are not apart, as for :class:`SampleGradientNorm`.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight)
        >>> metric = GradientNoiseScale()
        >>> metric.update(net, torch.ones(2, 1), torch.tensor([[1.0], [2.0]]), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # gradients -2 and -4: their variance 2, their product 8
        tensor(0.2500, dtype=torch.float64)
    """

    name = "gradient_noise_scale"
    units = "samples"
    increases_with_complexity = True
    formula = r"\operatorname{tr} C / \lVert G \rVert_2^2"
    reference = "McCandlish et al., 2018"
    misleads_when = "it exceeds the number of samples; it rises in any training that goes well"

    number = staticmethod(gradient_noise_scale)


class GradientCoherence(_GradientMetric):
    r"""How much the samples' gradients help one another: m-coherence.

    .. math:: n \frac{\| \bar g \|_2^2}{\frac1n \sum_i \| g_i \|_2^2}

    How many samples a sample's gradient serves: 1 for orthogonal gradients, ``n`` for equal ones, and 1 for a single
    sample. It grows with the number of samples; :class:`GradientCosine` does not. ``nan`` where all are zero.

    Args:
        per_layer: Whether ``compute`` returns the value of each parameter by name.

    Raises:
        ValueError: In ``update``, where samples are not apart, as for :class:`SampleGradientNorm`.

    Example:
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> metric = GradientCoherence()
        >>> metric.update(net, torch.eye(2), torch.ones(2, 1), loss=lambda outputs, y: (outputs * y).mean())
        >>> metric.compute()  # orthogonal inputs
        tensor(1., dtype=torch.float64)
    """

    name = "gradient_coherence"
    units = "samples"
    increases_with_complexity = False
    formula = r"n \lVert \bar g \rVert_2^2 \big/ \tfrac1n \sum_i \lVert g_i \rVert_2^2"
    reference = "Chatterjee and Zielinski, 2020"
    misleads_when = (
        "numbers of samples differ; classes are few, so that biases alone make gradients agree; near zero training "
        "loss, where it was larger for random labels on digits, after a tenth of that for true ones at the start"
    )

    number = staticmethod(gradient_coherence)


class GradientCosine(_GradientMetric):
    r"""Mean product of the gradients of two samples over their mean square.

    .. math:: \frac{\frac{1}{n(n-1)} \sum_{i \ne j} \langle g_i, g_j \rangle}{\frac1n \sum_i \| g_i \|_2^2}

    The cosine between two samples' gradients, weighted by their norms: 0 for orthogonal gradients, 1 for equal ones.
    Does not depend on the number of samples but for noise. ``nan`` for a single sample, and where all are zero.

    Args:
        per_layer: Whether ``compute`` returns the value of each parameter by name.

    Raises:
        ValueError: In ``update``, where samples are not apart, as for :class:`SampleGradientNorm`.

    Example:
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> metric = GradientCosine()
        >>> metric.update(net, torch.eye(2), torch.ones(2, 1), loss=lambda outputs, y: (outputs * y).mean())
        >>> metric.compute()  # orthogonal inputs
        tensor(0., dtype=torch.float64)
    """

    name = "gradient_cosine"
    units = "pure number"
    increases_with_complexity = False
    formula = r"\overline{\langle g_i, g_j \rangle}_{i \ne j} \big/ \overline{\lVert g_i \rVert_2^2}"
    reference = "Chatterjee and Zielinski, 2020; Fort et al., 2019 (the cosine)"
    misleads_when = "classes are few, so that biases alone make gradients agree; near zero training loss"

    number = staticmethod(gradient_cosine)
