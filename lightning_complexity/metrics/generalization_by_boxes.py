"""The measures after Jiang et al. that search for the largest box of weights that a network bears."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_complexity.functional.generalization import adjusted_measure
from lightning_complexity.functional.loss_surface.flatness import magnitude_aware_sharpness_capacity, sharpness_capacity
from lightning_complexity.metrics.base import Cost
from lightning_complexity.metrics.generalization import StudiedNetwork
from lightning_complexity.metrics.loss_surface.flatness import SearchedMetric, check_positive, check_search
from lightning_complexity.network import (
    Context,
    Snapshot,
)
from lightning_complexity.network.landscape.worst_cases import Box, BoxSearch, tolerated_box

__all__ = ["SharpnessMeasure", "sharpness_measures"]


class _Sharpness(NamedTuple):
    """What the formulas with a box are made of.

    Attributes:
        network: Norms of its weights.
        alpha: Scale of the largest box that it bears, 0-d.
        delta: See :class:`SharpnessMeasure`, as for the factor.
    """

    network: StudiedNetwork
    alpha: Tensor
    delta: float
    factor: float

    def capacity(self, squares: Tensor) -> Tensor:
        size, num_samples = int(self.network.size), self.network.num_samples
        return sharpness_capacity(squares.sum(), self.alpha, size, num_samples, delta=self.delta, factor=self.factor)

    def magnitude_aware_capacity(self, squares: Tensor) -> Tensor:
        moved, num_samples = self.network.moved, self.network.num_samples
        return magnitude_aware_sharpness_capacity(
            squares.sum(), moved, self.alpha, num_samples, delta=self.delta, factor=self.factor
        )


class SharpnessFormula(NamedTuple):
    """One formula with the scale of a box.

    Attributes:
        equation: Its number in Jiang et al., 2020.
        formula: In LaTeX.
        capacity: What it makes of the box and the weights.
        box: Which box it is.
        needs_initial: Whether it needs the state at the start.
    """

    equation: str
    formula: str
    capacity: Callable[[_Sharpness], Tensor]
    box: Box
    needs_initial: bool = False


_BEHIND_BOX = r"\ln (2 \omega / \delta) / (c \alpha^2) + \ln (m / \sigma) + 10"
_MAGNITUDE_BOX = (
    r"\tfrac14 \sum_k \ln \frac{{\epsilon^2 + (\alpha^2 + c \ln (2 \omega / \delta)) "
    r"\lVert {} \rVert_2^2 / \omega}}{{\epsilon^2 + \alpha^2 (w_k - w_k^0)^2}} + \ln (m / \delta) + 10"
)
SHARPNESS_MEASURES: dict[str, SharpnessFormula] = {
    "sharpness_init": SharpnessFormula(
        "50",
        r"\lVert w - w^0 \rVert_2^2 " + _BEHIND_BOX,
        lambda s: s.capacity(s.network.frobenius_distance),
        "plain",
        needs_initial=True,
    ),
    "sharpness_orig": SharpnessFormula(
        "51", r"\lVert w \rVert_2^2 " + _BEHIND_BOX, lambda s: s.capacity(s.network.frobenius), "plain"
    ),
    "sharpness_flatness": SharpnessFormula("52", r"1 / \alpha^2", lambda s: s.alpha**-2, "plain"),
    "sharpness_mag_init": SharpnessFormula(
        "58",
        _MAGNITUDE_BOX.format("w - w^0"),
        lambda s: s.magnitude_aware_capacity(s.network.frobenius_distance),
        "magnitude",
        needs_initial=True,
    ),
    "sharpness_mag_orig": SharpnessFormula(
        "59",
        _MAGNITUDE_BOX.format("w"),
        lambda s: s.magnitude_aware_capacity(s.network.frobenius),
        "magnitude",
        needs_initial=True,
    ),
    "sharpness_mag_flatness": SharpnessFormula("60", r"1 / \alpha^2", lambda s: s.alpha**-2, "magnitude"),
}


class SharpnessMeasure(SearchedMetric):
    r"""One of six measures after Jiang et al. that are made from the largest box of weights that the network bears.

    .. math:: \text{by default } 1 / \alpha^2

    The catalogue lists names, equation numbers and formulas. :math:`\alpha` is :class:`WorstCaseTolerance`, in the
    plain box, or for ``sharpness_mag_*`` in the one in proportion to the weights; measures of equal boxes share one
    search. Weights :math:`w` are those of linear and convolution layers with BatchNorm folded in, :math:`\omega` of
    them, as for :class:`GeneralizationMeasure`; biases move in the box as well. The source leaves some constants open,
    and programs after it differ in them: here :math:`\epsilon = 10^{-3}`, and :math:`\sigma = \alpha \sqrt c /
    (2 \sqrt{\ln (2 \omega / \delta)})`, the scale of noise for which the first term is that of ``pacbayes_init`` and
    ``pacbayes_orig``. With :math:`c = 2` all entries of such noise are in the box with probability :math:`1 - \delta`
    at least.

    ``<name>/alpha``, ``<name>/drop`` and ``<name>/converged`` are what :class:`WorstCaseTolerance` found; the value is
    ``nan`` where it found no box. Where a network has no classes the loss may rise by 0.5.

    Args:
        of: Name of the measure.
        adjusted: Whether the value is :math:`\sqrt{v / m}` for ``m`` training samples, logged as
            ``generalization_<of>_adjusted`` instead of ``generalization_<of>``.
        num_samples: ``m``; default the number of samples measured.
        drop: Of the accuracy that the box may cost.
        box: Its shape, see :class:`WorstCaseTolerance`; default that of the measure.
        delta: :math:`\delta`; 1 leaves it out, as equations 50 and 51 do.
        factor: :math:`c`.
        num_starts: As in :class:`WorstCaseTolerance`.
        max_steps: As in :class:`WorstCaseTolerance`.
        per_layer: Must be ``False``, the measures are of the network as a whole.

    Raises:
        ValueError: If there is no such measure, or an option makes no sense.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(1, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
        >>> metric = SharpnessMeasure()
        >>> metric.update(net, torch.ones(1, 1), torch.tensor([0]))
        >>> bool(1 <= metric.compute() <= 1.05)  # both weights have to come to 0
        True
    """

    name = "generalization_sharpness_flatness"
    no_penalty_reason = "it comes from a search, and has no derivative"
    needs = frozenset({"inputs", "targets", "loss"})
    suite = None  # hundreds of training steps: asked for by name
    cost: Cost = "sampling"
    order = 1
    single_update_reason = "its worst step is that for all samples together"
    formula = r"\text{by default } 1 / \alpha^2"
    reference = "after Jiang et al., ICLR 2020"
    increases_with_complexity = True
    units = "by formula"
    misleads_when = (
        "layers were rescaled, unless the box is in proportion to the weights; widths differ, as more weights move "
        "together; many samples are wrong already"
    )
    endings = ("alpha", "drop", "converged")

    def __init__(
        self,
        of: str = "sharpness_flatness",
        *,
        adjusted: bool = False,
        num_samples: int | None = None,
        drop: float = 0.1,
        box: Box | None = None,
        delta: float = 1.0,
        factor: float = 4.0,
        num_starts: int = 5,
        max_steps: int = 10,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if of not in SHARPNESS_MEASURES:
            raise ValueError(f"of must be one of {', '.join(SHARPNESS_MEASURES)}; got {of!r}.")
        check_positive("drop", drop)
        check_positive("factor", factor)
        check_search(box or SHARPNESS_MEASURES[of].box, num_starts, max_steps)
        if not 0 < delta <= 1:
            raise ValueError(f"delta must be above 0 and at most 1, got {delta!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.of, self.adjusted, self.num_samples = of, adjusted, num_samples
        self.drop, self.box, self.delta, self.factor = drop, box, delta, factor
        self.num_starts, self.max_steps = num_starts, max_steps
        self.name = f"generalization_{of}{'_adjusted' if adjusted else ''}"
        if SHARPNESS_MEASURES[of].needs_initial:
            self.needs = self.needs | {"initial"}

    def search(self, snapshot: Snapshot, context: Context) -> list[float]:
        """The measure, the scale of the box, the drop there, and whether it was found."""
        measure, num_samples = SHARPNESS_MEASURES[self.of], self.num_samples or snapshot.num_samples
        box = BoxSearch(self.box or measure.box, self.drop, num_starts=self.num_starts, max_steps=self.max_steps)
        found = tolerated_box(snapshot, box)
        if not found.converged:
            return [math.nan, found.scale, found.rise, 0.0]
        network = StudiedNetwork(snapshot, fft=False, num_samples=num_samples, compat=None)
        alpha = torch.tensor(found.scale, dtype=torch.float64)
        value = measure.capacity(_Sharpness(network, alpha.to(snapshot.device), self.delta, self.factor))
        if self.adjusted:
            value = adjusted_measure(value, num_samples, is_logarithm=False)
        return [float(value), found.scale, found.rise, 1.0]


def sharpness_measures(
    *, adjusted: bool = False, num_samples: int | None = None, delta: float = 1.0
) -> list[SharpnessMeasure]:
    """The six measures that search for the largest box, which share two searches where they share a snapshot.

    Args:
        adjusted: As in :class:`SharpnessMeasure`.
        num_samples: As in :class:`SharpnessMeasure`.
        delta: As in :class:`SharpnessMeasure`.

    Returns:
        One metric each.

    Example:
        >>> [metric.of for metric in sharpness_measures()][:2]
        ['sharpness_init', 'sharpness_orig']
    """
    return [SharpnessMeasure(of, adjusted=adjusted, num_samples=num_samples, delta=delta) for of in SHARPNESS_MEASURES]
