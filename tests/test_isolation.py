"""What must be true of every metric and penalty on every module of the zoo: it leaves no trace, whatever was before."""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import random
import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.data import DataLoader

from lightning_complexity import ComplexityMonitor, metrics, network, regularizers
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import MeasureError, Snapshot, initial_state
from lightning_complexity.regularizers import Regularizer
from tests.quick import quick
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


SOME = [pytest.param(name, marks=pytest.mark.slow) if place % 2 else name for place, name in enumerate(ZOO)]
"""All networks; every other one in the slow tests."""


@pytest.fixture(params=SOME)
def found(request: pytest.FixtureRequest) -> Specimen:
    return ZOO[request.param]()


def snapshot(found: Specimen, initial: dict[str, Tensor], **options: Any) -> Snapshot:
    return Snapshot(found.model, found.inputs, found.targets, loss=found.loss, initial=initial, **options)


def value(cls: type[ComplexityMetric], on: Snapshot) -> Tensor | str:
    metric = quick(cls)
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


def test_metrics_leave_no_trace_and_do_not_depend_on_each_other(found: Specimen) -> None:
    initial = moved(initial_state(found.model))
    before = looked_at(found)
    alone: Values = {}
    for cls in METRICS:
        alone[cls.__name__] = value(cls, snapshot(found, initial))
        assert_no_trace(before, looked_at(found))
    together = snapshot(found, initial)
    for cls in reversed(METRICS):
        same(value(cls, together), alone[cls.__name__], cls.__name__)
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
    calls = {"left": 0}

    def fail(*_: Any) -> None:
        calls["left"] -= 1
        if calls["left"] <= 0:
            raise torch.OutOfMemoryError("no memory is left")

    last = next(m for m in reversed(list(found.model.modules())) if not isinstance(m, torch.jit.ScriptModule))
    last.register_forward_hook(fail)
    initial = moved(initial_state(found.model))
    before = looked_at(found)
    for number in (1, 2, 5):
        for cls in METRICS[::5]:
            calls["left"] = number
            value(cls, snapshot(found, initial))
            assert_no_trace(before, looked_at(found))
        for cls in REGULARIZERS[::4]:
            calls["left"] = number
            penalty(cls, found, initial)
            assert_no_trace(before, looked_at(found))


@pytest.mark.slow
def test_values_do_not_depend_on_what_was_measured_before(found: Specimen) -> None:
    initial = moved(initial_state(found.model))
    alone: Values = {cls.__name__: value(cls, snapshot(found, initial)) for cls in METRICS}
    for seed in range(5):
        together = snapshot(found, initial)
        for cls in random.Random(seed).sample(METRICS, len(METRICS)):
            same(value(cls, together), alone[cls.__name__], cls.__name__)


def same(first: Any, second: Any, what: str) -> None:
    if isinstance(first, str) or isinstance(second, str):
        assert first == second, what
    else:
        torch.testing.assert_close(first, second, rtol=1e-7, atol=1e-9, equal_nan=True, msg=lambda m: f"{what}: {m}")


@pytest.mark.parametrize("name", SOME)
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


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("DrawsInEvaluation", "OwnGenerators")])
def test_a_penalty_is_its_metric(name: str) -> None:
    found = ZOO[name]()
    initial = moved(initial_state(found.model))
    for cls in REGULARIZERS:
        metric = cls(1.0).metric
        term = penalty(cls, found, initial)
        measured = value_of(metric, snapshot(found, initial))
        assert (term is None) == isinstance(measured, str), f"{cls.__name__}: {measured}"
        if term is not None:
            tolerance = 1e-2 if any(p.dtype == torch.bfloat16 for p in found.model.parameters()) else 1e-9
            torch.testing.assert_close(
                term.double(),
                measured.double(),
                rtol=tolerance,
                atol=tolerance,
                msg=lambda m, c=cls: f"{c.__name__}: {m}",
            )


@pytest.mark.parametrize("reentrant", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CHECKPOINTED)
class TestCheckpointing:
    def pair(self, name: str, reentrant: bool) -> tuple[Specimen, Specimen, dict[str, Tensor]]:
        checkpointed, plain = CHECKPOINTED[name](reentrant), CHECKPOINTED[name](None)
        plain.model.load_state_dict(checkpointed.model.state_dict())
        plain.inputs = checkpointed.inputs.clone()
        return checkpointed, plain, moved(initial_state(plain.model))

    def test_metrics_have_the_values_of_the_plain_network(self, name: str, reentrant: bool) -> None:
        checkpointed, plain, initial = self.pair(name, reentrant)
        for cls in set(METRICS) - {metrics.PeakActivationMemory}:  # a checkpoint holds other tensors
            values = [value(cls, snapshot(found, initial)) for found in (checkpointed, plain)]
            same(*values, cls.__name__)

    def test_penalties_have_the_gradients_of_the_plain_network(self, name: str, reentrant: bool) -> None:
        checkpointed, plain, initial = self.pair(name, reentrant)
        for cls in REGULARIZERS:
            terms = [penalty(cls, found, initial) for found in (checkpointed, plain)]
            assert (terms[0] is None) == (terms[1] is None), cls.__name__
            if terms[0] is not None:
                both = [gradients(term, found.model) for term, found in zip(terms, (checkpointed, plain), strict=True)]
                for first, second in zip(*both, strict=True):
                    same(first, second, cls.__name__)

    def test_a_penalty_added_to_a_loss_is_backpropagated_with_it(self, name: str, reentrant: bool) -> None:
        checkpointed, plain, initial = self.pair(name, reentrant)
        for found in (checkpointed, plain):
            # Recomputing it in training mode changes a spectral normalization, for torch itself too.
            found.model.train(name != "Sequence")
        for cls in REGULARIZERS:
            for found in (checkpointed, plain):
                torch.manual_seed(0)
                found.model.zero_grad()
                found.model.load_state_dict(plain.model.state_dict())
                loss = loss_of(found)
                term = penalty(cls, found, initial)
                (loss if term is None else loss + term).backward()
            for (key, first), second in zip(
                checkpointed.model.named_parameters(), plain.model.parameters(), strict=True
            ):
                same(first.grad, second.grad, f"{cls.__name__} {key}")


def value_of(metric: ComplexityMetric, on: Snapshot) -> Tensor | str:
    try:
        metric.update(on)
    except ValueError as error:
        return str(error)
    return metric.compute()


# What the laws above do not reach ---------------------------------------------------------------


def test_hooks_on_gradients_act_once_on_a_penalty() -> None:
    def gradient(factor: float) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        model[0].weight.register_hook(lambda g: factor * g)
        x, y = torch.randn(7, 4), torch.arange(7) % 3
        (regularizers.GradientNorm(1.0)(model, x, y) + regularizers.GradientNorm(1.0).on("0")(model, x, y)).backward()
        return model[0].weight.grad

    torch.testing.assert_close(gradient(3.0), 3 * gradient(1.0))


def test_weights_that_a_caller_caches_are_not_those_of_a_snapshot() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    x, y = torch.randn(7, 4), torch.arange(7) % 3
    expected = regularizers.GradientNorm(1.0)(model, x, y)
    with parametrize.cached():
        own = model[0].weight
        torch.testing.assert_close(regularizers.GradientNorm(1.0)(model, x, y), expected)
        metrics.GradientNorm().update(model, x, y)
        assert model[0].weight is own
    with parametrize.cached():
        metrics.GradientNorm().update(model, x, y)
        assert model[0].weight.requires_grad
        assert len(torch.autograd.grad(model(x).sum(), list(model.parameters()))) == 3


def test_gradients_reach_a_parameter_through_its_views() -> None:
    found = ZOO["ViewsOfOneParameter"]()
    (expected,) = torch.autograd.grad(loss_of(found), [found.model.flat])
    (measured,) = network.gradients(snapshot(found, {})).values()
    torch.testing.assert_close(measured, expected)
    term = penalty(regularizers.GradientNorm, found, {})
    assert gradients(term, found.model)[0].abs().sum() > 0


class Counting(nn.Module):
    """Scripted, it writes to a buffer and to a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.weight = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.weight.mul_(0.5)
        return x * self.weight + self.calls


class Remembers(nn.Module):
    """Each pass changes what an attribute holds, wherever that lies."""

    def __init__(self, kept: Any, change: Callable[[Any], object]) -> None:
        super().__init__()
        self.layer, self.kept, self.change = nn.Linear(2, 2), kept, change

    def forward(self, x: Tensor) -> Tensor:
        self.change(self.kept)
        return self.layer(x)


@pytest.mark.parametrize(
    ("kept", "change"),
    [
        ([0.5, 1], lambda kept: kept.append(2)),
        ([0.5, "a", None, [1]], lambda kept: kept[3].append(2)),
        ([(1, 2.0), (3, [4])], lambda kept: kept[1][1].append(5)),
        ((1, [2]), lambda kept: kept[1].append(3)),
        ({"loss": 0.5}, lambda kept: kept.update(loss=1.0)),
        ({"losses": [0.5]}, lambda kept: kept["losses"].append(1.0)),
        (defaultdict(list, {"a": [1]}), lambda kept: kept["b"].append(kept["a"].pop())),
        (deque([1, 2], maxlen=2), lambda kept: kept.append(3)),
        (deque([[1]]), lambda kept: kept[0].append(2)),
        ([1.0, torch.ones(2)], lambda kept: kept[1].add_(1)),
        ({1, 2}, lambda kept: kept.add(3)),
    ],
)
def test_what_is_kept_in_containers_is_as_before(kept: Any, change: Callable[[Any], object]) -> None:
    model, before = Remembers(kept, change), copy.deepcopy(kept)
    metrics.JacobianNorm().update(model, torch.randn(3, 2))
    assert model.kept is kept
    assert_equal(before, kept, "kept")


@dataclasses.dataclass(slots=True)
class Slotted:
    """Has no ``__dict__``."""

    count: int = 0
    mean: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(2))
    losses: list[float] = dataclasses.field(default_factory=list)

    def update(self) -> None:
        self.count += 1
        self.mean.add_(1)
        self.losses.append(0.5)


@pytest.mark.parametrize("wrapped", [lambda kept: kept, lambda kept: [kept], lambda kept: {"kept": kept}])
def test_what_is_kept_in_slots_is_as_before(wrapped: Any) -> None:
    kept = Slotted()
    mean, losses = kept.mean, kept.losses
    metrics.JacobianNorm().update(Remembers(wrapped(kept), lambda _: kept.update()), torch.randn(3, 2))
    assert (kept.count, kept.mean.tolist(), kept.losses) == (0, [0.0, 0.0], [])
    assert kept.mean is mean
    assert kept.losses is losses


ITERATORS: dict[str, Callable[[], Any]] = {
    "generator": lambda: (i for i in range(9)),
    "enumeration": lambda: (i for i, _ in enumerate(range(9))),
    "cycle": lambda: itertools.cycle(range(9)),
    "loader": lambda: (int(batch) for batch in DataLoader(range(9))),
}


@pytest.mark.parametrize("name", ITERATORS)
@pytest.mark.parametrize("wrapped", [lambda kept: kept, lambda kept: [kept]])
def test_an_iterator_of_the_network_misses_nothing(name: str, wrapped: Any) -> None:
    """What cannot be copied is not asked for its next; and is said to be there."""
    iterator = ITERATORS[name]()
    model = Remembers(wrapped(iterator), lambda kept: next(kept[0] if isinstance(kept, list) else kept))
    assert next(iterator) == 0
    with pytest.raises(MeasureError, match="that it keeps, which training would then miss"):
        metrics.JacobianNorm().update(model, torch.randn(3, 2))
    assert next(iterator) == 1


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_nothing_is_written_to_files_of_the_network(mode: str, tmp_path: Path) -> None:
    line: Any = "1.0" if mode == "w" else b"1.0"
    memory = io.StringIO("before")
    with (tmp_path / "losses").open(mode) as file:
        model = Remembers([file, memory], lambda kept: (kept[0].write(line), kept[1].write("after")))
        metrics.JacobianNorm().update(model, torch.randn(3, 2))
        assert model.kept[0] is file
    assert (tmp_path / "losses").read_bytes() == b""
    assert (memory.getvalue(), memory.tell()) == ("before", 0)


@pytest.mark.parametrize("make", [list, tuple, lambda numbers: numbers])
def test_an_iterator_of_a_sequence_is_copied(make: Any) -> None:
    iterator, seen = iter(make(range(9))), []
    metrics.JacobianNorm().update(Remembers(iterator, lambda kept: seen.append(next(kept))), torch.randn(3, 2))
    assert set(seen) == {0}
    assert next(iterator) == 0


class Pair(tuple[Any, Any]):
    """Takes other arguments than a tuple."""

    def __new__(cls, first: Any, second: Any) -> Any:
        return super().__new__(cls, (first, second))


class Frozen(dict[str, Any]):
    """Can be neither written to nor copied, as configurations."""

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("frozen")

    def __copy__(self) -> Any:
        raise TypeError("frozen")


@pytest.mark.parametrize("kept", [Pair([0], torch.zeros(2)), Frozen({"a": [0], "b": 1})], ids=["tuple", "mapping"])
def test_containers_of_classes_that_cannot_be_copied_are_as_before(kept: Any) -> None:
    seen: list[Any] = []
    key: Any = "a" if isinstance(kept, dict) else 0

    def change(copied: Any) -> None:
        copied[key].append(1)
        seen.append(copied)

    metrics.JacobianNorm().update(Remembers(kept, change), torch.randn(3, 2))
    assert kept[key] == [0]
    assert {type(copied) for copied in seen} == {type(kept)}


def test_the_object_of_a_method_is_as_before() -> None:
    kept = Slotted()
    model = Remembers(kept.update, lambda update: update())
    metrics.JacobianNorm().update(model, torch.randn(3, 2))
    assert (kept.count, kept.losses) == (0, [])


class OfTwoInputs(nn.Module):
    """Its inputs are not one tensor, so that derivatives for them are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.net(inputs["a"] + inputs["b"])


def test_no_hook_stays_where_a_submodule_was_looked_for() -> None:
    """The block that measures share begins with the search for one."""
    model = OfTwoInputs()
    snapshot = Snapshot(model, {"a": torch.randn(3, 2), "b": torch.randn(3, 2)})
    with snapshot.opened():
        with pytest.raises(MeasureError, match="wrt='net'"):
            metrics.JacobianNorm().update(snapshot)
        metrics.OutputEntropy().update(snapshot)
    assert not model.net._forward_pre_hooks


class Unbound:
    """A proxy for something that is not there, as web frameworks have them."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("outside of the application")

    @property
    def __dict__(self) -> Any:
        raise RuntimeError("outside of the application")


def test_proxies_are_not_asked_what_they_are() -> None:
    there = Unbound()
    gone = weakref.proxy(there)
    del there
    model = Remembers([Unbound(), gone, {"proxy": Unbound()}], lambda kept: kept.append(1))
    metrics.JacobianNorm().update(model, torch.randn(3, 2))
    assert len(model.kept) == 3


LARGE: dict[str, Callable[[], Any]] = {
    "list": lambda: [torch.full((2,), float(i)) for i in range(100)],
    "records": lambda: [{"loss": torch.zeros(()), "outputs": torch.zeros(2)} for _ in range(100)],
    "pairs": lambda: deque([(torch.zeros(2), i) for i in range(100)], maxlen=100),
}


def first_tensor_of(kept: Any) -> Tensor:
    entry = kept[0]
    return entry if isinstance(entry, Tensor) else entry["outputs"] if isinstance(entry, dict) else entry[0]


CHANGES: dict[str, Callable[[Any], object]] = {
    "appended": lambda kept: kept.append(kept[0]),
    "replaced": lambda kept: kept.__setitem__(0, kept[1]),
    "written to": lambda kept: first_tensor_of(kept).add_(1),
    "written to past autograd": lambda kept: first_tensor_of(kept).data.add_(1),
    "written to by numpy": lambda kept: first_tensor_of(kept).numpy().fill(1.0),
    "differentiated": lambda kept: first_tensor_of(kept).requires_grad_(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", LARGE)
def test_each_run_finds_what_is_kept_as_training_left_it(kind: str, change: str) -> None:
    """Copies of large containers serve several runs, unless one has changed them."""
    seen = []

    def remember(kept: Any) -> None:
        first = first_tensor_of(kept)
        seen.append((len(kept), first.sum().item(), first.requires_grad, kept[0] is kept[1]))
        CHANGES[change](kept)

    kept = LARGE[kind]()
    before = copy.deepcopy(kept)
    snapshot = Snapshot(Remembers(kept, remember), torch.randn(3, 2))
    with snapshot.opened():
        for _ in range(3):
            snapshot.run(lambda model: model(snapshot.inputs))
    assert seen == 3 * [(100, 0.0, False, False)]
    assert_equal(list(before), list(kept), "kept")


def test_a_large_container_is_copied_once() -> None:
    kept, seen = LARGE["list"](), list[Any]()
    model = Remembers(kept, lambda copies: seen.append(list(copies)))
    snapshot = Snapshot(model, torch.randn(3, 2))
    with snapshot.opened():
        for _ in range(2):
            snapshot.run(lambda model: model(snapshot.inputs))
    assert all(a is b and a is not c for a, b, c in zip(*seen, kept, strict=True))


def test_stand_ins_of_parameters_are_those_of_the_run_also_in_large_containers() -> None:
    model = Remembers(None, lambda kept: None)
    model.kept = [model.layer.weight, model.layer.weight[0], *(torch.zeros(2) for _ in range(100))]
    snapshot = Snapshot(model, torch.randn(3, 2))
    with snapshot.opened():
        for factor in (1.0, 2.0):
            moved = snapshot.moved({"layer.weight": factor * model.layer.weight.detach()})
            found = moved.run(lambda model: [t.detach().clone() for t in model.kept[:2]])
            torch.testing.assert_close(found, [factor * model.layer.weight, factor * model.layer.weight[0]])


def test_what_a_monitor_recorded_is_not_copied_for_the_module_that_keeps_it() -> None:
    monitor, seen = ComplexityMonitor("fast"), list[Any]()
    model = Remembers([monitor], lambda kept: seen.append(kept[0]._history))
    model.monitor = monitor
    metrics.JacobianNorm().update(model, torch.randn(3, 2))
    assert seen
    assert all(history is monitor._history for history in seen)


def test_scripted_modules_are_left_alone() -> None:
    model = nn.Sequential(torch.jit.script(Counting()), nn.Linear(4, 3))
    found = Specimen(model, torch.randn(7, 4), torch.arange(7) % 3)
    initial = moved(initial_state(model))
    slots = model[0].weight, model[0].calls
    for cls in METRICS:
        value(cls, snapshot(found, initial))
    for cls in REGULARIZERS:
        penalty(cls, found, initial)
    assert model[0].calls == 0
    assert (model[0].weight == 1).all()
    assert model[0].weight is slots[0]
    assert model[0].calls is slots[1]


def test_memory_is_shared_where_nothing_is_written() -> None:
    address = torch._C._data_address
    model = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))
    x, y = torch.randn(7, 4), torch.arange(7) % 3
    of = {address(t) for t in model.state_dict().values() if t.ndim} | {address(x)}
    seen: set[int] = set()

    def look(module: nn.Module, args: tuple[Tensor]) -> None:
        named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        seen.update(address(t.detach()) for _, t in named if t.ndim)
        seen.update({address(args[0])} if module is model[0] else set())

    for layer in model:
        layer.register_forward_pre_hook(look)
    metrics.GradientNorm().update(model, x, y)
    term = regularizers.GradientNorm(1.0)(model, x, y)
    assert seen == of
    term.backward()
    assert {address(t) for t in model.state_dict().values() if t.ndim} | {address(x)} == of


def test_memory_stays_where_it_is_while_training_writes_to_it() -> None:
    model = nn.Linear(4, 3)
    x, y = torch.randn(7, 4), torch.arange(7) % 3
    as_numpy = model.weight.detach().numpy()
    metrics.GradientNorm().update(model, x, y)
    (nn.functional.cross_entropy(model(x), y) + regularizers.GradientNorm(1.0)(model, x, y)).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    np.testing.assert_array_equal(as_numpy, model.weight.detach().numpy())


@pytest.mark.parametrize("compiled_first", [False, True])
def test_initial_states_fit_compiled_networks_and_the_other_way_round(compiled_first: bool) -> None:
    plain = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    inside = nn.Sequential(plain[0], torch.compile(plain[1]), plain[2], plain[3])
    for compiled in (torch.compile(plain), inside):
        before, after = (compiled, plain) if compiled_first else (plain, compiled)
        initial = initial_state(before)
        assert initial.keys() == initial_state(after).keys()
        with torch.no_grad():
            plain[0].weight.add_(1)
        metric, term = metrics.WeightDistance(), regularizers.WeightDistance(1.0)
        term.initial = initial
        metric.update(after, initial=initial)
        torch.testing.assert_close(metric.compute(), torch.tensor(20.0).sqrt())
        torch.testing.assert_close(term(after).detach(), torch.tensor(20.0).sqrt())
        with torch.no_grad():
            plain[0].weight.sub_(1)
