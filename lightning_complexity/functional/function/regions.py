"""Activation codes and what is counted of them, distances to kinks, trajectories and their length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "activation_codes",
    "cut_depths",
    "cut_units",
    "dead_units",
    "ellipse_through",
    "linear_units",
    "pattern_entropy",
    "piece_counts",
    "region_boundary_distances",
    "shifted_images",
    "trajectory_length",
    "transitions",
    "unit_entropy",
]


# Activation codes ---------------------------------------------------------------------------------


def activation_codes(preactivations: Tensor, kinks: Sequence[float] = (0.0,)) -> Tensor:
    """Which linear piece of its activation function each unit is on.

    Args:
        preactivations: Any shape.
        kinks: Inputs at which the slope jumps, ascending: ``(0,)`` for a rectifier, ``(0, 6)`` for ReLU6.

    Returns:
        The same shape, integers from 0 to ``len(kinks)``; on a kink, the piece to its left. ``nan`` counts as large.

    References:
        Novak et al., "Sensitivity and generalization in neural networks", ICLR 2018.

    Example:
        >>> activation_codes(torch.tensor([-1.0, 0.0, 3.0, 7.0]), (0.0, 6.0))
        tensor([0, 0, 1, 2])
        >>> activation_codes(torch.tensor([-1.0, 0.0, 3.0, torch.nan]))
        tensor([0, 0, 1, 1])
    """
    boundaries = torch.tensor(kinks, dtype=preactivations.dtype, device=preactivations.device)
    if len(kinks) == 1:  # the same, in half the time
        return (preactivations <= boundaries[0]).logical_not().long()
    return torch.bucketize(preactivations.contiguous(), boundaries)


def transitions(codes: Tensor, *, closed: bool = True) -> Tensor:
    """How many units change their code along a trajectory, summed over its steps (Hamming distance).

    A lower bound of the number of kinks that the trajectory crosses, which it reaches as the points get denser.

    Args:
        codes: Codes at the points of the trajectory in order, shape ``(points, ...)``.
        closed: Whether the last point is followed by the first.

    Returns:
        0-d integer. One point has none.

    References:
        Novak et al., "Sensitivity and generalization in neural networks", ICLR 2018.

    Example:
        >>> transitions(torch.tensor([[0, 0], [0, 2], [1, 2]])), transitions(torch.tensor([[0], [1]]), closed=False)
        (tensor(4), tensor(1))
    """
    following = codes.roll(-1, 0) if closed else codes[1:]
    return (codes[: len(following)] != following).sum()


def pattern_entropy(codes: Tensor) -> Tensor:
    r"""Entropy :math:`-\sum_p \hat p \ln \hat p` of the activation patterns that occur among samples, in nats.

    At most ``ln n`` for ``n`` samples, and there if no two samples share a pattern: on wide layers it says so and
    no more. See :func:`unit_entropy` for a measure that does not saturate.

    Args:
        codes: Shape ``(n, ...)``.

    Returns:
        0-d.

    Example:
        >>> pattern_entropy(torch.tensor([[0, 1], [0, 1], [1, 1], [1, 1]]))  # ln 2
        tensor(0.6931, dtype=torch.float64)
    """
    occurrences = codes.flatten(1).unique(dim=0, return_counts=True)[1].double()
    shares = occurrences / occurrences.sum()
    return torch.special.entr(shares).sum()


def piece_counts(codes: Tensor, num_pieces: int) -> Tensor:
    """How often each unit is on each of its pieces.

    Args:
        codes: Shape ``(n, units)``.
        num_pieces: One more than the number of kinks.

    Returns:
        Double, shape ``(units, num_pieces)``; counts of several batches add up.

    Example:
        >>> piece_counts(torch.tensor([[0, 1], [0, 0], [0, 1]]), 2)
        tensor([[3., 0.],
                [1., 2.]], dtype=torch.float64)
    """
    if num_pieces == 2:  # the same, in a tenth of the time
        on_second = codes.sum(0)
        return torch.stack([len(codes) - on_second, on_second], 1).double()
    return torch.stack([(codes == piece).sum(0) for piece in range(num_pieces)], 1).double()


def unit_entropy(counts: Tensor) -> Tensor:
    """Entropy, in nats, of which piece a unit is on: 0 for one that never switches, ``ln 2`` for a fair coin.

    Args:
        counts: Shape ``(units, pieces)``, see :func:`piece_counts`.

    Returns:
        Shape ``(units,)``.

    Example:
        >>> unit_entropy(torch.tensor([[4.0, 0.0], [2.0, 2.0]]))
        tensor([0.0000, 0.6931])
    """
    return torch.special.entr(counts / counts.sum(1, keepdim=True)).sum(1)


def dead_units(counts: Tensor, flat: Sequence[int] = (0,)) -> Tensor:
    """Which units pass no gradient on for any sample: those that are always on a flat piece.

    Args:
        counts: Shape ``(units, pieces)``, see :func:`piece_counts`.
        flat: Pieces whose slope is zero.

    Returns:
        Boolean, shape ``(units,)``.

    Example:
        >>> dead_units(torch.tensor([[4.0, 0.0], [3.0, 1.0]]))
        tensor([ True, False])
    """
    steep = [piece for piece in range(counts.shape[1]) if piece not in flat]
    return counts[:, steep].sum(1) == 0


def linear_units(counts: Tensor, flat: Sequence[int] = (0,)) -> Tensor:
    """Which units are linear on all samples: always on the same piece, and that is not flat.

    Args:
        counts: Shape ``(units, pieces)``, see :func:`piece_counts`.
        flat: Pieces whose slope is zero.

    Returns:
        Boolean, shape ``(units,)``.

    Example:
        >>> linear_units(torch.tensor([[4.0, 0.0], [3.0, 1.0], [0.0, 4.0]]))
        tensor([False, False,  True])
    """
    return ((counts > 0).sum(1) == 1) & ~dead_units(counts, flat)


def cut_units(preactivations: Tensor, kinks: Sequence[float] = (0.0,)) -> Tensor:
    """How many units do not have the same code at all vertices of a neighbourhood.

    Args:
        preactivations: Shape ``(n, vertices, units)``.
        kinks: Inputs at which the slope jumps.

    Returns:
        Integers of shape ``(n,)``.

    References:
        Humayun, Balestriero and Baraniuk, "Deep networks always grok and here is why", ICML 2024.

    Example:
        >>> cut_units(torch.tensor([[[-1.0, 1.0, 1.0], [-2.0, 2.0, -1.0]]]))
        tensor([1])
    """
    # Codes grow with the preactivation, so that the extremes tell.
    low, high = preactivations.amin(1), preactivations.amax(1)
    return (activation_codes(low, kinks) != activation_codes(high, kinks)).sum(1)


def cut_depths(preactivations: Tensor, kinks: Sequence[float] = (0.0,)) -> Tensor:
    r"""How deeply kinks cut a neighbourhood, summed over units: a smooth form of :func:`cut_units`.

    .. math:: \sum_j 2 \min(\max_v z_{jv} - b, \; b - \min_v z_{jv})_+ / (\max_v z_{jv} - \min_v z_{jv})

    A kink that halves the range of the unit counts 1, one outside of it 0. Scaling a unit
    with its kinks changes nothing.

    Args:
        preactivations: Shape ``(n, vertices, units)``.
        kinks: Inputs at which the slope jumps.

    Returns:
        Shape ``(n,)``. A unit that is constant on the neighbourhood counts 0, with gradient 0.

    Example:
        >>> cut_depths(torch.tensor([[[-1.0, 1.0], [3.0, 2.0]]]))  # 2 * 1 / 4, and a unit that is not cut
        tensor([0.5000])
    """
    low, high = preactivations.amin(1), preactivations.amax(1)
    extent = torch.where(high > low, high - low, torch.ones_like(low))
    depths = [2 * torch.minimum(high - kink, kink - low).relu() / extent for kink in kinks]
    return torch.stack(depths).sum((0, 2))


def region_boundary_distances(
    preactivations: Tensor, kinks: Sequence[float], inputs: Tensor, *, create_graph: bool = False
) -> Tensor:
    r"""Distance :math:`\min_j |z_j - b_j| / \lVert \nabla_x z_j \rVert` from each sample to the nearest kink.

    Exact where no kink of an earlier layer is nearer, so that the smallest one over all layers is exact for a
    piecewise linear network. One backward pass a unit.

    Args:
        preactivations: Shape ``(n, ...)``, computed from ``inputs``, each sample from its own input alone.
        kinks: At least one.
        inputs: Shape ``(n, ...)``, requires grad.
        create_graph: Whether the result is to be differentiated.

    Returns:
        Shape ``(n,)``; infinite where no unit depends on the input.

    References:
        Hanin and Rolnick, "Complexity of linear regions in deep networks", ICML 2019.

    Example:
        >>> x = torch.tensor([[1.0, 0.0]], requires_grad=True)
        >>> region_boundary_distances(x @ torch.tensor([[3.0], [4.0]]) + 2, (0.0,), x).item()  # 5 / 5
        1.0
    """
    units = preactivations.flatten(1)
    nearest = units.new_full((len(units),), torch.inf)
    for unit in units.unbind(1):
        (gradient,) = torch.autograd.grad(
            unit.sum(), inputs, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )
        slope = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        gap = torch.stack([(unit - kink).abs() for kink in kinks]).amin(0)
        moves = slope != 0
        distance = gap / torch.where(moves, slope, torch.ones_like(slope))
        nearest = torch.minimum(nearest, torch.where(moves, distance, torch.full_like(distance, torch.inf)))
    return nearest


# Trajectories -------------------------------------------------------------------------------------


def trajectory_length(points: Tensor, *, closed: bool = True) -> Tensor:
    r"""Length :math:`\sum_i \lVert z_{i+1} - z_i \rVert` of a trajectory through points.

    Args:
        points: Shape ``(points, ...)``, in order.
        closed: Whether the last point is followed by the first.

    Returns:
        0-d.

    References:
        Raghu et al., "On the expressive power of deep neural networks", ICML 2017.

    Example:
        >>> trajectory_length(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor(10.)
    """
    flat = points.flatten(1)
    following = flat.roll(-1, 0) if closed else flat[1:]
    return torch.linalg.vector_norm(following - flat[: len(following)], dim=1).sum()


def ellipse_through(corners: Tensor, num_points: int) -> Tensor:
    r"""Points of the ellipse of least area through three points, equally spaced in its angle.

    .. math:: c + \cos t \, (p_0 - c) + \sin t \, (p_1 - p_2) / \sqrt 3, \quad c = (p_0 + p_1 + p_2) / 3

    It meets :math:`p_0, p_1, p_2` at a third of the way each; for three points on a line it is a segment there and
    back.

    Args:
        corners: Shape ``(3, ...)``.
        num_points: How many, at least 1; all three corners are among them if it is a multiple of 3.

    Returns:
        Shape ``(num_points, ...)``.

    Example:
        >>> ellipse_through(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), 3).abs().round(decimals=5)
        tensor([[1., 0.],
                [0., 1.],
                [0., 0.]])
    """
    angles = torch.arange(num_points, dtype=corners.dtype, device=corners.device) * (2 * math.pi / num_points)
    angles = angles.reshape(-1, *[1] * (corners.ndim - 1))
    center = corners[0] + (corners - corners[0]).mean(0)  # exact where the corners coincide
    across = (corners[1] - corners[2]) / math.sqrt(3)
    return center + angles.cos() * (corners[0] - center) + angles.sin() * across


def shifted_images(image: Tensor, num_points: int) -> Tensor:
    """Points of the closed trajectory of an image that is shifted sideways, what leaves coming in again.

    Between two shifts by whole pixels the images are interpolated linearly.

    Args:
        image: Shape ``(..., width)``.
        num_points: How many; all whole shifts are among them if it is a multiple of the width.

    Returns:
        Shape ``(num_points, ..., width)``.

    References:
        Novak et al., "Sensitivity and generalization in neural networks", ICLR 2018.

    Example:
        >>> shifted_images(torch.tensor([1.0, 0.0]), 4)
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000],
                [0.0000, 1.0000],
                [0.5000, 0.5000]])
    """
    width = image.shape[-1]
    whole = torch.stack([image.roll(shift, -1) for shift in range(width + 1)])
    shifts = torch.arange(num_points, dtype=image.dtype, device=image.device) * (width / num_points)
    below = shifts.long().clamp(max=width - 1)
    share = (shifts - below).reshape(-1, *[1] * image.ndim)
    return torch.lerp(whole[below], whole[below + 1], share)
