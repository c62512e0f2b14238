"""How much trained models follow changes of their targets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_complexity.studies.capacity.fitting import Fit, fitted


@dataclass(frozen=True)
class DegreesOfFreedom:
    """Generalized degrees of freedom of a training procedure.

    Attributes:
        value: The mean over perturbations.
        standard_error: Of that mean; ``nan`` with one perturbation.
        estimates: One a perturbation.
    """

    value: float
    standard_error: float
    estimates: tuple[float, ...]

    def __str__(self) -> str:
        """The value and its error."""
        return f"{self.value:.3g} +- {self.standard_error:.2g} degrees of freedom"


def generalized_degrees_of_freedom(
    fit: Fit, inputs: Tensor, targets: Tensor, *, size: float | None = None, perturbations: int = 10, seed: int = 0
) -> DegreesOfFreedom:
    r"""Change the targets a little, train again, and see how much the fitted values follow.

    .. math:: \mathrm{df} = \sum_i \frac{\partial \hat y_i}{\partial y_i}
        \approx \Big\langle \frac{\delta \cdot (\hat y(y + \delta) - \hat y(y - \delta))}{2 \tau^2} \Big\rangle_\delta

    with signs times :math:`\tau` as perturbations :math:`\delta`; two trainings for each. For least squares with
    :math:`p` features it is :math:`p`, for ridge regression :math:`\sum_i s_i^2 / (s_i^2 + \lambda)`, the trace of the
    map from targets to fitted values. Unlike these, trained networks depend on their random numbers: both trainings of
    a perturbation have the same, so that only what follows the targets counts.

    Args:
        fit: ``fit(inputs, targets)`` trains on samples and gives a model to call. It is run with torch's random
            generator seeded for each perturbation.
        inputs: Samples, along the first dimension.
        targets: Of these samples, floating-point numbers in the shape of the outputs; for classes, one-hot.
        size: :math:`\tau`; half the standard deviation of the targets by default, after Ye's advice of 0.5 to 1 of the
            noise. A small one is needed where the procedure is far from linear, and costs precision where
            training ends at random.
        perturbations: How many are averaged.
        seed: Of perturbations and trainings.

    Raises:
        ValueError: If targets are no floating-point numbers, one for each sample and output, if ``size`` is not
            positive or ``perturbations`` below 1.

    References:
        Ye, On measuring and correcting the effects of data mining and model selection, JASA 1998; of networks: Gao
        and Jojic, Degrees of freedom in deep neural networks, UAI 2016.

    Example:
        >>> x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> def least_squares(x, y):
        ...     w = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
        ...     return lambda inputs: inputs @ w
        >>> found = generalized_degrees_of_freedom(least_squares, x, x.sum(1), perturbations=200)
        >>> abs(found.value - 3) < 3 * found.standard_error
        True
    """
    if not targets.is_floating_point() or len(targets) != len(inputs) or not len(targets):
        raise ValueError(
            f"targets must be floating-point numbers, at least one and as many as the {len(inputs)} inputs (one-hot "
            f"for classes), got {targets.dtype} of shape {tuple(targets.shape)}."
        )
    size = float(targets.std(correction=0)) / 2 if size is None else size
    if not size > 0 or perturbations < 1:
        raise ValueError(f"size must be positive and perturbations at least 1, got {size} and {perturbations}.")
    generator = torch.Generator().manual_seed(seed)
    estimates = []
    for index in range(perturbations):
        signs = (torch.randint(0, 2, targets.shape, generator=generator) * 2 - 1).to(targets)
        up, down = (
            _fitted_values(fit, inputs, targets + side * size * signs, seed + index, targets) for side in (1, -1)
        )
        estimates.append(float((signs * (up - down)).sum() / (2 * size)))
    values = torch.tensor(estimates, dtype=torch.float64)
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return DegreesOfFreedom(float(values.mean()), error, tuple(estimates))


def _fitted_values(fit: Fit, inputs: Tensor, targets: Tensor, seed: int, like: Tensor) -> Tensor:
    outputs = fitted(fit, inputs, targets, seed)(inputs).detach()
    if outputs.ndim == like.ndim + 1 and outputs.shape[-1] == 1:
        outputs = outputs.squeeze(-1)
    if outputs.shape != like.shape:
        raise ValueError(
            f"the model must give outputs in the shape of the targets, {tuple(like.shape)}, got {tuple(outputs.shape)}."
        )
    return outputs.to(like)
