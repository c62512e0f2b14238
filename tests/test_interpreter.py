"""The interception of operations sees them from modules and from functional calls alike, and knows the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.network.tracing.interpreter import ModulePath, TorchFunctionInterpreter, operation_name


class Trace(TorchFunctionInterpreter):
    """Notes each operation and the module it was called in."""

    def __init__(self, path: ModulePath) -> None:
        super().__init__()
        self.path, self.seen = path, []

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.seen.append((operation_name(function), self.path.current))
        return super().on_operation(function, args, kwargs)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.matrix = nn.Parameter(torch.ones(2, 2, 1, 1)), nn.Parameter(torch.ones(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.relu(F.batch_norm(F.conv2d(x, self.kernel), torch.zeros(2), torch.ones(2)))
        return F.linear(torch.flatten(F.avg_pool2d(F.max_pool2d(x, 2), 1), 1), self.matrix)


MODULES = nn.Sequential(
    Residual(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU())),
    nn.MaxPool2d(2),
    nn.AvgPool2d(1),
    nn.Flatten(),
    nn.Linear(8, 3),
).double()
OPERATIONS = {"conv2d", "batch_norm", "relu", "add", "max_pool2d", "avg_pool2d", "flatten", "linear"}


def traced(model: nn.Module) -> Trace:
    path = ModulePath(model)
    trace = Trace(path)
    with path.followed(), trace:
        model(torch.ones(1, 2, 4, 4))
    return trace


@pytest.mark.parametrize("model", [MODULES, Functional()], ids=["modules", "functions"])
def test_every_operation_is_seen(model: nn.Module) -> None:
    names = {name for name, _ in traced(model.double().eval()).seen}
    assert names >= OPERATIONS


def test_the_calling_module_is_known() -> None:
    where = {name: path for name, path in traced(MODULES.eval()).seen if name in OPERATIONS}
    assert where == {
        "conv2d": "0.inner.0",
        "batch_norm": "0.inner.1",
        "relu": "0.inner.2",
        "add": "0",
        "max_pool2d": "1",
        "avg_pool2d": "2",
        "flatten": "3",
        "linear": "4",
    }


def test_nothing_remains_after_an_error() -> None:
    path = ModulePath(MODULES)
    with pytest.raises(RuntimeError), path.followed():
        MODULES(torch.ones(1, 5, 4, 4))
    assert path.current == ""
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not torch.nn.modules.module._global_forward_hooks


def test_an_input_given_by_keyword_comes_first() -> None:
    seen = []

    class Arguments(TorchFunctionInterpreter):
        def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            seen.append((operation_name(function), len(args), sorted(kwargs)))
            return super().on_operation(function, args, kwargs)

    x = torch.ones(2, 2)
    with Arguments():
        F.linear(input=x, weight=x)
        torch.where(condition=x > 0, input=x, other=x)
        assert x.T.shape == (2, 2)
    assert [s for s in seen if s[0] in ("linear", "where", "T")] == [
        ("linear", 1, ["weight"]),
        ("where", 0, ["condition", "input", "other"]),
        ("T", 1, []),
    ]
