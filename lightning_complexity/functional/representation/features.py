"""Geometry of features: how well classes separate, how many dimensions are used, how labels vary among neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_complexity.functional.margins import signed_margins
from lightning_complexity.functional.weights.spectra import singular_values

__all__ = [
    "davies_bouldin_index",
    "graph_variation",
    "hidden_margins",
    "same_class_pairs",
    "spectrum_decay",
    "trimmed_mean",
    "two_nn_dimension",
]


def rounding_of(features: Tensor) -> Tensor:
    """A distance that is no more than rounding between features of shape ``(n, d)``, 0-d."""
    return 16 * torch.finfo(features.dtype).eps * torch.linalg.vector_norm(features.detach(), dim=1).amax()


def _without_rounding(distances: Tensor, rounding: Tensor) -> Tensor:
    return torch.where(distances <= rounding, torch.zeros_like(distances), distances)


def _check_rows(features: Tensor, targets: Tensor) -> None:
    if features.ndim != 2 or targets.shape != features.shape[:1] or targets.is_floating_point():
        raise ValueError(
            "needs features of shape (n, d) and integer class targets of shape (n,), "
            f"got {tuple(features.shape)} and {targets.dtype} of {tuple(targets.shape)}."
        )


def davies_bouldin_index(features: Tensor, targets: Tensor) -> Tensor:
    r"""Davies-Bouldin index :math:`\frac{1}{C} \sum_i \max_{j \ne i} (s_i + s_j) / M_{ij}`: how much classes overlap.

    :math:`s_i` is the mean Euclidean distance of the members of class ``i`` to their centroid, :math:`M_{ij}` the
    distance of two centroids. Unchanged when the features are shifted, rotated or scaled.

    Args:
        features: Shape ``(n, d)``.
        targets: Class indices, shape ``(n,)``. Classes without a sample do not count.

    Returns:
        0-d; 0 where every class is a point, ``inf`` where two classes with some extent have the same centroid,
        ``nan`` for fewer than two classes.

    Raises:
        ValueError: If shapes or the type of the targets do not fit.

    References:
        Davies and Bouldin, "A cluster separation measure", IEEE TPAMI 1(2), 1979.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [9.0], [11.0]])
        >>> davies_bouldin_index(x, torch.tensor([0, 0, 1, 1]))  # (1 + 1) / 9
        tensor(0.2222)
    """
    _check_rows(features, targets)
    member = F.one_hot(targets.unique(return_inverse=True)[1]).to(features.dtype)
    if member.shape[1] < 2:
        return features.sum() * torch.nan
    counts = member.sum(0)
    centroids = (member.T @ features) / counts[:, None]
    rounding = rounding_of(features)
    to_centroid = _without_rounding(torch.linalg.vector_norm(features - member @ centroids, dim=1), rounding)
    spread = (member.T @ to_centroid) / counts
    between = _without_rounding(torch.linalg.vector_norm(centroids[:, None] - centroids, dim=2), rounding)
    together = spread[:, None] + spread
    ratio = torch.where(together > 0, together / between, together)
    return ratio.masked_fill(torch.eye(len(counts), dtype=torch.bool, device=ratio.device), 0.0).amax(1).mean()


def two_nn_dimension(features: Tensor, *, discard: float = 0.1) -> Tensor:
    r"""Intrinsic dimension from the ratio :math:`\mu` of the distances to the second and to the first neighbour.

    Where samples lie with locally constant density on a manifold of dimension :math:`d`, it is
    :math:`-\ln(1 - F(\mu)) = d \ln \mu` for the distribution function :math:`F`; the slope is that of a line through 0.
    It is known to be too low in high dimensions: 1000 samples of a uniform cube gave 2.0, 4.6 and 8.5 for ``d`` of 2, 5
    and 10 (means of 20 draws, with standard deviations of 0.08, 0.16 and 0.30). With fewer samples the neighbours
    are farther, the density between them less constant, and it is lower still.

    Args:
        features: Shape ``(n, d)``. Samples that coincide, up to rounding in the precision of the features, count once.
        discard: Share of the largest ratios that the fit leaves out, which noise and borders change most.

    Returns:
        0-d, double precision; ``nan`` for fewer than three distinct samples, ``inf`` where all ratios are 1.

    Raises:
        ValueError: If ``discard`` is not at least 0 and below 1.

    References:
        Facco, d'Errico, Rodriguez and Laio, "Estimating the intrinsic dimension of datasets by a minimal neighborhood
        information", Scientific Reports 7, 2017.

    Example:
        >>> line = torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) * torch.tensor([[3.0, 4.0]])
        >>> bool(0.9 < two_nn_dimension(line) < 1.1)
        True
    """
    if not 0 <= discard < 1:
        raise ValueError(f"discard must be at least 0 and below 1, got {discard!r}.")
    x = features.double()
    if not x.isfinite().all():
        return x.new_tensor(torch.nan)
    x = x.unique(dim=0)
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    distinct = ~(distances <= rounding_of(features)).tril(-1).any(1)
    distances = distances[distinct][:, distinct].fill_diagonal_(torch.inf)
    n = len(distances)
    if n < 3:
        return x.new_tensor(torch.nan)
    first, second = distances.topk(2, largest=False).values.T
    kept = int(n * (1 - discard))
    ratios = (second / first).log().sort().values[:kept]
    quantiles = torch.arange(1, kept + 1, device=x.device, dtype=x.dtype) / (n + 1)
    return -(torch.log1p(-quantiles) * ratios).sum() / ratios.square().sum()


def graph_variation(features: Tensor, signals: Tensor) -> Tensor:
    r"""How much signals vary between nearest neighbours, :math:`\operatorname{tr}(Y^T L Y) / (4 n)`.

    :math:`L = I - D^{-1/2} A D^{-1/2}` is the normalised Laplacian of the graph that joins each sample to its nearest
    neighbour, with weights :math:`\exp(-\gamma r^2)`, :math:`\gamma` one over three standard deviations of all squared
    distances. Features are scaled to unit length first. The graph is made symmetric, so that the variation is
    never negative.

    Args:
        features: Shape ``(n, d)``.
        signals: ``Y``, such as one-hot labels, shape ``(n, c)``.

    Returns:
        0-d; 0 for signals that are constant on graphs whose vertices have equal degrees, and for one sample.

    References:
        After the measure VPM of the team BrAIn in the competition "Predicting Generalization in Deep Learning",
        NeurIPS 2020, whose graph is not symmetric.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> same, other = torch.tensor([[1.0], [1.0], [0.0], [0.0]]), torch.tensor([[1.0], [0.0], [1.0], [0.0]])
        >>> graph_variation(x, same), graph_variation(x, other)
        (tensor(0.), tensor(0.1250))
    """
    if len(features) < 2:
        return (features.sum() + signals.sum()) * 0
    x = F.normalize(features, dim=1)
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    # Which of several samples that coincide is the nearest is not for rounding to say.
    squares = _without_rounding(distances, rounding_of(x)).square()
    others = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    spread = 3 * squares[others].std(correction=0)
    similarity = (-squares / torch.where(spread > 0, spread, 1.0)).exp()
    nearest = torch.where(others, squares, torch.inf).argmin(1, keepdim=True)
    joined = torch.zeros_like(others).scatter(1, nearest, True)
    adjacency = torch.where(joined | joined.T, similarity, 0.0)
    signals = signals.to(x.dtype)
    scaled = signals / adjacency.sum(1, keepdim=True).sqrt()
    edges = 0.5 * (adjacency[..., None] * (scaled[:, None] - scaled[None]).square()).sum()
    return edges / (4 * len(x))


def same_class_pairs(targets: Tensor, at_most: int = 10) -> Tensor:
    """All pairs of different samples of one class, among the first ``at_most`` samples of each class.

    Args:
        targets: Class indices, shape ``(n,)``.
        at_most: Samples taken of each class.

    Returns:
        Indices, shape ``(pairs, 2)``, possibly none.

    Example:
        >>> same_class_pairs(torch.tensor([0, 1, 0, 1, 2, 0])).tolist()
        [[0, 2], [0, 5], [2, 5], [1, 3]]
    """
    pairs = [torch.combinations((targets == target).nonzero()[:at_most, 0], 2) for target in targets.unique()]
    return torch.cat(pairs)


def hidden_margins(logits: Tensor, hidden: Tensor, targets: Tensor, *, create_graph: bool = False) -> Tensor:
    r"""Margin over the norm of its gradient at a layer, :math:`m(x) / \|\partial m(x) / \partial h\|`.

    To first order, how far the layer's features would have to move for the decision to change.

    Args:
        logits: Shape ``(n, classes)``, computed from ``hidden``, each sample from its own features alone.
        hidden: Shape ``(n, ...)``, requires grad.
        targets: Class indices, shape ``(n,)``.
        create_graph: Whether the result is to be differentiated.

    Returns:
        Shape ``(n,)``; negative where the network is wrong, infinite where the gradient is zero.

    References:
        Elsayed et al., "Large margin deep networks for classification", NeurIPS 2018.

    Example:
        >>> h = torch.tensor([[2.0, 0.0]], requires_grad=True)
        >>> hidden_margins(h @ torch.tensor([[3.0, 0.0], [0.0, 4.0]]), h, torch.tensor([0])).detach()  # 6 / 5
        tensor([1.2000])
    """
    with torch.enable_grad():
        margins = signed_margins(logits, targets)
        (gradient,) = torch.autograd.grad(margins.sum(), hidden, create_graph=create_graph)
    return margins / torch.linalg.vector_norm(gradient.flatten(1), dim=1)


def trimmed_mean(values: Tensor, share: float = 0.05) -> Tensor:
    """Mean without the smallest and the largest ``share`` of the values, each rounded down.

    Args:
        values: Shape ``(n,)``.
        share: At least 0, below one half.

    Returns:
        0-d.

    Example:
        >>> trimmed_mean(torch.tensor([0.0, 1.0, 2.0, 9.0]), share=0.25)
        tensor(1.5000)
    """
    cut = int(share * len(values))
    return values.sort().values[cut : len(values) - cut].mean()


def spectrum_decay(features: Tensor) -> Tensor:
    r"""Exponent of the decay of the eigenvalues of the features' covariance.

    .. math:: \alpha \quad\text{such that}\quad \lambda_i \propto i^{-\alpha}

    by least squares of :math:`\ln \lambda_i` on :math:`\ln i` over the eigenvalues that are more than rounding.

    Args:
        features: Shape ``(n, d)``.

    Returns:
        0-d; ``nan`` where fewer than two eigenvalues are not zero, as for a single sample or two.

    References:
        Agrawal et al., "alpha-ReQ: Assessing representation quality in self-supervised learning by measuring
        eigenspectrum decay", NeurIPS 2022.

    Example:
        >>> x = torch.diag(torch.arange(1.0, 6.0) ** -0.65)
        >>> spectrum_decay(torch.cat([x, -x]))
        tensor(1.3000)
    """
    centred = features - features.mean(0)
    s = singular_values(centred)
    # Of n samples without their mean at most n - 1 directions are more than rounding.
    kept = s[: len(features) - 1]
    kept = kept[kept > rounding_of(features)]
    if len(kept) < 2:
        return features.sum() * torch.nan
    x = torch.arange(1, len(kept) + 1, dtype=s.dtype, device=s.device).log()
    x = x - x.mean()
    return -2 * (x * kept.log()).sum() / x.square().sum()
