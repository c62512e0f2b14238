"""Metrics that combine one value a layer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.metrics.base.metric import ComplexityMetric, latest
from lightning_complexity.network import Context, Snapshot, Weight, spectra, weight_matrices


def stacked(layers: dict[str, Tensor]) -> Tensor:
    """The layers' values as one tensor."""
    return torch.stack(list(layers.values())) if layers else torch.zeros(0)


class LayerMetric(ComplexityMetric):
    """A metric that combines one value a layer.

    A subclass says what a layer's value is by :meth:`layers` and how they combine by :meth:`combine`.
    """

    has_layers = True
    values: Tensor
    layer_names: list[str]

    @abstractmethod
    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """The value of each layer by name, 0-d, differentiable where the snapshot is."""

    @abstractmethod
    def combine(self, values: Tensor) -> Tensor:
        """The network's value from those of its layers, shape ``(layers,)``."""

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Combine the layers' values."""
        return self.combine(stacked(self.layers(snapshot, context)))

    def _prepare_state(self) -> None:
        self.add_note("layer_names", [])
        self.add_state("values", torch.full((1,), torch.nan), dist_reduce_fx=latest)

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the layers' values."""
        layers = self.layers(snapshot, context)
        self.layer_names = list(layers)
        self.values = stacked(layers).detach()

    def total(self) -> Tensor:
        """The network's value."""
        return self.combine(self.values)

    def parts(self) -> dict[str, Tensor]:
        """The layers' values."""
        return dict(zip(self.layer_names, self.values, strict=True))


class ParameterMetric(ComplexityMetric):
    """A number of all parameters together, and the same of each alone."""

    has_layers = True
    chooses_layers = True
    values: Tensor
    layer_names: list[str]

    def _prepare_state(self) -> None:
        self.add_note("layer_names", [])
        self.add_state("values", torch.full((1,), torch.nan), dist_reduce_fx=latest)

    def total(self) -> Tensor:
        """The number of all parameters together."""
        return self.values[0]

    def parts(self) -> dict[str, Tensor]:
        """The number of each parameter."""
        return dict(zip(self.layer_names, self.values[1:], strict=True))


class WeightMetric(LayerMetric):
    """A metric with one value for each weight matrix.

    Args:
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the value of each weight by name.
    """

    chooses_layers = True
    reads_samples = False

    def __init__(self, *, fold_batch_norm: bool = False, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        self.fold_batch_norm = fold_batch_norm
        if fold_batch_norm:
            self.needs, self.cost = frozenset({"inputs"}), "forward"

    def weights(self, snapshot: Snapshot, context: Context) -> list[Weight]:
        """The weights, folded or not."""
        return weight_matrices(snapshot, folded=self.fold_batch_norm, layers=context.layers)

    def spectra(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Their singular values by name."""
        return spectra(snapshot, folded=self.fold_batch_norm, layers=context.layers)

    def histograms(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Singular values of each weight."""
        prefix = "folded_spectrum" if self.fold_batch_norm else "spectrum"
        values = self.spectra(snapshot, Context(layers=self.layers_chosen))
        return {f"{prefix}/{name}": of_layer for name, of_layer in values.items()}


class SpectrumMetric(WeightMetric):
    """A metric that is a function of each weight's singular values, its mean over layers by default."""

    @abstractmethod
    def of_spectrum(self, spectrum: Tensor) -> Tensor:
        """The value of one layer, 0-d."""

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """The value of each weight."""
        return {name: self.of_spectrum(spectrum) for name, spectrum in self.spectra(snapshot, context).items()}

    def combine(self, values: Tensor) -> Tensor:
        """Mean over layers."""
        return values.mean()
