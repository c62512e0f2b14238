"""Neural collapse: features shrink to their class means, these to a simplex, and the classifier to the means."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from lightning_complexity.functional.representation.collapse import (
    class_distance_normalized_variance,
    class_means,
    collapse_duality,
    collapse_geometry,
    collapse_variability,
    equal_angles,
    equal_norms,
    nearest_class_means,
)
from lightning_complexity.metrics.base import ClassFeatureMetric, latest
from lightning_complexity.network import Context, MeasureError, Snapshot, features
from lightning_complexity.network.outputs import class_targets, classified
from lightning_complexity.network.weights.norms import weights_of

__all__ = [
    "ClassDistanceNormalizedVariance",
    "CollapseDuality",
    "CollapseGeometry",
    "CollapseMismatch",
    "CollapseVariability",
]

_PAPYAN = "Papyan, Han and Donoho, PNAS 2020"
_ON_TRAINING_DATA = (
    "the data are those trained on and fitted well: features then collapse also for random labels, and on few samples "
    "of each class it is too low"
)


class CollapseVariability(ClassFeatureMetric):
    r"""Within-class variability of the features against the between-class one (NC1 of neural collapse).

    .. math:: \frac{1}{C} \operatorname{tr}(\Sigma_W \Sigma_B^+)

    The covariances are those of samples around their class means and of class means around their mean. It goes to 0
    as each class shrinks to a point, which training beyond zero error leads to. Features are what goes into a linear or
    convolution layer, flattened. Undefined, ``nan``, for a single sample and a single class; 0 where each class has one
    sample. Keeps the features of all samples.

    Args:
        layer: A module's name, or a place among the linear and convolution modules in running order. The features that
            go into the last one, the penultimate ones, by default.
        per_layer: Whether ``compute`` returns the values of all linear and convolution layers by name; at the first
            it is that of the data.

    Raises:
        ValueError: In ``update``, if there is no such layer or targets are not class indices.

    Example:
        >>> metric = CollapseVariability()
        >>> x = torch.tensor([[0.0], [2.0], [9.0], [11.0]])
        >>> metric.update(torch.nn.Linear(1, 2), x, torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()  # 1 / 4.5^2 / 2
        tensor(0.0247)
    """

    name = "collapse_variability"
    units = "pure number"
    no_penalty_reason = "cross-entropy with weight decay leads there by itself; pulling features to centres is a loss"
    increases_with_complexity = None
    has_layers = True
    formula = r"\operatorname{tr}(\Sigma_W \Sigma_B^+) / C \text{ of the features}"
    reference = _PAPYAN
    misleads_when = _ON_TRAINING_DATA

    def of_classes(self, features: Tensor, targets: Tensor) -> Tensor:
        """NC1."""
        return collapse_variability(features, targets)


class ClassDistanceNormalizedVariance(ClassFeatureMetric):
    r"""Variance of two classes' features against the square distance of their means, mean over pairs (CDNV).

    .. math:: \frac{1}{C (C - 1)} \sum_{i \ne j} \frac{\sigma_i^2 + \sigma_j^2}{2 \|\mu_i - \mu_j\|^2}

    :math:`\sigma_i^2` is the mean square distance of the samples of class ``i`` to their mean. Like NC1 without the
    inverse of a covariance, so that few samples of wide layers do. Undefined, ``nan``, for a single sample and a single
    class; ``inf`` where two class means coincide and their samples do not. Keeps the features of all samples.

    Args:
        layer: A module's name, or a place among the linear and convolution modules in running order. The features that
            go into the last one, the penultimate ones, by default.
        per_layer: Whether ``compute`` returns the values of all linear and convolution layers by name; at the first
            it is that of the data.

    Raises:
        ValueError: In ``update``, if there is no such layer or targets are not class indices.

    Example:
        >>> metric = ClassDistanceNormalizedVariance()
        >>> x = torch.tensor([[0.0], [2.0], [9.0], [11.0]])
        >>> metric.update(torch.nn.Linear(1, 2), x, torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()  # (1 + 1) / (2 * 81)
        tensor(0.0123)
    """

    name = "class_distance_normalized_variance"
    units = "pure number"
    no_penalty_reason = "cross-entropy with weight decay leads there by itself; pulling features to centres is a loss"
    increases_with_complexity = None
    has_layers = True
    formula = r"\operatorname{mean}_{i \neq j} (\sigma_i^2 + \sigma_j^2) / (2 \lVert \mu_i - \mu_j \rVert^2)"
    reference = "Galanti, György and Hutter, ICLR 2022"
    misleads_when = _ON_TRAINING_DATA

    def of_classes(self, features: Tensor, targets: Tensor) -> Tensor:
        """CDNV."""
        return class_distance_normalized_variance(features, targets)


class CollapseGeometry(ClassFeatureMetric):
    r"""Distance of the class means from a simplex of equal norms and angles (NC2 of neural collapse).

    .. math:: \Big\| \frac{M M^T}{\|M M^T\|_F} - \frac{1}{\sqrt{C - 1}} \Big(I - \frac{1}{C} 1 1^T\Big) \Big\|_F

    for class means without their mean as rows of ``M``; 0 for the simplex, at most 2. Its two conditions are logged
    beside it: ``norms``, standard deviation over mean of the norms of the class means, and ``angles``, standard
    deviation of their cosines. Undefined, ``nan``, for a single sample, a single class and class means that coincide;
    0 for two classes. Keeps the features of all samples.

    Args:
        layer: A module's name, or a place among the linear and convolution modules in running order. The features that
            go into the last one, the penultimate ones, by default.
        per_layer: Whether ``compute`` returns the values of all linear and convolution layers by name.

    Raises:
        ValueError: In ``update``, if there is no such layer or targets are not class indices.

    Example:
        >>> metric = CollapseGeometry()
        >>> metric.update(torch.nn.Linear(3, 3), torch.eye(3), torch.arange(3))
        >>> bool(metric.compute() < 1e-6)
        True
    """

    name = "collapse_geometry"
    units = "pure number"
    no_penalty_reason = "a classifier that is fixed to a simplex gives it without a penalty"
    increases_with_complexity = None
    has_layers = True
    formula = r"\lVert M M^T / \lVert M M^T \rVert_F - (I - 1 1^T / C) / \sqrt{C - 1} \rVert_F"
    reference = f"{_PAPYAN}; as one number after Zhu et al., NeurIPS 2021"
    misleads_when = "classes differ in size: their means are then not expected on a simplex of equal norms"

    def of_classes(self, features: Tensor, targets: Tensor) -> Tensor:
        """NC2."""
        return collapse_geometry(features, targets)

    def details(self) -> dict[str, Tensor]:
        """Spread of norms and of angles."""
        centred = class_means(self.features_of(self.chosen_layer), dim_zero_cat(self.targets)).centred
        return {"norms": equal_norms(centred), "angles": equal_angles(centred)}


class CollapseDuality(ClassFeatureMetric):
    r"""Distance of the classifier's rows from the class means of its features (NC3 of neural collapse).

    .. math:: \Big\| \frac{W}{\|W\|_F} - \frac{M}{\|M\|_F} \Big\|_F

    for class means without their mean as rows of ``M`` and the weight of the layer that they go into, which must be
    linear with a row for each class; between 0 and 2. Undefined, ``nan``, for a single sample and a single class, and
    for weights that are zero. Keeps the features of all samples.

    Args:
        layer: The classifier: a module's name, or a place among the linear and convolution modules in running order.
        per_layer: Must be ``False``.

    Raises:
        ValueError: In ``update``, if there is no such layer or targets are not class indices.
        MeasureError: In ``update``, if that layer is no linear one with a row for each class.

    Example:
        >>> net = torch.nn.Linear(3, 3)
        >>> _ = net.weight.data.copy_(torch.eye(3) - 1 / 3)
        >>> metric = CollapseDuality()
        >>> metric.update(net, torch.eye(3), torch.arange(3))
        >>> bool(metric.compute() < 1e-6)
        True
    """

    name = "collapse_duality"
    units = "pure number"
    no_penalty_reason = "a classifier that is set to the class means has it without a penalty"
    increases_with_complexity = None
    formula = r"\lVert W / \lVert W \rVert_F - M / \lVert M \rVert_F \rVert_F \text{ of classifier and class means}"
    reference = _PAPYAN
    misleads_when = (
        "the classifier is frozen or shared with an embedding: the class means then come to it or not at all"
    )

    weight: Tensor

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_state("weight", torch.full((1, 1), torch.nan), dist_reduce_fx=latest)

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """NC3 on the snapshot's features."""
        return collapse_duality(*self.labelled(snapshot), self._classifier(snapshot))

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the samples' features and classes, and keep the classifier."""
        super().accumulate(snapshot, context)
        self.weight = self._classifier(snapshot).detach()

    def _classifier(self, snapshot: Snapshot) -> Tensor:
        (name,) = features(snapshot, self.layer)
        found = weights_of(snapshot, name) if isinstance(snapshot.model.get_submodule(name), nn.Linear) else []
        targets, kept = class_targets(snapshot)
        if not found or len(found[0].tensor) <= int(targets[kept].max()):
            raise MeasureError(
                f"needs a linear layer with a row for each class, but {name!r} is none; choose another by layer=...."
            )
        return found[0].tensor

    def of_classes(self, features: Tensor, targets: Tensor) -> Tensor:
        """NC3."""
        return collapse_duality(features, targets, self.weight)


class CollapseMismatch(ClassFeatureMetric):
    r"""Share of samples that the network puts into another class than the nearest class mean does (NC4).

    .. math:: \frac{1}{n} \sum_i 1\big[\arg\max_c f_c(x_i) \ne \arg\min_c \|h(x_i) - \mu_c\|\big]

    0 where the network decides by the nearest mean of its features. Several outputs or means that are equal count as
    the class of the smallest number. Keeps the features of all samples.

    Args:
        layer: A module's name, or a place among the linear and convolution modules in running order. The features that
            go into the last one, the penultimate ones, by default.
        per_layer: Must be ``False``.

    Raises:
        ValueError: In ``update``, if there is no such layer or targets are not classes of the outputs.

    Example:
        >>> net = torch.nn.Linear(1, 2, bias=False)  # decides at 0
        >>> _ = net.weight.data.copy_(torch.tensor([[-1.0], [1.0]]))
        >>> metric = CollapseMismatch()
        >>> metric.update(net, torch.tensor([[-4.0], [-2.0], [-0.5], [2.0]]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()  # the third sample is nearer to 0.75 than to -3, and the network says 0
        tensor(0.2500)
    """

    name = "collapse_mismatch"
    units = "share of samples"
    no_penalty_reason = "it counts samples, so that its gradient is zero"
    increases_with_complexity = None
    formula = r"\frac{1}{n} \sum_i 1[\arg\max_c f_c(x_i) \neq \arg\min_c \lVert h(x_i) - \mu_c \rVert]"
    reference = _PAPYAN
    misleads_when = "few samples of each class decide their own means"

    logits: list[Tensor] | Tensor

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_state("logits", [], dist_reduce_fx="cat")

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """NC4 on the snapshot's samples."""
        return _mismatch(*self.labelled(snapshot), classified(snapshot).logits)

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the samples' features, classes and outputs."""
        logits = classified(snapshot).logits.detach()
        super().accumulate(snapshot, context)
        self.logits = [*self.logits, logits]

    def of_classes(self, features: Tensor, targets: Tensor) -> Tensor:
        """NC4."""
        return _mismatch(features, targets, dim_zero_cat(self.logits))


def _mismatch(features: Tensor, targets: Tensor, logits: Tensor) -> Tensor:
    if logits.isnan().any():
        return features.sum() * torch.nan
    return (nearest_class_means(features, targets) != logits.argmax(1)).to(features.dtype).mean()
