"""How much the outputs change with the inputs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["jacobian_norms"]


def _safe_sqrt(x: Tensor) -> Tensor:
    """Square root with gradient 0 at 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, torch.ones_like(x)).sqrt(), x)


def _squared_gradient(outputs: Tensor, weights: Tensor, inputs: Tensor, *, create_graph: bool) -> Tensor:
    (gradient,) = torch.autograd.grad(
        outputs, inputs, weights, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return gradient.flatten(1).square().sum(1)


def jacobian_norms(
    outputs: Tensor,
    inputs: Tensor,
    *,
    num_projections: int | None = None,
    generator: torch.Generator | None = None,
    create_graph: bool = False,
) -> Tensor:
    r"""Frobenius norm :math:`\|J(x)\|_F = \big(\sum_{c,k} (\partial f_c / \partial x_k)^2\big)^{1/2}` of every sample.

    Exact by one backward pass for each of the ``C`` outputs. With ``num_projections`` random unit
    vectors :math:`v` it is :math:`\big(\tfrac{C}{m} \sum_v \|J^T v\|^2\big)^{1/2}` by ``m`` backward passes: the
    square is unbiased, its root is slightly low for few projections.

    Args:
        outputs: Shape ``(n, C)``, computed from ``inputs``, each sample from its own input alone.
        inputs: Shape ``(n, ...)``, requires grad.
        num_projections: Number ``m`` of random vectors, the same for all samples; ``None`` for exact.
        generator: Source of the random vectors.
        create_graph: Whether the result is to be differentiated.

    Returns:
        Shape ``(n,)``. Where the Jacobian is zero, the gradient is 0.

    References:
        Novak et al., "Sensitivity and generalization in neural networks", ICLR 2018. The projections after
        Hoffman, Roberts and Yaida, "Robust learning with Jacobian regularization", 2019.

    Example:
        >>> x = torch.ones(1, 2, requires_grad=True)
        >>> jacobian_norms(x @ torch.tensor([[3.0], [4.0]]), x)
        tensor([5.])
    """
    if outputs.ndim != 2:
        raise ValueError(f"a Jacobian norm needs outputs of shape (n, C), got {tuple(outputs.shape)}.")
    if not outputs.requires_grad:
        raise ValueError("a Jacobian norm needs outputs with a gradient, but these do not depend on the inputs.")
    num_outputs = outputs.shape[1]
    if num_projections is None:
        rows, factor = torch.eye(num_outputs, dtype=outputs.dtype, device=outputs.device), 1.0
    else:
        noise = torch.randn(num_projections, num_outputs, generator=generator, dtype=outputs.dtype)
        rows = (noise / noise.norm(dim=1, keepdim=True)).to(outputs.device)
        factor = num_outputs / num_projections
    squares = [_squared_gradient(outputs, r.expand_as(outputs), inputs, create_graph=create_graph) for r in rows]
    return _safe_sqrt(factor * torch.stack(squares).sum(0))
