"""Convolutions as the linear maps they are: true stride, padding, dilation, groups and input size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional.eigen import top_eigenvector
from lightning_complexity.functional.spectra import spectral_norm
from lightning_complexity.network.interpreter import hooks_on_all_modules
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

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)):
            shape = args[0].shape[1:]
            shapes[id(module)] = max(shape, shapes.get(id(module), shape), key=lambda s: s.numel())

    with hooks_on_all_modules(note):
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


def _top_input(module: nn.Module, weight: Tensor, shape: torch.Size) -> Tensor:
    """The unit input that the convolution stretches most."""
    weight = weight.detach().double()

    def gram(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.enable_grad():
            x = torch.from_numpy(v.reshape(1, *shape).copy()).to(weight).requires_grad_()
            y = convolve(module, x, weight)
        (adjoint,) = torch.autograd.grad(y, x, y.detach())
        return adjoint.flatten().cpu().numpy()

    top = top_eigenvector(gram, shape.numel())
    return torch.from_numpy(top.reshape(1, *shape).copy()).to(weight)


def operator_norm(weight: Weight, shape: torch.Size | None) -> Tensor:
    r"""Norm :math:`\max_x \|A x\|_2 / \|x\|_2` of a layer's linear map on inputs of its real size.

    The top singular vector comes from ARPACK in double precision, to a relative tolerance of 1e-10, with
    products by the convolution itself and its adjoint; the gradient is exact as in
    :func:`lightning_complexity.functional.spectral_norm`.

    Args:
        weight: Of any layer; of a layer that is no convolution this is the spectral norm of its matrix.
        shape: Shape of one input of the convolution, channels first.

    Returns:
        0-d. 0 for a zero kernel; ``nan`` if it is not finite.

    Raises:
        ValueError: If a convolution comes without a shape, because it was never called.

    Example:
        >>> conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        >>> _ = nn.init.ones_(conv.weight)
        >>> from lightning_complexity.network import read_weights
        >>> operator_norm(read_weights(conv)[0], torch.Size([1, 5]))  # 1 + 2 cos(pi / 6)
        tensor(2.7321, grad_fn=<LinalgVectorNormBackward0>)
    """
    module = weight.module
    if not isinstance(module, (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)):
        return spectral_norm(weight.blocks).amax()
    if shape is None:
        raise ValueError(f"the operator norm of {weight.name!r} needs its input size, but it was not called.")
    if not weight.tensor.isfinite().all():
        return weight.tensor.sum() * torch.nan
    top = _top_input(module, weight.tensor, shape).to(weight.tensor.dtype)
    return torch.linalg.vector_norm(convolve(module, top, weight.tensor))
