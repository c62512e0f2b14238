"""Generalization bounds: what they read off weights and samples, and how they are put together."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lightning_complexity.functional import bounds
from lightning_complexity.functional.margins import margin_percentile
from lightning_complexity.metrics.base.checks import check_at_least, check_percentile, check_share
from lightning_complexity.metrics.base.samples import WeightsAndSamplesMetric
from lightning_complexity.network import Context, MeasureError, Snapshot, Weight, margins, predictions, weight_matrices
from lightning_complexity.network.outputs import class_targets

BoundOf = Literal["bound", "rademacher"]


class RadiiAndMargin(NamedTuple):
    """What a bound reads off the samples; radii are not squared."""

    margin: Tensor
    mean_l2: Tensor
    max_l2: Tensor
    mean_l_inf: Tensor
    hidden: Tensor


class Bound(WeightsAndSamplesMetric):
    """A bound on the test error minus the training error at a margin.

    Args:
        of: ``"bound"``, or ``"rademacher"`` for the empirical Rademacher complexity of the losses that it rests on.
        log: Whether the value is a logarithm.
        delta: Probability that the bound does not hold.
        num_samples: Number of samples that the network was trained on; default those that are measured.
        percentile: Which percentile of the margins is the margin.
    """

    cost = "forward"
    needs = frozenset({"inputs", "targets"})
    is_logarithm = True
    increases_with_complexity = True
    _quantity = ""

    def __init__(
        self,
        *,
        of: BoundOf = "bound",
        log: bool = True,
        delta: float = 0.01,
        num_samples: int | None = None,
        percentile: float = 5,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        _check_arguments(of, delta, num_samples, percentile)
        super().__init__(per_layer=per_layer, **kwargs)
        self.of, self.log, self.is_logarithm = of, log, log
        self.delta, self.percentile = delta, percentile
        self.num_samples = num_samples
        kind = "rademacher_complexity" if of == "rademacher" else "bound"
        if of == "rademacher":
            self.units = "pure number"
        self.name = f"{'log_' if log else ''}{self._quantity}_{kind}"


def _check_arguments(of: str, delta: float, num_samples: int | None, percentile: float) -> None:
    if of not in get_args(BoundOf):
        raise ValueError(f'of must be "bound" or "rademacher", got {of!r}.')
    check_share(delta=delta)
    if num_samples is not None:
        check_at_least(2, num_samples=num_samples)
    check_percentile(percentile)


def _data(samples: Tensor, percentile: float) -> RadiiAndMargin:
    margin = margin_percentile(samples[:, 0], percentile)
    margin = torch.where(margin > 0, margin, torch.full_like(margin, torch.nan))
    l2, l_inf, hidden = samples[:, 1], samples[:, 2], samples[:, 3]
    return RadiiAndMargin(margin, l2.mean().sqrt(), l2.amax().sqrt(), l_inf.mean().sqrt(), hidden.mean().sqrt())


def _weights(snapshot: Snapshot) -> list[Weight]:
    """The folded weights, if the network is of the kind that bounds are proved or used for."""
    weights = weight_matrices(snapshot, folded=True)
    for w in weights:
        if not (isinstance(w.module, nn.Linear) or w.is_convolution):
            raise MeasureError(
                f"needs a network of linear and convolution layers; {w.name!r} belongs to {type(w.module).__name__}."
            )
    return weights


class NormBound(Bound):
    """A bound that reads numbers of each layer, kept one layer after the other."""

    @abstractmethod
    def layer_numbers(self, snapshot: Snapshot, context: Context) -> list[Tensor]:
        """Vectors with one number a layer."""

    def from_weights(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Number of classes, of features and the largest width, then the numbers of the layers."""
        weights = _weights(snapshot)
        entries = snapshot.float_inputs[0].numel()
        width = max(entries, *(w.blocks.shape[0] * w.blocks.shape[1] for w in weights))
        sizes = margins(snapshot).new_tensor([predictions(snapshot).shape[1], entries, width], dtype=torch.float64)
        return torch.cat([sizes, *(numbers.double() for numbers in self.layer_numbers(snapshot, context))])

    @abstractmethod
    def log_capacity(self, of_weights: Tensor, data: RadiiAndMargin, m: int) -> Tensor:
        """Logarithm of the capacity, 0-d."""

    def log_bound(self, of_weights: Tensor, data: RadiiAndMargin, m: int) -> Tensor:
        """Logarithm of the bound, 0-d."""
        return bounds.log_deviation_bound(self.log_capacity(of_weights, data, m), m, self.delta)

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Margin, squared norms of the input, and where it is needed of the hidden units at the start."""
        of_samples = margins(snapshot).double()
        _, kept = class_targets(snapshot)
        x = snapshot.float_inputs.flatten(1).double()[kept]
        hidden = self._hidden(snapshot, context)[kept]
        return torch.stack([of_samples, x.square().sum(1), x.abs().amax(1).square(), hidden], dim=1)

    def _hidden(self, snapshot: Snapshot, context: Context) -> Tensor:
        return torch.zeros(snapshot.num_samples, dtype=torch.float64, device=snapshot.float_inputs.device)

    def summarize(self, of_weights: Tensor, samples: Tensor) -> Tensor:
        """The bound or the complexity."""
        data, m = _data(samples, self.percentile), self.num_samples or len(samples)
        if self.of == "rademacher":
            value = bounds.log_rademacher_complexity(self.log_capacity(of_weights, data, m), m)
        else:
            value = self.log_bound(of_weights, data, m)
        return value if self.is_logarithm else value.exp()
