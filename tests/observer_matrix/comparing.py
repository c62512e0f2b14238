"""The first difference of two trainings, in words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.observer_matrix.training import Moment


def first_difference(plain: list[Moment], observed: list[Moment]) -> str | None:
    """When and where two trainings are not the same to the last bit; ``None`` if they are."""
    for before, after in zip_longest(plain, observed):
        if before is None or after is None or before.name != after.name:
            return f"the moments: {before and before.name!r} and {after and after.name!r}"
        for kind, state in before.state.items():
            for what in differences(state, after.state[kind], kind):
                return f"{before.name}: {what}"
    return None


def differences(a: Any, b: Any, path: str) -> Iterator[str]:
    """Where two nested structures of tensors, arrays and plain values differ, in a bit or in kind."""
    if type(a) is not type(b):
        yield f"{path} is a {type(a).__name__} and a {type(b).__name__}"
    elif isinstance(a, (Tensor, np.ndarray)):
        yield from _of_tensors(torch.as_tensor(a), torch.as_tensor(b), path)
    elif isinstance(a, dict):
        if list(a) != list(b):
            yield f"{path} has {list(a)} and {list(b)}"
        else:
            for key in a:
                yield from differences(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, f"{path}/{i}")
        if len(a) != len(b):
            yield f"{path} has {len(a)} and {len(b)} entries"
    elif repr(a) != repr(b):  # tells 0.0 from -0.0, and nan from nothing
        yield f"{path} is {a!r} and {b!r}"


def _of_tensors(a: Tensor, b: Tensor, path: str) -> Iterator[str]:
    if a.dtype != b.dtype or a.shape != b.shape:
        yield f"{path} is {a.dtype} of shape {tuple(a.shape)} and {b.dtype} of shape {tuple(b.shape)}"
    elif not torch.equal(bits(a), bits(b)):
        yield f"{path} differs by up to {(a.double() - b.double()).abs().max().item():.2g}"


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
