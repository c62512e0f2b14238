"""Power laws in the tails of samples, such as the eigenvalues of a layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PowerLawFit", "fit_power_law"]

_CANDIDATES_AT_ONCE = 64
_EQUAL_UP_TO = 1e-6  # relative; eigenvalues of an orthogonal matrix differ by rounding alone


class PowerLawFit(NamedTuple):
    r"""Density :math:`\propto x^{-\alpha}` above :math:`x_{\min}`, fitted to a sample.

    Attributes:
        alpha: The exponent, 0-d.
        ks_distance: Kolmogorov-Smirnov distance of the tail from the fit, 0-d.
        num_tail: Number of values at or above the threshold, 0-d.
        threshold: :math:`x_{\min}`, 0-d.
    """

    alpha: Tensor
    ks_distance: Tensor
    num_tail: Tensor
    threshold: Tensor


def _distances(values: Tensor, alphas: Tensor, starts: Tensor) -> Tensor:
    """KS distance of each tail ``values[start:]`` from its own power law."""
    n = len(values)
    rank = torch.arange(n, device=values.device) - starts.unsqueeze(1)
    in_tail = rank >= 0
    ratio = (values[starts].unsqueeze(1) / values).clamp(max=1)
    fitted = 1 - ratio ** (alphas.unsqueeze(1) - 1)
    empirical = rank / (n - starts).unsqueeze(1)
    return torch.where(in_tail, (fitted - empirical).abs(), torch.zeros_like(fitted)).amax(1)


def fit_power_law(values: Tensor) -> PowerLawFit:
    r"""Maximum-likelihood exponent of the tail that looks most like a power law.

    For every value as threshold, :math:`\alpha = 1 + n / \sum_i \ln (x_i / x_{\min})` over the ``n`` values at or
    above it; the threshold with the smallest Kolmogorov-Smirnov distance wins, where, as in the authors' code,
    the empirical distribution at the ``k``-th smallest value of the tail is :math:`(k - 1) / n`. The standard
    error of the exponent is :math:`(\alpha - 1) / \sqrt{n}`: with few values, or a short tail, it means little.

    Args:
        values: Any shape; what is not positive is left out.

    Returns:
        The fit; all ``nan`` if fewer than two distinct positive values are there, or one is not finite.

    References:
        Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51(4), 2009.

    Example:
        >>> fit_power_law(torch.tensor([1.0, 2.0, 4.0])).num_tail
        tensor(3.)
    """
    nothing = torch.full((), torch.nan, dtype=values.dtype, device=values.device)
    x = values.detach().flatten()
    x = x[x > 0].double().sort().values if x.isfinite().all() else x[:0].double()
    logs = x.log()
    counts = torch.arange(len(x), 0, -1, device=x.device)
    spread = logs.flip(0).cumsum(0).flip(0) - counts * logs
    candidates = (spread > _EQUAL_UP_TO * counts).nonzero().flatten()
    if len(candidates) == 0:
        return PowerLawFit(nothing, nothing, nothing, nothing)
    alphas = 1 + counts[candidates] / spread[candidates]
    pairs = zip(alphas.split(_CANDIDATES_AT_ONCE), candidates.split(_CANDIDATES_AT_ONCE), strict=True)
    distances = torch.cat([_distances(x, a, c) for a, c in pairs])
    best = distances.argmin()
    start = candidates[best]
    return PowerLawFit(*(t.to(values.dtype) for t in (alphas[best], distances[best], counts[start], x[start])))
