"""The geometry of a network's features."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_complexity.functional.representation.features import (
    davies_bouldin_index,
    spectrum_decay,
    two_nn_dimension,
)
from lightning_complexity.functional.weights.spectra import effective_rank, singular_values
from lightning_complexity.metrics.base import ClassFeatureMetric, FeatureMetric
from lightning_complexity.network.tracing.calls import Layer

__all__ = [
    "DaviesBouldinIndex",
    "FeatureEffectiveRank",
    "FeatureSpectrumDecay",
    "IntrinsicDimension",
]


class FeatureEffectiveRank(FeatureMetric):
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
        >>> import torch
        >>> metric = FeatureEffectiveRank()
        >>> metric.update(torch.nn.Linear(3, 2), torch.eye(3)[:2])
        >>> metric.compute()
        tensor(2.)
    """

    name = "feature_effective_rank"
    has_layers = True
    formula = r"\exp\big( -\sum_i p_i \ln p_i \big), \quad p_i = s_i / \sum_j s_j \text{ of the features}"
    reference = "Roy and Vetterli, EUSIPCO 2007; of features as in Garrido et al., RankMe, ICML 2023"
    increases_with_complexity = True
    units = "directions"
    misleads_when = (
        "features have outliers or different scales, which count as directions; compared across widths, which bound it"
    )

    def of_features(self, features: Tensor) -> Tensor:
        """Effective rank."""
        return effective_rank(singular_values(features))


class FeatureSpectrumDecay(FeatureMetric):
    r"""Exponent of the decay of the eigenvalues of the features' covariance (alpha-ReQ).

    .. math:: \alpha \quad\text{such that}\quad \lambda_i \propto i^{-\alpha}

    by least squares of the logarithms over all eigenvalues that are more than rounding. After the authors good
    representations have exponents near 1: larger, and few directions hold all the variance; smaller, and the features
    are rough. The spectrum of few samples falls off faster at its end: compare exponents on equally many samples.
    Undefined, ``nan``, for a single sample or two, and for features in one direction. Keeps the features of all
    samples.

    Args:
        layer: A module's name, or a place among the linear and convolution modules in running order. The features that
            go into the last one, the penultimate ones, by default.
        per_layer: Whether ``compute`` returns the values of all linear and convolution layers by name; at the first
            it is that of the data.

    Raises:
        ValueError: In ``update``, if there is no such layer.

    Example:
        >>> import torch
        >>> metric = FeatureSpectrumDecay()
        >>> circle = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.5], [0.0, -0.5]])
        >>> metric.update(torch.nn.Linear(2, 2), circle)
        >>> metric.compute()  # eigenvalues in the ratio 4 to 1
        tensor(2.)
    """

    name = "feature_spectrum_decay"
    units = "pure number"
    no_penalty_reason = "it has a best value in between, and the smallest eigenvalues decide its gradient"
    increases_with_complexity = False
    has_layers = True
    formula = r"\alpha: \; \lambda_i \propto i^{-\alpha} \text{ of the features' covariance}"
    reference = "Agrawal et al., alpha-ReQ, NeurIPS 2022"
    misleads_when = "there are fewer samples than features, so that sampling decides the end of the spectrum"

    def of_features(self, features: Tensor) -> Tensor:
        """Exponent."""
        return spectrum_decay(features.detach())


class IntrinsicDimension(FeatureMetric):
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
        >>> import torch
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
    increases_with_complexity = True
    units = "dimensions"
    misleads_when = "there are few samples or duplicates, or the dimension is high, where it is too low"

    def __init__(self, layer: Layer = -1, *, discard: float = 0.1, per_layer: bool = False, **kwargs: Any) -> None:
        if not 0 <= discard < 1:
            raise ValueError(f"discard must be at least 0 and below 1, got {discard!r}.")
        super().__init__(layer, per_layer=per_layer, **kwargs)
        self.discard = discard

    def of_features(self, features: Tensor) -> Tensor:
        """Intrinsic dimension."""
        return two_nn_dimension(features.detach(), discard=self.discard)


class DaviesBouldinIndex(ClassFeatureMetric):
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
        >>> import torch
        >>> metric = DaviesBouldinIndex()
        >>> x = torch.tensor([[0.0], [2.0], [9.0], [11.0]])
        >>> metric.update(torch.nn.Linear(1, 2), x, torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()  # (1 + 1) / 9
        tensor(0.2222)
    """

    name = "davies_bouldin_index"
    no_penalty_reason = "the largest overlap of each class alone decides it; contrastive losses are another measure"
    increases_with_complexity = None
    formula = r"\frac{1}{C} \sum_i \max_{j \neq i} (s_i + s_j) / M_{ij}"
    reference = "Davies and Bouldin, IEEE TPAMI 1979; of features as in Natekar and Sharma, 2020"
    units = "pure number"
    misleads_when = "the data are those trained on and fitted well: classes then separate also for random labels"

    def of_classes(self, features: Tensor, targets: Tensor) -> Tensor:
        """The index."""
        return davies_bouldin_index(features, targets)
