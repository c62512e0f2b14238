"""Neural collapse: how far the features of each class have shrunk to their mean, and the means to a simplex."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_complexity.functional.representation.features import rounding_of

__all__ = [
    "class_distance_normalized_variance",
    "class_means",
    "collapse_duality",
    "collapse_geometry",
    "collapse_variability",
    "nearest_class_means",
]


class ClassMeans(NamedTuple):
    """The features of each class, summed up.

    Attributes:
        classes: The classes that occur, ascending, shape ``(C,)``.
        members: For each sample the place of its class among these, shape ``(n,)``.
        means: Mean features of each class, shape ``(C, d)``.
        centred: These without their mean, each class counting once, shape ``(C, d)``.
        variances: Mean square distance of the samples of a class to its mean, shape ``(C,)``.
    """

    classes: Tensor
    members: Tensor
    means: Tensor
    centred: Tensor
    variances: Tensor


def class_means(features: Tensor, targets: Tensor) -> ClassMeans:
    """Mean and variance of the features of each class that occurs.

    Args:
        features: Shape ``(n, d)``.
        targets: Class indices, shape ``(n,)``.

    Raises:
        ValueError: If shapes do not fit or targets are no class indices.

    Example:
        >>> class_means(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([0, 0, 5])).means.flatten()
        tensor([2., 8.])
    """
    if features.ndim != 2 or targets.shape != features.shape[:1] or targets.is_floating_point():
        raise ValueError(
            "needs features of shape (n, d) and class indices of shape (n,), "
            f"got {tuple(features.shape)} and {targets.dtype} of shape {tuple(targets.shape)}."
        )
    classes, members = targets.unique(return_inverse=True)
    counts = members.bincount(minlength=len(classes)).to(features.dtype)
    means = features.new_zeros(len(classes), features.shape[1]).index_add(0, members, features) / counts[:, None]
    rounding = rounding_of(features)
    squares = _without_rounding(features - means[members], rounding).square().sum(1)
    variances = squares.new_zeros(len(classes)).index_add(0, members, squares) / counts
    return ClassMeans(classes, members, means, _without_rounding(means - means.mean(0), rounding), variances)


def _without_rounding(differences: Tensor, rounding: Tensor) -> Tensor:
    """Rows that are no longer than rounding are zero."""
    lengths = torch.linalg.vector_norm(differences, dim=1, keepdim=True)
    return torch.where(lengths <= rounding, torch.zeros_like(differences), differences)


def collapse_variability(features: Tensor, targets: Tensor) -> Tensor:
    r"""Within-class variability against between-class variability, NC1.

    .. math:: \frac{1}{C} \operatorname{tr}(\Sigma_W \Sigma_B^+)

    :math:`\Sigma_W` is the mean over samples of the outer product of the difference to their class mean,
    :math:`\Sigma_B` the mean over classes of that of the difference of class mean and mean of class means, and
    :math:`+` the pseudo-inverse. Class means on a simplex of radius ``r``, and noise of standard deviation ``s`` in
    each direction, have :math:`s^2 (C - 1)^2 / (r^2 C)`.

    Args:
        features: Shape ``(n, d)``.
        targets: Class indices, shape ``(n,)``.

    Returns:
        0-d; ``nan`` for a single class and where all class means coincide.

    References:
        Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training",
        PNAS 2020.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [9.0], [11.0]])
        >>> collapse_variability(x, torch.tensor([0, 0, 1, 1]))  # 1 / 4.5^2 / 2
        tensor(0.0247)
    """
    found = class_means(features, targets)
    count = len(found.classes)
    if count < 2 or not features.isfinite().all():
        return features.sum() * torch.nan
    # The non-zero eigenvectors of the between-class covariance are the right singular vectors of the means.
    _, s, right = torch.linalg.svd(found.centred, full_matrices=False)
    rank = s > torch.maximum(s.amax() * max(found.centred.shape) * torch.finfo(s.dtype).eps, rounding_of(features))
    rank[count - 1 :] = False  # centred means have a direction less than there are classes
    if not rank.any():
        return features.sum() * torch.nan
    along = (features - found.means[found.members]) @ right[rank].mT
    return (along.square().mean(0) / (s[rank].square() / count)).sum() / count


def collapse_geometry(features: Tensor, targets: Tensor) -> Tensor:
    r"""Distance of the Gram matrix of the class means from that of a simplex of equal angles, NC2.

    .. math:: \Big\| \frac{M M^T}{\|M M^T\|_F} - \frac{1}{\sqrt{C - 1}} \Big(I - \frac{1}{C} 1 1^T\Big) \Big\|_F

    for the class means without their mean as rows of ``M``. It is 0 if and only if all have the same norm and all pairs
    the same angle, and at most 2.

    Args:
        features: Shape ``(n, d)``.
        targets: Class indices, shape ``(n,)``.

    Returns:
        0-d; ``nan`` for a single class and where all class means coincide; 0 for two classes.

    References:
        After Zhu et al., "A geometric analysis of neural collapse with unconstrained features", NeurIPS 2021, which
        puts the two conditions of Papyan et al. into one number.

    Example:
        >>> corners = torch.eye(3)
        >>> collapse_geometry(corners, torch.arange(3)) < 1e-6
        tensor(True)
    """
    found = class_means(features, targets)
    count = len(found.classes)
    gram = found.centred @ found.centred.mT
    simplex = torch.eye(count, dtype=gram.dtype, device=gram.device) - 1 / count
    return torch.linalg.matrix_norm(gram / torch.linalg.matrix_norm(gram) - simplex / (count - 1) ** 0.5)


def equal_norms(centred: Tensor) -> Tensor:
    """Relative spread of the norms of the class means, standard deviation over mean, 0-d."""
    norms = torch.linalg.vector_norm(centred, dim=1)
    return norms.std(correction=0) / norms.mean()


def equal_angles(centred: Tensor) -> Tensor:
    """Standard deviation of the cosines between class means, 0-d; 0 for two classes.

    ``nan`` for one, and where a class mean is the mean of all, which has no direction.
    """
    if len(centred) < 2 or not centred.any(1).all():
        return centred.sum() * torch.nan
    units = torch.nn.functional.normalize(centred, dim=1)
    above = torch.triu_indices(len(units), len(units), 1, device=units.device)
    return (units @ units.mT)[above[0], above[1]].std(correction=0)


def collapse_duality(features: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    r"""Distance of the classifier from the class means, NC3.

    .. math:: \Big\| \frac{W}{\|W\|_F} - \frac{M}{\|M\|_F} \Big\|_F

    Args:
        features: What the classifier is given, shape ``(n, d)``.
        targets: Class indices, shape ``(n,)``.
        weight: The classifier's, shape ``(classes, d)``; the rows of classes that occur count.

    Returns:
        0-d, between 0 and 2; ``nan`` for a single class, and where the weight is zero or all class means coincide.

    Raises:
        ValueError: If the weight has no row for a class, or rows of another length.

    References:
        Papyan, Han and Donoho, PNAS 2020, where it is squared.

    Example:
        >>> corners = torch.eye(3)
        >>> collapse_duality(corners, torch.arange(3), 5 * (corners - 1 / 3)) < 1e-6
        tensor(True)
    """
    found = class_means(features, targets)
    if weight.ndim != 2 or weight.shape[1] != features.shape[1] or int(found.classes.max()) >= len(weight):
        raise ValueError(
            f"needs a weight with a row of {features.shape[1]} numbers for each class up to "
            f"{int(found.classes.max())}, got shape {tuple(weight.shape)}."
        )
    rows = weight[found.classes].to(features.dtype)
    means = found.centred
    return torch.linalg.matrix_norm(rows / torch.linalg.matrix_norm(rows) - means / torch.linalg.matrix_norm(means))


def nearest_class_means(features: Tensor, targets: Tensor) -> Tensor:
    """The class whose mean is nearest to each sample, shape ``(n,)``; the smallest of several.

    Args:
        features: Shape ``(n, d)``.
        targets: Class indices that the means are taken by, shape ``(n,)``.

    Example:
        >>> nearest_class_means(torch.tensor([[0.0], [1.0], [9.0], [10.0]]), torch.tensor([3, 3, 7, 7]))
        tensor([3, 3, 7, 7])
    """
    found = class_means(features, targets)
    distances = torch.cdist(features, found.means, compute_mode="donot_use_mm_for_euclid_dist")
    return found.classes[distances.argmin(1)]


def class_distance_normalized_variance(features: Tensor, targets: Tensor) -> Tensor:
    r"""Variance of the features of two classes against the square distance of their means, over all pairs (CDNV).

    .. math:: \frac{1}{C (C - 1)} \sum_{i \ne j} \frac{\sigma_i^2 + \sigma_j^2}{2 \|\mu_i - \mu_j\|^2}

    Class means on a simplex of radius ``r``, and noise of standard deviation ``s`` in each of ``d`` directions, have
    :math:`s^2 d (C - 1) / (2 r^2 C)`.

    Args:
        features: Shape ``(n, d)``.
        targets: Class indices, shape ``(n,)``.

    Returns:
        0-d; ``nan`` for a single class; ``inf`` where two class means coincide and their samples do not.

    References:
        Galanti, György and Hutter, "On the role of neural collapse in transfer learning", ICLR 2022.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [9.0], [11.0]])
        >>> class_distance_normalized_variance(x, torch.tensor([0, 0, 1, 1]))  # (1 + 1) / (2 * 81)
        tensor(0.0123)
    """
    found = class_means(features, targets)
    first, second = torch.triu_indices(len(found.classes), len(found.classes), 1, device=features.device)
    distances = (found.centred[first] - found.centred[second]).square().sum(1)
    return ((found.variances[first] + found.variances[second]) / (2 * distances)).mean()
