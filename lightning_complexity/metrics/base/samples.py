"""Metrics that are a mean, or another property of the distribution, over samples."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_complexity.metrics.base.metric import ComplexityMetric, latest
from lightning_complexity.network import Context, Snapshot


class SampleMeanMetric(ComplexityMetric):
    """A mean over samples, and the standard error that comes from having only so many of them."""

    sum_of_values: Tensor
    sum_of_squares: Tensor
    count: Tensor

    @abstractmethod
    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The value of each sample, shape ``(n,)``, differentiable where the snapshot is.

        Or shape ``(n, 1 + parts)``: before those of the parts.
        """

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Mean over the snapshot's samples."""
        return _first(self.per_sample(snapshot, context)).mean()

    def _prepare_state(self) -> None:
        for state in ("sum_of_values", "sum_of_squares"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the samples' values."""
        self.add_values(self.per_sample(snapshot, context))

    def add_values(self, values: Tensor) -> None:
        """Add values of samples."""
        values = values.detach().double()
        self.sum_of_values = self.sum_of_values + values.sum(0)
        self.sum_of_squares = self.sum_of_squares + values.square().sum(0)
        self.count = self.count + len(values)

    def means(self) -> Tensor:
        """Mean over all samples so far, 0-d, or of the value and each of its parts."""
        return self.sum_of_values / self.count

    def total(self) -> Tensor:
        """Mean over all samples so far."""
        mean = self.means()
        return mean[0] if mean.ndim else mean

    def standard_error(self) -> Tensor:
        """Standard error of the mean as an estimate of that over all data; ``nan`` for one sample.

        Where the samples' values are estimates, each from random draws of its own, their spread is in it.
        """
        variance = (self.sum_of_squares / self.count - self.means().square()).clamp(min=0)
        error = (variance / (self.count - 1)).sqrt()
        return error[0] if error.ndim else error

    def details(self) -> dict[str, Tensor]:
        """The standard error."""
        return {"standard_error": self.standard_error()}


class SampleMeanByParameter(SampleMeanMetric):
    """A mean over samples of a number of all parameters together, and the same of each alone."""

    has_layers = True
    chooses_layers = True
    layer_names: list[str]

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_note("layer_names", [])

    def parts(self) -> dict[str, Tensor]:
        """The mean of each parameter's number."""
        return dict(zip(self.layer_names, self.means()[1:], strict=True))


def _first(values: Tensor) -> Tensor:
    return values[:, 0] if values.ndim > 1 else values


class SampleDistributionMetric(ComplexityMetric):
    """A property of the distribution of a value over samples; keeps one number for every sample."""

    values: list[Tensor] | Tensor

    @abstractmethod
    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The value of each sample, shape ``(n,)``, differentiable where the snapshot is."""

    @abstractmethod
    def summarize(self, values: Tensor) -> Tensor:
        """The property, 0-d, from the values of all samples."""

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The property on the snapshot's samples."""
        return self.summarize(self.per_sample(snapshot, context))

    def _prepare_state(self) -> None:
        self.add_state("values", [], dist_reduce_fx="cat")

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the samples' values."""
        self.values = [*self.values, self.per_sample(snapshot, context).detach()]

    def total(self) -> Tensor:
        """The property of all samples so far."""
        return self.summarize(dim_zero_cat(self.values))


class WeightsAndSamplesMetric(ComplexityMetric):
    """A number made from numbers of the weights and from the distribution of values over samples.

    Keeps the last numbers of the weights, and the values of all samples.
    """

    of_weights: Tensor
    samples: list[Tensor] | Tensor

    @abstractmethod
    def from_weights(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The numbers of the weights, one dimension, differentiable where the snapshot is."""

    @abstractmethod
    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The values of each sample, shape ``(n,)`` or ``(n, k)``, differentiable where the snapshot is."""

    @abstractmethod
    def summarize(self, of_weights: Tensor, samples: Tensor) -> Tensor:
        """The number, 0-d, from those of the weights and the values of all samples."""

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The number on the snapshot's samples."""
        return self.summarize(self.from_weights(snapshot, context), self.per_sample(snapshot, context))

    def _prepare_state(self) -> None:
        self.add_state("of_weights", torch.full((1,), torch.nan), dist_reduce_fx=latest)
        self.add_state("samples", [], dist_reduce_fx="cat")

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the numbers of the weights, and add those of the samples."""
        self.of_weights = self.from_weights(snapshot, context).detach()
        self.samples = [*self.samples, self.per_sample(snapshot, context).detach()]

    def total(self) -> Tensor:
        """The number of all samples so far, with the last weights."""
        return self.summarize(self.of_weights, dim_zero_cat(self.samples))
