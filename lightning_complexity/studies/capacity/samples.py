"""How many samples a training procedure fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_complexity.studies.capacity.fitting import Fit, fitted, mean_square, share_of_wrong

_PATIENCE = 3  # doublings: a training may fail on few samples, and not on more


@dataclass(frozen=True)
class SampleCapacity:
    """How many samples a training procedure fits.

    Attributes:
        value: The effective model complexity: the largest number found at which the mean training error is at most
            ``error``; 0 if there is none.
        error: That limit.
        errors: Training errors, one a seed, by number of samples that was tried.
        is_all: Whether these are all samples that there were: the value is then a lower bound.
    """

    value: int
    error: float
    errors: dict[int, tuple[float, ...]]
    is_all: bool

    @property
    def is_monotone(self) -> bool:
        """Whether mean errors above the limit rose with the number of samples, as bisection takes for granted."""
        means = [max(sum(errors) / len(errors), self.error) for _, errors in sorted(self.errors.items())]
        return means == sorted(means)

    def __str__(self) -> str:
        """The value, and what it may hide."""
        text = f"fits {'at least ' if self.is_all else ''}{self.value} samples to a mean error of {self.error:g}"
        return text if self.is_monotone else f"{text} (the error does not rise throughout: others may be fitted too)"


def effective_model_complexity(
    fit: Fit,
    inputs: Tensor,
    targets: Tensor,
    *,
    error: float = 0.01,
    measure: Callable[[Tensor, Tensor], float] | None = None,
    seeds: int = 3,
    resolution: float = 0.0,
) -> SampleCapacity:
    r"""The largest number of samples that training fits to an error of at most :math:`\epsilon`, on average.

    .. math:: \mathrm{EMC} = \max \{n : \mathrm{E}_{S \sim D^n}[\mathrm{Error}_S(T(S))] \le \epsilon\}

    for a training procedure :math:`T`; so it depends on optimizer, number of steps and labels as well as on the model.
    Samples are drawn without replacement, those of a smaller number being part of those of a larger one. The number
    is doubled until the error is too large three times in a row (a small network with dead units may fail on two
    samples, and not on twenty), and then bisected, which takes for granted that the error rises with it
    (``is_monotone`` of the result says whether it did). Minimum-norm least squares with :math:`p`
    features in general position and any targets has :math:`p`.

    Args:
        fit: ``fit(inputs, targets)`` trains on samples and gives a model to call, such as
            :class:`SettingFit`. It is run with torch's random generator seeded for each training.
        inputs: Samples to draw from, along the first dimension.
        targets: Of these samples.
        error: The limit :math:`\epsilon`.
        measure: ``measure(outputs, targets)`` is the error of a training; the share of wrong classes if targets are
            whole numbers, the mean of squares otherwise.
        seeds: How many trainings are averaged, each on other samples.
        resolution: Bisection ends when the number is known up to this share of it; 0 for exactly.

    Raises:
        ValueError: If there are not as many targets as inputs, or none; at numbers that make no sense.

    References:
        Nakkiran, Kaplun, Bansal, Yang, Barak and Sutskever, Deep double descent, ICLR 2020.

    Example:
        >>> x = torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> y = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        >>> def least_squares(x, y):
        ...     weights = torch.linalg.pinv(x) @ y
        ...     return lambda inputs: inputs @ weights
        >>> effective_model_complexity(least_squares, x, y, error=1e-9).value
        7
    """
    if not len(inputs) or len(inputs) != len(targets):
        raise ValueError(f"as many targets as inputs are needed, at least one; got {len(inputs)} and {len(targets)}.")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}.")
    measure = measure or (mean_square if targets.is_floating_point() else share_of_wrong)
    orders = [torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed)) for seed in range(seeds)]

    def error_of(size: int, seed: int) -> float:
        chosen = orders[seed][:size]
        model = fitted(fit, inputs[chosen], targets[chosen], seed)
        return measure(model(inputs[chosen]).detach(), targets[chosen])

    return largest_fitted(error_of, len(inputs), error=error, seeds=seeds, resolution=resolution)


def largest_fitted(
    error_of: Callable[[int, int], float], most: int, *, error: float, seeds: int, resolution: float = 0.0
) -> SampleCapacity:
    """Find the largest number of samples with a small mean error, by doubling and bisection.

    Args:
        error_of: ``error_of(size, seed)`` is the training error of one network.
        most: How many samples there are.
        error: The limit of the mean over seeds; that of a training which is not finite is too large.
        seeds: How many.
        resolution: As for :func:`effective_model_complexity`.

    Raises:
        ValueError: If ``error`` is negative or ``resolution`` not in [0, 1).
    """
    check_limits(error, resolution)
    errors: dict[int, tuple[float, ...]] = {}

    def fits(size: int) -> bool:
        errors[size] = tuple(error_of(size, seed) for seed in range(seeds))
        return sum(errors[size]) / seeds <= error  # not so where one is nan

    low, high, failures, size = 0, 0, 0, 0
    while size < most and failures < _PATIENCE:
        size = min(max(2 * size, 1), most)
        if fits(size):
            low, failures = size, 0
        else:
            failures += 1
            high = size if failures == 1 else high
    if low == most:
        return SampleCapacity(most, error, errors, is_all=True)
    while high - low > max(1, resolution * low):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return SampleCapacity(low, error, errors, is_all=False)


def check_limits(error: float, resolution: float) -> None:
    """Refuse limits that make no sense.

    Args:
        error: Of the mean training error.
        resolution: Of the number of samples.

    Raises:
        ValueError: If ``error`` is negative or ``resolution`` not in [0, 1).
    """
    if not error >= 0:
        raise ValueError(f"error must be a number of at least 0, got {error!r}.")
    if not 0 <= resolution < 1:
        raise ValueError(f"resolution must be at least 0 and below 1, got {resolution!r}.")
