"""Generalization bounds of networks that a short code describes."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.pac_bayes import kl_inverse

__all__ = ["OccamForm", "adaptive_code_length", "occam_bound"]

OccamForm = Literal["kl", "hoeffding"]


def adaptive_code_length(counts: Tensor) -> Tensor:
    r"""Bits in which adaptive arithmetic coding tells a sequence of symbols.

    .. math:: \log_2 \frac{(N + L - 1)!}{(L - 1)! \, \prod_i n_i!}

    which is :math:`-\sum_t \log_2 p_t` where each symbol gets its share of those before it, with one more of each of
    the ``L`` symbols (Laplace's rule). The decoder needs ``L`` and ``N`` only, no table. The numbers :math:`2^{-K}` of
    all sequences of one length add up to 1.

    Args:
        counts: :math:`n_i`, how often each of the ``L`` symbols is there, shape ``(..., L)``.

    Returns:
        Shape ``(...,)``, in double precision.

    References:
        Rissanen and Langdon, "Universal modeling and coding", IEEE Transactions on Information Theory 27(1), 1981.

    Example:
        >>> adaptive_code_length(torch.tensor([2, 0]))  # 1/2 * 2/3 = 1/3
        tensor(1.5850, dtype=torch.float64)
    """
    n, symbols = counts.double(), counts.shape[-1]
    nats = torch.lgamma(n.sum(-1) + symbols) - math.lgamma(symbols) - torch.lgamma(n + 1).sum(-1)
    return nats / math.log(2)


def occam_bound(
    error: Tensor, bits: Tensor, num_samples: int, *, delta: float = 0.05, form: OccamForm = "kl"
) -> Tensor:
    r"""Bound on the error of a network that a code describes, with probability at least :math:`1 - \delta`.

    .. math:: \mathrm{kl}^{-1}\!\Big( \hat e,\ \frac{K \ln 2 + \ln (1 / \delta)}{n} \Big)
        \quad \text{or} \quad \hat e + \sqrt{\frac{K \ln 2 + \ln (1 / \delta)}{2 n}}

    It holds for all networks of a code at once, if no code is the beginning of another and the code was chosen before
    the samples were seen.

    Args:
        error: Error rate :math:`\hat e` on the samples, any shape.
        bits: Length ``K`` of the code, the same shape.
        num_samples: Number ``n`` of independent samples.
        delta: Probability that it does not hold.
        form: ``"kl"``, the first, by the binary divergence; ``"hoeffding"``, the second, which is never below it.

    Returns:
        The same shape, in double precision. Above 1 the second form says nothing; the first is at most 1.

    Raises:
        ValueError: If ``form`` is none of the two.

    References:
        After Lotfi et al., "Non-vacuous generalization bounds for large language models", arXiv 2312.17173, the second;
        Langford, JMLR 6, 2005, the first.

    Example:
        >>> occam_bound(torch.tensor(0.1), torch.tensor(100.0), 500, form="hoeffding")  # 0.1 + sqrt(72.3104 / 1000)
        tensor(0.3689, dtype=torch.float64)
    """
    if form not in get_args(OccamForm):
        raise ValueError(f"form must be one of {', '.join(get_args(OccamForm))}, got {form!r}.")
    complexity = (bits.double() * math.log(2) - math.log(delta)) / num_samples
    return kl_inverse(error, complexity) if form == "kl" else error.double() + (complexity / 2).sqrt()
