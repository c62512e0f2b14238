"""Bounds on the error from how short the network can be told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.compression import OccamForm, adaptive_code_length, occam_bound
from lightning_complexity.metrics.base.checks import check_at_least, check_share
from lightning_complexity.metrics.loss_surface.flatness import SearchedMetric
from lightning_complexity.network import Context, Snapshot, trainable
from lightning_complexity.network.landscape.perturbations import error_rate
from lightning_complexity.network.outputs import num_classified
from lightning_complexity.network.running.tensors import plain_name

__all__ = ["CompressionBound"]

_BITS_OF_SCALE = 32
_LEVELS = (3, 5, 9, 17, 33, 65)


class _Code(NamedTuple):
    """Parameters at the levels, and the bits that tell them."""

    tensors: dict[str, Tensor]
    bits: float


class CompressionBound(SearchedMetric):
    r"""Bound on the error of the network with rounded parameters, from the length of the code that tells them.

    .. math:: \min_\ell\, \mathrm{kl}^{-1}\!\Big( \hat e_\ell,\ \frac{K_\ell \ln 2 + \ln (1 / \delta)}{n} \Big)

    What training changed is rounded: of each parameter that is trained, the difference from its start to one of
    :math:`\ell` equally spaced levels, from minus to plus its largest entry. The code is the largest entry in 32 bits,
    the levels in an adaptive arithmetic code (:func:`lightning_complexity.functional.adaptive_code_length`), and which
    of ``levels`` was taken. It ends by itself, so that nothing is added for its length. With probability at least
    :math:`1 - \delta` the value is above the expected error, on new samples, of the rounded network; it says nothing of
    the network as it is. What it rests on:

    - the samples measured are ``n`` independent draws from the distribution of the new ones;
    - initialization, ``levels`` and everything but the trained parameters do not depend on these samples: statistics of
      BatchNorm do, so that the number proves nothing for a network that has any, nor with data augmentation or weights
      that were pretrained on the same samples.

    The samples may be a part of those that were trained on. ``<name>/bits`` is :math:`K`, ``<name>/error`` the error
    of the rounded network, ``<name>/levels`` their number. The value is at most 1, which says nothing: without
    some thousand samples it mostly is, and the bits are the number to look at. One forward pass for each
    of ``levels`` that can still be the best.

    Args:
        levels: Numbers of levels, odd, chosen before the samples are seen.
        delta: Probability that it does not hold.
        num_samples: ``n``; default the number of samples measured whose class the loss does not ignore. With another
            number nothing is proved, as the error of those that are not measured is guessed.
        form: ``"hoeffding"`` for the looser :math:`\hat e_\ell + \sqrt{(\dots) / 2 n}`.
        per_layer: Must be ``False``, the bound is on the error of the network as a whole.

    Raises:
        ValueError: If an option makes no sense; in ``update``, if there are no classes.

    Example:
        >>> net = torch.nn.Linear(1, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
        >>> metric = CompressionBound(levels=[3])
        >>> start = {"weight": torch.zeros(2, 1)}
        >>> metric.update(net, torch.ones(1000, 1), torch.zeros(1000, dtype=torch.long), initial=start)
        >>> metric.report()["compression_bound/bits"]  # 32 + log2(3 * 4)
        tensor(35.5850, dtype=torch.float64)
    """

    name = "compression_bound"
    needs = frozenset({"inputs", "targets", "initial"})
    cost = "sampling"
    single_update_reason = "its levels are chosen for all samples together"
    increases_with_complexity = True
    units = "error rate"
    no_penalty_reason = "rounding has no derivative"
    formula = r"\min_\ell kl^{-1}\big( \hat e_\ell, (K_\ell \ln 2 + \ln (1 / \delta)) / n \big)"
    reference = "after Lotfi et al., arXiv 2312.17173; Langford, JMLR 2005"
    misleads_when = "read as a bound on the network that was not rounded, or with BatchNorm; at 1 it ranks nothing"
    endings = ("bits", "error", "levels")

    def __init__(
        self,
        *,
        levels: Sequence[int] = _LEVELS,
        delta: float = 0.05,
        num_samples: int | None = None,
        form: OccamForm = "kl",
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if not levels or not all(isinstance(n, int) and n >= 3 and n % 2 for n in levels):
            raise ValueError(f"levels must be odd whole numbers of at least 3, at least one, got {levels!r}.")
        check_share(delta=delta)
        if num_samples is not None:
            check_at_least(1, num_samples=num_samples)
        if form not in get_args(OccamForm):
            raise ValueError(f"form must be one of {', '.join(get_args(OccamForm))}, got {form!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.levels, self.delta, self.num_samples, self.form = tuple(levels), delta, num_samples, form

    def search(self, snapshot: Snapshot, context: Context) -> list[float]:
        """The best bound, and the bits, the error and the levels that it is made of."""
        moved, found = _moved(snapshot), [math.inf, math.nan, math.nan, math.nan]
        if not all(difference.isfinite().all() for difference in moved.values()):
            return [math.nan] * 4
        for levels in sorted(self.levels):
            code = self._code(snapshot, moved, levels)
            if self._bound(0.0, code, snapshot) >= found[0]:
                continue
            error = float(error_rate(snapshot.with_tensors(code.tensors)))
            if math.isnan(error):
                return [math.nan] * 4
            bound = self._bound(error, code, snapshot)
            if bound < found[0]:
                found = [bound, code.bits, error, levels]
        return [min(found[0], 1.0), *found[1:]]

    def _code(self, snapshot: Snapshot, moved: dict[str, Tensor], levels: int) -> _Code:
        tensors, bits = {}, math.log2(len(self.levels))
        for name, difference in moved.items():
            rounded, counts = _rounded(difference, levels)
            start = snapshot.initial[plain_name(name)].to(rounded)
            tensors[name] = (start + rounded).to(snapshot.parameters[name].dtype)
            bits += _BITS_OF_SCALE + float(adaptive_code_length(counts))
        return _Code(tensors, bits)

    def _bound(self, error: float, code: _Code, snapshot: Snapshot) -> float:
        num_samples = self.num_samples or num_classified(snapshot)
        observed, bits = torch.tensor([error, code.bits], dtype=torch.float64)
        return float(occam_bound(observed, bits, num_samples, delta=self.delta, form=self.form))


def _rounded(difference: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Each entry at the nearest of the levels, and how many are at each."""
    half = levels // 2
    largest = difference.abs().amax() if difference.numel() else difference.sum()
    spacing = (largest / half).float().double()
    places = (difference / torch.where(spacing > 0, spacing, 1.0)).round().clamp(-half, half)
    return spacing * places, torch.bincount((places + half).long().flatten(), minlength=levels)


def _moved(snapshot: Snapshot) -> dict[str, Tensor]:
    """What training added to the trained parameters, in double precision."""
    trained = trainable(snapshot)
    snapshot.check_initial(trained)
    return {n: p.detach().double() - snapshot.initial[plain_name(n)].to(p).double() for n, p in trained.items()}
