"""Langevin sampling around a point, and what its losses say of how singular the loss is there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "LangevinChain",
    "chain_standard_error",
    "default_inverse_temperature",
    "functional_variance",
    "langevin_chain",
    "learning_coefficient",
]

LossAndGradient = Callable[[Tensor, int], tuple[Tensor, Tensor]]
_CHECK_EVERY = 25  # steps, of which one is looked at for the acceptance


def default_inverse_temperature(num_samples: int) -> float:
    r"""Inverse temperature :math:`n \beta = n / \ln n` at which losses estimate a learning coefficient.

    Args:
        num_samples: Number :math:`n` of samples that the network was trained on.

    Returns:
        ``nan`` for a single sample, which has none.

    Raises:
        ValueError: For fewer.

    References:
        Watanabe, "A widely applicable Bayesian information criterion", JMLR 2013.

    Example:
        >>> round(default_inverse_temperature(1000), 2)
        144.76
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples!r}.")
    return num_samples / math.log(num_samples) if num_samples > 1 else math.nan


class LangevinChain(NamedTuple):
    """A random walk.

    Attributes:
        losses: After each step, as they are evaluated there, shape ``(steps,)``.
        acceptance: Mean probability with which the Metropolis-Hastings rule would accept a step, 0-d, double precision;
            near 1 where steps are small enough for the walk to have the distribution that it is meant to have.
    """

    losses: Tensor
    acceptance: Tensor


def langevin_chain(
    loss_and_gradient: LossAndGradient,
    start: Tensor,
    *,
    num_steps: int,
    step_size: float,
    inverse_temperature: float,
    localization: float,
    generator: torch.Generator,
    evaluated_alike: bool = True,
) -> LangevinChain:
    r"""Walk around a point by stochastic gradient Langevin dynamics.

    .. math:: w_{t+1} = w_t - \frac{\epsilon}{2} \big( n \beta \nabla L(w_t) + \gamma (w_t - w_0) \big) +
        \sqrt\epsilon\, \xi_t, \quad \xi_t \sim N(0, 1)

    As :math:`\epsilon` goes to zero the walk has the density :math:`\propto \exp(-n \beta L(w) - \frac\gamma2 \|w -
    w_0\|^2)`. One gradient a step and one more; every 25th step, and the last, is looked at for the acceptance.

    Args:
        loss_and_gradient: Of a vector and the number of the step, 0 at the start: the loss, 0-d, and its gradient. The
            vector is written to afterwards, and the gradient may be the same memory each time.
        start: :math:`w_0`, shape ``(d,)``.
        num_steps: Number of steps.
        step_size: :math:`\epsilon`.
        inverse_temperature: :math:`n \beta`.
        localization: :math:`\gamma`.
        generator: That the noise is drawn from, on the device of the start.
        evaluated_alike: Whether the number of the step does not matter to ``loss_and_gradient``. Otherwise, as with a
            batch for each step, the steps that are looked at take one more gradient.

    References:
        Welling and Teh, ICML 2011; Lau et al., "The local learning coefficient", AISTATS 2025.

    Example:
        >>> chain = langevin_chain(
        ...     lambda w, step: (w.square().sum() / 2, w), torch.zeros(2), num_steps=4000, step_size=0.1,
        ...     inverse_temperature=10.0, localization=0.0, generator=torch.Generator().manual_seed(0))
        >>> bool(0.9 < 10 * chain.losses.mean() < 1.7)  # 2 / 2 at small steps, at this one 1 / (1 - 0.1 * 10 / 4)
        True
    """
    w, noise = start.clone(), torch.empty_like(start)
    rule = _Rule(step_size, inverse_temperature, localization)

    def slope(gradient: Tensor) -> Tensor:
        return (gradient * inverse_temperature).add_(w - start, alpha=localization)

    losses, acceptances = [], []
    loss, gradient = loss_and_gradient(w, 0)
    for step in range(1, num_steps + 1):
        is_checked = step % _CHECK_EVERY == 0 or step == num_steps
        before = _Place(w.clone(), loss, slope(gradient)) if is_checked else None
        noise.normal_(generator=generator)
        w.lerp_(start, step_size * localization / 2)
        w.add_(gradient, alpha=-step_size * inverse_temperature / 2).add_(noise, alpha=math.sqrt(step_size))
        if before is not None and not evaluated_alike:
            there, gradient = loss_and_gradient(w, step - 1)
            acceptances.append(_acceptance(before, _Place(w, there, slope(gradient)), start, rule))
        loss, gradient = loss_and_gradient(w, step)
        if before is not None and evaluated_alike:
            acceptances.append(_acceptance(before, _Place(w, loss, slope(gradient)), start, rule))
        losses.append(loss)
    return LangevinChain(torch.stack(losses), torch.stack(acceptances).mean())


class _Rule(NamedTuple):
    step_size: float
    inverse_temperature: float
    localization: float


class _Place(NamedTuple):
    w: Tensor
    loss: Tensor
    slope: Tensor


def _acceptance(before: _Place, after: _Place, start: Tensor, rule: _Rule) -> Tensor:
    """Probability that a step is accepted.

    With slopes ``g`` and ``g'`` of the potential ``U`` the ratio of densities and proposals has the logarithm
    ``-(U' - U) + (w' - w) (g + g') / 2 + step_size / 8 (g g - g' g')``: how far a trapezoid rule is off.
    """
    both = before.slope + after.slope
    of_loss = both - rule.localization * (before.w + after.w - 2 * start)
    along = ((after.w - before.w) * of_loss).sum(dtype=torch.float64) / 2
    longer = ((before.slope - after.slope) * both).sum(dtype=torch.float64)
    risen = rule.inverse_temperature * (after.loss.double() - before.loss.double())
    ratio = (along - risen + rule.step_size / 8 * longer).clamp(max=0).exp()
    return ratio.nan_to_num(0)  # of a walk that has left all numbers


def learning_coefficient(losses: Tensor, loss_at_start: Tensor, inverse_temperature: float) -> Tensor:
    r"""Estimate :math:`n \beta\, (\mathbb{E}_w L(w) - L(w_0))` of the local learning coefficient.

    Half the number of directions in which the loss is curved where it is regular; less where it is singular. The
    localization of the walk lowers it, and long steps raise it: for a quadratic loss with curvatures :math:`h_i` its
    expectation is

    .. math:: \frac12 \sum_i \frac{n \beta h_i}{(n \beta h_i + \gamma) (1 - \epsilon (n \beta h_i + \gamma) / 4)}

    Negative where the walk finds lower losses than that of the start, which then is no minimum.

    Args:
        losses: Of a walk without its beginning, any shape.
        loss_at_start: 0-d, on the same data.
        inverse_temperature: :math:`n \beta`.

    Returns:
        0-d.

    References:
        Lau et al., "The local learning coefficient: a singularity-aware complexity measure", AISTATS 2025.

    Example:
        >>> learning_coefficient(torch.tensor([1.0, 3.0]), torch.tensor(1.0), inverse_temperature=2.0)
        tensor(2.)
    """
    return inverse_temperature * (losses.mean() - loss_at_start)


def functional_variance(sample_losses: Tensor) -> Tensor:
    r"""Functional variance :math:`\sum_i \operatorname{Var}_w \ell_i(w)` of the losses of samples over a walk.

    Args:
        sample_losses: Shape ``(draws, n)``, of each sample at each place of the walk.

    Returns:
        0-d.

    References:
        Watanabe, "Asymptotic equivalence of Bayes cross validation and widely applicable information criterion in
        singular learning theory", JMLR 2010.

    Example:
        >>> functional_variance(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        tensor(2.)
    """
    return sample_losses.var(0).sum()


def chain_standard_error(traces: Tensor) -> Tensor:
    r"""Standard error of the mean over several chains of dependent numbers.

    .. math:: \sqrt{\frac{m}{m - 1} \cdot \frac{v}{m t} \Big( 1 + 2 \sum_{k \ge 1} \rho_k \Big)}

    The variance :math:`v` is that within the :math:`m` chains of :math:`t` numbers and between their means,
    :math:`\rho_k` the autocorrelation at lag ``k`` relative to it, so that chains that have not met count as what they
    are. The sum ends where the correlations of two neighbouring lags add up to less than zero, and they are made
    monotone until there. The first factor makes up for what few and short chains do not show: with it two errors
    covered 90 to 97 % in simulated walks of 2, 4 and 8 chains that were as long as their memory, or many times that. A
    single chain is cut in two.

    Args:
        traces: Shape ``(chains, draws)``.

    Returns:
        0-d, double precision; ``nan`` for fewer than four draws. 0 where all are equal.

    References:
        Vehtari et al., "Rank-normalization, folding, and localization: an improved R-hat for assessing convergence of
        MCMC", Bayesian Analysis 2021; Geyer, Statistical Science 1992.

    Example:
        >>> chain_standard_error(torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0]]))  # two numbers: 2 / sqrt(2)
        tensor(1.4142, dtype=torch.float64)
    """
    traces = traces.double()
    if len(traces) == 1:
        half = traces.shape[1] // 2
        traces = traces[:, : 2 * half].reshape(2, half)
    chains, draws = traces.shape
    if draws < 4:
        return torch.full((), torch.nan, dtype=torch.float64)
    means = traces.mean(1, keepdim=True)
    covariances = _autocovariances(traces - means)
    variance = covariances[0] + means.var()
    if not variance > 0:
        return variance
    correlations = 1 - (covariances[0] * draws / (draws - 1) - covariances) / variance
    correlations[0] = 1
    pairs = correlations[: draws // 2 * 2].reshape(-1, 2).sum(1)
    positive = (pairs > 0).long().cumprod(0)
    time = 2 * (pairs.cummin(0).values * positive).sum() - 1
    # A chain is at least one number, and one that alternates has an error too.
    time = time.clamp(min=1 / math.log10(chains * draws), max=draws)
    return (variance * time / ((chains - 1) * draws)).sqrt()


def _autocovariances(centered: Tensor) -> Tensor:
    """Mean autocovariance at each lag, shape ``(draws,)``, of chains of shape ``(chains, draws)``."""
    draws = centered.shape[1]
    spectrum = torch.fft.rfft(centered, n=2 * draws, dim=1)
    return torch.fft.irfft(spectrum.abs().square(), n=2 * draws, dim=1)[:, :draws].mean(0) / draws
