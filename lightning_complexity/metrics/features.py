"""The geometry of a network's features."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_complexity.functional.features import davies_bouldin_index, two_nn_dimension
from lightning_complexity.functional.spectra import effective_rank, singular_values
from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.network import Context, Snapshot, features
from lightning_complexity.network.outputs import class_targets
from lightning_complexity.network.tracing.calls import Layer

__all__ = [
    "DaviesBouldinIndex",
    "FeatureEffectiveRank",
    "IntrinsicDimension",
]


class _FeatureMetric(ComplexityMetric):
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

    def _of_layer(self, name: str) -> Tensor:
        parts = dim_zero_cat(self.features).split(list(self.widths.values()), dim=1)
        return self.of_features(parts[list(self.widths).index(name)])

    def total(self) -> Tensor:
        """The value of the chosen layer."""
        return self._of_layer(self.chosen_layer)

    def parts(self) -> dict[str, Tensor]:
        """The values of all layers."""
        return {name: self._of_layer(name) for name in self.widths}


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
    misleads_when = (
        "features have outliers or different scales, which count as directions; compared across widths, which bound it"
    )

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
    no_penalty_reason = "the two nearest neighbours of each sample alone decide it, and change"
    has_layers = True
    formula = r"d: \; -\ln(1 - F(\mu)) = d \ln \mu, \quad \mu = r_2 / r_1"
    reference = "Facco et al., Scientific Reports 2017; of features as in Ansuini et al., NeurIPS 2019"
    misleads_when = "there are few samples or duplicates, or the dimension is high, where it is too low"

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
    no_penalty_reason = "the largest overlap of each class alone decides it; contrastive losses are another measure"
    needs = frozenset({"inputs", "targets"})
    increases_with_complexity = None
    formula = r"\frac{1}{C} \sum_i \max_{j \neq i} (s_i + s_j) / M_{ij}"
    reference = "Davies and Bouldin, IEEE TPAMI 1979; of features as in Natekar and Sharma, 2020"
    misleads_when = "the data are those trained on and fitted well: classes then separate also for random labels"

    targets: list[Tensor] | Tensor

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_state("targets", [], dist_reduce_fx="cat")

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The index on the snapshot's features."""
        (found,) = features(snapshot, self.layer).values()
        targets, kept = class_targets(snapshot)
        return davies_bouldin_index(found[kept], targets[kept])

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the samples' features, and their classes."""
        targets, kept = class_targets(snapshot)
        super().accumulate(snapshot, context)
        *before, added = self.features
        self.features = [*before, added[kept]]
        self.targets = [*self.targets, targets[kept]]

    def of_features(self, features: Tensor) -> Tensor:
        """The index, with the targets so far."""
        return davies_bouldin_index(features, dim_zero_cat(self.targets))
