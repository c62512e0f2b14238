"""Bounds on the error from noise on the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.pac_bayes import kl_inverse, maurer_bound, mcallester_bound
from lightning_complexity.metrics.base.checks import check_at_least, check_share
from lightning_complexity.metrics.loss_surface.flatness import SearchedMetric
from lightning_complexity.network import Context, Snapshot, trainable
from lightning_complexity.network.landscape.perturbations import mean_error_with_noise
from lightning_complexity.network.outputs import num_classified
from lightning_complexity.network.running.tensors import plain_name

__all__ = ["PACBayesBound"]

Form = Literal["maurer", "mcallester"]
_SIGMAS = tuple(2.0**-k for k in range(2, 9))


class PACBayesBound(SearchedMetric):
    r"""PAC-Bayes bound on the error of the network with Gaussian noise on its weights, the noise chosen for it.

    .. math:: \min_\sigma\, \mathrm{kl}^{-1}\!\Big( \hat e_\sigma,\ \frac{1}{n} \Big(
        \frac{\|w - w^0\|_2^2}{2 \sigma^2} + \ln \frac{2 \sqrt n}{\delta'} \Big) \Big)

    With probability at least :math:`1 - \delta` it is above the expected error on new samples of a network whose
    trained parameters are drawn from :math:`\mathcal N(w, \sigma^2)`, for the :math:`\sigma` of ``<name>/sigma``.
    It says nothing of the network without noise. The prior is :math:`\mathcal N(w^0, \sigma^2)` around
    initialization. What it rests on:

    - the samples measured are ``n`` independent draws from the distribution of the new ones;
    - initialization, ``sigmas`` and everything but the trained parameters do not depend on these samples: statistics of
      BatchNorm do, so that the number proves nothing for a network that has any, nor with data augmentation or weights
      that were pretrained on the same samples.

    The samples may be a part of those that were trained on. :math:`\delta` is shared by the bound and its estimate
    from draws, each of which pays for all ``sigmas``: :math:`\delta' = \delta / (2 |\sigma|)`. The mean error of
    ``num_draws`` networks is replaced by :math:`\hat e_\sigma = \mathrm{kl}^{-1}(\text{mean}, \ln(1 / \delta') /
    m)`, which is above that of all networks. ``<name>/divergence`` is that of both distributions in nats,
    ``<name>/error`` is :math:`\hat e_\sigma`. The value is at most 1, which says nothing.

    Args:
        sigmas: Scales of the noise, chosen before the samples are seen.
        delta: Probability that it does not hold.
        num_draws: Number ``m`` of networks that are drawn for each scale which can be the best.
        num_samples: ``n``; default the number of samples measured whose class the loss does not ignore. With another
            number nothing is proved, as the error of those that are not measured is guessed.
        form: ``"mcallester"`` for the looser :math:`\hat e_\sigma + \sqrt{(\dots) / 2n}`.
        per_layer: Must be ``False``, the bound is on the error of the network as a whole.

    Raises:
        ValueError: If an option makes no sense; in ``update``, if there are no classes.

    Example:
        >>> net = torch.nn.Linear(1, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
        >>> metric = PACBayesBound(sigmas=[0.25], num_draws=1000)
        >>> start = {"weight": torch.zeros(2, 1)}
        >>> metric.update(net, torch.ones(1000, 1), torch.zeros(1000, dtype=torch.long), initial=start)
        >>> metric.report()["pac_bayes_bound/divergence"]  # (1 + 1) / (2 / 16)
        tensor(16., dtype=torch.float64)
    """

    name = "pac_bayes_bound"
    needs = frozenset({"inputs", "targets", "initial"})
    cost = "sampling"
    single_update_reason = "its noise is chosen for all samples together"
    increases_with_complexity = True
    units = "error rate"
    no_penalty_reason = "the error that it is of has no derivative"
    formula = (
        r"\min_\sigma kl^{-1}\big( \hat e_\sigma, "
        r"( \lVert w - w^0 \rVert_2^2 / 2 \sigma^2 + \ln (2 \sqrt n / \delta') ) / n \big)"
    )
    reference = "Maurer, 2004; Dziugaite and Roy, UAI 2017; Langford and Caruana, NeurIPS 2001 (error from draws)"
    misleads_when = "read as a bound on the network without noise, or with BatchNorm; above about 0.5 it ranks little"
    endings = ("divergence", "error", "sigma")

    def __init__(
        self,
        *,
        sigmas: Sequence[float] = _SIGMAS,
        delta: float = 0.05,
        num_draws: int = 100,
        num_samples: int | None = None,
        form: Form = "maurer",
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if not sigmas or not all(math.isfinite(sigma) and sigma > 0 for sigma in sigmas):
            raise ValueError(f"sigmas must be positive numbers, at least one, got {sigmas!r}.")
        check_share(delta=delta)
        check_at_least(1, num_draws=num_draws)
        if num_samples is not None:
            check_at_least(1, num_samples=num_samples)
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}; got {form!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.sigmas, self.delta, self.num_draws = tuple(sigmas), delta, num_draws
        self.num_samples, self.form = num_samples, form

    def search(self, snapshot: Snapshot, context: Context) -> list[float]:
        """The best bound, and the divergence, the error and the scale that it is made of."""
        moved, found = _squared_distance(snapshot), [math.inf, math.nan, math.nan, math.nan]
        if not moved.isfinite():
            return [math.nan] * 4
        lowest = self._error(torch.zeros_like(moved))
        for sigma in sorted(self.sigmas, reverse=True):
            divergence = moved / (2 * sigma**2)
            if self._bound(lowest, divergence, snapshot) >= found[0]:
                break  # so will all smaller ones be, whose divergence is larger
            error = self._error(mean_error_with_noise(snapshot, sigma, self.num_draws))
            bound = self._bound(error, divergence, snapshot)
            if not bound >= found[0]:
                found = [float(bound), float(divergence), float(error), sigma]
        return found

    def _error(self, of_draws: Tensor) -> Tensor:
        """What the error of all networks is below, but for the probability of a share."""
        return kl_inverse(of_draws, torch.full_like(of_draws, -math.log(self._share) / self.num_draws))

    @property
    def _share(self) -> float:
        """The part of the probability that each of the statements may fail with."""
        return self.delta / (2 * len(self.sigmas))

    def _bound(self, error: Tensor, divergence: Tensor, snapshot: Snapshot) -> Tensor:
        bound = maurer_bound if self.form == "maurer" else mcallester_bound
        num_samples = self.num_samples or num_classified(snapshot)
        return bound(error, divergence, num_samples, self._share).clamp(max=1)


def _squared_distance(snapshot: Snapshot) -> Tensor:
    """Of the trained parameters from where they started."""
    trained = trainable(snapshot)
    snapshot.check_initial(trained)
    squares = [(p.detach() - snapshot.initial[plain_name(n)].to(p)).double().square().sum() for n, p in trained.items()]
    return torch.stack(squares).sum()
