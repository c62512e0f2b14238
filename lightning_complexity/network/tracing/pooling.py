"""Sums over pooling windows, for any kernel, stride, padding, dilation and rounding, and what maxima compare."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_complexity.network.tracing.interpreter import operation_name
from lightning_complexity.network.tracing.operations import argument

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX_PARAMETERS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_MEAN_PARAMETERS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _per_dimension(value: Any, num_dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * num_dims if len(values) == 1 else values


def _adaptive_window_sizes(size: int, out: int) -> Tensor:
    """How many of ``size`` entries fall into each of ``out`` adaptive windows."""
    index = torch.arange(out)
    return -(-(index + 1) * size // out) - index * size // out


def _adaptive_counts(x: Tensor, pooled: Tensor, num_dims: int) -> Tensor:
    counts = torch.ones((), dtype=x.dtype, device=x.device)
    for dim in range(-num_dims, 0):
        sizes = _adaptive_window_sizes(x.shape[dim], pooled.shape[dim]).to(counts)
        counts = counts * sizes.reshape(-1, *[1] * (-dim - 1))
    return counts


def _window_sums(x: Tensor, options: dict[str, Any], out: list[int]) -> Tensor:
    num_dims = len(out)
    kernel = _per_dimension(options["kernel_size"], num_dims)
    stride = _per_dimension(options.get("stride") or kernel, num_dims)
    padding = _per_dimension(options.get("padding", 0), num_dims)
    dilation = _per_dimension(options.get("dilation", 1), num_dims)
    pads: list[int] = []
    for dim in reversed(range(num_dims)):
        reach = (out[dim] - 1) * stride[dim] + dilation[dim] * (kernel[dim] - 1) + 1
        pads += [padding[dim], max(0, reach - x.shape[dim - num_dims] - padding[dim])]
    flat = F.pad(x.reshape(-1, 1, *x.shape[-num_dims:]), pads)
    ones = torch.ones(1, 1, *kernel, dtype=x.dtype, device=x.device)
    sums = _CONVOLUTIONS[num_dims](flat, ones, None, stride, 0, dilation)
    for dim, size in enumerate(out, start=-num_dims):
        sums = sums.narrow(dim, 0, size)
    return sums.reshape(*x.shape[:-num_dims], *out)


def _is_adaptive(pooling: Callable[..., Tensor]) -> bool:
    return operation_name(pooling).startswith("adaptive")


def _num_dims(pooling: Callable[..., Tensor]) -> int:
    return int(operation_name(pooling)[-2])


def sum_pool(pooling: Callable[..., Tensor], x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Sum over the windows of a max pooling.

    Args:
        pooling: ``F.max_pool1d`` to ``F.max_pool3d`` or their adaptive forms.
        x: What is pooled.
        args: Other positional arguments of the pooling.
        kwargs: Keyword arguments of the pooling.

    Returns:
        The shape of the pooling's output.

    Example:
        >>> sum_pool(F.max_pool1d, torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), (2,), {})
        tensor([[[3., 7.]]])
    """
    num_dims, pooled = _num_dims(pooling), pooling(x, *args, **kwargs)
    if _is_adaptive(pooling):
        mean = getattr(F, f"adaptive_avg_pool{num_dims}d")(x, list(pooled.shape[-num_dims:]))
        return mean * _adaptive_counts(x, pooled, num_dims)
    options = {**dict(zip(_MAX_PARAMETERS, args, strict=False)), **kwargs}
    return _window_sums(x, options, list(pooled.shape[-num_dims:]))


def mean_window_weights(
    pooling: Callable[..., Tensor], x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """The weight that an average pooling gives each entry of a window.

    Args:
        pooling: ``F.avg_pool1d`` to ``F.avg_pool3d`` or their adaptive forms.
        x: What is pooled.
        args: Other positional arguments of the pooling.
        kwargs: Keyword arguments of the pooling.

    Returns:
        One weight a window, broadcastable to the pooling's output.

    Example:
        >>> mean_window_weights(F.avg_pool1d, torch.ones(1, 1, 4), (2,), {})
        tensor([[[0.5000, 0.5000]]])
    """
    ones = torch.ones_like(x)
    num_dims, pooled = _num_dims(pooling), pooling(ones, *args, **kwargs)
    if _is_adaptive(pooling):
        return 1 / _adaptive_counts(x, pooled, num_dims)
    options = {**dict(zip(_MEAN_PARAMETERS, args, strict=False)), **kwargs}
    return pooled / _window_sums(ones, options, list(pooled.shape[-num_dims:]))


def _windows_along(size: int, out: int, name: str, options: list[int]) -> list[list[int]]:
    """Which entries of one dimension each window looks at."""
    if name.startswith("adaptive"):
        return [list(range(o * size // out, -(-(o + 1) * size // out))) for o in range(out)]
    kernel, stride, padding, dilation = options
    return [[i for k in range(kernel) if 0 <= (i := o * stride - padding + k * dilation) < size] for o in range(out)]


def max_pool_comparisons(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], pooled: Tensor) -> Tensor:
    """Differences of every two entries that share a window of a max pooling, each pair once.

    Args:
        name: ``"max_pool1d"`` to ``"max_pool3d"``, or their adaptive forms.
        args: Positional arguments of the pooling; the first is what is pooled, shape ``(n, ...)``.
        kwargs: Keyword arguments of the pooling.
        pooled: What it gave.

    Returns:
        Shape ``(n, comparisons)``.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0, 4.0]]])
        >>> max_pool_comparisons("max_pool1d", (x, 2), {"stride": 1}, F.max_pool1d(x, 2, 1))
        tensor([[-1., -2.]])
    """
    x, rest = args[0], args[1:]
    num_dims = int(name[name.index("pool") + 4])
    options = {**dict(zip(_MAX_PARAMETERS, rest, strict=False)), **kwargs}
    per_dim = [[0] * 4] * num_dims
    if not name.startswith("adaptive"):
        kernel = options["kernel_size"]
        chosen = (kernel, options.get("stride") or kernel, options.get("padding", 0), options.get("dilation", 1))
        per_dim = list(map(list, zip(*(_per_dimension(value, num_dims) for value in chosen), strict=True)))
    sizes = list(x.shape[-num_dims:])
    along = [
        _windows_along(size, out, name, numbers)
        for size, out, numbers in zip(sizes, pooled.shape[-num_dims:], per_dim, strict=True)
    ]
    strides = [int(torch.tensor(sizes[d + 1 :]).prod()) for d in range(num_dims)]
    pairs: set[tuple[int, ...]] = set()
    for window in itertools.product(*along):
        entries = [sum(i * s for i, s in zip(place, strides, strict=True)) for place in itertools.product(*window)]
        pairs.update(itertools.combinations(entries, 2))
    first, second = torch.tensor(sorted(pairs), dtype=torch.long, device=x.device).reshape(-1, 2).T
    flat = x.flatten(-num_dims)
    return (flat[..., first] - flat[..., second]).flatten(1)


def reduced_dims(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """The dimensions along which ``max``, ``min``, ``amax`` or ``amin`` takes the extreme; all without ``dim=``."""
    x, dims = args[0], argument(args, kwargs, (1, "dim"))
    if dims is None or dims == ():
        return list(range(x.ndim))
    return [dim % max(x.ndim, 1) for dim in ([dims] if isinstance(dims, int) else dims)]


def comparisons_along(x: Tensor, dims: list[int]) -> Tensor:
    """Differences of every two entries along dimensions, each pair once.

    Args:
        x: Shape ``(n, ...)``.
        dims: Without the first.

    Returns:
        Shape ``(n, comparisons)``.

    Example:
        >>> comparisons_along(torch.tensor([[1.0, 2.0, 4.0]]), [1])
        tensor([[-1., -3., -2.]])
    """
    kept = [dim for dim in range(x.ndim) if dim not in dims]
    flat = x.permute(*kept, *dims).flatten(len(kept))
    first, second = torch.triu_indices(flat.shape[-1], flat.shape[-1], 1, device=x.device)
    return (flat[..., first] - flat[..., second]).flatten(1)
