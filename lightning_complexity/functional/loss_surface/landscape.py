"""Networks as points of a loss landscape: units put in another's order, and losses on the way between two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

__all__ = ["UnitAxis", "filter_normalized", "loss_barrier", "match_units", "permute_units"]

_SWEEPS = 100  # at most; a handful is enough


class UnitAxis(NamedTuple):
    """A dimension of a tensor that goes through the units of a layer.

    Attributes:
        name: Of the tensor.
        dim: The dimension.
        repeat: How many entries in a row belong to one unit, as behind the flattening of an image.
        counts: Whether units are compared by it.
    """

    name: str
    dim: int
    repeat: int = 1
    counts: bool = True


def permute_units(
    state: Mapping[str, Tensor], axes: Sequence[UnitAxis], permutation: Sequence[int]
) -> dict[str, Tensor]:
    """Put the units of a layer in another order, wherever they occur.

    Args:
        state: Tensors by name.
        axes: All dimensions that go through these units.
        permutation: Entry ``i`` is the old place of the unit that comes to place ``i``.

    Returns:
        All tensors, those of the layer in the new order.

    Example:
        >>> state = {"weight": torch.tensor([[1.0], [2.0]]), "next": torch.tensor([[3.0, 4.0]])}
        >>> permute_units(state, [UnitAxis("weight", 0), UnitAxis("next", 1)], [1, 0])["next"]
        tensor([[4., 3.]])
    """
    order = torch.as_tensor(permutation)
    permuted = dict(state)
    for axis in axes:
        within = torch.arange(axis.repeat)
        entries = (order[:, None] * axis.repeat + within).flatten().to(permuted[axis.name].device)
        permuted[axis.name] = permuted[axis.name].index_select(axis.dim, entries)
    return permuted


def match_units(
    reference: Mapping[str, Tensor], state: Mapping[str, Tensor], layers: Sequence[Sequence[UnitAxis]]
) -> dict[str, Tensor]:
    r"""Put the units of a network in the order in which its weights are nearest to those of another.

    .. math:: \max_{P_1, \dots} \sum_l \langle W_l^A,\, P_l W_l^B P_{l-1}^T \rangle

    over permutations, one layer after another with all others held, by an assignment problem each, until none gets
    better. That is a local optimum, which for a permuted copy of the reference mostly is the reference.

    Args:
        reference: Parameters and buffers by name.
        state: Those of the other network.
        layers: For each set of units that can be permuted, all dimensions that go through them.

    Returns:
        The other network's, in the new order: the same function.

    References:
        Ainsworth, Hayase and Srinivasa, "Git Re-Basin", ICLR 2023.

    Example:
        >>> one = {"weight": torch.tensor([[1.0], [-1.0]])}
        >>> other = {"weight": torch.tensor([[-1.1], [0.9]])}
        >>> match_units(one, other, [[UnitAxis("weight", 0)]])["weight"].flatten()
        tensor([ 0.9000, -1.1000])
    """
    matched = dict(state)
    for _ in range(_SWEEPS):
        improved = False
        for axes in layers:
            likeness = torch.stack([_likeness(reference, matched, axis) for axis in axes if axis.counts]).sum(0)
            if not likeness.isfinite().all():
                return matched
            _, permutation = linear_sum_assignment(likeness.numpy(), maximize=True)
            gain = likeness[range(len(likeness)), permutation].sum() - likeness.trace()
            if gain > 1e-12 * likeness.abs().sum():
                matched, improved = permute_units(matched, axes, permutation.tolist()), True
        if not improved:
            break
    return matched


def _likeness(reference: Mapping[str, Tensor], state: Mapping[str, Tensor], axis: UnitAxis) -> Tensor:
    """Inner products of the weights of all pairs of units, on the CPU in double precision."""
    rows = [
        tensors[axis.name].detach().movedim(axis.dim, 0).double().cpu().reshape(-1, axis.repeat, *_rest(tensors, axis))
        for tensors in (reference, state)
    ]
    one, other = (r.flatten(1) for r in rows)
    return one @ other.T


def _rest(tensors: Mapping[str, Tensor], axis: UnitAxis) -> list[int]:
    shape = list(tensors[axis.name].shape)
    del shape[axis.dim]
    return shape


def filter_normalized(direction: Tensor, weight: Tensor) -> Tensor:
    r"""Give each filter of a direction the norm that this filter has in the weight.

    .. math:: d_i \mapsto \frac{d_i}{\|d_i\|} \|w_i\|

    A filter is a slice along the first dimension: the weights into one unit. Zero where the weight's filter is zero.

    Args:
        direction: The shape of the weight.
        weight: At least two dimensions.

    References:
        Li et al., "Visualizing the loss landscape of neural nets", NeurIPS 2018.

    Example:
        >>> filter_normalized(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 10.0], [0.0, 0.0]]))
        tensor([[6., 8.],
                [0., 0.]])
    """
    rows, filters = direction.flatten(1), weight.flatten(1)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    wanted = torch.linalg.vector_norm(filters, dim=1, keepdim=True)
    return (rows * torch.where(norms > 0, wanted / norms, 0)).view_as(direction)


def loss_barrier(losses: Tensor, positions: Tensor) -> Tensor:
    r"""Height of the loss over the chord between two ends.

    .. math:: \max_\alpha \big( L(\alpha) - (1 - \alpha) L(0) - \alpha L(1) \big)

    Args:
        losses: Along the way, both ends included, shape ``(k,)``.
        positions: :math:`\alpha`, ascending from 0 to 1.

    Returns:
        0-d, not negative; ``nan`` if a loss is.

    References:
        Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", ICML 2020.

    Example:
        >>> loss_barrier(torch.tensor([1.0, 4.0, 3.0]), torch.tensor([0.0, 0.5, 1.0]))
        tensor(2.)
    """
    chord = torch.lerp(losses[0], losses[-1], positions.to(losses))
    return (losses - chord)[1:-1].amax().clamp(min=0) if len(losses) > 2 else losses.new_zeros(())
