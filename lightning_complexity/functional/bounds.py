r"""Generalization bounds of feed-forward networks, evaluated with their constants.

Each bounds :math:`E(f) - E_D(f)`, the test error minus the share of the ``m`` training samples whose margin is below
:math:`\gamma`, with probability :math:`1 - \delta`, uniformly over all networks. All but those by the VC dimension are
logarithms, as products of norms over many layers leave the range of floating point. A capacity :math:`R` is twice
:math:`\sqrt m` times a bound on the empirical Rademacher complexity of the losses of a class, see
:func:`log_rademacher_complexity`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_complexity.functional.weights.spectra import log_spectral_complexity

__all__ = [
    "log_deviation_bound",
    "log_frobenius_capacity",
    "log_mixed_norm_capacity",
    "log_pac_bayes_bound",
    "log_rademacher_complexity",
    "log_size_independent_capacity",
    "log_spectral_bound",
    "log_spectral_capacity",
    "log_spectral_frobenius_capacity",
    "log_two_layer_bound",
    "log_two_layer_capacity",
    "vc_generalization_bound",
    "vc_rademacher_complexity",
]


def log_rademacher_complexity(log_capacity: Tensor, num_samples: int) -> Tensor:
    r"""Logarithm of :math:`R / (2 \sqrt m)`, a bound on the empirical Rademacher complexity of the losses.

    .. math:: \sup_f \big( E(f) - E_D(f) \big) \le 2 \hat{\mathfrak R}_D + 3 \sqrt{\ln(2/\delta) / (2m)}

    Args:
        log_capacity: Logarithm of the capacity :math:`R`, 0-d.
        num_samples: Number ``m`` of training samples.

    Returns:
        0-d.

    References:
        Bartlett and Mendelson, JMLR 3, 2002.

    Example:
        >>> log_rademacher_complexity(torch.tensor(1.0), 100).exp()  # e / 20
        tensor(0.1359)
    """
    return log_capacity - math.log(2) - math.log(num_samples) / 2


def log_deviation_bound(log_capacity: Tensor, num_samples: int, delta: float) -> Tensor:
    r"""Logarithm of the bound :math:`\big( R + 3 \sqrt{\ln(m / \delta)} \big) / \sqrt m`.

    The second term pays for having chosen the class, by its norm, after seeing the data.

    Args:
        log_capacity: Logarithm of the capacity :math:`R`, 0-d.
        num_samples: Number ``m`` of training samples.
        delta: Probability that the bound does not hold.

    Returns:
        0-d.

    References:
        In this form Neyshabur et al., "Towards understanding the role of over-parametrization", ICLR 2019.

    Example:
        >>> log_deviation_bound(torch.tensor(-torch.inf), 100, 0.01).exp()  # 0.3 sqrt(ln 10000)
        tensor(0.9105)
    """
    chosen = torch.as_tensor(3 * math.sqrt(math.log(num_samples / delta))).to(log_capacity)
    return torch.logaddexp(log_capacity, chosen.log()) - math.log(num_samples) / 2


def log_mixed_norm_capacity(
    norms: Tensor, num_classes: int, num_features: int, radius: Tensor, margin: Tensor
) -> Tensor:
    r"""Capacity by the largest :math:`\ell_1` norms of the units.

    .. math:: R = \frac{2^{d+2}\, C \sqrt{\ln D} \; r}{\gamma} \prod_{i=1}^d \|W_i\|_{1,\infty}

    Args:
        norms: One norm :math:`\|W_i\|_{1,\infty}` a layer, shape ``(d,)``.
        num_classes: :math:`C`.
        num_features: :math:`D`, counted as at least 2.
        radius: :math:`r = (\frac1m \sum_i \|x_i\|_\infty^2)^{1/2}`, 0-d.
        margin: :math:`\gamma`, 0-d.

    Returns:
        :math:`\ln R`, 0-d; ``nan`` unless the margin is positive.

    References:
        Bartlett and Mendelson, JMLR 3, 2002; for two layers with these constants Neyshabur et al., ICLR 2019.

    Example:
        >>> one = torch.tensor(1.0)
        >>> log_mixed_norm_capacity(torch.ones(2), 2, 3, one, one).exp()  # 16 * 2 * sqrt(ln 3)
        tensor(33.5407)
    """
    constants = (len(norms) + 2) * math.log(2) + math.log(num_classes) + math.log(math.log(max(num_features, 2))) / 2
    return constants + norms.log().sum() + radius.log() - margin.log()


def log_frobenius_capacity(norms: Tensor, num_classes: int, radius: Tensor, margin: Tensor) -> Tensor:
    r"""Capacity by Frobenius norms.

    .. math:: R = \frac{2^{d+1} \sqrt C \; r}{\gamma} \prod_{i=1}^d \|W_i\|_F

    Args:
        norms: One Frobenius norm a layer, shape ``(d,)``.
        num_classes: :math:`C`.
        radius: :math:`r = (\frac1m \sum_i \|x_i\|_2^2)^{1/2}`, 0-d.
        margin: :math:`\gamma`, 0-d.

    Returns:
        :math:`\ln R`, 0-d; ``nan`` unless the margin is positive.

    References:
        Neyshabur, Tomioka and Srebro, COLT 2015; for two layers with these constants Neyshabur et al., ICLR 2019.

    Example:
        >>> one = torch.tensor(1.0)
        >>> log_frobenius_capacity(torch.ones(2), 4, one, one).exp()  # 8 * 2
        tensor(16.)
    """
    constants = (len(norms) + 1) * math.log(2) + math.log(num_classes) / 2
    return constants + norms.log().sum() + radius.log() - margin.log()


def log_size_independent_capacity(norms: Tensor, num_classes: int, radius: Tensor, margin: Tensor) -> Tensor:
    r"""Capacity by Frobenius norms that grows with the root of the depth instead of exponentially.

    .. math:: R = \frac{4 \sqrt C \; \big( \sqrt{2 d \ln 2} + 1 \big) \; r}{\gamma} \prod_{i=1}^d \|W_i\|_F

    After the paper's bound :math:`(\sqrt{2 d \ln 2} + 1) \, r \prod_i \|W_i\|_F / \sqrt m` on the Rademacher complexity
    of one output, with the same step to :math:`C` classes and margins as :func:`log_frobenius_capacity`.

    Args:
        norms: One Frobenius norm a layer, shape ``(d,)``.
        num_classes: :math:`C`.
        radius: :math:`r = (\frac1m \sum_i \|x_i\|_2^2)^{1/2}`, 0-d.
        margin: :math:`\gamma`, 0-d.

    Returns:
        :math:`\ln R`, 0-d; ``nan`` unless the margin is positive.

    References:
        After Golowich, Rakhlin and Shamir, "Size-independent sample complexity of neural networks", COLT 2018.

    Example:
        >>> one = torch.tensor(1.0)
        >>> log_size_independent_capacity(torch.ones(2), 1, one, one).exp()  # 4 (sqrt(4 ln 2) + 1)
        tensor(10.6604)
    """
    constants = math.log(4) + math.log(num_classes) / 2 + math.log(math.sqrt(2 * len(norms) * math.log(2)) + 1)
    return constants + norms.log().sum() + radius.log() - margin.log()


def log_spectral_capacity(
    norms: Tensor, distances: Tensor, num_samples: int, width: int, radius: Tensor, margin: Tensor
) -> Tensor:
    r"""Capacity by spectral norms and distances from reference matrices.

    .. math:: R = \frac{144 \ln(m) \ln(2 w)}{\gamma} \Big( r + \frac{1}{\sqrt m} \Big) \prod_{i=1}^d s_i \;
              \Big( \sum_{i=1}^d ( b_i / s_i )^{2/3} \Big)^{3/2}

    Args:
        norms: Bounds :math:`s_i` on the layers' spectral norms, shape ``(d,)``.
        distances: Bounds :math:`b_i` on their distances :math:`\|W_i - W_i^0\|_{2,1}`, the sums of the units'
            :math:`\ell_2` norms, shape ``(d,)``.
        num_samples: :math:`m`, in the logarithm counted as at least 2.
        width: Largest number :math:`w` of units of a layer, inputs included.
        radius: :math:`r = (\frac1m \sum_i \|x_i\|_2^2)^{1/2}`, 0-d.
        margin: :math:`\gamma`, 0-d.

    Returns:
        :math:`\ln R`, 0-d; ``nan`` unless the margin is positive.

    References:
        After Bartlett, Foster and Telgarsky, "Spectrally-normalized margin bounds", NeurIPS 2017.

    Example:
        >>> one = torch.tensor(1.0)
        >>> round(log_spectral_capacity(torch.ones(2), torch.ones(2), 100, 5, one, one).exp().item())
        4751
    """
    constants = math.log(144) + math.log(math.log(max(num_samples, 2))) + math.log(math.log(2 * width))
    return constants + log_spectral_complexity(norms, distances) + (radius + num_samples**-0.5).log() - margin.log()


def log_spectral_bound(
    norms: Tensor,
    distances: Tensor,
    num_samples: int,
    width: int,
    radius: Tensor,
    margin: Tensor,
    delta: float,
) -> Tensor:
    r"""Bound by spectral norms, with what choosing the class after seeing the data costs.

    .. math:: \frac{R + S}{\sqrt m} + \frac8m, \quad S^2 = \frac92 \Big( \ln \frac1\delta + \ln \frac{2m}{\gamma} +
              2 \ln(2 + \sqrt m \, r) + 2 \sum_i \ln \big( (2 + d\, b_i)(2 + d\, s_i) \big) \Big)

    :math:`R` is :func:`log_spectral_capacity` of :math:`s_i + 1/d` and :math:`b_i + 1/d`.

    Args:
        norms: Spectral norms :math:`s_i`, shape ``(d,)``.
        distances: :math:`b_i`, shape ``(d,)``; the other arguments are those of :func:`log_spectral_capacity`.
        num_samples: :math:`m`.
        width: :math:`w`.
        radius: :math:`r`, 0-d.
        margin: :math:`\gamma`, 0-d.
        delta: Probability that the bound does not hold.

    Returns:
        Logarithm of the bound, 0-d; ``nan`` unless the margin is positive.

    References:
        After Lemma A.8 of Bartlett, Foster and Telgarsky, NeurIPS 2017. Public code leaves the
        ``1/d`` out, takes the number of parameters for the width, Frobenius distances in the
        logarithms, and multiplies only the first of them by 9/2.

    Example:
        >>> one = torch.tensor(1.0)
        >>> log_spectral_bound(torch.ones(2), torch.ones(2), 100, 5, one, one, 0.01) > 0  # says nothing
        tensor(True)
    """
    depth = len(norms)
    capacity = log_spectral_capacity(norms + 1 / depth, distances + 1 / depth, num_samples, width, radius, margin)
    choices = (2 + depth * distances).log().sum() + (2 + depth * norms).log().sum()
    data = math.log(2 * num_samples / delta) - margin.log() + 2 * (2 + math.sqrt(num_samples) * radius).log()
    chosen = (4.5 * (data + 2 * choices)).clamp(min=0).sqrt()
    bound = torch.logaddexp(capacity, chosen.log()) - math.log(num_samples) / 2
    return torch.logaddexp(bound, torch.full_like(bound, math.log(8 / num_samples)))


def log_spectral_frobenius_capacity(
    norms: Tensor, distances: Tensor, widths: Tensor, radius: Tensor, margin: Tensor
) -> Tensor:
    r"""Capacity by spectral norms and Frobenius distances, of a PAC-Bayes bound.

    .. math:: R = \frac{168\, d \; r \sqrt{\ln (4 d h)}}{\sqrt 2 \, \gamma} \prod_{i=1}^d \|W_i\|_2 \;
              \Big( \sum_{i=1}^d h_i \frac{\|W_i - W_i^0\|_F^2}{\|W_i\|_2^2} \Big)^{1/2}

    Args:
        norms: Spectral norms, shape ``(d,)``.
        distances: Frobenius distances, shape ``(d,)``.
        widths: Number :math:`h_i` of units of each layer, shape ``(d,)``; :math:`h` is the largest.
        radius: :math:`r = \max_i \|x_i\|_2`, 0-d.
        margin: :math:`\gamma`, 0-d.

    Returns:
        :math:`\ln R`, 0-d; ``nan`` unless the margin is positive.

    References:
        Neyshabur, Bhojanapalli and Srebro, "A PAC-Bayesian approach to spectrally-normalized margin bounds",
        ICLR 2018; with these constants Neyshabur et al., ICLR 2019, whose public code has the first layer's
        spectral norm once more, which makes the value depend on how the layers share a common factor.

    Example:
        >>> one = torch.tensor(1.0)
        >>> round(log_spectral_frobenius_capacity(torch.ones(2), torch.ones(2), torch.ones(2), one, one).exp().item())
        485
    """
    depth = len(norms)
    constants = math.log(168 * depth / math.sqrt(2)) + (math.log(4 * depth) + widths.amax().log()).log() / 2
    terms = widths.log() + 2 * (distances / norms).log()
    return constants + norms.log().sum() + torch.logsumexp(terms, dim=0) / 2 + radius.log() - margin.log()


def log_pac_bayes_bound(log_capacity: Tensor, num_samples: int, delta: float) -> Tensor:
    r"""Logarithm of the bound :math:`\sqrt{ ( R^2 + 6 \ln (2m / \delta) ) / m }`.

    Args:
        log_capacity: :math:`\ln R` of :func:`log_spectral_frobenius_capacity`, 0-d.
        num_samples: :math:`m`.
        delta: Probability that the bound does not hold.

    Returns:
        0-d.

    Example:
        >>> log_pac_bayes_bound(torch.tensor(-torch.inf), 100, 0.01).exp()  # sqrt(0.06 ln 20000)
        tensor(0.7708)
    """
    chosen = torch.full_like(log_capacity, math.log(6 * math.log(2 * num_samples / delta)))
    return (torch.logaddexp(2 * log_capacity, chosen) - math.log(num_samples)) / 2


def log_two_layer_capacity(
    frobenius: Tensor, distance: Tensor, num_classes: int, hidden: Tensor, radius: Tensor, margin: Tensor
) -> Tensor:
    r"""Capacity of a network with one hidden layer, by how far its units have moved.

    .. math:: R = \frac{3 \sqrt 2 \, (\sqrt{2C} + 1)}{\gamma} (\|V\|_F + 1) \big( h + \|U - U^0\|_F\, r + 1 \big)

    Args:
        frobenius: :math:`\|V\|_F` of the second layer, 0-d.
        distance: :math:`\|U - U^0\|_F` of the first layer, 0-d.
        num_classes: :math:`C`.
        hidden: :math:`h = (\frac1m \sum_i \|[U^0 x_i]_+\|_2^2)^{1/2}`, the hidden units' size at initialization, 0-d.
        radius: :math:`r = (\frac1m \sum_i \|x_i\|_2^2)^{1/2}`, 0-d.
        margin: :math:`\gamma`, 0-d.

    Returns:
        :math:`\ln R`, 0-d; ``nan`` unless the margin is positive.

    References:
        Neyshabur et al., "Towards understanding the role of over-parametrization", ICLR 2019.

    Example:
        >>> one = torch.tensor(1.0)
        >>> log_two_layer_capacity(one, one, 2, one, one, one).exp()  # 3 sqrt(2) (2 + 1) (1 + 1) (1 + 1 + 1)
        tensor(76.3676)
    """
    constants = math.log(3 * math.sqrt(2) * (math.sqrt(2 * num_classes) + 1))
    return constants + (frobenius + 1).log() + (hidden + distance * radius + 1).log() - margin.log()


def log_two_layer_bound(
    log_capacity: Tensor, num_hidden: int, margin: Tensor, num_samples: int, delta: float
) -> Tensor:
    r"""Logarithm of the bound :math:`\big( R + 3 \sqrt{5H + \ln(\max(1, \gamma \sqrt m) / \delta)} \big) / \sqrt m`.

    Args:
        log_capacity: :math:`\ln R` of :func:`log_two_layer_capacity`, 0-d.
        num_hidden: Number :math:`H` of hidden units.
        margin: :math:`\gamma`, 0-d.
        num_samples: :math:`m`.
        delta: Probability that the bound does not hold.

    Returns:
        0-d.

    Example:
        >>> log_two_layer_bound(torch.tensor(-torch.inf), 0, torch.tensor(0.1), 100, 0.01).exp()  # 0.3 sqrt(ln 100)
        tensor(0.6438)
    """
    chosen = 3 * (5 * num_hidden + (margin * math.sqrt(num_samples)).clamp(min=1).log() - math.log(delta)).sqrt()
    return torch.logaddexp(log_capacity, chosen.log()) - math.log(num_samples) / 2


def vc_rademacher_complexity(dimension: float, num_classes: int, num_samples: int) -> float:
    r"""Empirical Rademacher complexity by the number of labellings, :math:`\sqrt{2 C V \ln(e \max(m/V, 1)) / m}`.

    Args:
        dimension: VC dimension :math:`V` of one output, or a bound on it.
        num_classes: :math:`C`.
        num_samples: :math:`m`.

    Returns:
        The value; 1 at most, as no loss is larger.

    References:
        Massart's lemma with the growth function of Sauer and Shelah.

    Example:
        >>> round(vc_rademacher_complexity(2, 1, 1000), 3)
        0.17
    """
    labellings = num_classes * dimension * (1 + math.log(max(num_samples / dimension, 1)))
    return min(math.sqrt(2 * labellings / num_samples), 1.0)


def vc_generalization_bound(dimension: float, num_classes: int, num_samples: int, delta: float) -> float:
    r"""Bound by the VC dimension, :math:`\sqrt{ \big( 8 C V \ln(e \max(m/V, 1)) + 8 \ln(2/\delta) \big) / m }`.

    Args:
        dimension: VC dimension :math:`V` of one output, or a bound on it.
        num_classes: :math:`C`.
        num_samples: :math:`m`.
        delta: Probability that the bound does not hold.

    Returns:
        The bound on the difference of classification errors.

    References:
        Vapnik and Chervonenkis; in this form Neyshabur et al., ICLR 2019.

    Example:
        >>> round(vc_generalization_bound(2, 1, 1000, 0.01), 3)
        0.397
    """
    labellings = num_classes * dimension * (1 + math.log(max(num_samples / dimension, 1)))
    return math.sqrt((8 * labellings + 8 * math.log(2 / delta)) / num_samples)
