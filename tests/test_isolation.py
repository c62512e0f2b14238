"""What must be true of every metric and penalty on every module of the zoo: it leaves no trace, whatever was before."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_complexity import metrics
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import NetworkError, Snapshot, initial_state
from lightning_complexity.regularizers import Regularizer
from tests.test_contract import METRICS, REGULARIZERS
from tests.traces import assert_equal, assert_no_trace, traces
from tests.zoo import CHECKPOINTED, ZOO, Specimen

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Transitions.* points are too few:UserWarning"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning"),
]
Values = dict[str, Tensor | str]


def moved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (0.9 * tensor).to(tensor.dtype) for name, tensor in state.items()}


def loss_of(found: Specimen) -> Tensor:
    loss = found.loss or nn.functional.cross_entropy
    return loss(found.model(copy.deepcopy(found.inputs)), found.targets.clone())


def trained_a_little(found: Specimen) -> None:
    """Gradients, states and statistics that are not those of a new module."""
    loss_of(found).backward()
    with torch.no_grad():
        for p in found.model.parameters():
            if p.grad is not None:
                p.sub_(0.1 * p.grad)


@pytest.fixture(params=ZOO)
def found(request: pytest.FixtureRequest) -> Specimen:
    return ZOO[request.param]()


def snapshot(found: Specimen, initial: dict[str, Tensor], **options: Any) -> Snapshot:
    return Snapshot(found.model, found.inputs, found.targets, loss=found.loss, initial=initial, **options)


def value(cls: type[ComplexityMetric], on: Snapshot) -> Tensor | str:
    metric = cls()
    try:
        metric.update(on)
    except ValueError as error:
        return str(error)
    return metric.compute()


def penalty(cls: type[Regularizer], found: Specimen, initial: dict[str, Tensor]) -> Tensor | None:
    regularizer = cls(1.0)
    regularizer.initial = initial
    try:
        return regularizer(found.model, found.inputs, found.targets, loss=found.loss)
    except ValueError:
        return None


def gradients(of: Tensor, model: nn.Module) -> list[Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not of.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    return list(torch.autograd.grad(of, parameters, materialize_grads=True))


def looked_at(found: Specimen) -> list[Any]:
    return traces(found.model, found.inputs, found.targets)


def test_metrics_leave_no_trace(found: Specimen) -> None:
    initial = moved(initial_state(found.model))
    before = looked_at(found)
    for cls in METRICS:
        value(cls, snapshot(found, initial))
        assert_no_trace(before, looked_at(found))


def test_penalties_leave_no_trace_and_their_backward_passes_neither(found: Specimen) -> None:
    initial = moved(initial_state(found.model))
    before = looked_at(found)
    for cls in REGULARIZERS:
        term = penalty(cls, found, initial)
        assert_no_trace(before, looked_at(found))
        if term is not None:
            gradients(term, found.model)
            assert_no_trace(before, looked_at(found))


def test_nothing_is_left_where_forward_raises_an_error(found: Specimen) -> None:
    calls, fails_at = 0, 1

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls >= fails_at:
            raise torch.OutOfMemoryError("no memory is left")

    last = next(m for m in reversed(list(found.model.modules())) if not isinstance(m, torch.jit.ScriptModule))
    last.register_forward_hook(fail)
    initial = moved(initial_state(found.model))
    before = looked_at(found)
    for fails_at in (1, 2, 5):
        for cls in METRICS[::5]:
            calls = 0
            value(cls, snapshot(found, initial))
            assert_no_trace(before, looked_at(found))
        for cls in REGULARIZERS[::4]:
            calls = 0
            penalty(cls, found, initial)
            assert_no_trace(before, looked_at(found))


def test_values_do_not_depend_on_what_was_measured_before(found: Specimen) -> None:
    initial = moved(initial_state(found.model))
    alone: Values = {cls.__name__: value(cls, snapshot(found, initial)) for cls in METRICS}
    for order in (METRICS, METRICS[::-1]):
        together = snapshot(found, initial)
        for cls in order:
            same(value(cls, together), alone[cls.__name__], cls.__name__)


def same(first: Any, second: Any, what: str) -> None:
    if isinstance(first, str) or isinstance(second, str):
        assert first == second, what
    else:
        torch.testing.assert_close(first, second, rtol=1e-7, atol=1e-9, equal_nan=True, msg=lambda m: f"{what}: {m}")


@pytest.mark.parametrize("name", ZOO)
def test_training_goes_on_as_if_nothing_had_been_measured(name: str) -> None:
    results = []
    for is_measured in (False, True):
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        found = ZOO[name]()
        trained_a_little(found)
        if is_measured:
            initial = initial_state(found.model)
            for cls in REGULARIZERS[::2]:
                penalty(cls, found, initial)
            shared = snapshot(found, initial)
            for cls in METRICS[::2]:
                value(cls, shared)
        trained_a_little(found)
        results.append([(s.path, s.value.detach()) for s in looked_at(found) if isinstance(s.value, Tensor)])
    assert_equal(*results, name)
