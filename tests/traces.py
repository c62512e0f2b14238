"""Everything that a measurement must leave as it was, looked at from outside."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.utils import parametrize

IMMUTABLE = (int, float, complex, bool, str, bytes, type, type(None), torch.dtype, torch.device, torch.Size)
DEPTH = 5  # modules start anew


@dataclass
class Seen:
    """One object, where it was found, and a copy of what it holds."""

    path: str
    value: Any
    content: Any


def traces(*roots: Any) -> list[Seen]:
    """All that can be reached from modules and data, and the state of torch, NumPy and Python."""
    found: list[Seen] = []
    for number, root in enumerate(roots):
        _look(root, f"{number}", DEPTH, found, set())
    found.append(Seen("process", None, _process()))
    return found


def assert_no_trace(before: list[Seen], after: list[Seen]) -> None:
    assert [s.path for s in before] == [s.path for s in after]
    for old, new in zip(before, after, strict=True):
        if isinstance(old.value, IMMUTABLE):
            assert type(old.value) is type(new.value), old.path
            assert old.value == new.value or old.value != old.value, old.path
        else:
            assert old.value is new.value, f"{old.path} is another object"
            assert_equal(old.content, new.content, old.path)


def assert_equal(old: Any, new: Any, path: str) -> None:
    assert type(old) is type(new), path
    if isinstance(old, Tensor):
        assert old.dtype == new.dtype, path
        dense, other = old.to_dense().nan_to_num(), new.to_dense().nan_to_num()
        assert torch.equal(dense, other), f"{path}: {old} became {new}"
    elif isinstance(old, np.ndarray):
        assert np.array_equal(old, new), path
    elif isinstance(old, (list, tuple)):
        assert len(old) == len(new), f"{path}: {old} became {new}"
        for a, b in zip(old, new, strict=True):
            assert_equal(a, b, path)
    elif isinstance(old, dict):
        assert list(old) == list(new), path
        for key in old:
            assert_equal(old[key], new[key], f"{path}[{key}]")
    else:
        assert old is new or old == new, f"{path}: {old} became {new}"


def _process() -> list[Any]:
    checkpointing = torch.utils.checkpoint
    return [
        torch.get_rng_state(),
        random.getstate(),
        list(np.random.get_state()),
        [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")],
        [torch.get_default_dtype(), parametrize._cache_enabled, len(parametrize._cache)],
        [checkpointing.CheckpointFunction, checkpointing._checkpoint_without_reentrant_generator],
    ]


def _look(value: Any, path: str, depth: int, found: list[Seen], above: set[int]) -> None:
    found.append(Seen(path, value, _content(value)))
    if isinstance(value, (*IMMUTABLE, np.ndarray)) or id(value) in above or depth == 0:
        return
    for name, part in _parts(value):
        inside = DEPTH if isinstance(part, nn.Module) else depth - 1
        _look(part, f"{path}.{name}", inside, found, above | {id(value)})


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Tensor):
        return [("grad", value.grad if value.is_leaf else None)]
    if isinstance(value, dict):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return [(str(number), part) for number, part in enumerate(value)]
    if type(value).__module__.partition(".")[0] in ("torch", "functools", "numpy", "random") and not isinstance(
        value, nn.Module
    ):
        return []
    attributes = getattr(value, "__dict__", None)
    return [("__dict__", attributes)] if type(attributes) is dict else []


def _content(value: Any) -> Any:
    if isinstance(value, Tensor):
        hooks = getattr(value, "_backward_hooks", None), getattr(value, "_post_accumulate_grad_hooks", None)
        of_hooks = [list(hook.items()) if hook else None for hook in hooks]
        facts = [value._version, value.requires_grad, value.is_leaf, value.shape, value.stride(), value.device]
        return [value.detach().clone(), *facts, value.layout, of_hooks]
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, set):
        return sorted(value, key=repr)
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return list(value.get_state())
    if isinstance(value, random.Random):
        return value.getstate()
    return repr(value) if isinstance(value, itertools.count) else None
