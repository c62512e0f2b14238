"""How far the spectrum of a matrix is from that of a random one."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from torch import Tensor

__all__ = ["BulkVariance", "marchenko_pastur_median", "marchenko_pastur_soft_rank"]

BulkVariance = Literal["median", "entries"]

_ANGLES = 20_000


@lru_cache(maxsize=1024)
def marchenko_pastur_median(ratio: float) -> float:
    r"""Median of the Marchenko-Pastur distribution of variance 1, that of the eigenvalues of large random matrices.

    .. math:: p(x) = \frac{\sqrt{(b - x)(x - a)}}{2 \pi \beta x}, \quad a, b = (1 \mp \sqrt\beta)^2

    Args:
        ratio: :math:`\beta`, the smaller side of the matrix over the larger one, above 0 and up to 1.

    Raises:
        ValueError: If the ratio is out of its range.

    References:
        Marchenko and Pastur, Mathematics of the USSR-Sbornik 1(4), 1967; Gavish and Donoho, "The optimal hard threshold
        for singular values is 4/sqrt(3)", IEEE Transactions on Information Theory 60(8), 2014, for the median.

    Example:
        >>> round(marchenko_pastur_median(1.0), 4)
        0.6528
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be above 0 and at most 1, got {ratio!r}.")
    # x = 1 + beta - 2 sqrt(beta) cos(angle), in which the density has no singularity.
    angles = (np.arange(_ANGLES) + 0.5) * math.pi / _ANGLES
    x = 1 + ratio - 2 * math.sqrt(ratio) * np.cos(angles)
    mass = np.cumsum(2 * np.sin(angles) ** 2 / (_ANGLES * x))
    ends = 1 + ratio - 2 * math.sqrt(ratio) * np.cos(angles + 0.5 * math.pi / _ANGLES)
    return float(np.interp(0.5, mass, ends))


def marchenko_pastur_soft_rank(spectrum: Tensor, rows: int, columns: int, variance: BulkVariance = "median") -> Tensor:
    r"""Where the eigenvalues of a random matrix would end, over the largest eigenvalue that there is.

    .. math:: \mathcal R = \frac{\lambda^+}{\lambda_{\max}}, \quad
        \lambda^+ = \sigma^2 \Big( \sqrt{N} + \sqrt{M} \Big)^2

    of the eigenvalues :math:`\lambda = s^2` of :math:`W W^T`, with :math:`\sigma^2` the variance of the entries of the
    random part. Unchanged when the matrix is scaled.

    Args:
        spectrum: Singular values, shape ``(k,)``; of several blocks of one shape, all of them.
        rows: ``M``, or ``N``, of the matrix or of one block.
        columns: The other.
        variance: What :math:`\sigma^2` is: ``"median"``, the median eigenvalue over that of the Marchenko-Pastur
            distribution of variance 1, which a few large eigenvalues hardly move; or ``"entries"``, the mean of the
            squared entries, which they raise.

    Returns:
        0-d, in double precision. About 1 for a matrix with independent entries, the less the further the largest
        eigenvalue is above the others; 0 with ``"median"`` if half of the singular values are 0; ``nan`` for the zero
        matrix.

    Raises:
        ValueError: If ``variance`` is none of the two.

    References:
        After Martin and Mahoney, JMLR 22(165), 2021; how the variance is estimated is a choice here.

    Example:
        >>> import torch
        >>> marchenko_pastur_soft_rank(torch.tensor([2.0, 1.0, 1.0, 1.0]), 4, 4, "entries")  # (7 / 16) / 4 * (2 + 2)^2
        tensor(1.7500, dtype=torch.float64)
    """
    if variance not in get_args(BulkVariance):
        raise ValueError(f"variance must be one of {', '.join(get_args(BulkVariance))}, got {variance!r}.")
    small, large = min(rows, columns), max(rows, columns)
    relative = (spectrum.double() / spectrum.double().amax()).square()
    if variance == "entries":
        of_entry = relative.mean() / large
    else:
        of_entry = relative.quantile(0.5) / (large * marchenko_pastur_median(small / large))
    return of_entry * (math.sqrt(small) + math.sqrt(large)) ** 2
