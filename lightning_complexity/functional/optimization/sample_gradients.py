"""The gradient of each sample's loss for one parameter, kept in factors: norms and inner products without the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["OneByOne", "Outer", "Part", "Scattered", "Summed", "inner_products", "squared_norms"]

_ENTRIES_AT_ONCE = 2**22


class Outer(NamedTuple):
    r"""Sums of outer products, :math:`\sum_t u_{it} v_{it}^T` for sample ``i``, as linear layers and convolutions have.

    Attributes:
        left: Shape ``(n, groups, positions, rows)``.
        right: Shape ``(n, groups, positions, columns)``. Groups are parts of the parameter that do not overlap.
    """

    left: Tensor
    right: Tensor


class Scattered(NamedTuple):
    """Vectors that are added to chosen rows, as embeddings have.

    Attributes:
        rows: Which rows, shape ``(n, positions)``.
        values: The vectors, shape ``(n, positions, columns)``.
    """

    rows: Tensor
    values: Tensor


class Summed(NamedTuple):
    """The gradients themselves, as biases and the scales of normalizations have.

    Attributes:
        gradients: Shape ``(n, ...)``.
    """

    gradients: Tensor


class OneByOne(NamedTuple):
    """Gradients that are cheaper to compute for each sample in turn than to keep in factors.

    Attributes:
        gradient: That of a sample, by its number.
        samples: How many there are.
    """

    gradient: Callable[[int], Tensor]
    samples: int


Part = Outer | Scattered | Summed | OneByOne


def squared_norms(parts: Sequence[Part]) -> Tensor | None:
    r"""Squared norm of each sample's gradient for a parameter that is used in several places, of the sum of its parts.

    What is cheaper is done by size: for outer products with ``t`` positions either the ``t`` by ``t`` products of the
    factors, or the gradient of a few samples at a time.

    Args:
        parts: Of the same samples and the same parameter.

    Returns:
        Shape ``(n,)``; ``None`` for parts of kinds that are not put together.

    Example:
        >>> left, right = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 0.0, 4.0]]]])
        >>> squared_norms([Outer(left, right)])  # (1 + 4) (9 + 16)
        tensor([125.])
    """
    if not parts:
        raise ValueError("needs at least one part.")
    kinds = {type(part) for part in parts}
    if kinds == {OneByOne}:
        return _of_each([part for part in parts if isinstance(part, OneByOne)])
    if kinds == {Summed}:
        return _of_summed([part.gradients for part in parts if isinstance(part, Summed)])
    outer = _joined_outer([part for part in parts if isinstance(part, Outer)])
    scattered = _joined_scattered([part for part in parts if isinstance(part, Scattered)])
    if kinds == {Outer}:
        return None if outer is None else _of_outer(outer)
    if kinds == {Scattered}:
        return None if scattered is None else _of_scattered(scattered)
    if kinds != {Outer, Scattered} or outer is None or scattered is None or outer.left.shape[1] != 1:
        return None
    return _of_outer(outer) + _of_scattered(scattered) + 2 * _between(outer, scattered)


def _of_each(parts: list[OneByOne]) -> Tensor:
    sums = (sum(part.gradient(i) for part in parts[1:]) + parts[0].gradient(i) for i in range(parts[0].samples))
    return torch.stack([of_sample.square().sum() for of_sample in sums])


def _of_summed(gradients: list[Tensor]) -> Tensor | None:
    if len({g.shape for g in gradients}) > 1:
        return None
    together = gradients[0] if len(gradients) == 1 else torch.stack(gradients).sum(0)
    return torch.linalg.vector_norm(together.reshape(len(together), -1), dim=1).square()


def _joined_outer(parts: list[Outer]) -> Outer | None:
    """All positions of all parts, where the parts have the same shape."""
    if len(parts) < 2:
        return parts[0] if parts else None
    if len({(p.left.shape[1], p.left.shape[3], p.right.shape[3]) for p in parts}) > 1:
        return None
    return Outer(torch.cat([p.left for p in parts], 2), torch.cat([p.right for p in parts], 2))


def _joined_scattered(parts: list[Scattered]) -> Scattered | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return Scattered(torch.cat([p.rows for p in parts], 1), torch.cat([p.values for p in parts], 1))


def _of_outer(part: Outer) -> Tensor:
    positions, rows, columns = part.left.shape[2], part.left.shape[3], part.right.shape[3]
    if positions == 1:
        lengths = (torch.linalg.vector_norm(factor[:, :, 0], dim=-1) for factor in part)
        return torch.stack(list(lengths)).prod(0).square().sum(1)
    by_products = products_are_cheaper(positions, rows, columns)
    size = part.left.shape[1] * (positions**2 if by_products else rows * columns)
    found = []
    for left, right in _few(part, size):
        if by_products:
            found.append(((left @ left.mT) * (right @ right.mT)).sum((1, 2, 3)))
        else:
            found.append((left.mT @ right).square().sum((1, 2, 3)))
    return torch.cat(found)


def products_are_cheaper(positions: int, rows: int, columns: int) -> bool:
    """Whether products of positions with one another take less time than the gradient of each sample.

    Example:
        >>> products_are_cheaper(64, 128, 512), products_are_cheaper(1024, 64, 576)
        (True, False)
    """
    return positions * (rows + columns) <= rows * columns


def _few(part: Outer, size: int) -> zip[tuple[Tensor, Tensor]]:
    """Some samples at a time, each of which takes ``size`` entries."""
    at_once = max(_ENTRIES_AT_ONCE // max(size, 1), 1)
    return zip(part.left.split(at_once), part.right.split(at_once), strict=True)


def _of_scattered(part: Scattered) -> Tensor:
    same = part.rows.unsqueeze(1) == part.rows.unsqueeze(2)
    return ((part.values @ part.values.mT) * same).sum((1, 2))


def _between(outer: Outer, scattered: Scattered) -> Tensor:
    left, right = outer.left[:, 0], outer.right[:, 0]
    index = scattered.rows.unsqueeze(1).expand(-1, left.shape[1], -1)
    return (left.gather(2, index) * (right @ scattered.values.mT)).sum((1, 2))


def inner_products(part: Part, direction: Tensor) -> Tensor:
    """Inner product of each sample's gradient with a tensor of the parameter's shape, shape ``(n,)``.

    Args:
        part: The gradients.
        direction: Of the shape that each has; of outer products any shape with as many rows and columns in all.

    Example:
        >>> inner_products(Summed(torch.tensor([[1.0, 2.0], [3.0, 4.0]])), torch.tensor([1.0, -1.0]))
        tensor([-1., -1.])
    """
    if isinstance(part, OneByOne):
        return torch.stack([(part.gradient(i) * direction).sum() for i in range(part.samples)])
    if isinstance(part, Summed):
        return part.gradients.reshape(len(part.gradients), -1) @ direction.flatten()
    if isinstance(part, Scattered):
        return (direction[part.rows] * part.values).sum((1, 2))
    groups, rows, columns = part.left.shape[1], part.left.shape[3], part.right.shape[3]
    return (part.left @ direction.reshape(groups, rows, columns) * part.right).sum((1, 2, 3))
