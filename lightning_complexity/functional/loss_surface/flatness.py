"""How much the loss rises around the parameters: steps of sharpness-aware minimization, and the worst in a box."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.pac_bayes import pac_bayes_capacity
from lightning_complexity.functional.weights.norms import combine_norms, lp_norm

__all__ = [
    "BoxMaximum",
    "BoxPoint",
    "ToleratedBox",
    "find_tolerated_box",
    "keskar_sharpness",
    "magnitude_aware_sharpness_capacity",
    "maximize_in_box",
    "sam_perturbation",
    "sharpness_capacity",
]


def sam_perturbation(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    rho: float,
    *,
    adaptive: bool = False,
    combine: Callable[[Tensor], Tensor] = combine_norms,
) -> list[Tensor]:
    r"""The step to where the loss is largest, to first order, within a distance :math:`\rho` of the parameters.

    .. math:: e = \rho \frac{g}{\|g\|_2}, \quad \text{adaptive: } e = \rho \frac{w^2 g}{\| |w| g \|_2}

    The adaptive distance is that of :math:`e / |w|`, so that the step is the same function's when layers of a ReLU
    network are rescaled. Unchanged when the gradient is multiplied by a positive factor. Zero where the gradient is
    zero. Differentiable.

    Args:
        parameters: Tensors :math:`w` of any shapes.
        gradients: One of the shape of each parameter.
        rho: The distance.
        adaptive: Whether the distance is relative to the parameters.
        combine: The norm of all from one norm for each parameter, shape ``(parameters,)``; where the tensors are parts
            of parameters that are spread over processes, that of all parts.

    Returns:
        One tensor for each parameter.

    References:
        Foret et al., "Sharpness-aware minimization", ICLR 2021; Kwon et al., "ASAM", ICML 2021.

    Example:
        >>> sam_perturbation([torch.ones(2)], [torch.tensor([3.0, 4.0])], rho=0.5)
        [tensor([0.3000, 0.4000])]
    """
    pairs = [(_single(p), _single(g)) for p, g in zip(parameters, gradients, strict=True)]
    scaled = [p.abs() * g for p, g in pairs] if adaptive else [g for _, g in pairs]
    norms = [lp_norm(s) for s in scaled]
    norm = combine(torch.stack([n.to(norms[0]) for n in norms]))
    # Where the gradient is zero, so is the step.
    norm = torch.where(norm == 0, torch.ones_like(norm), norm)
    units = [s / norm.to(s) for s in scaled]
    steps = [rho * (p.abs() * u if adaptive else u) for (p, _), u in zip(pairs, units, strict=True)]
    return [step.to(g.dtype) for step, g in zip(steps, gradients, strict=True)]


def _single(tensor: Tensor) -> Tensor:
    """In at least single precision: squares in half precision vanish below 2e-4 and overflow above 256."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class BoxMaximum(NamedTuple):
    """The largest value that was found in a box.

    Attributes:
        value: The value, 0-d.
        at: Where it is, relative to the centre of the box; shape of the radius.
        num_steps: How many steps were taken from the start that led there.
        converged: Whether no step to any point of the box raises the value further, to first order, by more than
            ``tolerance`` times the rise.
    """

    value: Tensor
    at: Tensor
    num_steps: int
    converged: bool


def maximize_in_box(
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    radius: Tensor,
    *,
    starts: Iterable[Tensor] = (),
    max_steps: int = 20,
    tolerance: float = 1e-3,
) -> BoxMaximum:
    r"""Largest value of a function in :math:`\{v : |v_i| \le r_i\}`, by projected ascent from each start.

    A step is :math:`v \leftarrow \Pi(v + \eta\, r \operatorname{sign} \nabla f)`, steepest in the maximum norm relative
    to the box, from :math:`\eta = 1` on halved until the value rises. Of a linear function the first step
    ends at the maximum, a corner; of a convex one the values rise from corner to corner. What is found is
    a local maximum and so at most the largest value.

    Args:
        function: Value and gradient at a vector.
        radius: Half the widths of the box, not negative, shape ``(d,)``.
        starts: Points, in units of the radius, shape ``(d,)`` between -1 and 1; the best end counts. By default the
            centre.
        max_steps: From each start, those included that are halved.
        tolerance: See :attr:`BoxMaximum.converged`.

    Returns:
        The best end. If a value or gradient is not finite, where that was.

    References:
        Madry et al., ICLR 2018, for the projected steps in the maximum norm.

    Example:
        >>> slope = torch.tensor([1.0, -2.0])
        >>> found = maximize_in_box(lambda v: (slope @ v, slope), radius=torch.tensor([0.5, 0.1]))
        >>> found.value, found.at, found.converged
        (tensor(0.7000), tensor([ 0.5000, -0.1000]), True)
    """
    best: BoxMaximum | None = None
    for start in list(starts) or [torch.zeros_like(radius)]:
        found = _ascent(function, radius, start, max_steps, tolerance)
        if not found.value.isfinite():
            return found
        if best is None or found.value > best.value:
            best = found
    assert best is not None
    return best


def _ascent(
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    radius: Tensor,
    at: Tensor,
    max_steps: int,
    tolerance: float,
) -> BoxMaximum:
    value, gradient = function(at * radius)
    first, eta, num_steps = value, 1.0, 0

    def gap() -> Tensor:
        """What the best point of the box would add to the value, to first order."""
        return ((gradient.sign() - at) * gradient * radius).sum()

    def is_done() -> bool:
        rise = torch.maximum(value - first, value.abs() * torch.finfo(value.dtype).eps)
        return bool(gap() <= tolerance * rise)

    while num_steps < max_steps and value.isfinite() and not is_done():
        num_steps += 1
        moved = (at + eta * gradient.sign()).clamp(-1, 1)
        new_value, new_gradient = function(moved * radius)
        if new_value <= value:
            eta /= 2
        else:
            at, value, gradient = moved, new_value, new_gradient
    return BoxMaximum(value, at * radius, num_steps, bool(value.isfinite()) and is_done())


def keskar_sharpness(loss: Tensor, worst: Tensor) -> Tensor:
    r"""Rise of the loss within a box around the parameters, in per cent of one plus the loss.

    .. math:: 100\, \frac{\max_v L(w + v) - L(w)}{1 + L(w)}

    Args:
        loss: :math:`L(w)`, any shape.
        worst: The largest loss in the box.

    Returns:
        The same shape; ``nan`` where one plus the loss is not positive, so that there is nothing to take a share of.

    References:
        Keskar et al., "On large-batch training for deep learning", ICLR 2017.

    Example:
        >>> keskar_sharpness(torch.tensor(1.0), torch.tensor(1.5))
        tensor(25.)
    """
    return torch.where(loss > -1, 100 * (worst - loss) / (1 + loss), torch.nan)


# The largest box that is borne --------------------------------------------------------------------------


class BoxPoint(NamedTuple):
    """The worst point that was found in a box.

    Attributes:
        scale: Of the smallest box that the point is in.
        rise: Of the loss there; ``inf`` where the loss is not finite, ``nan`` if nothing is known.
    """

    scale: float
    rise: float


class ToleratedBox(NamedTuple):
    """What a search for the largest tolerated box ended with.

    Attributes:
        scale: Of the largest box; ``nan`` if the search did not end.
        rise: The largest that was found in it.
        converged: Whether a point beyond the tolerance was found in a box that is larger by no more than the precision.
    """

    scale: float
    rise: float
    converged: bool


def find_tolerated_box(
    worst: Callable[[float], BoxPoint],
    tolerance: float,
    *,
    precision: float = 0.02,
    start: float = 1.0,
    lowest: float = 2.0**-24,
    highest: float = 2.0**10,
) -> ToleratedBox:
    """The largest box in which no point was found whose rise is beyond a tolerance.

    Larger boxes have all points of smaller ones: a point beyond the tolerance rules out every box that it is in, also
    those that were searched before without finding it, so that no larger box than one that was ruled out is reported.
    From the start the scale is quadrupled until a point beyond the tolerance is found. The next box is smaller than
    the smallest that such a point is in by the precision, then by twice, four times as much, until one is within
    the tolerance; then the bracket is halved geometrically.

    Args:
        worst: Of a scale, the worst point that a search in that box finds.
        tolerance: The largest rise that is within it.
        precision: Relative width of the bracket that is narrow enough.
        start: First scale.
        lowest: Below this scale there is no search.
        highest: Nor above this one.

    Returns:
        The box. Its scale is at most what the searches missed too large.

    Example:
        >>> found = find_tolerated_box(lambda scale: BoxPoint(scale, scale**2), tolerance=4.0, precision=1e-6)
        >>> round(found.scale, 5), found.converged
        (2.0, True)
    """
    points: list[BoxPoint] = []
    searched: list[float] = []
    at, step = start, precision
    while lowest <= at <= highest:
        point = worst(at)
        if math.isnan(point.rise):
            break
        points.append(point)
        searched.append(at)
        high = min((p.scale for p in points if p.rise > tolerance), default=math.inf)
        low = max((scale for scale in searched if scale < high), default=0.0)
        if high <= low * (1 + precision) * (1 + 1e-9):
            return ToleratedBox(low, max(p.rise for p in points if p.scale <= low), True)
        if math.isinf(high):
            at *= 4
        elif low > 0:
            at = math.sqrt(low * high)
        else:
            at, step = high / (1 + step), 2 * step
    return ToleratedBox(math.nan, math.nan, False)


def sharpness_capacity(
    squared_norm: Tensor,
    alpha: Tensor,
    num_parameters: int,
    num_samples: int,
    *,
    delta: float = 1.0,
    factor: float = 4.0,
) -> Tensor:
    r"""Capacity of weights with a box around them that the network bears.

    .. math:: \frac{\|w\|_2^2}{c \alpha^2} \ln \frac{2 \omega}{\delta} + \ln \frac{m}{\sigma} + 10, \quad
        \sigma = \frac{\alpha \sqrt c}{2 \sqrt{\ln (2 \omega / \delta)}}

    This is :func:`pac_bayes_capacity` for the noise of the scale :math:`\sigma`. The source leaves :math:`\sigma` open
    in this equation, and programs after it differ in the constants, which are therefore arguments.

    Args:
        squared_norm: :math:`\|w\|_2^2`, of the weights or of their distance from initialization, any shape.
        alpha: Half the width of the box.
        num_parameters: Number :math:`\omega` of weights.
        num_samples: Number ``m`` of training samples.
        delta: Probability with which noise may leave the box; 1 leaves it out.
        factor: The constant :math:`c`.

    Returns:
        The same shape.

    References:
        After Jiang et al., "Fantastic generalization measures", ICLR 2020, equations 50 and 51.

    Example:
        >>> sharpness_capacity(torch.tensor(4.0), torch.tensor(1.0), 1, 1)  # ln 2 + ln(ln 2) / 2 + 10
        tensor(10.5099)
    """
    logarithm = math.log(2 * num_parameters / delta)
    sigma = alpha * math.sqrt(factor / logarithm) / 2
    return pac_bayes_capacity(squared_norm, sigma, num_samples)


def magnitude_aware_sharpness_capacity(
    squared_norm: Tensor,
    distances: Tensor,
    alpha: Tensor,
    num_samples: int,
    *,
    delta: float = 1.0,
    epsilon: float = 1e-3,
    factor: float = 4.0,
) -> Tensor:
    r"""Capacity of weights with a box in proportion to their magnitude that the network bears.

    .. math:: \frac14 \sum_{k=1}^{\omega} \ln \frac{\epsilon^2 + (\alpha^2 + c \ln (2 \omega / \delta)) \|w\|_2^2 /
        \omega}{\epsilon^2 + \alpha^2 (w_k - w^0_k)^2} + \ln \frac{m}{\delta} + 10

    Args:
        squared_norm: :math:`\|w\|_2^2`, of the weights or of their distance from initialization, 0-d.
        distances: :math:`w_k - w^0_k`, shape ``(omega,)``.
        alpha: Half the width of the box, relative to the weights, 0-d.
        num_samples: Number ``m`` of training samples.
        delta: As in :func:`sharpness_capacity`.
        epsilon: Keeps the quotient finite for weights that did not move.
        factor: The constant :math:`c`.

    Returns:
        0-d.

    References:
        After Jiang et al., "Fantastic generalization measures", ICLR 2020, equations 58 and 59.

    Example:
        >>> one = torch.tensor(1.0)
        >>> magnitude_aware_sharpness_capacity(one, torch.ones(1), one, 1, epsilon=0.0)  # ln(1 + 4 ln 2) / 4 + 10
        tensor(10.3319)
    """
    count = distances.numel()
    spread = alpha.square() + factor * math.log(2 * count / delta)
    above = epsilon**2 + spread * squared_norm / count
    below = epsilon**2 + alpha.square() * distances.square()
    return (above / below).log().sum() / 4 + math.log(num_samples / delta) + 10
