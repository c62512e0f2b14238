"""Margins of a classifier: how far the right answer is ahead of the best wrong one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "PositionsAsSamples",
    "check_classification",
    "inverse_squared_margin",
    "log_over_margin",
    "margin_percentile",
    "normalized_margins",
    "positions_as_samples",
    "signed_margins",
    "smooth_margin_losses",
]


def signed_margins(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Signed margin :math:`f(x)_y - \max_{c \ne y} f(x)_c` of every sample.

    Args:
        logits: Shape ``(n, classes)``.
        targets: Class indices, shape ``(n,)``.

    Returns:
        Shape ``(n,)``; negative where the network is wrong, 0 at a tie.

    Raises:
        ValueError: If the shapes or the type of the targets do not fit.

    Example:
        >>> signed_margins(torch.tensor([[3.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1]))
        tensor([ 2., -2.])
    """
    check_classification(logits, targets)
    index = targets.long().unsqueeze(1)
    right = logits.gather(1, index).squeeze(1)
    return right - logits.scatter(1, index, -torch.inf).amax(1)


def check_classification(logits: Tensor, targets: Tensor) -> None:
    """Raise an error unless there is one logit for each of several classes, and one class for each sample.

    Args:
        logits: Should have the shape ``(n, classes)``.
        targets: Should be class indices of shape ``(n,)``.

    Raises:
        ValueError: Saying what is wrong.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"needs logits of shape (n, classes >= 2), got {tuple(logits.shape)}.")
    if targets.is_floating_point() or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"needs integer class targets of shape ({logits.shape[0]},), "
            f"got {targets.dtype} of shape {tuple(targets.shape)}."
        )


class PositionsAsSamples(NamedTuple):
    """Samples of a classifier, one for each position that counts.

    Attributes:
        logits: Shape ``(m, C)``.
        targets: Class indices, shape ``(m,)``.
        kept: Which positions these are, shape of the targets as they were given.
    """

    logits: Tensor
    targets: Tensor
    kept: Tensor


def positions_as_samples(
    logits: Tensor, targets: Tensor, *, class_dim: int | None = None, ignore_index: int = -100
) -> PositionsAsSamples:
    """Make every position of a segmentation or of a sequence a sample, and leave ignored targets out.

    Classes are on axis 1, as in torch's cross-entropy, or on the last where only that fits the targets: outputs of the
    shape ``(n, C, d1, ...)`` with targets ``(n, d1, ...)``, or ``(n, d1, ..., C)``.

    Args:
        logits: Shape ``(n, C)``, ``(n, C, d1, ...)`` or ``(n, d1, ..., C)``.
        targets: Class indices, the shape of ``logits`` without the axis of classes.
        class_dim: The axis of classes; ``None`` as said above.
        ignore_index: Positions with this target are left out.

    Returns:
        Logits and targets of the positions that count, and which these are.

    Raises:
        ValueError: If the shapes or the type of the targets do not fit, if a target is no class, or if nothing counts.

    Example:
        >>> logits = torch.tensor([[[3.0, 0.0], [1.0, 2.0]]])  # one sample, two classes, two positions
        >>> positions_as_samples(logits, torch.tensor([[0, -100]]))[:2]
        (tensor([[3., 1.]]), tensor([0]))
    """
    axis = _class_axis(logits, targets, class_dim)
    rows, flat = logits.movedim(axis, -1).flatten(0, -2), targets.flatten()
    check_classification(rows, flat)
    kept = targets != ignore_index
    rows, flat = rows[kept.flatten()], flat[kept.flatten()]
    if len(flat) == 0:
        raise ValueError(f"needs at least one target that counts; every target is the ignored {ignore_index}.")
    check_classes(flat, rows.shape[1], ignore_index)
    return PositionsAsSamples(rows, flat, kept)


def check_classes(targets: Tensor, count: int, ignore_index: int = -100) -> None:
    """Raise an error unless targets are among so many classes.

    Args:
        targets: Class indices without those to be ignored, at least one.
        count: Number of classes.
        ignore_index: What may stand for no class, for the error.

    Raises:
        ValueError: Saying what they are.
    """
    low, high = (int(t) for t in torch.aminmax(targets))
    if low < 0 or high >= count:
        raise ValueError(
            f"needs targets from 0 to {count - 1}, or {ignore_index} where a position does not count, "
            f"got {low} to {high}."
        )


def _class_axis(logits: Tensor, targets: Tensor, class_dim: int | None) -> int:
    axes = [1, -1] if class_dim is None else [class_dim]
    for axis in axes:
        if -logits.ndim <= axis < logits.ndim and _without(logits.shape, axis) == list(targets.shape):
            return axis
    if logits.ndim == 2 and class_dim is None:
        return 1  # for the error of check_classification
    where = "axis 1 or the last" if class_dim is None else f"axis {class_dim}"
    raise ValueError(
        f"needs logits with classes on {where} and targets of the same shape without it, "
        f"got logits {tuple(logits.shape)} and targets {tuple(targets.shape)}."
    )


def _without(shape: torch.Size, axis: int) -> list[int]:
    sizes = list(shape)
    del sizes[axis]
    return sizes


def margin_percentile(margins: Tensor, percentile: float = 10) -> Tensor:
    """Percentile of the margins, with linear interpolation between samples as in ``numpy.percentile``.

    Args:
        margins: Signed margins, shape ``(n,)``, ``n >= 1``.
        percentile: Between 0 (the smallest margin) and 100.

    Returns:
        0-d. The margin itself for one sample; ``nan`` if a margin is ``nan``.

    References:
        The 10th percentile after Jiang et al., ICLR 2020; the 5th after Neyshabur et al., NeurIPS 2017.
        Public code often takes the absolute value, which calls a bad network's margin large; this does not.

    Example:
        >>> margin_percentile(torch.tensor([-1.0, 0.0, 1.0]), percentile=25)
        tensor(-0.5000)
    """
    ordered = margins.sort().values
    position = percentile / 100 * (ordered.numel() - 1)
    below = int(position)
    above = min(below + 1, ordered.numel() - 1)
    value = torch.lerp(ordered[below], ordered[above], position - below)
    return torch.where(margins.isnan().any(), torch.full_like(value, torch.nan), value)


def inverse_squared_margin(margin: Tensor) -> Tensor:
    r"""Inverse squared margin :math:`1 / \gamma^2` where the margin is positive.

    Args:
        margin: Signed, any shape.

    Returns:
        The same shape; ``nan`` where the margin is not positive.

    References:
        Jiang et al., ICLR 2020, eq. 22. Public code takes the absolute value of a negative margin.

    Example:
        >>> inverse_squared_margin(torch.tensor([2.0, 0.0, -2.0]))
        tensor([0.2500,    nan,    nan])
    """
    return _if_positive(margin).square().reciprocal()


def log_over_margin(log_capacity: Tensor, margin: Tensor) -> Tensor:
    r"""Logarithm of a capacity divided by the margin, :math:`\ln C - \ln \gamma`.

    Args:
        log_capacity: :math:`\ln C`, any shape.
        margin: Signed, a shape that broadcasts with it.

    Returns:
        The broadcast shape; ``nan`` where the margin is not positive.

    Example:
        >>> log_over_margin(torch.tensor(3.0).log(), torch.tensor(0.5)).exp()
        tensor(6.)
    """
    return log_capacity - _if_positive(margin).log()


def _if_positive(margin: Tensor) -> Tensor:
    return torch.where(margin > 0, margin, torch.full_like(margin, torch.nan))


def normalized_margins(margins: Tensor, log_capacity: Tensor) -> Tensor:
    r"""Margins divided by a capacity, :math:`\gamma_i / C`: unchanged when layers of a ReLU network are scaled.

    Args:
        margins: Signed, shape ``(n,)``.
        log_capacity: :math:`\ln C`, 0-d.

    Returns:
        Shape ``(n,)``, in double precision, as capacities of deep networks leave the range of the single one.

    References:
        Bartlett, Foster and Telgarsky, NeurIPS 2017.

    Example:
        >>> normalized_margins(torch.tensor([1.0, -2.0]), torch.tensor(2.0).log())
        tensor([ 0.5000, -1.0000], dtype=torch.float64)
    """
    return margins.double() * (-log_capacity.double()).exp()


def smooth_margin_losses(logits: Tensor, targets: Tensor, margin: float = 1.0, temperature: float = 1.0) -> Tensor:
    r"""Smooth hinge of every sample's margin.

    .. math:: T \ln \Big( 1 + \sum_{c \ne y} e^{(\rho + f_c(x) - f_y(x)) / T} \Big)

    For :math:`T \to 0` it is the multi-class hinge loss :math:`\max(0, \rho - \text{margin})`; for :math:`\rho = 0` and
    :math:`T = 1` the cross-entropy.

    Args:
        logits: Shape ``(n, classes)``.
        targets: Class indices, shape ``(n,)``.
        margin: :math:`\rho`, from which on a margin is hardly pushed any further.
        temperature: :math:`T > 0`, how smooth.

    Returns:
        Shape ``(n,)``; positive, smooth everywhere.

    Raises:
        ValueError: If the shapes or the type of the targets do not fit.

    References:
        The hinge of Crammer and Singer, JMLR 2, 2001, smoothed by a softmax.

    Example:
        >>> smooth_margin_losses(torch.tensor([[3.0, 1.0]]), torch.tensor([0]), margin=2.0)  # ln 2
        tensor([0.6931])
    """
    check_classification(logits, targets)
    index = targets.long().unsqueeze(1)
    behind = (margin + logits - logits.gather(1, index)) / temperature
    return temperature * torch.logsumexp(behind.scatter(1, index, 0.0), dim=1)
