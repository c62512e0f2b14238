"""How well trained models follow random signs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from lightning_complexity.studies.capacity.fitting import Fit, fitted

_MOST_ENUMERATED = 16  # samples, of which all signs are gone through


@dataclass(frozen=True)
class RademacherEstimate:
    """How well random signs are fitted: a lower bound of the empirical Rademacher complexity, but for chance.

    Attributes:
        value: The mean over draws of signs.
        standard_error: Of that mean; 0 if all signs were gone through, ``nan`` with one draw.
        correlations: For each draw, the best of its restarts.
    """

    value: float
    standard_error: float
    correlations: tuple[float, ...]

    def __str__(self) -> str:
        """The value, and that it is a lower bound."""
        return f"at least {self.value:.3g} +- {self.standard_error:.2g} (trained networks need not be the best fit)"


def empirical_rademacher_complexity(
    fit: Fit,
    inputs: Tensor,
    *,
    draws: int | None = 10,
    restarts: int = 1,
    bound: Callable[[Tensor], Tensor] | None = torch.sign,
    seed: int = 0,
) -> RademacherEstimate:
    r"""Fit random signs :math:`\sigma`, and average how well the best fit follows them.

    .. math:: \hat R = \mathrm{E}_\sigma \sup_f \frac{1}{n} \sum_i \sigma_i f(x_i)

    The supremum is over trained networks only, the best of some restarts: **a lower bound** of the true value, but for
    the chance of a finite number of draws. For a linear class :math:`\|w\|_2 \le B` the true value is
    :math:`\mathrm{E} \|\sum_i \sigma_i x_i\|_2 B / n`.

    Args:
        fit: ``fit(inputs, signs)`` trains on signs -1 and 1, in the type of the inputs, and gives a model with one
            output a sample. It is run with torch's random generator seeded for each training.
        inputs: The samples, along the first dimension.
        draws: How many sets of signs; ``None`` for all of them, with at most 16 samples.
        restarts: Trainings for each.
        bound: What makes outputs bounded, without which the supremum of most networks is infinite: the sign by
            default, so that 1 is a model that fits all signs; ``None`` for a class that is bounded already. Outputs
            that are not finite count as no fit, and as ``nan`` if no restart has others.
        seed: Of signs and trainings.

    Raises:
        ValueError: If there are no samples, too many to go through all signs, not one output for each, or
            no draw or restart.

    References:
        Bartlett and Mendelson, Rademacher and Gaussian complexities, JMLR 3, 2002; Zhang, Bengio, Hardt, Recht
        and Vinyals, Understanding deep learning requires rethinking generalization, ICLR 2017.

    Example:
        >>> x = torch.eye(3, dtype=torch.float64)
        >>> def steepest(x, signs):  # the best of linear functions of norm 1
        ...     w = x.T @ signs
        ...     return lambda inputs: inputs @ (w / w.norm())
        >>> estimate = empirical_rademacher_complexity(steepest, x, draws=None, bound=None)
        >>> round(estimate.value, 6)  # sqrt(3) / 3
        0.57735
    """
    if not len(inputs):
        raise ValueError("inputs must hold at least one sample.")
    if restarts < 1 or (draws is not None and draws < 1):
        raise ValueError(f"draws and restarts must be at least 1, got {draws} and {restarts}.")
    found = []
    for index, signs in enumerate(_signs(inputs, draws, seed)):
        best = float("nan")
        for restart in range(restarts):
            model = fitted(fit, inputs, signs, _mixed(seed, index, restart))
            outputs = model(inputs).detach()
            outputs = outputs.squeeze(-1) if outputs.ndim == 2 else outputs
            if outputs.shape != signs.shape:
                raise ValueError(
                    f"the model must give one output for each of {len(signs)} samples, got the shape "
                    f"{tuple(outputs.shape)}."
                )
            if outputs.isfinite().all():
                reached = float((signs * (outputs if bound is None else bound(outputs))).mean())
                best = reached if math.isnan(best) else max(best, reached)
        found.append(best)
    return rademacher_estimate(found, is_exact=draws is None)


def rademacher_estimate(correlations: Sequence[float], *, is_exact: bool = False) -> RademacherEstimate:
    """The mean of what was reached for each draw of signs, with its standard error.

    Args:
        correlations: One a draw.
        is_exact: Whether these are all signs that there are.
    """
    values = torch.tensor(correlations, dtype=torch.float64)
    error = 0.0 if is_exact else float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return RademacherEstimate(float(values.mean()), error, tuple(correlations))


def _signs(inputs: Tensor, draws: int | None, seed: int) -> list[Tensor]:
    size = len(inputs)
    like = inputs if inputs.is_floating_point() else torch.empty(0)
    if draws is None:
        if size > _MOST_ENUMERATED:
            raise ValueError(f"all signs of {size} samples are too many (at most {_MOST_ENUMERATED}): give draws.")
        return [torch.tensor(signs, dtype=like.dtype, device=inputs.device) for signs in product((-1, 1), repeat=size)]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 2, (draws, size), generator=generator) * 2 - 1
    return list(drawn.to(like.dtype).to(inputs.device))


def _mixed(*numbers: int) -> int:
    return hash(numbers) % 2**63
