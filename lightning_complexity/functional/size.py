"""How large a network is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import e, log2

from torch import Tensor

__all__ = ["convolutional_vc_dimension", "num_entries", "num_nonzero", "piecewise_linear_vc_dimension"]


def num_entries(tensors: Iterable[Tensor]) -> int:
    """Number of entries of all tensors together, each tensor counted once.

    Args:
        tensors: Any tensors; the same object may come twice.

    Returns:
        The count.

    Example:
        >>> import torch
        >>> w = torch.zeros(3, 2)
        >>> num_entries([w, w, torch.zeros(4)])
        10
    """
    return sum({id(t): t.numel() for t in tensors}.values())


def num_nonzero(tensors: Iterable[Tensor]) -> int:
    """Number of entries that are not zero, each tensor counted once; ``nan`` is not zero.

    Args:
        tensors: Any tensors; the same object may come twice.

    Returns:
        The count.

    Example:
        >>> import torch
        >>> w = torch.tensor([0.0, -0.0, 2.0, torch.nan])
        >>> num_nonzero([w, w])
        2
    """
    return sum({id(t): int(t.count_nonzero()) for t in tensors}.values())


def piecewise_linear_vc_dimension(parameters: Sequence[int], units: Sequence[int], *, pieces: int = 2) -> float:
    r"""Upper bound on the VC dimension of a network with piecewise linear activations.

    .. math:: L + S \log_2\!\big(4 e p R \log_2(2 e p R)\big), \quad
              S = \sum_{i=1}^L (L - i + 1)\, q_i, \quad R = \sum_{i=1}^L i\, a_i

    Layer :math:`i` brings :math:`q_i` parameters of its own and has :math:`a_i` units, the outputs' layer included; a
    unit may read those of all earlier layers. Parameters shared within a layer or between layers count once, where they
    are first used. With :math:`p = 2` the constants are the :math:`8e` and :math:`4e` that the literature evaluates for
    ReLU. As only the places where pieces meet can be told apart, :math:`p - 1` in place of :math:`p` would be
    a bound too, by a logarithm smaller.

    Args:
        parameters: Number of weights and biases that each layer brings.
        units: Number of units of each layer, for a convolution the entries of its output.
        pieces: Number of linear pieces of the activation.

    Returns:
        The bound, 0 where there are no parameters.

    Raises:
        ValueError: If there is no layer, or the lengths differ.

    References:
        Harvey, Liaw and Mehrabian, COLT 2017; refined in Bartlett et al., JMLR 20(63), 2019.

    Example:
        >>> round(piecewise_linear_vc_dimension([3 * 4, 5], [4, 1]))  # 2 inputs, 4 hidden units, 1 output
        281
    """
    if not units or len(parameters) != len(units):
        raise ValueError(f"needs one count for each of at least one layer, got {len(parameters)} and {len(units)}.")
    if not any(parameters):
        return 0.0
    reused = sum(accumulate(parameters))
    r = 2 * e * pieces * sum(i * a for i, a in enumerate(units, 1))
    return len(units) + reused * log2(2 * r * log2(r))


def convolutional_vc_dimension(weights: Sequence[int], side: int) -> float:
    r"""VC dimension of a convolutional network, up to a constant factor.

    .. math:: d \log_2(6 d n)^3 \sum_{i=1}^d k_i^2 c_i c_{i-1}

    Args:
        weights: Number of weights :math:`k_i^2 c_i c_{i-1}` of each of the :math:`d` layers, without biases.
        side: Side :math:`n` of the input image; 1 for a network without convolutions.

    Returns:
        The value; 0 where there is no layer.

    References:
        Jiang et al., ICLR 2020, eq. 19.

    Example:
        >>> convolutional_vc_dimension([3, 2], side=1)  # 2 log2(12)^3 (3 + 2)
        460.7...
    """
    depth = len(weights)
    return depth * log2(6 * depth * side) ** 3 * sum(weights) if depth else 0.0
