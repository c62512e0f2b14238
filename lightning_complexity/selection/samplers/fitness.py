"""Error and size of a network as one number."""

from __future__ import annotations

import math
from collections.abc import Iterable


def rounded_size(parameters: float) -> float:
    """A size to the nearest thousand, so that networks of about one size count as equally large.

    Sizes below a thousand stay as they are. A size halfway goes to the even thousand.

    Args:
        parameters: How many there are.

    Example:
        >>> rounded_size(50_890), rounded_size(640)
        (51000, 640)
    """
    return parameters if parameters < 1000 else round(parameters / 1000) * 1000


def scalar_fitness(error: float, parameters: float, *, alpha: float = 0.5) -> float:
    r"""The fitness that automatic model selection makes small.

    .. math:: c = 10 (1 - \alpha) p + \alpha \log_{10} w^+

    Args:
        error: :math:`p`, for classes the share that is wrong; for numbers an RMSE divided by :func:`norm_of_errors`.
            Where it is not finite, the fitness is infinite.
        parameters: The number of parameters that are trained; :math:`w^+` is its :func:`rounded_size`.
        alpha: What the size counts: with 0 only the error does, with 1 only the size.

    Raises:
        ValueError: If ``alpha`` is not between 0 and 1, ``error`` is negative, or there is no parameter.

    References:
        Laredo et al., "Automatic model selection for neural networks", 2019, arXiv 1905.06010. Sizes are
        rounded as in the authors' code, from which the published values come; the text drops the last three digits.

    Example:
        >>> round(scalar_fitness(1 - 0.917, 50_890, alpha=0.5), 4)
        2.7688
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}.")
    if error < 0:
        raise ValueError(f"error must not be negative, got {error}.")
    if not parameters >= 1:
        raise ValueError(f"parameters must be at least 1, got {parameters}.")
    if not math.isfinite(error):
        return math.inf
    return 10 * (1 - alpha) * error + alpha * math.log10(rounded_size(parameters))


def norm_of_errors(errors: Iterable[float]) -> float:
    r"""What errors that are no shares are divided by: :math:`\lVert (e_1, \dots, e_n) \rVert_2` of a population.

    It belongs to the population: divided by the norms of two populations, errors of the one cannot be
    compared with those of the other.

    Args:
        errors: Such as the RMSE of each network; those that are not finite are left out.

    Returns:
        1 where it would be zero, so that errors which are all zero stay so.

    Example:
        >>> norm_of_errors([3.0, 4.0, float("inf")])
        5.0
    """
    return math.hypot(*(error for error in errors if math.isfinite(error))) or 1.0
