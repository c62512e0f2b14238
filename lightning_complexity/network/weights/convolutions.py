"""Convolutions as the linear maps they are: true stride, padding, dilation, groups and input size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional.numerics.eigen import top_eigenvectors
from lightning_complexity.functional.numerics.linear_operators import GramOperator, LinearOperator
from lightning_complexity.functional.numerics.scaling import power_of_two
from lightning_complexity.functional.weights.norms import lp_norm
from lightning_complexity.network.tracing.calls import tensor_entering
from lightning_complexity.network.tracing.interpreter import hooks_on_modules
from lightning_complexity.network.weights.matrices import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, Weight


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


class ConvolutionOperator(LinearOperator):
    """The linear map of a convolution on inputs of its real size, without its bias.

    Args:
        module: A convolution or transposed convolution.
        kernel: Its weight, or another of the same shape.
        shape: Shape of one input, channels first.

    Example:
        >>> conv = nn.Conv1d(1, 1, 2, bias=False)
        >>> ConvolutionOperator(conv, torch.ones(1, 1, 2), torch.Size([1, 3])).matmat(torch.eye(3))
        tensor([[1., 1., 0.],
                [0., 1., 1.]])
    """

    def __init__(self, module: nn.Module, kernel: Tensor, shape: torch.Size) -> None:
        self.module, self.kernel, self.input_shape = module, kernel.detach(), shape
        with torch.no_grad():
            self.output_shape = convolve(module, self.kernel.new_zeros(1, *shape), self.kernel).shape[1:]
        size = (self.output_shape.numel(), shape.numel())
        super().__init__(size, dtype=kernel.dtype, device=kernel.device)

    def _images(self, vectors: Tensor) -> Tensor:
        return vectors.mT.reshape(-1, *self.input_shape)

    def matvec(self, v: Tensor) -> Tensor:
        """The product with a vector."""
        return self.matmat(v.unsqueeze(1)).squeeze(1)

    def matmat(self, vectors: Tensor) -> Tensor:
        """The product with the columns of a matrix."""
        return convolve(self.module, self._images(vectors), self.kernel).flatten(1).mT

    def rmatmat(self, vectors: Tensor) -> Tensor:
        """The product of the adjoint with the columns of a matrix."""
        images = self.kernel.new_zeros(vectors.shape[1], *self.input_shape)
        return self._adjoint(images, lambda y: vectors.mT.reshape(y.shape))

    def gram_matmat(self, vectors: Tensor) -> Tensor:
        """The product with the map and its adjoint, by one forward and one backward pass."""
        return self._adjoint(self._images(vectors).contiguous(), Tensor.detach)

    def _adjoint(self, images: Tensor, weights: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            x = images.detach().requires_grad_()
            y = convolve(self.module, x, self.kernel)
        (adjoint,) = torch.autograd.grad(y, x, weights(y))
        return adjoint.flatten(1).mT


def warm_started_operator_norm(
    weight: Weight, shape: torch.Size, warm_start: Tensor | None = None, count: int = 1
) -> tuple[Tensor, Tensor]:
    r"""Norm :math:`\max_x \|A x\|_2 / \|x\|_2` of a convolution on inputs of its real size.

    The top singular vectors come from products with the convolution itself and its adjoint, see
    :func:`lightning_complexity.functional.top_eigenvectors`; the gradient is exact as in
    :func:`lightning_complexity.functional.spectral_norm`.

    Args:
        weight: Of a convolution.
        shape: Shape of one input, channels first.
        warm_start: The vectors of an earlier call.
        count: How many vectors to return.

    Returns:
        The norm, 0-d, 0 for a zero kernel, ``nan`` if it is not finite; and the vectors.

    Example:
        >>> conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        >>> _ = nn.init.ones_(conv.weight)
        >>> from lightning_complexity.network import read_weights
        >>> warm_started_operator_norm(read_weights(conv)[0], torch.Size([1, 5]))[0]  # 1 + 2 cos(pi / 6)
        tensor(2.7321, grad_fn=<...>)
    """
    kernel, size = weight.tensor.detach(), shape.numel()
    if not kernel.isfinite().all():
        return weight.tensor.sum() * torch.nan, torch.eye(size, count).to(kernel)
    operator = ConvolutionOperator(weight.module, kernel / power_of_two(kernel), shape)
    vectors = top_eigenvectors(GramOperator(operator), min(count, size), warm_start=warm_start)
    top = vectors[:, 0].reshape(1, *shape)
    return lp_norm(convolve(weight.module, top, weight.tensor)), vectors
