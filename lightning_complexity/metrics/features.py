"""The geometry of a network's features."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.functional.features import davies_bouldin_index, two_nn_dimension
from lightning_complexity.functional.spectra import effective_rank, singular_values
from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.network import Snapshot
from lightning_complexity.network.tracing.calls import Layer

__all__ = [
    "DaviesBouldinIndex",
    "FeatureEffectiveRank",
    "IntrinsicDimension",
]


def class_targets(snapshot: Snapshot) -> Tensor:
    """The targets, where a measure needs them to be classes."""
    targets = snapshot.targets
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        raise ValueError("needs integer class targets of shape (n,).")
    return targets


class _FeatureMetric(ComplexityMetric):
    """A number that is read off the features of all samples; keeps them.

    Args:
        layer: Whose input the features are; see :meth:`lightning_complexity.network.Snapshot.features`.
        per_layer: Whether ``compute`` returns the values of all linear and convolution layers by name.
    """

    needs = frozenset({"inputs"})
    cost = "forward"
    features: list[Tensor] | Tensor

    def __init__(self, layer: Layer = -1, *, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        self.layer = layer

    @abstractmethod
    def of_features(self, features: Tensor) -> Tensor:
        """The value, 0-d, from features of shape ``(n, d)``."""

    def measure(self, snapshot: Snapshot) -> Tensor:
        """The value on the snapshot's features."""
        (features,) = snapshot.features(self.layer).values()
        return self.of_features(features)

    def _prepare_state(self) -> None:
        self._widths: dict[str, int] = {}
        self._chosen = ""
        self.add_state("features", [], dist_reduce_fx="cat")

    def _accumulate(self, snapshot: Snapshot) -> None:
        (self._chosen,) = chosen = snapshot.features(self.layer)
        layers = {**snapshot.features(), **chosen} if self.per_layer else chosen
        self._widths = {name: features.shape[1] for name, features in layers.items()}
        self.features = [*self.features, torch.cat(list(layers.values()), 1).detach()]

    def _values(self) -> dict[str, Tensor]:
        joined = torch.cat(self.features) if isinstance(self.features, list) else self.features
        parts = joined.split(list(self._widths.values()), dim=1)
        return {name: self.of_features(part) for name, part in zip(self._widths, parts, strict=True)}

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The value of the chosen layer, or with ``per_layer=True`` those of all layers."""
        values = self._values()
        return values if self.per_layer else values[self._chosen]

    def report(self) -> dict[str, Tensor]:
        """The value, and with ``per_layer=True`` those of all layers."""
        values = self._values()
        by_layer = {f"{self.name}/{layer}": value for layer, value in values.items()} if self.per_layer else {}
        return {self.name: values[self._chosen], **by_layer}


class FeatureEffectiveRank(_FeatureMetric):
    r"""Effective rank of the matrix of features: how many directions they use.

    .. math:: \exp\Big( -\sum_i p_i \ln p_i \Big), \quad p_i = \frac{s_i}{\sum_j s_j}

    of the singular values :math:`s` of the ``(n, d)`` matrix of features of all samples, not centred, so that constant
    features have rank 1. It is at most the number of samples: compare it on equally many. Features are what goes into a
    linear or convolution layer, flattened. Features that are all zero have no rank: value and gradient are ``nan``
    there. Keeps the features of all samples.

    Args:
        layer: A module's name, or a place among the linear and convolution modules in running order. The features that
            go into the last one, the penultimate ones, by default.
        per_layer: Whether ``compute`` returns the values of all linear and convolution layers by name; at the first
            it is that of the data.

    Raises:
        ValueError: In ``update``, if there is no such layer.

    Example:
        >>> metric = FeatureEffectiveRank()
        >>> metric.update(torch.nn.Linear(3, 2), torch.eye(3)[:2])
        >>> metric.compute()
        tensor(2.)
    """

    name = "feature_effective_rank"
    has_layers = True
    formula = r"\exp\big( -\sum_i p_i \ln p_i \big), \quad p_i = s_i / \sum_j s_j \text{ of the features}"
    reference = "Roy and Vetterli, EUSIPCO 2007; of features as in Garrido et al., RankMe, ICML 2023"

    def of_features(self, features: Tensor) -> Tensor:
        """Effective rank."""
        return effective_rank(singular_values(features))


class IntrinsicDimension(_FeatureMetric):
    r"""Intrinsic dimension of the features by the distances of each sample to its two nearest neighbours (TwoNN).

    .. math:: d \quad\text{such that}\quad -\ln(1 - F(\mu)) = d \ln \mu, \quad \mu = r_2 / r_1

    Known to be too low, the more so the higher the dimension and the fewer the samples: 1000 samples of a uniform cube
    gave 2.0, 4.6 and 8.5 for 2, 5 and 10 dimensions. Trust comparisons on equally many samples, not the number.
    Undefined, ``nan``, for a single sample or two, and for fewer than three distinct ones. Keeps the features of all
    samples.

    Args:
        layer: A module's name, or a place among the linear and convolution modules in running order. The features that
            go into the last one, the penultimate ones, by default.
        discard: Share of the largest ratios that the fit leaves out.
        per_layer: Whether ``compute`` returns the values of all linear and convolution layers by name; at the first
            it is that of the data.

    Raises:
        ValueError: If ``discard`` is not at least 0 and below 1; in ``update``, if there is no such layer.

    Example:
        >>> metric = IntrinsicDimension()
        >>> square = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
        >>> metric.update(torch.nn.Linear(2, 2), square)
        >>> bool(1.8 < metric.compute() < 2.2)
        True
    """

    name = "intrinsic_dimension"
    has_layers = True
    formula = r"d: \; -\ln(1 - F(\mu)) = d \ln \mu, \quad \mu = r_2 / r_1"
    reference = "Facco et al., Scientific Reports 2017; of features as in Ansuini et al., NeurIPS 2019"

    def __init__(self, layer: Layer = -1, *, discard: float = 0.1, per_layer: bool = False, **kwargs: Any) -> None:
        if not 0 <= discard < 1:
            raise ValueError(f"discard must be at least 0 and below 1, got {discard!r}.")
        super().__init__(layer, per_layer=per_layer, **kwargs)
        self.discard = discard

    def of_features(self, features: Tensor) -> Tensor:
        """Intrinsic dimension."""
        return two_nn_dimension(features.detach(), discard=self.discard)


class DaviesBouldinIndex(_FeatureMetric):
    r"""Davies-Bouldin index of the classes among the features: how much they overlap.

    .. math:: \frac{1}{C} \sum_i \max_{j \ne i} \frac{s_i + s_j}{M_{ij}}

    :math:`s_i` is the mean distance of the samples of class ``i`` to their centroid, :math:`M_{ij}` the distance of two
    centroids. Low where classes are far apart. Undefined, ``nan``, for a single sample or a single class; ``inf`` where
    two centroids coincide. Keeps the features of all samples.

    Args:
        layer: A module's name, or a place among the linear and convolution modules in running order. The features that
            go into the last one, the penultimate ones, by default.
        per_layer: Must be ``False``; measure a layer by ``layer``.

    Raises:
        ValueError: In ``update``, if there is no such layer or targets are not class indices.

    Example:
        >>> metric = DaviesBouldinIndex()
        >>> x = torch.tensor([[0.0], [2.0], [9.0], [11.0]])
        >>> metric.update(torch.nn.Linear(1, 2), x, torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()  # (1 + 1) / 9
        tensor(0.2222)
    """

    name = "davies_bouldin_index"
    needs = frozenset({"inputs", "targets"})
    increases_with_complexity = None
    formula = r"\frac{1}{C} \sum_i \max_{j \neq i} (s_i + s_j) / M_{ij}"
    reference = "Davies and Bouldin, IEEE TPAMI 1979; of features as in Natekar and Sharma, 2020"

    targets: list[Tensor] | Tensor

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_state("targets", [], dist_reduce_fx="cat")

    def measure(self, snapshot: Snapshot) -> Tensor:
        """The index on the snapshot's features."""
        (features,) = snapshot.features(self.layer).values()
        return davies_bouldin_index(features, snapshot.targets)

    def _accumulate(self, snapshot: Snapshot) -> None:
        super()._accumulate(snapshot)
        self.targets = [*self.targets, class_targets(snapshot)]

    def of_features(self, features: Tensor) -> Tensor:
        """The index, with the targets so far."""
        return davies_bouldin_index(
            features, torch.cat(self.targets) if isinstance(self.targets, list) else self.targets
        )
