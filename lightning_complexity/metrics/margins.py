"""Margins of a classifier."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from lightning_complexity.functional.margins import (
    inverse_squared_margin,
    log_over_margin,
    margin_percentile,
    normalized_margins,
    smooth_margin_losses,
)
from lightning_complexity.metrics.base import (
    ComplexityMetric,
    Cost,
    SampleDistributionMetric,
    SampleMeanMetric,
    Suite,
    WeightsAndSamplesMetric,
)
from lightning_complexity.metrics.base.checks import check_percentile
from lightning_complexity.metrics.weights.spectra import LogSpectralProduct
from lightning_complexity.network import Context, Snapshot, margins
from lightning_complexity.network.outputs import classified

__all__ = [
    "CapacityOverMargin",
    "InverseSquaredMargin",
    "MarginPercentile",
    "MeanMargin",
    "NormalizedMargin",
    "SmoothMarginLoss",
]


class MarginPercentile(SampleDistributionMetric):
    r"""A percentile of the signed margins of the samples.

    .. math:: \text{percentile}_i \big( f(x_i)_{y_i} - \max_{c \ne y_i} f(x_i)_c \big)

    Negative while more than that share of samples is misclassified. It has the units of the logits:
    compare it between networks only after dividing by a norm. Keeps one number for every sample, so
    that any number of batches gives the percentile of all of them.

    Args:
        percentile: Between 0 and 100.
        per_layer: Must be ``False``, a margin has no layers.

    Example:
        >>> import torch
        >>> metric = MarginPercentile(percentile=0)
        >>> metric.update(torch.nn.Identity(), torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(1.)
    """

    name = "margin_percentile"
    suite: ClassVar[Suite | None] = "fast"
    no_penalty_reason = "two samples decide it; SmoothMarginLoss is what one trains with"
    needs = frozenset({"inputs", "targets"})
    cost = "forward"
    increases_with_complexity: ClassVar[bool | None] = None
    formula = r"\text{percentile}_i \big( f(x_i)_{y_i} - \max_{c \neq y_i} f(x_i)_c \big)"
    reference = "Jiang et al., ICLR 2020, eq. 22 (its inverse square)"
    units = "output"
    misleads_when = (
        "outputs were scaled: longer training with cross-entropy raises it for any labels; to be divided by a norm"
    )

    def __init__(self, percentile: float = 10, *, per_layer: bool = False, **kwargs: Any) -> None:
        check_percentile(percentile)
        super().__init__(per_layer=per_layer, **kwargs)
        self.percentile = percentile

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Signed margins."""
        return margins(snapshot)

    def summarize(self, values: Tensor) -> Tensor:
        """The percentile."""
        return margin_percentile(values, self.percentile)

    def histograms(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """All margins."""
        return {"margin": margins(snapshot)}


class InverseSquaredMargin(MarginPercentile):
    r"""Inverse square of a percentile of the margins, where that is positive.

    .. math:: 1 / \gamma^2

    ``nan`` while the percentile is not positive, that is while more than that share of samples is misclassified. Public
    code takes the absolute value, which calls the margin of a bad network large.

    Args:
        percentile: Between 0 and 100.
        per_layer: Must be ``False``, a margin has no layers.

    Example:
        >>> import torch
        >>> metric = InverseSquaredMargin(percentile=0)
        >>> metric.update(torch.nn.Identity(), torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
        >>> metric.compute()
        tensor(0.2500)
    """

    name = "inverse_squared_margin"
    suite = "full"
    no_penalty_reason = "two samples decide it; SmoothMarginLoss is what one trains with"
    increases_with_complexity = True
    formula = r"1 / \gamma^2"
    reference = "Jiang et al., ICLR 2020, eq. 22"
    units = "1 / output²"
    misleads_when = (
        "outputs were scaled: any scale of the last layer changes it, and longer training with cross-entropy "
        "lowers it for any labels"
    )

    def summarize(self, values: Tensor) -> Tensor:
        """The inverse square of the percentile."""
        return inverse_squared_margin(super().summarize(values))


class MeanMargin(SampleMeanMetric):
    r"""Mean signed margin, with its standard error.

    .. math:: \frac1n \sum_i \big( f(x_i)_{y_i} - \max_{c \ne y_i} f(x_i)_c \big)

    It has the units of the logits.

    Args:
        per_layer: Must be ``False``, a margin has no layers.

    Example:
        >>> import torch
        >>> metric = MeanMargin()
        >>> metric.update(torch.nn.Identity(), torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    name = "mean_margin"
    no_penalty_reason = "has no lower bound; SmoothMarginLoss is what one trains with"
    needs = frozenset({"inputs", "targets"})
    cost = "forward"
    increases_with_complexity = None
    formula = r"\frac1n \sum_i \big( f(x_i)_{y_i} - \max_{c \neq y_i} f(x_i)_c \big)"
    reference = "Crammer and Singer, JMLR 2001 (the margin)"
    units = "output"
    misleads_when = (
        "outputs were scaled: longer training with cross-entropy raises it for any labels; easy samples hide "
        "those near the boundary"
    )

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Signed margins."""
        return margins(snapshot)


class SmoothMarginLoss(SampleMeanMetric):
    r"""Mean smooth hinge of the margins: how far samples are from a margin of :math:`\rho`.

    .. math:: \frac1n \sum_i T \ln \Big( 1 + \sum_{c \ne y_i} e^{(\rho + f_c(x_i) - f_{y_i}(x_i)) / T} \Big)

    For :math:`T \to 0` the multi-class hinge loss; for :math:`\rho = 0` and :math:`T = 1` the cross-entropy.

    Args:
        margin: :math:`\rho`, finite.
        temperature: :math:`T`, positive.
        per_layer: Must be ``False``, a margin has no layers.

    Example:
        >>> import torch
        >>> metric = SmoothMarginLoss(margin=2.0)
        >>> metric.update(torch.nn.Identity(), torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
        >>> metric.compute()  # ln 2
        tensor(0.6931, dtype=torch.float64)
    """

    name = "smooth_margin_loss"
    needs = frozenset({"inputs", "targets"})
    cost = "forward"
    increases_with_complexity = None
    formula = r"\frac1n \sum_i T \ln \big( 1 + \sum_{c \neq y_i} e^{(\rho + f_c(x_i) - f_{y_i}(x_i)) / T} \big)"
    reference = "Crammer and Singer, JMLR 2001 (for T = 0)"
    units = "output"
    misleads_when = "outputs are scaled so that all margins pass the threshold: it is zero then for any network"

    def __init__(
        self, margin: float = 1.0, *, temperature: float = 1.0, per_layer: bool = False, **kwargs: Any
    ) -> None:
        if not abs(margin) < float("inf"):
            raise ValueError(f"margin must be finite, got {margin!r}.")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {temperature!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.margin, self.temperature = margin, temperature

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Smooth hinge of each sample."""
        return smooth_margin_losses(*classified(snapshot), self.margin, self.temperature)


class _CapacityAndMargins(WeightsAndSamplesMetric):
    """Margins measured in units of a capacity of the weights."""

    needs = frozenset({"inputs", "targets"})
    cost: Cost = "forward"

    def __init__(
        self,
        capacity: ComplexityMetric | None = None,
        *,
        percentile: float = 10,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        capacity = LogSpectralProduct() if capacity is None else capacity
        if not isinstance(capacity, ComplexityMetric):
            raise TypeError(f"capacity must be a metric of the weights, such as metrics.PathNorm(), got {capacity!r}.")
        if capacity.reads_samples:
            raise TypeError(
                "capacity must be a metric of the weights, such as metrics.PathNorm(); "
                f"{type(capacity).__name__} depends on the samples."
            )
        check_percentile(percentile)
        super().__init__(per_layer=per_layer, **kwargs)
        self.capacity, self.percentile = capacity, percentile
        self.needs = capacity.needs | {"inputs", "targets"}
        self.cost = "forward" if capacity.cost == "weights" else capacity.cost

    def from_weights(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Logarithm of the capacity."""
        value = self.capacity.measure(snapshot, Context(layers=self.capacity.layers_chosen))
        return (value if self.capacity.is_logarithm else value.log()).reshape(1)

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Signed margins."""
        return margins(snapshot)


class CapacityOverMargin(_CapacityAndMargins):
    r"""Logarithm of a capacity of the weights divided by a percentile of the margins.

    .. math:: \ln ( C / \gamma )

    What bounds of a classifier's error grow with. With the default :class:`LogSpectralProduct` it is half of
    equation 31 of Jiang et al., with ``LogNormProduct("frobenius")`` half of 36, with ``PathNorm()`` half the logarithm
    of 43. ``nan`` while the percentile is not positive.

    Args:
        capacity: A metric of the weights, given as an object. Of one that is no logarithm the logarithm is taken. The
            value is logged as ``log_<capacity>_over_margin``.
        percentile: Between 0 and 100.
        per_layer: Must be ``False``, a margin has no layers.

    Raises:
        TypeError: If the capacity is a metric of samples.

    Example:
        >>> import torch
        >>> from lightning_complexity.metrics import ParameterNorm
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([3.0, 4.0])))
        >>> metric = CapacityOverMargin(ParameterNorm(), percentile=0)
        >>> metric.update(net, torch.eye(2), torch.tensor([0, 1]))
        >>> metric.compute().exp()  # 5 / 3
        tensor(1.6667)
    """

    name = "log_spectral_product_over_margin"
    no_penalty_reason = "two samples decide the margin; the capacity and SmoothMarginLoss are what one trains with"
    is_logarithm = True
    formula = r"\ln ( C / \gamma )"
    reference = "Bartlett et al., NeurIPS 2017; Jiang et al., ICLR 2020, eq. 31, 36, 43"
    increases_with_complexity = True
    units = "capacity / output"
    misleads_when = (
        "the margin percentile is near zero or negative, where it explodes or is nan; it has what misleads its capacity"
    )

    def __init__(self, capacity: ComplexityMetric | None = None, **kwargs: Any) -> None:
        super().__init__(capacity, **kwargs)
        self.name = f"log_{self.capacity.name.removeprefix('log_')}_over_margin"

    def summarize(self, of_weights: Tensor, samples: Tensor) -> Tensor:
        """The logarithm of the quotient."""
        return log_over_margin(of_weights[0], margin_percentile(samples, self.percentile))


class NormalizedMargin(_CapacityAndMargins):
    r"""A percentile of the margins divided by a capacity of the weights.

    .. math:: \gamma / C

    Signed, and defined for any network. All margins, normalized, are logged as a histogram: their distribution is
    what networks of different size are compared by. It does not change when layers of a ReLU network are scaled, if the
    capacity is a product over layers.

    Args:
        capacity: A metric of the weights, given as an object; default :class:`LogSpectralProduct`. A logarithm is
            undone. The value is logged as ``margin_over_<capacity>``.
        percentile: Between 0 and 100.
        per_layer: Must be ``False``, a margin has no layers.

    Raises:
        TypeError: If the capacity is a metric of samples.

    Example:
        >>> import torch
        >>> from lightning_complexity.metrics import ParameterNorm
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([3.0, 4.0])))
        >>> metric = NormalizedMargin(ParameterNorm(), percentile=0)
        >>> metric.update(net, torch.eye(2), torch.tensor([0, 1]))
        >>> metric.compute()  # 3 / 5
        tensor(0.6000, dtype=torch.float64)
    """

    name = "margin_over_spectral_product"
    no_penalty_reason = "two samples decide the margin; the capacity and SmoothMarginLoss are what one trains with"
    increases_with_complexity = False
    formula = r"\gamma / C"
    reference = "Bartlett et al., NeurIPS 2017"
    units = "output / capacity"
    misleads_when = (
        "its norm grows faster than the network's real slope, as products over many layers do: deep networks seem "
        "to have no margin"
    )

    def __init__(self, capacity: ComplexityMetric | None = None, **kwargs: Any) -> None:
        super().__init__(capacity, **kwargs)
        self.name = f"margin_over_{self.capacity.name.removeprefix('log_')}"

    def summarize(self, of_weights: Tensor, samples: Tensor) -> Tensor:
        """The percentile of the normalized margins."""
        return margin_percentile(normalized_margins(samples, of_weights[0]), self.percentile)

    def histograms(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """All margins, normalized."""
        capacity = self.from_weights(snapshot, Context())[0]
        return {f"{self.name}/margins": normalized_margins(margins(snapshot), capacity).detach()}
