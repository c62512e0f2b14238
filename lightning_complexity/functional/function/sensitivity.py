"""How much the outputs change with the inputs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "class_jacobian_norms",
    "jacobian_grams",
    "jacobian_norms",
    "jacobian_spectral_norms",
    "softmax_jacobian_grams",
    "squared_jacobian_norms",
    "unit_directions",
]


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root with gradient 0 at 0, and of rounding errors below it."""
    positive = x > 0
    root = torch.where(positive, torch.where(positive, x, torch.ones_like(x)).sqrt(), torch.zeros_like(x))
    return torch.where(x.isnan(), x, root)


_INDEPENDENT = "a Jacobian norm needs outputs with a gradient, but these do not depend on the inputs."


def _check(outputs: Tensor) -> None:
    if outputs.ndim != 2:
        raise ValueError(f"a Jacobian norm needs outputs of shape (n, C), got {tuple(outputs.shape)}.")
    if outputs.shape[1] == 0:
        raise ValueError("a Jacobian norm needs at least one output for each sample, got none.")
    if not outputs.requires_grad:
        raise ValueError(_INDEPENDENT)


def _gradients(outputs: Tensor, weights: Tensor, inputs: Tensor, *, create_graph: bool) -> Tensor:
    """Gradients of each sample's weighted outputs, shape ``(n, entries)``."""
    (gradient,) = torch.autograd.grad(
        outputs, inputs, weights, retain_graph=True, create_graph=create_graph, allow_unused=True
    )
    if gradient is None:
        raise ValueError(_INDEPENDENT)
    return gradient.flatten(1)


def jacobian_grams(outputs: Tensor, inputs: Tensor, *, create_graph: bool = False) -> Tensor:
    r"""Gram matrix :math:`J J^T` of the rows of every sample's Jacobian, by one backward pass for each output.

    Frobenius norms, norms of rows, singular values, and all of these behind a softmax follow from it.

    Args:
        outputs: Shape ``(n, C)``, computed from ``inputs``, each sample from its own input alone.
        inputs: Shape ``(n, ...)``, requires grad.
        create_graph: Whether the result is to be differentiated.

    Returns:
        Shape ``(n, C, C)``.

    Example:
        >>> x = torch.ones(1, 2, requires_grad=True)
        >>> jacobian_grams(x @ torch.tensor([[3.0, 0.0], [4.0, 1.0]]), x)
        tensor([[[25.,  4.],
                 [ 4.,  1.]]])
    """
    _check(outputs)
    rows = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    gradients = [_gradients(outputs, row.expand_as(outputs), inputs, create_graph=create_graph) for row in rows]
    jacobians = torch.stack(gradients, dim=1)
    return jacobians @ jacobians.mT


def softmax_jacobian_grams(grams: Tensor, logits: Tensor) -> Tensor:
    r"""Gram matrices behind a softmax, :math:`S J J^T S` with :math:`S = \text{diag}(p) - p p^T`.

    Args:
        grams: Those of the logits, shape ``(n, C, C)``.
        logits: Shape ``(n, C)``.

    Returns:
        Shape ``(n, C, C)``.

    Example:
        >>> softmax_jacobian_grams(torch.eye(2).unsqueeze(0), torch.zeros(1, 2))  # S = [[1, -1], [-1, 1]] / 4
        tensor([[[ 0.1250, -0.1250],
                 [-0.1250,  0.1250]]])
    """
    p = logits.softmax(-1)
    s = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return s @ grams @ s


def unit_directions(normals: Tensor) -> Tensor:
    r"""Directions that are uniform on the unit sphere, from standard normal numbers.

    Args:
        normals: Shape ``(..., C)``, from a generator or from :func:`normal_by_sample`.

    Returns:
        The same shape, of length 1 along the last axis.

    Example:
        >>> unit_directions(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """
    return normals / torch.linalg.vector_norm(normals, dim=-1, keepdim=True)


def squared_jacobian_norms(
    outputs: Tensor, inputs: Tensor, directions: Tensor, *, create_graph: bool = False
) -> Tensor:
    r"""Unbiased estimate :math:`\tfrac{C}{m} \sum_v \|J^T v\|^2` of every sample's squared Frobenius norm.

    With directions of its own for each sample, the estimates are independent, and the standard error of their mean, by
    :func:`standard_error`, covers the random directions as well as the choice of samples.

    Args:
        outputs: Shape ``(n, C)``, computed from ``inputs``, each sample from its own input alone.
        inputs: Shape ``(n, ...)``, requires grad.
        directions: Uniform unit vectors :math:`v`, shape ``(m, n, C)``, see :func:`unit_directions`.
        create_graph: Whether the result is to be differentiated.

    Returns:
        Shape ``(n,)``.

    Raises:
        ValueError: If the shapes do not fit.

    References:
        Hoffman, Roberts and Yaida, "Robust learning with Jacobian regularization", 2019.

    Example:
        >>> x = torch.ones(1, 2, requires_grad=True)
        >>> directions = unit_directions(torch.randn(3, 1, 1))
        >>> squared_jacobian_norms(x @ torch.tensor([[3.0], [4.0]]), x, directions)  # one output: exact
        tensor([25.])
    """
    _check(outputs)
    if directions.ndim != 3 or directions.shape[1:] != outputs.shape or len(directions) == 0:
        raise ValueError(
            f"needs directions of shape (num_projections >= 1, {outputs.shape[0]}, {outputs.shape[1]}), one set for "
            f"each sample, got {tuple(directions.shape)}."
        )
    num_projections, _, num_outputs = directions.shape
    squares = [
        _gradients(outputs, v, inputs, create_graph=create_graph).square().sum(1) for v in directions.to(outputs)
    ]
    return num_outputs / num_projections * torch.stack(squares).sum(0)


def jacobian_norms(grams: Tensor) -> Tensor:
    r"""Frobenius norm :math:`\|J(x)\|_F = \big(\sum_{c,k} (\partial f_c / \partial x_k)^2\big)^{1/2}` of every sample.

    Args:
        grams: Shape ``(n, C, C)``, see :func:`jacobian_grams`.

    Returns:
        Shape ``(n,)``. Where the Jacobian is zero, the gradient is 0.

    References:
        Novak et al., "Sensitivity and generalization in neural networks", ICLR 2018.

    Example:
        >>> jacobian_norms(torch.tensor([[[9.0, 1.0], [1.0, 16.0]]]))
        tensor([5.])
    """
    return safe_sqrt(grams.diagonal(dim1=-2, dim2=-1).sum(-1))


def class_jacobian_norms(grams: Tensor) -> Tensor:
    r"""Norm :math:`\|\partial f_c / \partial x\|_2` of each row of every sample's Jacobian.

    Args:
        grams: Shape ``(n, C, C)``, see :func:`jacobian_grams`.

    Returns:
        Shape ``(n, C)``. Where a row is zero, the gradient is 0.

    Example:
        >>> class_jacobian_norms(torch.tensor([[[9.0, 1.0], [1.0, 16.0]]]))
        tensor([[3., 4.]])
    """
    return safe_sqrt(grams.diagonal(dim1=-2, dim2=-1))


def jacobian_spectral_norms(grams: Tensor) -> Tensor:
    r"""Largest singular value :math:`\|J(x)\|_2` of every sample's Jacobian, the slope in the steepest direction.

    Args:
        grams: Shape ``(n, C, C)``, see :func:`jacobian_grams`.

    Returns:
        Shape ``(n,)``; ``nan`` where a Jacobian is not finite. Where it is zero, the gradient is 0.

    Example:
        >>> jacobian_spectral_norms(torch.tensor([[[9.0, 0.0], [0.0, 16.0]]]))
        tensor([4.])
    """
    finite = grams.isfinite().all(-1).all(-1)
    eigenvalues = torch.linalg.eigvalsh(torch.nan_to_num(grams, nan=0.0, posinf=0.0, neginf=0.0))
    top = safe_sqrt(eigenvalues[..., -1])
    return torch.where(finite, top, torch.full_like(top, torch.nan))
