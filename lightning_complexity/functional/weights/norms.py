"""Norms of parameters and of their distance from where they started."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_complexity.functional.numerics.scaling import vector_norm

__all__ = ["combine_norms", "distance", "lp_norm", "mixed_norm"]


def lp_norm(tensor: Tensor, p: float = 2) -> Tensor:
    r"""Entrywise norm :math:`\big(\sum_k |w_k|^p\big)^{1/p}`.

    Args:
        tensor: Any shape.
        p: At least 1; ``inf`` gives the largest absolute value.

    Returns:
        0-d; 0 for an empty tensor. The gradient at the zero tensor is 0.

    Example:
        >>> lp_norm(torch.tensor([3.0, -4.0]))
        tensor(5.)
        >>> lp_norm(torch.tensor([3.0, -4.0]), p=1)
        tensor(7.)
    """
    if tensor.numel() == 0:
        return tensor.sum()
    if p == 1:
        return tensor.abs().sum()  # several times as fast
    return vector_norm(tensor, p)


def combine_norms(norms: Tensor, p: float = 2) -> Tensor:
    r"""Norm of a vector from the norms of its parts: the :math:`\ell_p` norm of norms.

    Args:
        norms: One norm a part, shape ``(parts,)``.
        p: The same ``p`` as in the parts.

    Returns:
        0-d.

    Example:
        >>> combine_norms(torch.tensor([3.0, 4.0]))
        tensor(5.)
    """
    return lp_norm(norms, p)


def distance(tensors: Sequence[Tensor], origins: Sequence[Tensor], p: float = 2) -> Tensor:
    r"""Distance :math:`\|w - w_0\|_p` of two lists of tensors of the same shapes.

    Args:
        tensors: Where the parameters are.
        origins: Where they were.
        p: At least 1; ``inf`` gives the largest absolute change.

    Returns:
        0-d. The gradient where nothing has moved is 0.

    References:
        Nagarajan and Kolter, "Generalization in deep networks: the role of distance from initialization",
        2019. The square for ``p=2`` is equation 40 of Jiang et al., ICLR 2020, when only weight matrices count.

    Example:
        >>> distance([torch.tensor([3.0]), torch.tensor([4.0])], [torch.zeros(1), torch.zeros(1)])
        tensor(5.)
    """
    parts = [lp_norm(t - o, p) for t, o in zip(tensors, origins, strict=True)]
    return combine_norms(torch.stack(parts), p)


def mixed_norm(matrix: Tensor, p: float, q: float) -> Tensor:
    r"""Mixed norm :math:`\|W\|_{p,q}`: the :math:`\ell_q` norm over units of the :math:`\ell_p` norms of their weights.

    Args:
        matrix: Shape ``(..., units, inputs)``; leading dimensions hold further units.
        p: At least 1.
        q: At least 1; ``inf`` for the largest unit.

    Returns:
        0-d. The gradient at the zero matrix is 0.

    References:
        Neyshabur, Tomioka and Srebro, "Norm-based capacity control in neural networks", COLT 2015.

    Example:
        >>> mixed_norm(torch.tensor([[1.0, -2.0], [3.0, 4.0]]), p=1, q=torch.inf)
        tensor(7.)
    """
    if p == q:
        return lp_norm(matrix, p)
    units = matrix.abs().sum(-1) if p == 1 else vector_norm(matrix, p, dim=-1)
    return vector_norm(units, q)
