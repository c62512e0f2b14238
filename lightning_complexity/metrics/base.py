"""What every complexity metric has in common: how a value is read off a network and accumulated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_complexity.functional.curvature import standard_error
from lightning_complexity.network import LossFunction, MissingInputError, Snapshot, Weight

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Need = Literal["inputs", "targets", "loss", "initial"]
Cost = Literal["weights", "forward", "backward", "hessian", "sampling"]


def _latest(gathered: Tensor) -> Tensor:
    """Reduce equal values from all ranks to one."""
    return gathered[-1]


def _stacked(layers: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(layers.values())) if layers else torch.zeros(0)


class ComplexityMetric(Metric, ABC):
    """A number that says how complex a network is.

    A subclass says what the number is by :meth:`measure`. ``update`` takes a network (or a
    :class:`lightning_complexity.network.Snapshot`), measures it without changing it, and keeps the value;
    ``compute`` returns it. A metric that does not depend on samples keeps the last value. Calling the metric
    updates it and returns the value of this batch alone. A ``MetricCollection`` must be built with
    ``compute_groups=False``, since it otherwise merges metrics that happen to have equal values at first.

    Args:
        per_layer: Whether ``compute`` returns a dictionary of the layers' values.

    Attributes:
        name: The log key, ``complexity/<name>``.
        needs: What ``update`` must be given beside the network.
        increases_with_complexity: ``True``, ``False``, or ``None`` where there is no such direction.
        cost: The most expensive thing that measuring takes.
        has_layers: Whether the metric has a value for each layer.
        is_logarithm: Whether the value is a logarithm; its name then starts with ``log_``.
        single_update_reason: Why the values of several batches say nothing about that of all of them, for a metric
            that therefore refuses a second ``update`` before ``reset``; ``None`` for all others.
        formula: The formula in LaTeX.
        reference: Where the measure comes from.
    """

    name: str
    needs: frozenset[Need] = frozenset()
    increases_with_complexity: ClassVar[bool | None] = True
    cost: Cost = "weights"
    has_layers: ClassVar[bool] = False
    is_logarithm: bool = False
    single_update_reason: ClassVar[str | None] = None
    formula: ClassVar[str]
    reference: ClassVar[str]

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    def __init__(self, *, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if per_layer and not self.has_layers:
            raise ValueError(
                f"{type(self).__name__}(per_layer=True): this measure belongs to the network as a whole "
                "and has no value for a layer. Leave per_layer out."
            )
        self.per_layer = per_layer
        self._has_measured = False
        self._prepare_state()

    value: Tensor

    @abstractmethod
    def measure(self, snapshot: Snapshot) -> Tensor:
        """The value on one snapshot, 0-d and differentiable on a live one."""

    def _prepare_state(self) -> None:
        self.add_state("value", torch.tensor(torch.nan), dist_reduce_fx=_latest)

    def _accumulate(self, snapshot: Snapshot) -> None:
        self.value = self.measure(snapshot).detach()

    def update(
        self,
        model: nn.Module | Snapshot,
        inputs: Any = None,
        targets: Any = None,
        *,
        loss: LossFunction | None = None,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Measure a network.

        Args:
            model: The network, or a snapshot that other metrics share; the snapshot brings the rest with it.
            inputs: A batch of inputs, where the metric ``needs`` them.
            targets: Their targets.
            loss: Mean loss from outputs and targets; default cross-entropy.
            initial: State at the start, see :func:`lightning_complexity.network.initial_state`.

        Raises:
            MissingInputError: If something that the metric needs is missing.
            ValueError: At a second call, if the metric takes one snapshot.
        """
        if self.single_update_reason is not None and self._has_measured:
            raise ValueError(
                f"{type(self).__name__} takes one snapshot, since {self.single_update_reason}. "
                "Give it all samples at once, or call reset() before the next."
            )
        snapshot = (
            model if isinstance(model, Snapshot) else Snapshot(model, inputs, targets, loss=loss, initial=initial)
        )
        self.check(snapshot)
        with torch.inference_mode(False):
            self._accumulate(snapshot)
        self._has_measured = True

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._has_measured = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Update, and return the value of this batch alone."""
        if self.single_update_reason is None:
            return super().forward(*args, **kwargs)
        self.update(*args, **kwargs)
        value: Any = self.compute()
        self._forward_cache = value
        return value

    def check(self, snapshot: Snapshot) -> None:
        """Raise an error if the snapshot lacks what this metric needs."""
        missing = sorted(need for need in self.needs if not snapshot.has(need))
        if missing:
            raise MissingInputError(
                f"{type(self).__name__} needs {' and '.join(missing)}; pass {', '.join(f'{m}=...' for m in missing)}."
            )

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The value, 0-d; with ``per_layer=True`` a dictionary of the layers' values."""
        return self.value

    def report(self) -> dict[str, Tensor]:
        """Everything there is to log, by log key without prefix: the value, its layers, its standard error."""
        return {self.name: torch.as_tensor(self.compute())}

    def histograms(self, snapshot: Snapshot) -> dict[str, Tensor]:  # noqa: ARG002
        """Distributions behind the value, for loggers that can draw them; cheap after ``update``."""
        return {}

    def figures(self, snapshot: Snapshot) -> dict[str, Figure]:  # noqa: ARG002
        """Pictures of what was measured, for loggers that can show them; needs matplotlib, cheap after ``update``.

        Their keys are others than those of :meth:`report`.
        """
        return {}


class LayerMetric(ComplexityMetric):
    """A metric that combines one value a layer.

    A subclass says what a layer's value is by :meth:`layers` and how they combine by :meth:`combine`.
    """

    has_layers = True
    values: Tensor

    @abstractmethod
    def layers(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """The value of each layer by name, 0-d and differentiable on a live snapshot."""

    @abstractmethod
    def combine(self, values: Tensor) -> Tensor:
        """The network's value from those of its layers, shape ``(layers,)``."""

    def measure(self, snapshot: Snapshot) -> Tensor:
        """Combine the layers' values."""
        return self.combine(_stacked(self.layers(snapshot)))

    def _prepare_state(self) -> None:
        self.layer_names: list[str] = []
        self.add_state("values", torch.full((1,), torch.nan), dist_reduce_fx=_latest)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Measure and return the value, as ``update`` and ``compute`` do."""
        # torchmetrics would stack the old state and the new one, which may have another number of layers.
        self.update(*args, **kwargs)
        value: Any = self.compute()
        self._forward_cache = value
        return value

    def _accumulate(self, snapshot: Snapshot) -> None:
        layers = self.layers(snapshot)
        self.layer_names = list(layers)
        self.values = _stacked(layers).detach()

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The network's value, or with ``per_layer=True`` the layers'."""
        return self._by_layer() if self.per_layer else self.combine(self.values)

    def _by_layer(self) -> dict[str, Tensor]:
        return dict(zip(self.layer_names, self.values, strict=False))

    def report(self) -> dict[str, Tensor]:
        """The network's value, and with ``per_layer=True`` each layer's."""
        computed = self.compute()
        if isinstance(computed, Tensor):
            return {self.name: computed}
        total = self.combine(_stacked(computed))
        return {self.name: total, **{f"{self.name}/{layer}": v for layer, v in computed.items()}}


class WeightMetric(LayerMetric):
    """A metric with one value for each weight matrix.

    Args:
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the value of each weight by name.
    """

    def __init__(self, *, fold_batch_norm: bool = False, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        self.fold_batch_norm = fold_batch_norm
        if fold_batch_norm:
            self.needs = frozenset({"inputs"})

    def weights(self, snapshot: Snapshot) -> list[Weight]:
        """The weights, folded or not."""
        return snapshot.folded_weights if self.fold_batch_norm else snapshot.weights

    def spectra(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Their singular values by name."""
        return snapshot.folded_spectra if self.fold_batch_norm else snapshot.spectra

    def histograms(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Singular values of each weight."""
        prefix = "folded_spectrum" if self.fold_batch_norm else "spectrum"
        return {f"{prefix}/{name}": values for name, values in self.spectra(snapshot).items()}


class SampleMeanMetric(ComplexityMetric):
    """A mean over samples, and the standard error that comes from having only so many of them."""

    total: Tensor
    total_of_squares: Tensor
    count: Tensor

    @abstractmethod
    def per_sample(self, snapshot: Snapshot) -> Tensor:
        """The value of each sample, shape ``(n,)``, or of several ``(n, k)``; differentiable on a live snapshot."""

    def measure(self, snapshot: Snapshot) -> Tensor:
        """Mean over the snapshot's samples."""
        return self.per_sample(snapshot).mean()

    def _prepare_state(self) -> None:
        for state in ("total", "total_of_squares"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def _accumulate(self, snapshot: Snapshot) -> None:
        values = self.per_sample(snapshot).detach().double()
        self.total = self.total + values.sum(0)
        self.total_of_squares = self.total_of_squares + values.square().sum(0)
        self.count = self.count + len(values)

    def compute(self) -> Tensor:
        """Mean over all samples so far."""
        return self.total / self.count

    def standard_error(self) -> Tensor:
        """Standard error of :meth:`compute` as an estimate of the mean over all data; ``nan`` for one sample."""
        mean = self.total / self.count
        variance = (self.total_of_squares / self.count - mean.square()).clamp(min=0) * self.count / (self.count - 1)
        return (variance / self.count).sqrt()

    def report(self) -> dict[str, Tensor]:
        """The mean and its standard error."""
        return {self.name: self.compute(), f"{self.name}/standard_error": self.standard_error()}


class WeightsAndSamplesMetric(ComplexityMetric):
    """A number made from numbers of the weights and from the distribution of values over samples.

    Keeps the last numbers of the weights, and the values of all samples.
    """

    of_weights: Tensor
    samples: list[Tensor] | Tensor

    @abstractmethod
    def from_weights(self, snapshot: Snapshot) -> Tensor:
        """The numbers of the weights, one dimension, differentiable on a live snapshot."""

    @abstractmethod
    def per_sample(self, snapshot: Snapshot) -> Tensor:
        """The values of each sample, shape ``(n,)`` or ``(n, k)``, differentiable on a live snapshot."""

    @abstractmethod
    def summarize(self, of_weights: Tensor, samples: Tensor) -> Tensor:
        """The number, 0-d, from those of the weights and the values of all samples."""

    def measure(self, snapshot: Snapshot) -> Tensor:
        """The number on the snapshot's samples."""
        return self.summarize(self.from_weights(snapshot), self.per_sample(snapshot))

    def _prepare_state(self) -> None:
        self.add_state("of_weights", torch.full((1,), torch.nan), dist_reduce_fx=_latest)
        self.add_state("samples", [], dist_reduce_fx="cat")

    def _accumulate(self, snapshot: Snapshot) -> None:
        self.of_weights = self.from_weights(snapshot).detach()
        self.samples = [*self.samples, self.per_sample(snapshot).detach()]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Measure a batch, add its samples to those so far, and return its own value."""
        # torchmetrics would stack the old numbers of the weights and the new ones, of which there may be more.
        alone = self.clone()
        alone.reset()
        alone.update(*args, **kwargs)
        self.update(*args, **kwargs)
        self._forward_cache = alone.compute()
        return self._forward_cache

    def compute(self) -> Tensor:
        """The number of all samples so far, with the last weights."""
        return self.summarize(
            self.of_weights, torch.cat(self.samples) if isinstance(self.samples, list) else self.samples
        )


class SampleDistributionMetric(ComplexityMetric):
    """A property of the distribution of a value over samples; keeps one number for every sample."""

    values: list[Tensor] | Tensor

    @abstractmethod
    def per_sample(self, snapshot: Snapshot) -> Tensor:
        """The value of each sample, shape ``(n,)``, differentiable on a live snapshot."""

    @abstractmethod
    def summarize(self, values: Tensor) -> Tensor:
        """The property, 0-d, from the values of all samples."""

    def measure(self, snapshot: Snapshot) -> Tensor:
        """The property on the snapshot's samples."""
        return self.summarize(self.per_sample(snapshot))

    def _prepare_state(self) -> None:
        self.add_state("values", [], dist_reduce_fx="cat")

    def _accumulate(self, snapshot: Snapshot) -> None:
        self.values = [*self.values, self.per_sample(snapshot).detach()]

    def compute(self) -> Tensor:
        """The property of all samples so far."""
        return self.summarize(torch.cat(self.values) if isinstance(self.values, list) else self.values)


class ProbedMetric(ComplexityMetric):
    """An estimate from random probes of a quantity that is a mean over samples, in total and by layer.

    Every update draws the same probes, so that the estimates of several batches average to that of one
    big batch, probe by probe.
    """

    has_layers = True
    weighted: Tensor
    count: Tensor

    def __init__(self, num_probes: int, **kwargs: Any) -> None:
        if num_probes < 1:
            raise ValueError(f"num_probes must be at least 1, got {num_probes!r}.")
        self.num_probes = num_probes
        super().__init__(**kwargs)

    @abstractmethod
    def probe(self, snapshot: Snapshot) -> tuple[list[str], Tensor]:
        """Names of the layers, and samples of shape ``(num_probes, layers)``."""

    def measure(self, snapshot: Snapshot) -> Tensor:
        """Mean over probes, sum over layers."""
        return self.probe(snapshot)[1].sum(1).mean()

    def _prepare_state(self) -> None:
        self.layer_names: list[str] = []
        self.add_state("weighted", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def _accumulate(self, snapshot: Snapshot) -> None:
        self.layer_names, samples = self.probe(snapshot)
        self.weighted = self.weighted + samples.detach().double() * snapshot.num_samples
        self.count = self.count + snapshot.num_samples

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The estimate, or with ``per_layer=True`` that of each layer."""
        samples = self.weighted / self.count
        if self.per_layer:
            return dict(zip(self.layer_names, samples.mean(0), strict=True))
        return samples.sum(-1).mean()

    def standard_error(self) -> Tensor:
        """Standard error of the estimate over its probes; ``nan`` for one probe."""
        return standard_error((self.weighted / self.count).sum(-1))

    def report(self) -> dict[str, Tensor]:
        """The estimate, its standard error, and with ``per_layer=True`` the layers' estimates."""
        samples = self.weighted / self.count
        values = {
            self.name: samples.sum(-1).mean(),
            f"{self.name}/standard_error": standard_error(samples.sum(-1)),
        }
        if self.per_layer:
            values.update({f"{self.name}/{n}": v for n, v in zip(self.layer_names, samples.mean(0), strict=True)})
        return values
