r"""Piecewise linear approximation of a network's activations by tangents, and the complexity read off it.

Everything here is after Hu, Liu, Bian and Pei, KDD 2020; the paper's own code is not public, and the formulas were
derived anew. Where the paper's activations are tanh and the logistic function, :class:`Curve` covers any function that
has asymptotes and finitely many inflections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "CURVES",
    "Curve",
    "TangentApproximation",
    "approximate_by_tangents",
    "customized_l1",
    "lann_complexity",
    "mean_absolute_jacobians",
    "propagated_error",
]

Line = tuple[float, float]
_NEGLIGIBLE = 1e-15  # gains below are rounding


@dataclass(frozen=True)
class Curve:
    """An activation function that tangents can approximate.

    Attributes:
        function: Elementwise, with a continuous derivative.
        left: Slope and intercept of the asymptote at minus infinity.
        right: The same at plus infinity.
        inflections: Where the curvature changes sign, ascending. The tangents there belong to every approximation:
            between them the function is convex or concave, so that neighbouring tangents intersect between
            their points, and another tangent never makes the approximation worse anywhere.
    """

    function: Callable[[Tensor], Tensor]
    left: Line
    right: Line
    inflections: tuple[float, ...] = ()

    def tangents(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes and intercepts of the tangents at ``points``, those at infinity being the asymptotes."""
        at = torch.where(points.isinf(), 0.0, points)
        with torch.enable_grad():
            leaf = at.detach().requires_grad_()
            values = self.function(leaf)
            (slopes,) = torch.autograd.grad(values.sum(), leaf)
        intercepts = values.detach() - at * slopes
        for infinite, (slope, intercept) in ((points == -torch.inf, self.left), (points == torch.inf, self.right)):
            slopes = torch.where(infinite, slope, slopes)
            intercepts = torch.where(infinite, intercept, intercepts)
        return slopes, intercepts


_LINEAR_UNIT = ((0.0, 0.0), (1.0, 0.0))

CURVES: dict[str, Curve] = {
    "tanh": Curve(torch.tanh, (0.0, -1.0), (0.0, 1.0), (0.0,)),
    "sigmoid": Curve(torch.sigmoid, (0.0, 0.0), (0.0, 1.0), (0.0,)),
    "softsign": Curve(F.softsign, (0.0, -1.0), (0.0, 1.0), (0.0,)),
    "tanhshrink": Curve(F.tanhshrink, (1.0, 1.0), (1.0, -1.0), (0.0,)),
    "erf": Curve(torch.erf, (0.0, -1.0), (0.0, 1.0), (0.0,)),
    "elu": Curve(F.elu, (0.0, -1.0), (1.0, 0.0)),
    "celu": Curve(F.celu, (0.0, -1.0), (1.0, 0.0)),
    "softplus": Curve(F.softplus, *_LINEAR_UNIT),
    "logsigmoid": Curve(F.logsigmoid, (1.0, 0.0), (0.0, 0.0)),
    "gelu": Curve(F.gelu, *_LINEAR_UNIT, (-(2**0.5), 2**0.5)),
    "gelu_tanh": Curve(partial(F.gelu, approximate="tanh"), *_LINEAR_UNIT, (-1.4185040087908285, 1.418504008790828)),
    "silu": Curve(F.silu, *_LINEAR_UNIT, (-2.3993572805154675, 2.3993572805154675)),
    "mish": Curve(F.mish, *_LINEAR_UNIT, (-2.256376396360793, 1.4905711794854288)),
}


class TangentApproximation:
    r"""A continuous piecewise linear function for each of several units, made of tangents of one curve.

    The tangents at neighbouring points :math:`p < q`, with slopes :math:`a` and intercepts :math:`b`, meet at
    :math:`(b_p - b_q) / (a_q - a_p)`, which lies between the points. Where slopes are equal to rounding, as far out
    on a saturated curve, the two lines are one and the meeting point is kept between the points.

    Args:
        curve: The function to approximate.
        points: Tangent points of each unit, shape ``(units, k)``, ascending from ``-inf`` to ``inf``, the
            inflections among them; further ``inf`` at the end fill rows up.

    Attributes:
        breakpoints: Where neighbouring tangents meet, shape ``(units, k - 1)``, filled up with ``inf``.

    Example:
        >>> tanh = TangentApproximation.coarsest(CURVES["tanh"], units=1)
        >>> tanh(torch.tensor([[-3.0], [0.5], [7.0]])).T  # clipped to [-1, 1]
        tensor([[-1.0000,  0.5000,  1.0000]], dtype=torch.float64)
    """

    def __init__(self, curve: Curve, points: Tensor) -> None:
        self.curve, self.points = curve, points.contiguous()
        self.slopes, self.intercepts = curve.tangents(points)
        self.breakpoints = self._intersections()

    @classmethod
    def coarsest(cls, curve: Curve, units: int, *, device: torch.device | None = None) -> TangentApproximation:
        """The asymptotes and the tangents at inflections only."""
        points = torch.tensor([-torch.inf, *curve.inflections, torch.inf], dtype=torch.float64, device=device)
        return cls(curve, points.repeat(units, 1))

    def _intersections(self) -> Tensor:
        left, right = self.points[:, :-1], self.points[:, 1:]
        meeting = -self.intercepts.diff() / self.slopes.diff()
        meeting = torch.where(meeting.isnan(), left.clamp(min=-1e300), meeting)
        meeting = torch.minimum(torch.maximum(meeting, left), right)
        return torch.where(left == torch.inf, torch.inf, meeting)

    @property
    def pieces(self) -> Tensor:
        """Number of linear pieces of each unit, shape ``(units,)``."""
        return self.points.isfinite().sum(1) + 2

    def __call__(self, z: Tensor) -> Tensor:
        """The approximation of the curve at ``z``, both of shape ``(n, units)``; double precision."""
        return self._at(z.T.double().contiguous()).T

    def _at(self, z: Tensor) -> Tensor:
        piece = torch.searchsorted(self.breakpoints, z)
        return self.slopes.gather(1, piece) * z + self.intercepts.gather(1, piece)

    def errors(self, z: Tensor) -> Tensor:
        """Mean absolute error of each unit, shape ``(units,)``, over preactivations ``z`` of shape ``(n, units)``."""
        return (self(z) - self.curve.function(z.double())).abs().mean(0)

    def refinements(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The best further tangent point between each two neighbours, and by how much it lowers the mean error.

        Tried are the mean of the preactivations there, weighted by their error, and the one with the largest error.

        Args:
            z: Preactivations, shape ``(n, units)``.

        Returns:
            Points and gains, each of shape ``(units, k - 1)``; ``inf`` and 0 where there is nothing to gain.
        """
        z = z.T.double().contiguous()
        error = (self._at(z) - self.curve.function(z)).abs()
        # Preactivations of inf and nan belong to the last interval.
        interval = (torch.searchsorted(self.points, z, right=True) - 1).clamp(max=self.points.shape[1] - 2)
        empty = torch.zeros_like(self.breakpoints)
        total = empty.scatter_add(1, interval, error)
        centroid = empty.scatter_add(1, interval, error * z) / total
        largest = empty.scatter_reduce(1, interval, error, "amax")
        is_worst = error == largest.gather(1, interval)
        worst = torch.full_like(empty, -torch.inf).scatter_reduce(
            1, interval, torch.where(is_worst, z, -torch.inf), "amax"
        )
        best, gain = empty, empty
        for points in (centroid.nan_to_num(), worst.nan_to_num(neginf=0.0)):
            slopes, intercepts = self.curve.tangents(points)
            new = slopes.gather(1, interval) * z + intercepts.gather(1, interval) - self.curve.function(z)
            lower = empty.scatter_add(1, interval, (error - new.abs()).clamp(min=0)) / z.shape[1]
            best, gain = torch.where(lower > gain, points, best), torch.maximum(lower, gain)
        useful = gain > _NEGLIGIBLE
        return torch.where(useful, best, torch.inf), torch.where(useful, gain, 0.0)

    def refined(self, points: Tensor) -> TangentApproximation:
        """The approximation with further tangents, ``points`` of shape ``(units, m)``, ``inf`` where there is none."""
        merged = torch.cat([self.points, points], 1).sort(1).values
        longest = int(merged.isfinite().sum(1).max()) + 2
        return TangentApproximation(self.curve, merged[:, :longest])


def propagated_error(
    approximations: Sequence[TangentApproximation], preactivations: Sequence[Tensor], weights: Sequence[Tensor]
) -> Tensor:
    r"""Outputs' error to first order, :math:`\sum_{ij} w_{ij}\, \mathbb{E} |l_{ij}(z_{ij}) - \phi(z_{ij})|`.

    Args:
        approximations: One for each layer.
        preactivations: Of each layer, shape ``(n, units)``; the mean over them is that over the empirical density.
        weights: Of each layer, shape ``(units,)``, see :func:`mean_absolute_jacobians`.

    Returns:
        0-d.

    Example:
        >>> tanh = TangentApproximation.coarsest(CURVES["tanh"], units=1)
        >>> propagated_error([tanh], [torch.tensor([[1.0], [0.0]])], [torch.ones(1)])  # (1 - tanh 1) / 2
        tensor(0.1192, dtype=torch.float64)
    """
    layers = zip(approximations, preactivations, weights, strict=True)
    return sum((w.double() * a.errors(z)).sum() for a, z, w in layers)  # type: ignore[return-value]


def approximate_by_tangents(
    curves: Sequence[Curve],
    preactivations: Sequence[Tensor],
    weights: Sequence[Tensor],
    degree: float,
    *,
    batch: float = 0.5,
) -> list[TangentApproximation]:
    """Add tangents where they help most until the propagated error is at most ``degree``.

    A round takes, over all units of all layers, every tangent whose weighted gain is at least ``batch`` times the
    largest one, in descending order and no more than needed. At most one is added between two neighbours a round, so
    that the gains of a round add up exactly. ``batch=1`` adds one after another, the plain greedy choice; the default
    finds nearly the same number of pieces in far fewer rounds.

    Args:
        curves: The activation function of each layer.
        preactivations: Of each layer, shape ``(n, units)``.
        weights: What an error of each unit costs, shape ``(units,)`` for each layer.
        degree: Largest propagated error, see :func:`propagated_error`.
        batch: Above 0, at most 1.

    Returns:
        One approximation for each layer, the coarsest one where that is enough.

    References:
        After Hu et al., "Measuring model complexity of neural networks with curve activation functions", KDD 2020.

    Example:
        >>> z = torch.linspace(-3, 3, 100)[:, None]
        >>> [tanh] = approximate_by_tangents([CURVES["tanh"]], [z], [torch.ones(1)], degree=0.03)
        >>> tanh.pieces, tanh.errors(z) <= 0.03
        (tensor([5]), tensor([True]))
    """
    if not degree > 0:
        raise ValueError(f"degree must be above 0, got {degree!r}.")
    if not 0 < batch <= 1:
        raise ValueError(f"batch must be above 0 and at most 1, got {batch!r}.")
    layers = [
        TangentApproximation.coarsest(curve, z.shape[1], device=z.device)
        for curve, z in zip(curves, preactivations, strict=True)
    ]
    refinements = [_weighted_refinements(*layer) for layer in zip(layers, preactivations, weights, strict=True)]
    while (error := propagated_error(layers, preactivations, weights)) > degree:
        gains = torch.cat([gain.flatten() for _, gain in refinements])
        chosen = _most_useful(gains, float(error) - degree, batch).split([g.numel() for _, g in refinements])
        if not torch.cat(chosen).any():
            break
        for i, (mask, (points, gain)) in enumerate(zip(chosen, list(refinements), strict=True)):
            if mask.any():
                layers[i] = layers[i].refined(torch.where(mask.view_as(gain), points, torch.inf))
                refinements[i] = _weighted_refinements(layers[i], preactivations[i], weights[i])
    return layers


def _weighted_refinements(approximation: TangentApproximation, z: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    points, gains = approximation.refinements(z)
    return points, gains * weights.double()[:, None]


def _most_useful(gains: Tensor, excess: float, batch: float) -> Tensor:
    """Mask of the largest gains: none below ``batch`` times the largest, and no more than ``excess`` asks for."""
    order = gains.argsort(descending=True, stable=True)
    ordered = gains[order]
    wanted = (ordered > 0) & (ordered >= batch * ordered[0]) & (ordered.cumsum(0) - ordered < excess)
    if batch == 1:
        wanted[1:] = False
    return torch.zeros_like(wanted).scatter(0, order, wanted)


def mean_absolute_jacobians(outputs: Tensor, activations: Sequence[Tensor]) -> list[Tensor]:
    r"""Mean over samples and outputs of :math:`|\partial f_o / \partial h|` for every entry of the activations.

    To first order, an error :math:`e` of an activation changes the outputs by that much times :math:`e`, in the mean.
    It is defined for any network. For one hidden layer it is the mean of the absolute weights of the output layer; for
    several, the paper multiplies the layers' mean absolute Jacobians, which cannot cancel, and is as large or larger
    up to correlations between layers.

    Args:
        outputs: Shape ``(n, c)``, or ``(n, ...)`` with all but the first dimension being outputs; each sample's from
            its own activations alone.
        activations: Tensors of shape ``(n, ...)`` that the outputs were computed from.

    Returns:
        For each activation, shape ``(units,)``, its dimensions but the first flattened; 0 where an output does
        not depend on it.

    Example:
        >>> h = torch.ones(5, 2, requires_grad=True)
        >>> mean_absolute_jacobians(h @ torch.tensor([[1.0, 1.0], [-2.0, 4.0]]), [h])
        [tensor([1., 3.])]
    """
    with torch.enable_grad():
        sums = outputs.reshape(len(outputs), -1).sum(0).unbind()
    totals = [torch.zeros_like(h[0]).flatten().detach() for h in activations]
    for output in sums:
        if not (output.requires_grad and activations):
            break
        gradients = torch.autograd.grad(output, list(activations), retain_graph=True, materialize_grads=True)
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient.flatten(1).abs().mean(0)
    return [total / len(sums) for total in totals]


def lann_complexity(pieces: Sequence[Tensor], dim: int) -> Tensor:
    r"""Logarithm of a bound on the number of linear regions, :math:`d \sum_i \ln \big( \sum_j k_{ij} - m_i + 1 \big)`.

    For one hidden layer and ``d = 1`` it is the logarithm of the number itself, as long as all breakpoints are
    distinct. Its smallest value is not 0: with ``k = 3`` everywhere, which a linear function in the shape of a
    tanh network has, it is ``d`` times the sum of ``ln(2 m + 1)``.

    Args:
        pieces: For each layer the number of linear pieces of its units, shape ``(m,)``.
        dim: Dimension ``d`` of the network's inputs. Values of different ``d`` are not comparable.

    Returns:
        0-d, double precision.

    References:
        After Hu et al., KDD 2020.

    Example:
        >>> lann_complexity([torch.tensor([3, 4])], dim=1).exp()  # 2 + 3 breakpoints
        tensor(6., dtype=torch.float64)
    """
    regions = [(k - 1).sum().double() + 1 for k in pieces]
    return dim * torch.stack(regions).log().sum()


def customized_l1(weight: Tensor, coefficients: Tensor) -> Tensor:
    r"""Sum over units of the absolute weights that lead to them, each times the unit's own coefficient.

    .. math:: \sum_j a_j \|V_j\|_1

    Args:
        weight: Shape ``(units, ...)``.
        coefficients: Shape ``(units,)``.

    Returns:
        0-d.

    References:
        After Hu et al., KDD 2020.

    Example:
        >>> customized_l1(torch.tensor([[1.0, -2.0], [4.0, 0.0]]), torch.tensor([1.0, 0.5]))  # 3 + 4 / 2
        tensor(5.)
    """
    return (coefficients.to(weight.dtype) * weight.flatten(1).abs().sum(1)).sum()
