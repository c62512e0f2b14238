"""Metrics that are read off the features of all samples."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_complexity.metrics.base.metric import ComplexityMetric
from lightning_complexity.network import Context, Snapshot, features
from lightning_complexity.network.outputs import class_targets
from lightning_complexity.network.tracing.calls import Layer


class FeatureMetric(ComplexityMetric):
    """A number that is read off the features of all samples; keeps them.

    Args:
        layer: Whose input the features are; see :func:`lightning_complexity.network.features`.
        per_layer: Whether ``compute`` returns the values of all linear and convolution layers by name.
    """

    needs = frozenset({"inputs"})
    cost = "forward"
    features: list[Tensor] | Tensor
    widths: dict[str, int]
    chosen_layer: str

    def __init__(self, layer: Layer = -1, *, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        self.layer = layer

    @abstractmethod
    def of_features(self, features: Tensor) -> Tensor:
        """The value, 0-d, from features of shape ``(n, d)``."""

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The value on the snapshot's features."""
        (found,) = features(snapshot, self.layer).values()
        return self.of_features(found)

    def _prepare_state(self) -> None:
        self.add_note("widths", {})
        self.add_note("chosen_layer", "")
        self.add_state("features", [], dist_reduce_fx="cat")

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the samples' features."""
        (self.chosen_layer,) = chosen = features(snapshot, self.layer)
        layers = {**features(snapshot), **chosen} if self.per_layer else chosen
        self.widths = {name: of_layer.shape[1] for name, of_layer in layers.items()}
        self.features = [*self.features, torch.cat(list(layers.values()), 1).detach()]

    def features_of(self, name: str) -> Tensor:
        """The features of all samples so far that go into a layer, shape ``(n, d)``."""
        parts = dim_zero_cat(self.features).split(list(self.widths.values()), dim=1)
        return parts[list(self.widths).index(name)]

    def total(self) -> Tensor:
        """The value of the chosen layer."""
        return self.of_features(self.features_of(self.chosen_layer))

    def parts(self) -> dict[str, Tensor]:
        """The values of all layers."""
        return {name: self.of_features(self.features_of(name)) for name in self.widths}


class ClassFeatureMetric(FeatureMetric):
    """A number that is read off the features of all samples and their classes; keeps both."""

    needs = frozenset({"inputs", "targets"})
    targets: list[Tensor] | Tensor

    @abstractmethod
    def of_classes(self, features: Tensor, targets: Tensor) -> Tensor:
        """The value, 0-d, from features of shape ``(n, d)`` and classes of shape ``(n,)``."""

    def of_features(self, features: Tensor) -> Tensor:
        """The value, with the classes of the samples so far."""
        return self.of_classes(features, dim_zero_cat(self.targets))

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_state("targets", [], dist_reduce_fx="cat")

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The value on the snapshot's features."""
        return self.of_classes(*self.labelled(snapshot))

    def labelled(self, snapshot: Snapshot) -> tuple[Tensor, Tensor]:
        """The features of the snapshot's samples that have a class, and their classes."""
        (found,) = features(snapshot, self.layer).values()
        targets, kept = class_targets(snapshot)
        return found[kept], targets[kept]

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the samples' features, and their classes."""
        targets, kept = class_targets(snapshot)
        super().accumulate(snapshot, context)
        *before, added = self.features
        self.features = [*before, added[kept]]
        self.targets = [*self.targets, targets[kept]]
