"""How many linear regions a network of given widths can have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch

__all__ = [
    "hyperplane_regions",
    "log_region_bound",
    "montufar_lower_bound",
    "montufar_upper_bound",
    "serra_upper_bound",
]


def _check_sizes(num_inputs: int, widths: Sequence[int]) -> None:
    if num_inputs < 1 or not widths or min(widths) < 1:
        raise ValueError(f"needs at least one input and widths of at least 1, got {num_inputs!r} and {list(widths)!r}.")


def hyperplane_regions(dim: int, num_hyperplanes: int) -> int:
    r"""Number :math:`\sum_{j \le d} \binom{N}{j}` of regions that ``N`` hyperplanes in general position cut space into.

    Exact for a network with one hidden layer of rectifiers in general position.

    Args:
        dim: Dimension ``d`` of the space.
        num_hyperplanes: ``N``, may be 0.

    References:
        Zaslavsky, "Facing up to arrangements", 1975.

    Example:
        >>> hyperplane_regions(2, 12)
        79
    """
    return sum(math.comb(num_hyperplanes, j) for j in range(min(dim, num_hyperplanes) + 1))


def montufar_lower_bound(num_inputs: int, widths: Sequence[int]) -> int:
    r"""Regions that some rectifier network of these widths has, at least.

    .. math:: \prod_{i<L} \lfloor n_i / n_0 \rfloor^{n_0} \sum_{j \le n_0} \binom{n_L}{j}

    It is 0, and says nothing, if a layer before the last is narrower than the input.

    Args:
        num_inputs: ``n_0``.
        widths: Units of the hidden layers in order.

    References:
        Montufar, Pascanu, Cho and Bengio, "On the number of linear regions of deep neural networks", NeurIPS 2014.

    Example:
        >>> montufar_lower_bound(2, [4, 4])
        44
    """
    _check_sizes(num_inputs, widths)
    folds = math.prod((n // num_inputs) ** num_inputs for n in widths[:-1])
    return folds * hyperplane_regions(num_inputs, widths[-1])


def montufar_upper_bound(num_inputs: int, widths: Sequence[int]) -> int:
    r"""Regions that a rectifier network of these widths has, at most.

    .. math:: \prod_l \sum_{j \le d_l} \binom{n_l}{j}, \quad d_l = \min(n_0, \dots, n_l)

    Holds for layers in a chain; a skip connection carries more dimensions past a narrow layer, see
    :func:`log_region_bound` for a bound that holds with them too.

    Args:
        num_inputs: ``n_0``.
        widths: Units of the hidden layers in order.

    References:
        Montufar, "Notes on the number of linear regions of deep neural networks", 2017.

    Example:
        >>> montufar_upper_bound(10, [4, 4, 4])
        4096
    """
    _check_sizes(num_inputs, widths)
    bound, dim = 1, num_inputs
    for n in widths:
        dim = min(dim, n)
        bound *= hyperplane_regions(dim, n)
    return bound


def serra_upper_bound(num_inputs: int, widths: Sequence[int]) -> int:
    r"""Regions that a rectifier network of these widths has, at most; the sharpest of the bounds here.

    .. math:: \sum_{j \in J} \prod_l \binom{n_l}{j_l}, \quad
        J = \{ 0 \le j_l \le \min(n_0, n_1 - j_1, \dots, n_{l-1} - j_{l-1}, n_l) \}

    Attained for one input. Holds for layers in a chain.

    Args:
        num_inputs: ``n_0``.
        widths: Units of the hidden layers in order.

    References:
        Serra, Tjandraatmadja and Ramalingam, "Bounding and counting linear regions of deep neural networks", ICML 2018.

    Example:
        >>> serra_upper_bound(10, [4, 4, 4])
        1634
    """
    _check_sizes(num_inputs, widths)

    @cache
    def behind(layer: int, dim: int) -> int:
        if layer == len(widths):
            return 1
        n = widths[layer]
        return sum(math.comb(n, j) * behind(layer + 1, min(dim, n - j)) for j in range(min(dim, n) + 1))

    return behind(0, num_inputs)


def log_region_bound(num_inputs: int, num_hyperplanes: Sequence[int]) -> float:
    r"""Logarithm of :math:`\prod_l \sum_{j \le n_0} \binom{N_l}{j}`.

    An upper bound on the number of linear regions that holds with skip connections, convolutions and several kinks
    a unit too: within a region of the layers before, a layer cuts ``n_0`` dimensions by one
    hyperplane for each kink of each unit.

    Args:
        num_inputs: ``n_0``.
        num_hyperplanes: ``N_l``, units times kinks of each layer; may be empty.

    Example:
        >>> round(log_region_bound(2, [4, 4]), 6) == round(math.log(11 * 11), 6)
        True
    """
    return sum((_log_hyperplane_regions(num_inputs, n) for n in num_hyperplanes), start=0.0)


def _log_hyperplane_regions(dim: int, num_hyperplanes: int) -> float:
    if dim >= num_hyperplanes:
        return num_hyperplanes * math.log(2)
    n, j = float(num_hyperplanes), torch.arange(dim + 1, dtype=torch.float64)
    return float((math.lgamma(n + 1) - torch.lgamma(j + 1) - torch.lgamma(n - j + 1)).logsumexp(0))
