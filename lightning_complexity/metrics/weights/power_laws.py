"""Measures of the power laws in the weight matrices' spectra."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.weights.power_laws import fit_power_law
from lightning_complexity.metrics.base import SpectrumMetric

__all__ = ["HeavyTailAlpha"]

HeavyTailOf = Literal["alpha", "ks_distance", "num_tail", "weighted_alpha", "log_alpha_norm"]


class HeavyTailAlpha(SpectrumMetric):
    r"""Mean exponent of the power law in the tail of the weight matrices' eigenvalues :math:`\lambda = s^2`.

    .. math:: \frac{1}{L} \sum_i \alpha_i, \quad p_i(\lambda) \propto \lambda^{-\alpha_i}, \lambda \ge \lambda_{\min}

    Fitted layer by layer, see :func:`lightning_complexity.functional.fit_power_law`. After Martin and Mahoney an
    exponent of a trained layer lies between 2 and 6, below is overfitted, above is undertrained. A layer
    with few eigenvalues has a short tail and an exponent that means little: look at ``of="num_tail"`` and
    ``of="ks_distance"`` too. ``nan`` for a layer with fewer than two distinct positive eigenvalues.

    Args:
        of: ``"alpha"``; ``"ks_distance"`` of the fit; ``"num_tail"``, the number of eigenvalues it rests on;
            ``"weighted_alpha"``, that is :math:`\alpha \log_{10} \lambda_{\max}`; or ``"log_alpha_norm"``, that is
            :math:`\log_{10} \sum_k \lambda_k^\alpha`. It is logged as ``heavy_tail_<of>``.
        fold_batch_norm: Whether the BatchNorm that directly follows a layer is multiplied into it; needs inputs.
        per_layer: Whether ``compute`` returns the value of each weight by name.

    Example:
        >>> import torch
        >>> metric = HeavyTailAlpha(of="num_tail")
        >>> metric.update(torch.nn.Linear(50, 40))
        >>> bool(2 <= metric.compute() <= 40)
        True
    """

    name = "heavy_tail_alpha"
    no_penalty_reason = "the threshold of the fit jumps"
    increases_with_complexity = None
    formula = r"\frac{1}{L} \sum_i \alpha_i, \quad p_i(\lambda) \propto \lambda^{-\alpha_i}"
    reference = "Martin and Mahoney, JMLR 2021; Clauset et al., SIAM Review 2009"
    units = "pure number"
    misleads_when = "layers are small: a power law fitted to few eigenvalues says little; it has no direction by itself"

    def __init__(
        self, of: HeavyTailOf = "alpha", *, fold_batch_norm: bool = False, per_layer: bool = False, **kwargs: Any
    ) -> None:
        if of not in get_args(HeavyTailOf):
            raise ValueError(f"of must be one of {', '.join(get_args(HeavyTailOf))}, got {of!r}.")
        super().__init__(fold_batch_norm=fold_batch_norm, per_layer=per_layer, **kwargs)
        self.of = of
        self.name = f"heavy_tail_{of}"
        if of == "num_tail":
            self.units = "eigenvalues"

    def of_spectrum(self, spectrum: Tensor) -> Tensor:
        """The value of one layer."""
        eigenvalues = spectrum.double().square()
        fit = fit_power_law(eigenvalues)
        if self.of == "weighted_alpha":
            value = fit.alpha * eigenvalues.amax().log10()
        elif self.of == "log_alpha_norm":
            value = torch.logsumexp(fit.alpha * eigenvalues.log(), dim=0) / math.log(10)
        else:
            value = getattr(fit, self.of)
        return value.to(spectrum.dtype)
