"""What the gradient of each sample is made of, by the kind of operation that takes a parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_complexity.functional.optimization.sample_gradients import (
    OneByOne,
    Outer,
    Part,
    Scattered,
    Summed,
    products_are_cheaper,
)
from lightning_complexity.network.per_sample.uses import Use
from lightning_complexity.network.running.memory import at_least_single

Order = Literal["first", "last"]


class UnknownUseError(Exception):
    """An operation of which it is not known what a sample's gradient is."""


@dataclass(frozen=True)
class Rows:
    """Which rows of a tensor belong to which sample.

    Attributes:
        samples: How many there are.
        order: Whether the sample is the first or the last dimension of what the rows run over.
    """

    samples: int
    order: Order = "first"

    def by_sample(self, tensor: Tensor, leading: int) -> Tensor:
        """Shape ``(n, positions, ...)``, of a tensor whose first dimensions together are samples and positions."""
        flat = at_least_single(tensor.detach()).flatten(0, leading - 1) if leading else tensor.unsqueeze(0)
        if len(flat) % self.samples:
            raise UnknownUseError
        if len(flat) == self.samples:
            return flat.unsqueeze(1)
        if self.order == "first":
            return flat.unflatten(0, (self.samples, -1))
        return flat.unflatten(0, (-1, self.samples)).transpose(0, 1)


class Kind(NamedTuple):
    """An operation.

    Attributes:
        leading: How many first dimensions of its result, given their number, run over samples and positions.
        read: What the gradients are made of.
    """

    leading: Callable[[Use, int], int]
    read: Callable[[Use, Tensor, Rows], Part]


def _first(*_: object) -> int:
    return 1


# Products of matrices --------------------------------------------------------------------------------


def _addmm(use: Use, gradient: Tensor, rows: Rows) -> Part:
    if use.node._saved_alpha != 1 or use.node._saved_beta != 1 or use.operand == 1:
        raise UnknownUseError
    return _added(use, gradient, rows) if use.operand == 0 else _product(use, use.node._saved_mat1, gradient, rows)


def _mm(use: Use, gradient: Tensor, rows: Rows) -> Part:
    if use.operand == 0:
        raise UnknownUseError
    return _product(use, use.node._saved_self, gradient, rows)


def _product(use: Use, given: Tensor, gradient: Tensor, rows: Rows) -> Part:
    left, right = (rows.by_sample(t, 1).unsqueeze(1) for t in (given, gradient))
    return Outer(right, left) if use.is_turned else Outer(left, right)


# Convolutions ----------------------------------------------------------------------------------------


def _convolution(use: Use, gradient: Tensor, rows: Rows) -> Part:
    node, groups = use.node, use.node._saved_groups
    if use.operand == 2:
        by_channel = rows.by_sample(gradient, 1)
        return Summed(by_channel.flatten(3).sum((1, 3)))
    given, taken = node._saved_input, gradient
    if node._saved_transposed:
        given, taken = taken, given
    kernel, shape, count = use.shape[2:], taken.shape[2:], len(taken) // rows.samples
    if not products_are_cheaper(count * prod(shape), use.shape[0] // groups, prod(use.shape[1:])):
        return _one_by_one(use, gradient, rows)
    patches = _patches(given, kernel, shape, node._saved_stride, node._saved_padding, node._saved_dilation)
    return Outer(_by_group(taken.flatten(2), groups, rows), _by_group(patches, groups, rows))


def _one_by_one(use: Use, gradient: Tensor, rows: Rows) -> Part:
    node, given, result = use.node, rows.by_sample(use.node._saved_input, 1), rows.by_sample(gradient, 1)
    options = (node._saved_stride, node._saved_padding, node._saved_dilation, node._saved_transposed)
    like = node._saved_weight.to(given.dtype)

    def gradient_of(i: int) -> Tensor:
        found = torch.ops.aten.convolution_backward(
            result[i], given[i], like, None, *options, node._saved_output_padding, node._saved_groups, _WEIGHT_ALONE
        )
        weight: Tensor = found[1]
        return weight

    return OneByOne(gradient_of, rows.samples)


_WEIGHT_ALONE = (False, True, False)


def _by_group(tensor: Tensor, groups: int, rows: Rows) -> Tensor:
    """Shape ``(n, groups, positions, channels of one)``, from the shape ``(images, channels, positions of one)``."""
    by_sample = rows.by_sample(tensor, 1).unflatten(2, (groups, -1))  # (n, images, groups, channels, positions)
    return by_sample.permute(0, 2, 1, 4, 3).flatten(2, 3)


def _patches(
    images: Tensor,
    kernel: tuple[int, ...],
    shape: Any,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """What a kernel sees at each position, shape ``(images, channels times entries of the kernel, positions)``."""
    padded = F.pad(images, [p for pad in reversed(padding) for p in (pad, pad)])
    for dim, (size, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True), 2):
        padded = padded.unfold(dim, (size - 1) * apart + 1, step)[..., ::apart]
    spatial = len(kernel)
    inside = (slice(None), slice(None), *(slice(size) for size in shape))
    padded = padded[inside]
    turned = padded.permute(0, 1, *range(2 + spatial, 2 + 2 * spatial), *range(2, 2 + spatial))
    return turned.reshape(len(images), -1, prod(shape))


# Embeddings ------------------------------------------------------------------------------------------


def _embedding(use: Use, gradient: Tensor, rows: Rows) -> Part:
    node = use.node
    if node._saved_scale_grad_by_freq or use.is_turned:
        raise UnknownUseError
    indices, leading = node._saved_indices, gradient.ndim - 1
    padding = _signed(node._saved_padding_idx)
    kept = gradient if padding < 0 else gradient * (indices != padding).unsqueeze(-1)
    return Scattered(rows.by_sample(indices, leading), rows.by_sample(kept, leading))


def _signed(index: int) -> int:
    return index - 2**64 if index >= 2**63 else index


# Normalizations --------------------------------------------------------------------------------------


def _layer_norm(use: Use, gradient: Tensor, rows: Rows) -> Part:
    node, leading = use.node, _of_layer_norm(use, gradient.ndim)
    if use.operand == 1:
        gradient = gradient * (node._saved_input - node._saved_result1) * node._saved_result2
    return Summed(rows.by_sample(gradient, leading).sum(1))


def _of_layer_norm(use: Use, ndim: int) -> int:
    return ndim - len(use.node._saved_normalized_shape)


def _group_norm(use: Use, gradient: Tensor, rows: Rows) -> Part:
    node = use.node
    if use.operand == 1:
        grouped = node._saved_input.reshape(*node._saved_result1.shape, -1)
        normal = (grouped - node._saved_result1.unsqueeze(2)) * node._saved_result2.unsqueeze(2)
        gradient = gradient * normal.reshape(gradient.shape)
    return _by_channel(gradient, rows)


def _batch_norm(use: Use, gradient: Tensor, rows: Rows) -> Part:
    node = use.node
    if node._saved_training:
        raise UnknownUseError
    if use.operand == 1:
        shape = (-1, *[1] * (gradient.ndim - 2))
        scale = (node._saved_running_var + node._saved_eps).rsqrt()
        gradient = gradient * (node._saved_input - node._saved_running_mean.view(shape)) * scale.view(shape)
    return _by_channel(gradient, rows)


def _by_channel(gradient: Tensor, rows: Rows) -> Part:
    by_sample = rows.by_sample(gradient, 1)
    return Summed(by_sample.flatten(3).sum((1, 3)) if gradient.ndim > 2 else by_sample.sum(1))


# Operations entry by entry ---------------------------------------------------------------------------


def _added(use: Use, gradient: Tensor, rows: Rows) -> Part:
    if getattr(use.node, "_saved_alpha", 1) != 1 or use.is_turned:
        raise UnknownUseError
    leading = _before(use, gradient.ndim)
    by_sample = rows.by_sample(gradient, leading).sum(1)
    shape = (1,) * (gradient.ndim - len(use.shape)) + use.shape
    wide = [i - leading + 1 for i in range(leading, gradient.ndim) if shape[i] == 1]
    return Summed(by_sample.sum(wide, keepdim=True) if wide else by_sample)


def _scaled(use: Use, gradient: Tensor, rows: Rows) -> Part:
    other = use.node._saved_other if use.operand == 0 else use.node._saved_self
    return _added(use, gradient * other, rows)


def _before(use: Use, ndim: int) -> int:
    """How many dimensions of a result come before those that the parameter has."""
    missing = ndim - len(use.shape)
    return missing + next((i for i, size in enumerate(use.shape) if size != 1), len(use.shape))


KINDS: dict[str, Kind] = {
    "AddmmBackward0": Kind(_first, _addmm),
    "MmBackward0": Kind(_first, _mm),
    "ConvolutionBackward0": Kind(_first, _convolution),
    "EmbeddingBackward0": Kind(lambda _, ndim: ndim - 1, _embedding),
    "NativeLayerNormBackward0": Kind(_of_layer_norm, _layer_norm),
    "NativeGroupNormBackward0": Kind(_first, _group_norm),
    "NativeBatchNormBackward0": Kind(_first, _batch_norm),
    "CudnnBatchNormBackward0": Kind(_first, _batch_norm),
    "AddBackward0": Kind(_before, _added),
    "ExpandBackward0": Kind(_before, _added),
    "MulBackward0": Kind(_before, _scaled),
}
"""By autograd's name."""
