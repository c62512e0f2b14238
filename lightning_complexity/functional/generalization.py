"""What the measures of the study of robust generalization measures have in common."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["adjusted_measure", "order_statistic_margin"]


def order_statistic_margin(margins: Tensor) -> Tensor:
    r"""The :math:`\lfloor n/10 \rfloor`-th smallest margin, without interpolation; the smallest of fewer than 10.

    Args:
        margins: Signed margins, shape ``(n,)``.

    Returns:
        0-d; ``nan`` unless it is positive, where the study's code takes the absolute value.

    References:
        Dziugaite et al., "In search of robust measures of generalization", NeurIPS 2020.

    Example:
        >>> order_statistic_margin(torch.arange(1.0, 31.0))
        tensor(3.)
    """
    margin = margins.sort().values[max(len(margins) // 10, 1) - 1]
    valid = (margin > 0) & margins.isfinite().all()
    return torch.where(valid, margin, torch.full_like(margin, torch.nan))


def adjusted_measure(value: Tensor, num_samples: int, *, is_logarithm: bool) -> Tensor:
    r"""The study's adjustment for the number ``m`` of training samples.

    .. math:: \tfrac12 ( v - \ln m ) \text{ for a logarithm}, \quad \sqrt{v / m} \text{ for others}

    Args:
        value: :math:`v`, any shape.
        num_samples: ``m``.
        is_logarithm: Whether the value is a logarithm.

    Returns:
        The same shape; ``nan`` for a negative value that is no logarithm.

    References:
        Dziugaite et al., "In search of robust measures of generalization", NeurIPS 2020.

    Example:
        >>> adjusted_measure(torch.tensor(9.0), 4, is_logarithm=False)
        tensor(1.5000)
    """
    return (value - math.log(num_samples)) / 2 if is_logarithm else (value / num_samples).sqrt()
