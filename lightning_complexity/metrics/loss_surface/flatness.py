"""How much the loss rises around the current parameters."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.flatness import keskar_sharpness
from lightning_complexity.metrics.base import ComplexityMetric, latest
from lightning_complexity.network import Context, Snapshot, mean_loss, trainable
from lightning_complexity.network.landscape.perturbations import (
    Compat,
    Noise,
    largest_loss_in_box,
    rise_along_gradient,
    tolerated_noise,
)
from lightning_complexity.network.landscape.worst_cases import Box, BoxSearch, box_width, tolerated_box

__all__ = ["NoiseTolerance", "SAMSharpness", "WorstCaseSharpness", "WorstCaseTolerance"]


def check_positive(name: str, value: float) -> None:
    """Raise an error unless an option is a positive number.

    Raises:
        ValueError: Naming the option.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value!r}.")


def check_search(box: Any, num_starts: int, max_steps: int) -> None:
    """Raise an error unless a box can be searched like this.

    Raises:
        ValueError: Naming the boxes that there are, or the option.
    """
    if box not in get_args(Box):
        raise ValueError(f"box must be one of {', '.join(get_args(Box))}; got {box!r}.")
    for option, value in {"num_starts": num_starts, "max_steps": max_steps}.items():
        if value < 1:
            raise ValueError(f"{option} must be at least 1, got {value!r}.")


class SAMSharpness(ComplexityMetric):
    r"""Rise of the mean loss at the step that sharpness-aware minimization takes.

    .. math:: L(w + e) - L(w), \quad e = \rho \frac{g}{\|g\|_2}, \quad g = \nabla L(w)

    To first order :math:`e` is the worst step of length :math:`\rho`. In units of the loss. One forward and one
    backward pass, and a forward pass at :math:`w + e`: the gradient is that of the whole batch, which the
    rise is taken of. Dropout is off and BatchNorm has its running statistics. 0 where the gradient is zero. Negative
    where the loss curves down so much that the step overshoots.

    Args:
        rho: Length of the step.
        adaptive: Whether the length is relative to the parameters, :math:`e = \rho\, w^2 g / \||w| g\|_2`, so that the
            value does not change when layers of a ReLU network are rescaled; usual values of ``rho`` are ten times
            larger then. The log key is ``adaptive_sam_sharpness``.
        per_layer: Must be ``False``, the step is one of the network as a whole.

    Raises:
        ValueError: If ``rho`` is not positive; in ``update``, if no parameter is trained.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = net.weight.data.fill_(1.0)
        >>> metric = SAMSharpness(rho=0.1)
        >>> metric.update(net, torch.ones(1, 1), torch.zeros(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # 1.1 squared - 1
        tensor(0.2100)
    """

    name = "sam_sharpness"
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "backward"
    order = 1
    single_update_reason = "its step is along the gradient of all samples together"
    increases_with_complexity = True
    units = "loss"
    formula = r"L\big(w + \rho \nabla L / \lVert \nabla L \rVert_2\big) - L(w)"
    reference = "Foret et al., ICLR 2021; Kwon et al., ICML 2021 (adaptive)"
    misleads_when = (
        "layers were rescaled, unless it is adaptive; training loss is near zero, where it vanishes with the loss for "
        "any labels; networks differ in size, as the step is shared among all parameters"
    )

    def __init__(self, rho: float = 0.05, *, adaptive: bool = False, per_layer: bool = False, **kwargs: Any) -> None:
        check_positive("rho", rho)
        super().__init__(per_layer=per_layer, **kwargs)
        self.rho, self.adaptive = rho, adaptive
        if adaptive:
            self.name = "adaptive_sam_sharpness"

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The rise on the snapshot's samples."""
        return rise_along_gradient(snapshot, self.rho, adaptive=self.adaptive)


class SearchedMetric(ComplexityMetric):
    """A number that a search ends with, and what it says of its end.

    A subclass says which by :meth:`search`, and names what comes behind the value by ``endings``.
    """

    endings: ClassVar[tuple[str, ...]]
    found: Tensor

    @abstractmethod
    def search(self, snapshot: Snapshot, context: Context) -> list[float]:
        """The value, and what belongs to each of the endings."""

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The value on the snapshot's samples."""
        return torch.tensor(self.search(snapshot, context)[0])

    def _prepare_state(self) -> None:
        empty = torch.full((1 + len(self.endings),), torch.nan, dtype=torch.float64)
        self.add_state("found", empty, dist_reduce_fx=latest)

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep what was found."""
        self.found = self.found.new_tensor(self.search(snapshot, context))

    def total(self) -> Tensor:
        """The value."""
        return self.found[0]

    def details(self) -> dict[str, Tensor]:
        """How the search ended."""
        return dict(zip(self.endings, self.found[1:], strict=True))


class WorstCaseSharpness(SearchedMetric):
    r"""Rise of the mean loss to its largest in a box around the parameters, in per cent of one plus the loss.

    .. math:: 100\, \frac{\max_v L(w + v) - L(w)}{1 + L(w)}, \quad |v_k| \le \epsilon (|w_k| + 1)

    The largest loss is searched for by :func:`lightning_complexity.functional.maximize_in_box`, from the parameters
    and from random points of the box, the same every time, over all of the samples. What is found is a lower bound.
    ``<name>/rise`` is the rise in units of the loss, ``<name>/converged`` is 1 where no step raised the loss
    further, to first order. ``nan`` for a loss of -1 or less, such as that of a density; the rise is known then.

    Args:
        epsilon: Half the width of the box for a weight of zero.
        box: ``"keskar"`` as above; ``"magnitude"`` for :math:`|v_k| \le \epsilon |w_k|`, as after Jiang et al.;
            ``"plain"`` for :math:`|v_k| \le \epsilon`. Others than the first are in the log key.
        num_starts: How many points the search starts from.
        max_steps: From each, one forward and backward pass each.
        per_layer: Must be ``False``, the box is one of the network as a whole.

    Raises:
        ValueError: If an option makes no sense; in ``update``, if no parameter is trained.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = net.weight.data.fill_(1.0)
        >>> metric = WorstCaseSharpness(epsilon=0.1)
        >>> metric.update(net, torch.ones(1, 1), torch.zeros(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # 100 (1.44 - 1) / 2
        tensor(22.0000, dtype=torch.float64)
    """

    name = "worst_case_sharpness"
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "sampling"
    order = 1
    single_update_reason = "its worst step is that for all samples together"
    increases_with_complexity = True
    units = "% of 1 + loss"
    no_penalty_reason = "SAMSharpness penalises the rise along one step; a search at every step would cost too much"
    formula = r"100\, (\max_v L(w + v) - L(w)) / (1 + L(w)), \quad |v_k| \le \epsilon (|w_k| + 1)"
    reference = "Keskar et al., ICLR 2017; boxes of Jiang et al., ICLR 2020"
    misleads_when = (
        "layers were rescaled; more hidden units or random labels, where Neyshabur et al., 2017, find it lower for "
        "networks that generalize worse"
    )
    endings = ("rise", "converged")

    def __init__(
        self,
        epsilon: float = 1e-3,
        *,
        box: Box = "keskar",
        num_starts: int = 2,
        max_steps: int = 20,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        check_positive("epsilon", epsilon)
        check_search(box, num_starts, max_steps)
        super().__init__(per_layer=per_layer, **kwargs)
        self.epsilon, self.box, self.num_starts, self.max_steps = epsilon, box, num_starts, max_steps
        if box != "keskar":
            self.name = f"worst_case_sharpness_{box}"

    def search(self, snapshot: Snapshot, context: Context) -> list[float]:
        """The sharpness, the rise, and whether the search converged."""
        radii = {name: self.epsilon * box_width(p.detach(), self.box) for name, p in trainable(snapshot).items()}
        found = largest_loss_in_box(snapshot, radii, self._starts(radii, context), self.max_steps)
        loss = mean_loss(snapshot).double()
        sharpness = keskar_sharpness(loss, found.value.double())
        return [float(sharpness), float(found.value.double() - loss), float(found.converged)]

    def _starts(self, radii: dict[str, Tensor], context: Context) -> Iterator[Tensor]:
        like = torch.cat([r.flatten() for r in radii.values()])
        yield torch.zeros_like(like)
        generator = context.generator()
        for _ in range(self.num_starts - 1):
            yield (2 * torch.rand(like.shape, generator=generator, dtype=like.dtype) - 1).to(like.device)


class NoiseTolerance(SearchedMetric):
    r"""Scale of Gaussian noise on the weights at which the accuracy drops by a tenth; small for sharp minima.

    .. math:: \sigma: \quad \mathrm{E}_{u \sim \mathcal N(0, \sigma^2)}\, \mathrm{err}(w + u) - \mathrm{err}(w) = 0.1

    BatchNorm is folded into the layers before it, and the noise is on all trained parameters of the network that
    results. The noise is the same every time and at every scale, times the scale. The search doubles or halves the
    scale until the drop lies between two, then halves the bracket to 2 %; the larger end counts. ``<name>/drop`` is
    what the error rises by, ``<name>/converged`` is 1 unless no scale was found: the value is ``nan`` then, as it
    is for a network at chance level. Where there are no classes it is the loss that rises, with draws in opposite
    pairs, so that its slope does not count. A single sample gives a coarse value, as the error is then 0 or 1 for each
    draw.

    Args:
        magnitude_aware: Whether the noise has the variance :math:`\sigma^2 w_k^2 + 10^{-6}`; the log key is then
            ``magnitude_aware_noise_tolerance``.
        drop: Of the accuracy.
        rise: Of the loss, in its own units, where there are no classes.
        num_draws: How many noisy networks; about twelve times as many passes over the samples.
        compat: ``"rgm"`` repeats what the code of the study of robust generalization measures does, instead of what its
            paper says: the noise has the *standard deviation* :math:`\sigma^2`, or :math:`\sigma^2 w_k^2 + 10^{-6}`; it
            is drawn anew for each scale, and is on the parameters of folded BatchNorms too; a rise of accuracy counts
            as a drop; the scale comes from fifteen halvings of [0, 2], converged or not.
        per_layer: Must be ``False``, the noise is on the network as a whole.

    Raises:
        ValueError: If an option makes no sense; in ``update``, if no parameter is trained.

    Example:
        >>> net = torch.nn.Linear(1, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
        >>> metric = NoiseTolerance(num_draws=100)
        >>> metric.update(net, torch.ones(1, 1), torch.tensor([0]))
        >>> metric.compute() > 0.5  # one in ten draws has a difference beyond 1.28 sqrt(2) sigma = 2
        tensor(True)
    """

    name = "noise_tolerance"
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "sampling"
    single_update_reason = "its noise is that which all samples together bear"
    units = "weight"
    no_penalty_reason = "it comes from a search, and has no derivative"
    increases_with_complexity = False
    formula = r"\sigma: E_u\, e(w + \sigma u) - e(w) = 0.1"
    reference = "Jiang et al., ICLR 2020; Dziugaite et al., NeurIPS 2020"
    misleads_when = (
        "layers were rescaled; widths differ, as more weights carry more noise; accuracy is near chance level"
    )
    endings = ("drop", "converged")

    def __init__(
        self,
        *,
        magnitude_aware: bool = False,
        drop: float = 0.1,
        rise: float = 0.5,
        num_draws: int = 10,
        compat: Compat | None = None,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        check_positive("drop", drop)
        check_positive("rise", rise)
        if num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {num_draws!r}.")
        check_compat(compat)
        super().__init__(per_layer=per_layer, **kwargs)
        self.magnitude_aware, self.drop, self.rise = magnitude_aware, drop, rise
        self.num_draws, self.compat = num_draws, compat
        if magnitude_aware:
            self.name, self.units = "magnitude_aware_noise_tolerance", "pure number"

    def search(self, snapshot: Snapshot, context: Context) -> list[float]:
        """The scale, the drop there, and whether it was found."""
        noise = Noise(self.magnitude_aware, self.num_draws, self.compat)
        found = tolerated_noise(snapshot, noise, self.drop, self.rise)
        return [found.scale, found.reached, float(found.converged)]


class WorstCaseTolerance(SearchedMetric):
    r"""Largest box around the weights in which the accuracy drops by a tenth at most; small for sharp minima.

    .. math:: \max \alpha: \quad \max_{|u_k| \le \alpha} \mathrm{err}(w + u) - \mathrm{err}(w) \le 0.1

    The counterpart of :class:`NoiseTolerance` for the worst case. BatchNorm is folded into the layers before it, and
    all trained parameters of the network that results may move. Where the source asks for an error of at most a tenth,
    the error is counted from the one that the network has, which is the same where it makes none.

    Each box is searched by projected ascents that lower the margins of as many samples as have to become wrong, from
    the centre and from where the margins of samples near the border of their class fall fastest, the same every time.
    From a scale of 1 on boxes grow or shrink until one in which nothing beyond the tolerance is found is at most 2 %
    smaller than one that holds such a point; all points count for every box that they are in. A search may miss the
    worst point, so that the value is at most 2 % below the largest box, and may be above it. ``<name>/drop`` is the
    largest drop that was found in the box, ``<name>/converged`` is 1 unless no box was found: the value is ``nan``
    then, as it is where more than nine tenths of the samples are wrong already, or where weights do not matter. Where
    there are no classes it is the loss that rises, and ascents raise it. Of a single sample it is the distance to where
    the sample becomes wrong. Takes some 50 to 500 passes over the samples, forward and backward.

    Args:
        box: ``"plain"`` as above; ``"magnitude"`` for :math:`|u_k| \le \alpha |w_k|`, where the value does not change
            when layers of a ReLU network are rescaled; ``"keskar"`` for :math:`|u_k| \le \alpha (|w_k| + 1)`. All but
            the first are in the log key.
        drop: Of the accuracy.
        rise: Of the loss, in its own units, where there are no classes.
        num_starts: From how many points each box is searched.
        max_steps: From each, one forward and backward pass each.
        per_layer: Must be ``False``, the box is one of the network as a whole.

    Raises:
        ValueError: If an option makes no sense; in ``update``, if no parameter is trained.

    Example:
        >>> net = torch.nn.Linear(1, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
        >>> metric = WorstCaseTolerance()
        >>> metric.update(net, torch.ones(1, 1), torch.tensor([0]))
        >>> bool(0.98 <= metric.compute() <= 1)  # both weights have to come to 0
        True
    """

    name = "worst_case_tolerance"
    needs = frozenset({"inputs", "targets", "loss"})
    suite = None  # hundreds of training steps: asked for by name
    cost = "sampling"
    order = 1
    single_update_reason = "its worst step is that for all samples together"
    increases_with_complexity = False
    units = "weight"
    no_penalty_reason = "it comes from a search, and has no derivative"
    formula = r"\max \alpha: \max_{|u_k| \le \alpha} e(w + u) - e(w) \le 0.1"
    reference = "Jiang et al., ICLR 2020; boxes of Keskar et al., ICLR 2017"
    misleads_when = (
        "layers were rescaled, unless the box is in proportion to the weights; widths differ, as more weights move "
        "together; many samples are wrong already"
    )
    endings = ("drop", "converged")

    def __init__(
        self,
        *,
        box: Box = "plain",
        drop: float = 0.1,
        rise: float = 0.5,
        num_starts: int = 5,
        max_steps: int = 10,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        check_positive("drop", drop)
        check_positive("rise", rise)
        check_search(box, num_starts, max_steps)
        super().__init__(per_layer=per_layer, **kwargs)
        self.box, self.drop, self.rise, self.num_starts, self.max_steps = box, drop, rise, num_starts, max_steps
        if box != "plain":
            self.name = f"worst_case_tolerance_{box}"
        if box == "magnitude":
            self.units = "pure number"

    def search(self, snapshot: Snapshot, context: Context) -> list[float]:
        """The scale, the drop there, and whether it was found."""
        search = BoxSearch(self.box, self.drop, self.rise, self.num_starts, self.max_steps)
        found = tolerated_box(snapshot, search)
        return [found.scale, found.rise, float(found.converged)]


def check_compat(compat: Any) -> None:
    """Raise an error unless there is such a way to be compatible.

    Raises:
        ValueError: Naming those that there are.
    """
    if compat not in (None, *get_args(Compat)):
        raise ValueError(f"compat must be None or 'rgm', got {compat!r}.")
