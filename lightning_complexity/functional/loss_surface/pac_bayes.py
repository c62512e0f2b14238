"""PAC-Bayes: capacities from noise on the weights that the network bears, and bounds on the error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "FoundScale",
    "find_scale",
    "kl_inverse",
    "magnitude_aware_pac_bayes_capacity",
    "maurer_bound",
    "mcallester_bound",
    "pac_bayes_capacity",
]


def pac_bayes_capacity(squared_norm: Tensor, sigma: Tensor, num_samples: int) -> Tensor:
    r"""Capacity of weights with Gaussian noise of one scale.

    .. math:: \frac{\|w\|_2^2}{4 \sigma^2} + \ln \frac{m}{\sigma} + 10

    Args:
        squared_norm: :math:`\|w\|_2^2`, of the weights or of their distance from initialization, any shape.
        sigma: Scale of the noise.
        num_samples: Number ``m`` of training samples.

    Returns:
        The same shape.

    References:
        Jiang et al., "Fantastic generalization measures", ICLR 2020, equations 48 and 49.

    Example:
        >>> pac_bayes_capacity(torch.tensor(4.0), torch.tensor(1.0), num_samples=1)
        tensor(11.)
    """
    return squared_norm / (4 * sigma.square()) + (num_samples / sigma).log() + 10


def magnitude_aware_pac_bayes_capacity(
    squared_norm: Tensor, distances: Tensor, sigma: Tensor, num_samples: int, *, epsilon: float = 1e-3
) -> Tensor:
    r"""Capacity of weights with Gaussian noise in proportion to their magnitude.

    .. math:: \frac14 \sum_{k=1}^{\omega} \ln \frac{\epsilon^2 + (\sigma^2 + 1) \|w\|_2^2 / \omega}
        {\epsilon^2 + \sigma^2 (w_k - w^0_k)^2} + \ln \frac{m}{\sigma} + 10

    Args:
        squared_norm: :math:`\|w\|_2^2`, of the weights or of their distance from initialization, 0-d.
        distances: :math:`w_k - w^0_k`, shape ``(omega,)``.
        sigma: Scale of the noise, 0-d.
        num_samples: Number ``m`` of training samples.
        epsilon: Noise that weights of zero have.

    Returns:
        0-d; negative where all distances are larger than the mean, as it can be only in the first sum.

    References:
        Jiang et al., "Fantastic generalization measures", ICLR 2020, equations 56 and 57.

    Example:
        >>> one = torch.tensor(1.0)
        >>> magnitude_aware_pac_bayes_capacity(one, torch.ones(1), one, num_samples=1, epsilon=0.0)  # ln(2) / 4 + 10
        tensor(10.1733)
    """
    above = epsilon**2 + (sigma.square() + 1) * squared_norm / distances.numel()
    below = epsilon**2 + sigma.square() * distances.square()
    return (above / below).log().sum() / 4 + (num_samples / sigma).log() + 10


class FoundScale(NamedTuple):
    """What a search for a scale ended with.

    Attributes:
        scale: The smallest scale that was found to reach the target; ``nan`` if none did.
        reached: What is reached there.
        converged: Whether the target is met within the tolerance, or the scale is known to the precision.
    """

    scale: float
    reached: float
    converged: bool


def find_scale(
    function: Callable[[float], float],
    target: float,
    *,
    tolerance: float = 0.0,
    precision: float = 0.01,
    start: float = 2.0**-4,
    max_doublings: int = 16,
) -> FoundScale:
    """The scale at which a function that grows with it reaches a target.

    From the start the scale is doubled, or halved, until the target lies between two; then the bracket is
    halved geometrically. Nothing is assumed of the order of magnitude.

    Args:
        function: Of the scale; it need not be continuous, nor grow everywhere.
        target: What is to be reached.
        tolerance: How near the target is near enough.
        precision: Relative width of the bracket that is narrow enough.
        start: First scale.
        max_doublings: At most, and as many halvings.

    Returns:
        The scale, and what was reached. Where the function is ``nan``, so is the scale.

    Example:
        >>> find_scale(lambda scale: scale**2, target=4.0, precision=1e-6).scale
        2.0...
    """
    at, reached = start, function(start)
    low = high = None
    for _ in range(max_doublings):
        if math.isnan(reached):
            return FoundScale(math.nan, reached, False)
        if abs(reached - target) <= tolerance:
            return FoundScale(at, reached, True)
        if reached >= target:
            high = FoundScale(at, reached, True)
        else:
            low = at
        if low is not None and high is not None:
            break
        at = at / 2 if high is not None else at * 2
        reached = function(at)
    if low is None or high is None:
        return FoundScale(math.nan, reached, False)
    while high.scale > low * (1 + precision):
        at = math.sqrt(low * high.scale)
        reached = function(at)
        if abs(reached - target) <= tolerance:
            return FoundScale(at, reached, True)
        if reached >= target:
            high = FoundScale(at, reached, True)
        else:
            low = at
    return high


def _binary_kl(q: float, p: float) -> float:
    """Divergence of coins, in nats."""
    sides = [(ours, theirs) for ours, theirs in ((q, p), (1 - q, 1 - p)) if ours > 0]
    return sum(ours * math.log(ours / theirs) if theirs > 0 else math.inf for ours, theirs in sides)


def _largest_probability(q: float, c: float) -> float:
    if math.isnan(q) or math.isnan(c):
        return math.nan
    low, high = q, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _binary_kl(q, middle) <= c:
            low = middle
        else:
            high = middle
    return high


def kl_inverse(error: Tensor, divergence: Tensor) -> Tensor:
    r"""The largest probability whose divergence from an error is at most a bound.

    .. math:: \sup \{ p : q \ln \tfrac{q}{p} + (1 - q) \ln \tfrac{1 - q}{1 - p} \le c \}

    Args:
        error: :math:`q` between 0 and 1, any shape.
        divergence: :math:`c`, not negative, the same shape or one that broadcasts to it.

    Returns:
        That shape, in double precision, above the supremum by less than 1e-15; 1 where the error is 1.

    Example:
        >>> kl_inverse(torch.tensor(0.0), torch.tensor(1.0))  # 1 - exp(-1)
        tensor(0.6321, dtype=torch.float64)
    """
    error, divergence = torch.broadcast_tensors(error, divergence)
    pairs = zip(error.flatten().tolist(), divergence.flatten().tolist(), strict=True)
    found = [_largest_probability(q, c) for q, c in pairs]
    return torch.tensor(found, dtype=torch.float64, device=error.device).reshape(error.shape)


def _complexity(divergence: Tensor, num_samples: int, delta: float) -> Tensor:
    return (divergence.double() + math.log(2 * math.sqrt(num_samples) / delta)) / num_samples


def maurer_bound(error: Tensor, divergence: Tensor, num_samples: int, delta: float) -> Tensor:
    r"""PAC-Bayes bound on the error of a random predictor, in the form of Seeger and Maurer.

    .. math:: \mathrm{kl}^{-1}\!\Big( \hat e,\ \frac{\mathrm{KL}(Q \| P) + \ln (2 \sqrt n / \delta)}{n} \Big)

    With probability at least :math:`1 - \delta` over ``n`` independent samples, for all :math:`Q` at once.

    Args:
        error: Mean error :math:`\hat e` of predictors drawn from :math:`Q` on the samples, any shape.
        divergence: :math:`\mathrm{KL}(Q \| P)`; :math:`P` must not depend on the samples.
        num_samples: ``n``.
        delta: Probability that the bound does not hold.

    Returns:
        The same shape, at most 1.

    References:
        Maurer, "A note on the PAC-Bayesian theorem", 2004.

    Example:
        >>> maurer_bound(torch.tensor(0.0), torch.tensor(0.0), num_samples=100, delta=0.05)  # 1 - exp(-ln(400) / 100)
        tensor(0.0582, dtype=torch.float64)
    """
    return kl_inverse(error, _complexity(divergence, num_samples, delta).expand_as(error))


def mcallester_bound(error: Tensor, divergence: Tensor, num_samples: int, delta: float) -> Tensor:
    r"""The same bound in the looser form of McAllester, which follows from it by Pinsker's inequality.

    .. math:: \hat e + \sqrt{\frac{\mathrm{KL}(Q \| P) + \ln (2 \sqrt n / \delta)}{2 n}}

    Args:
        error: As in :func:`maurer_bound`.
        divergence: As there.
        num_samples: As there.
        delta: As there.

    Returns:
        The same shape; it may be above 1.

    References:
        McAllester, "PAC-Bayesian model averaging", COLT 1999; with Maurer's constant.

    Example:
        >>> mcallester_bound(torch.tensor(0.0), torch.tensor(0.0), num_samples=100, delta=0.05)  # sqrt(ln(400) / 200)
        tensor(0.1731, dtype=torch.float64)
    """
    return error.double() + (_complexity(divergence, num_samples, delta) / 2).sqrt()
