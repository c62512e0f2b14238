"""Convolutions as the linear maps they are: true stride, padding, dilation, groups and input size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional.eigen import top_eigenvectors
from lightning_complexity.network.tracing.calls import tensor_entering
from lightning_complexity.network.tracing.interpreter import hooks_on_modules
from lightning_complexity.network.weights import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, Weight


def input_shapes(model: nn.Module, inputs: Any) -> dict[int, torch.Size]:
    """Shape of one sample at the entry of every convolution.

    Args:
        model: In evaluation mode.
        inputs: One sample, with a batch dimension.

    Returns:
        Shapes without the batch dimension by ``id`` of the module; the largest if it is called with several.
    """
    shapes: dict[int, torch.Size] = {}
    convolutions = [m for m in model.modules() if isinstance(m, (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS))]

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shape = tensor_entering(type(module).__name__, args, kwargs).shape[1:]
        shapes[id(module)] = max(shape, shapes.get(id(module), shape), key=lambda s: s.numel())

    with hooks_on_modules(convolutions, note):
        model(inputs)
    return shapes


def convolve(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Apply the linear part of a convolution module, with another weight."""
    if isinstance(module, CONVOLUTIONS):
        return module._conv_forward(x, weight, None)
    function = getattr(F, f"conv_transpose{weight.ndim - 2}d")
    result: Tensor = function(
        x, weight, None, module.stride, module.padding, module.output_padding, module.groups, module.dilation
    )
    return result


def warm_started_operator_norm(
    weight: Weight, shape: torch.Size, start: Tensor | None = None, count: int = 1
) -> tuple[Tensor, Tensor]:
    r"""Norm :math:`\max_x \|A x\|_2 / \|x\|_2` of a convolution on inputs of its real size.

    The top singular vectors come from products with the convolution itself and its adjoint, see
    :func:`lightning_complexity.functional.eigen.top_eigenvectors`; the gradient is exact as in
    :func:`lightning_complexity.functional.spectral_norm`.

    Args:
        weight: Of a convolution.
        shape: Shape of one input, channels first.
        start: The vectors of an earlier call.
        count: How many vectors to follow.

    Returns:
        The norm, 0-d, 0 for a zero kernel, ``nan`` if it is not finite; and the vectors.

    Example:
        >>> conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        >>> _ = nn.init.ones_(conv.weight)
        >>> from lightning_complexity.network import read_weights
        >>> warm_started_operator_norm(read_weights(conv)[0], torch.Size([1, 5]))[0]  # 1 + 2 cos(pi / 6)
        tensor(2.7321, grad_fn=<LinalgVectorNormBackward0>)
    """
    module, kernel = weight.module, weight.tensor.detach()
    like = kernel.new_zeros(shape.numel())
    if not kernel.isfinite().all():
        return weight.tensor.sum() * torch.nan, torch.eye(len(like), count).to(like)

    def gram(vectors: Tensor) -> Tensor:
        with torch.enable_grad():
            x = vectors.mT.reshape(-1, *shape).contiguous().requires_grad_()
            y = convolve(module, x, kernel)
        (adjoint,) = torch.autograd.grad(y, x, y.detach())
        return adjoint.flatten(1).mT

    def factor(vectors: Tensor) -> Tensor:
        return convolve(module, vectors.mT.reshape(-1, *shape), kernel).flatten(1).mT

    vectors = top_eigenvectors(gram, factor, like, min(count, len(like)), start=start)
    top = vectors[:, 0].reshape(1, *shape)
    return torch.linalg.vector_norm(convolve(module, top, weight.tensor)), vectors
