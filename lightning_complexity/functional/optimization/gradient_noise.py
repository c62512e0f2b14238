r"""What the gradients of single samples say: from their squared norms and their products with the mean.

With :math:`s` the mean of :math:`\|g_i\|^2` over :math:`n` samples and :math:`q = \|\bar g\|^2`, the mean of
:math:`\langle g_i, \bar g \rangle`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = [
    "gradient_coherence",
    "gradient_cosine",
    "gradient_noise_scale",
    "gradient_variance",
    "jackknife_error",
    "signal_to_noise",
    "squared_signal",
]

Formula = Callable[[int, Tensor, Tensor], Tensor]


def gradient_variance(n: int, squares: Tensor, of_mean: Tensor) -> Tensor:
    r"""Trace of the covariance of the gradients, unbiased: :math:`\frac{n}{n-1} (s - q)`; ``nan`` for one sample.

    Args:
        n: Number of samples.
        squares: Mean of the squared norms :math:`s`, any shape.
        of_mean: Squared norm of the mean :math:`q`, the same shape.

    Example:
        >>> import torch
        >>> gradient_variance(2, torch.tensor(1.0), torch.tensor(0.5))  # of (1, 0) and (0, 1)
        tensor(1.)
    """
    return n * (squares - of_mean) / (n - 1) if n > 1 else squares * float("nan")


def squared_signal(n: int, squares: Tensor, of_mean: Tensor) -> Tensor:
    r"""Squared norm of the expected gradient, unbiased: :math:`\frac{nq - s}{n-1}`, which may be negative.

    It is the mean of :math:`\langle g_i, g_j \rangle` over pairs of different samples. Arguments as for
    :func:`gradient_variance`.

    Example:
        >>> import torch
        >>> squared_signal(2, torch.tensor(1.0), torch.tensor(0.5))  # of (1, 0) and (0, 1)
        tensor(0.)
    """
    return (n * of_mean - squares) / (n - 1) if n > 1 else squares * float("nan")


def signal_to_noise(n: int, squares: Tensor, of_mean: Tensor) -> Tensor:
    """Squared norm of the expected gradient over the trace of the covariance, both unbiased.

    Arguments as for :func:`gradient_variance`.

    Example:
        >>> import torch
        >>> signal_to_noise(2, torch.tensor(5.0), torch.tensor(4.0))  # of 1 and 3: (1 * 3) / 2
        tensor(1.5000)
    """
    return squared_signal(n, squares, of_mean) / gradient_variance(n, squares, of_mean)


def gradient_noise_scale(n: int, squares: Tensor, of_mean: Tensor) -> Tensor:
    """The trace of the covariance over the squared norm of the expected gradient, both unbiased.

    Arguments as for :func:`gradient_variance`.

    Example:
        >>> import torch
        >>> gradient_noise_scale(2, torch.tensor(5.0), torch.tensor(4.0))  # of 1 and 3: 2 / (1 * 3)
        tensor(0.6667)
    """
    return gradient_variance(n, squares, of_mean) / squared_signal(n, squares, of_mean)


def gradient_coherence(n: int, squares: Tensor, of_mean: Tensor) -> Tensor:
    r""":math:`n q / s`: between 0 and ``n``, 1 for orthogonal gradients, ``n`` for equal ones.

    Arguments as for :func:`gradient_variance`.

    Example:
        >>> import torch
        >>> gradient_coherence(2, torch.tensor(1.0), torch.tensor(0.5))  # of (1, 0) and (0, 1)
        tensor(1.)
    """
    return n * of_mean / squares


def gradient_cosine(n: int, squares: Tensor, of_mean: Tensor) -> Tensor:
    r"""Mean product of two samples' gradients over their mean square: 0 for orthogonal gradients, 1 for equal ones.

    At least :math:`-1/(n-1)`. Arguments as for :func:`gradient_variance`.

    Example:
        >>> import torch
        >>> gradient_cosine(2, torch.tensor(1.0), torch.tensor(0.0))  # of 1 and -1
        tensor(-1.)
    """
    return squared_signal(n, squares, of_mean) / squares


def jackknife_error(formula: Formula, squares: Tensor, products: Tensor) -> Tensor:
    r"""Standard error of such a number, from its values with each sample left out in turn.

    .. math:: \sqrt{\tfrac{n-1}{n} \textstyle\sum_i (\theta_{(i)} - \bar\theta)^2}

    Args:
        formula: One of those above.
        squares: :math:`\|g_i\|^2`, shape ``(n, ...)``.
        products: :math:`\langle g_i, \bar g \rangle`, the same shape.

    Returns:
        Shape ``(...)``; ``nan`` for fewer than three samples.

    Example:
        >>> import torch
        >>> g = torch.tensor([1.0, 2.0, 3.0, 6.0])
        >>> jackknife_error(lambda n, s, q: q.sqrt(), g.square(), g * g.mean())  # as of a mean: std / 2
        tensor(1.0801)
    """
    n = len(squares)
    if n < 3:
        return squares.sum(0) * float("nan")
    rest = n - 1
    of_mean = (n**2 * products.mean(0) - 2 * n * products + squares) / rest**2
    without = formula(rest, (squares.sum(0) - squares) / rest, of_mean)
    return ((without - without.mean(0)).square().sum(0) * rest / n).sqrt()
