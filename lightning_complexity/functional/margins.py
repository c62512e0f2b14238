"""Margins of a classifier: how far the right answer is ahead of the best wrong one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_classification", "margin_percentile", "signed_margins"]


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
