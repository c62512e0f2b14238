"""Tensors that share memory until one of them is written to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor


def lazily_cloned(tensor: Tensor) -> Tensor:
    """A clone that takes no memory until it, or the tensor itself, is written to.

    Differentiable as ``tensor.clone()``. A tensor whose memory torch cannot share so (sparse, or owned by NumPy or
    another process) is cloned at once, and so is one that ``torch.vmap`` passes on.

    Example:
        >>> weight = torch.ones(2)
        >>> clone = lazily_cloned(weight)
        >>> clone.add_(1)
        tensor([2., 2.])
        >>> weight
        tensor([1., 1.])
    """
    is_plain = type(tensor) in (Tensor, torch.nn.Parameter) and not is_functorch_wrapped_tensor(tensor)
    if is_plain and tensor.layout == torch.strided:
        try:
            return torch._lazy_clone(tensor)
        except (RuntimeError, AttributeError):
            pass  # memory of NumPy, or shared with another process; or a torch without such clones
    return tensor.clone()


def is_written(tensor: Tensor, clone: Tensor) -> bool:
    """Whether a tensor or its lazy clone may have been written to since, so that they differ.

    Example:
        >>> weight = torch.ones(2)
        >>> clone = lazily_cloned(weight)
        >>> is_written(weight, clone), is_written(weight.add_(1), clone)
        (False, True)
    """
    address = getattr(torch._C, "_data_address", None)  # data_ptr() counts as writing
    return not torch.equal(tensor, clone) if address is None else bool(address(tensor) != address(clone))


def at_least_single(tensor: Tensor) -> Tensor:
    """The tensor, in single precision where it has half."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor


def recordable(tensor: Tensor) -> Tensor:
    """A tensor that a graph may keep: one made in inference mode is copied."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()
