"""Random numbers that belong to samples, so that they do not depend on who else is in the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["normal_by_sample", "sample_keys"]

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}  # by bytes of an element
_ODD, _GOLDEN = 0x5851F42D4C957F2D, -0x61C8864680B583EB  # multipliers, the second 2^64 over the golden ratio


def sample_keys(samples: Tensor, seed: int) -> Tensor:
    """A key for each sample, from the bits of its entries.

    Equal samples have equal keys, whatever batch they are in. Others have different ones but for chance, 1 in
    :math:`2^{64}`.

    Args:
        samples: Shape ``(n, ...)``, real numbers, integers or truth values.
        seed: Keys of different seeds have nothing to do with each other.

    Returns:
        64-bit integers, shape ``(n,)``, on the device of the samples.

    Raises:
        TypeError: If the samples are complex.

    Example:
        >>> keys = sample_keys(torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]]), seed=0)
        >>> keys[0] == keys[2], keys[0] == keys[1]
        (tensor(True), tensor(False))
    """
    if samples.is_complex():
        raise TypeError(f"keys are of real samples, got {samples.dtype}; pass torch.view_as_real of them.")
    rows = samples.detach().reshape(len(samples), math.prod(samples.shape[1:])).contiguous()
    bits = rows.view(_INTEGERS[rows.element_size()])
    multipliers = _mixed_64(torch.arange(1, bits.shape[1] + 1, device=bits.device)) | 1
    return _mixed_64((bits * multipliers).sum(1) + _wrapped(seed * _GOLDEN))


def normal_by_sample(keys: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Standard normal numbers for each sample.

    A counter-based generator: entry ``k`` of a sample mixes ``k`` with the sample's key, and the Box-Muller transform
    makes pairs of such numbers normal. A sample's numbers depend on its key and the shape alone.

    Args:
        keys: Shape ``(n,)``, see :func:`sample_keys`.
        shape: Of the numbers of one sample.
        dtype: Floating-point type of the result. Equal keys give equal numbers in all, up to rounding; half precision
            is rounded from single.

    Returns:
        Shape ``(n, *shape)``, on the device of the keys.

    References:
        Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the mixing function is that of
        MurmurHash3 (Appleby, 2011).

    Example:
        >>> keys = sample_keys(torch.arange(5.0).unsqueeze(1), seed=0)
        >>> numbers = normal_by_sample(keys, (2, 3), torch.float32)
        >>> torch.equal(numbers[1:3], normal_by_sample(keys[1:3], (2, 3), torch.float32))
        True
    """
    size = math.prod(shape)
    pairs = (size + 1) // 2
    precision = torch.promote_types(dtype, torch.float32)
    uniform = _uniform(_mixed_bits(keys, 2 * pairs), precision)
    radius = uniform[:, :pairs].log().mul_(-2).sqrt_()
    angle = uniform[:, pairs:] * (2 * math.pi)
    numbers = torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())], dim=1)
    return numbers[:, :size].reshape(len(keys), *shape).to(dtype)


def _mixed_bits(keys: Tensor, count: int) -> Tensor:
    """Random 32 bits for each key and counter, shape ``(n, count)``."""
    counters = _mixed_64(torch.arange(count, device=keys.device)).to(torch.int32)
    first, second = (part.to(torch.int32).unsqueeze(1) for part in (keys, keys >> 32))
    bits = counters ^ first
    bits ^= _shifted(bits, 16)
    bits *= _as_int32(0x85EBCA6B)
    bits ^= _shifted(bits, 13)
    bits += second
    bits *= _as_int32(0xC2B2AE35)
    bits ^= _shifted(bits, 16)
    return bits


def _uniform(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in (0, 1) from the highest 24 bits, which single precision holds."""
    return _shifted(bits, 8).to(dtype).add_(0.5).mul_(2.0**-24)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Shift to the right that fills up with zeros, of 32 bits."""
    return (bits >> places).bitwise_and_((1 << (32 - places)) - 1)


def _mixed_64(numbers: Tensor) -> Tensor:
    for _ in range(2):
        numbers = (numbers ^ ((numbers >> 32) & 0xFFFFFFFF)) * _ODD
    return numbers ^ ((numbers >> 32) & 0xFFFFFFFF)


def _as_int32(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


def _wrapped(number: int) -> int:
    """The lowest 64 bits as a signed number."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
