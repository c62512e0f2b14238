"""What a measure may say about a network: a number, a documented ``nan`` or ``inf``, or a refusal with its cause."""

from __future__ import annotations

import linecache
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import lightning_complexity
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import NetworkError, Snapshot, map_tensors
from lightning_complexity.network.running.batches import tensors_in
from tests.random_networks.cases import Built, Case
from tests.random_networks.subjects import COUNTERPARTS, METRICS, PENALTIES
from tests.traces import Seen, assert_no_trace, traces

PACKAGE = str(Path(lightning_complexity.__file__).parent)
RAW = re.compile(r"does not know|\b\w+(Error|Exception): ")
CHUNK = 3
# Outputs that are nan are one more error; samples without another one of their class are not mixed.
BEAR_NAN = ("VCGeneralizationBound", "MixupMargin")
# Differences of losses, which are 0 where the loss is a constant, whatever the outputs are.
OF_LOSSES_ALONE = ("LossSlice", "ModeConnectivityBarrier")
# What one sample gives depends on the others there, or on how often the network ran.
COUPLED = (
    "mean over batch",
    "functional batch norm",
    "decision",
    "noise",
    "time first rnn",
    "forgetful",
    "messages",
    "until small",
    "gate by one number",
    "transposed",  # where as many mixes are taken as there are positions
)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a measure on a network.

    Attributes:
        subject: Which measure.
        kind: What is wrong, in few words; equal for faults with the same cause.
        text: The same at length.
    """

    subject: str
    kind: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """What a measure gave: its values, or the error."""

    values: dict[str, Tensor] | None = None
    error: Exception | None = None


def attempted(function: Callable[[], dict[str, Tensor]]) -> Outcome:
    """Call a function, and keep its error if it raises one."""
    try:
        return Outcome(values=function())
    except Exception as error:
        return Outcome(error=error)


# The network by itself ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ordinary:
    """What the network does when it is simply called in evaluation mode.

    Attributes:
        runs: Whether it does.
        has_loss: Whether the loss gives something.
        is_finite: Whether inputs, parameters, outputs, loss and derivatives are finite.
        has_derivatives: Whether it can be differentiated.
        is_undefined: Whether inputs that are not numbers give outputs that are none.
    """

    runs: bool = False
    has_loss: bool = False
    is_finite: bool = False
    has_derivatives: bool = False
    is_undefined: bool = False


def ordinary(case: Case) -> Ordinary:
    """Call another copy of the network on its batch, and take its loss."""
    model, inputs, targets, loss, _ = case.build()
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(map_tensors(torch.clone, inputs))
            model(map_tensors(lambda t: t[:1].clone(), inputs))
    except Exception:
        return Ordinary()
    try:
        value = None if loss is None else loss(outputs, targets)
    except Exception:
        value = None
    found = [*tensors_in(outputs), *tensors_in(inputs), *tensors_in(value), *model.parameters()]
    undefined = _have_nan(inputs) and _have_nan(outputs) and case.judge != "not finite"
    try:
        derivatives = _derivatives(model, inputs)
    except RuntimeError:
        return Ordinary(True, value is not None, _are_finite(found), False, undefined)
    return Ordinary(True, value is not None, _are_finite([*found, *derivatives]), True, undefined)


def _have_nan(data: Any) -> bool:
    return any(bool(t.to_dense().isnan().any()) for t in tensors_in(data))


def _are_finite(tensors: list[Tensor]) -> bool:
    return all(bool(t.to_dense().isfinite().all()) for t in tensors)


def _derivatives(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The outputs' derivatives for inputs and parameters, up to the second."""
    leaves = [p for p in model.parameters() if p.requires_grad]

    def as_leaf(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1] * 1

    outputs = [t for t in tensors_in(model(map_tensors(as_leaf, inputs))) if t.requires_grad]
    if not outputs:
        return []
    of_weights = _derivatives_of_parametrized_weights(model)
    total = torch.stack([t.abs().square().sum().double() for t in outputs]).sum()
    first = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
    slope = torch.stack([g.to_dense().abs().square().sum().double() for g in first]).sum()
    try:
        second = torch.autograd.grad(slope, leaves, materialize_grads=True) if slope.requires_grad else ()
    except RuntimeError:  # torch has no such derivative
        second = ()
    return [*first, *second, *of_weights]


def _derivatives_of_parametrized_weights(model: nn.Module) -> list[Tensor]:
    """Those of weights for what they are made from, which torch can have as nan in half precision."""
    found: list[Tensor] = []
    for module in filter(parametrize.is_parametrized, model.modules()):
        originals = [p for p in module.parameters() if p.requires_grad]
        for weight in (getattr(module, name) for name in module.parametrizations):
            if weight.requires_grad:
                found += torch.autograd.grad(weight.abs().sum(), originals, materialize_grads=True)
    return found


# Errors ------------------------------------------------------------------------------------------------


def what_is_wrong(error: Exception, network: Ordinary) -> str | None:
    """Why an error is no refusal that names its cause; ``None`` if it is one."""
    if not isinstance(error, (ValueError, ArithmeticError)):
        return f"a raw {type(error).__name__}"
    file, line = raised_at(error)
    if not (file.startswith(PACKAGE) and linecache.getline(file, line).strip().startswith("raise")):
        return f"a {type(error).__name__} that the package did not raise"
    text = str(error)
    if isinstance(error, NetworkError) and "could not be run" in text and not network.runs:
        return None
    if isinstance(error, NetworkError) and "loss could not be computed" in text and not network.has_loss:
        return None
    return "the words of torch or Python" if RAW.search(text) else None


def raised_at(error: BaseException) -> tuple[str, int]:
    """File and line of the innermost frame."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


# Values ------------------------------------------------------------------------------------------------


def _documented(metric: ComplexityMetric) -> bool:
    return bool(re.search(r"``-?(nan|inf)``|[Ii]nfinite|[Uu]ndefined", type(metric).__doc__ or ""))


def _measured(metric: ComplexityMetric, snapshot: Snapshot) -> dict[str, Tensor]:
    metric.update(snapshot)
    return metric.report()


def _snapshot(built: Built, **options: Any) -> Snapshot:
    model, inputs, targets, loss, initial = built
    return Snapshot(model, inputs, targets, loss=loss, initial=initial, **options)


def _penalised(name: str, built: Built) -> dict[str, Tensor]:
    model, inputs, targets, loss, initial = built
    regularizer = PENALTIES[name](1.0)
    regularizer.initial = initial
    value = regularizer(model, inputs, targets, loss=loss)
    leaves = [p for p in model.parameters() if p.requires_grad]
    if not (value.requires_grad and leaves):
        return {"value": value.detach()}
    found = torch.autograd.grad(value, leaves, materialize_grads=True)
    return {"value": value.detach(), "gradient": torch.cat([g.double().flatten() for g in found])}


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# The checks --------------------------------------------------------------------------------------------


def faults(case: Case, metrics: list[str], penalties: list[str]) -> list[Fault]:
    """All that is wrong with measures on a case.

    Args:
        case: The network and its batch.
        metrics: Names of the metrics to measure.
        penalties: Names of the penalties to take.
    """
    with _quietly():
        network, built = ordinary(case), case.build()
        before = traces(built.model, built.inputs, built.targets)
        found = [
            *_faults_of_metrics(case, built, network, metrics),
            *_faults_of_penalties(case, built, network, penalties),
        ]
        trace = _trace(before, built)
    return found if trace is None else [*found, *_named(trace, case, metrics, penalties)]


def _trace(before: list[Seen], built: Built) -> str | None:
    try:
        assert_no_trace(before, traces(built.model, built.inputs, built.targets))
    except AssertionError as error:
        return str(error).split("\n")[0]
    return None


def _named(trace: str, case: Case, metrics: list[str], penalties: list[str]) -> list[Fault]:
    """The same for each measure that leaves a trace by itself."""
    one_by_one = [([name], []) for name in metrics] + [([], [name]) for name in penalties]
    if len(one_by_one) == 1:
        return [Fault(metrics[0] if metrics else f"penalty {penalties[0]}", "a trace", trace)]
    alone = [fault for some in one_by_one for fault in faults(case, *some) if fault.kind == "a trace"]
    return alone or [Fault("all of them together", "a trace", trace)]


def _faults_of_metrics(case: Case, built: Built, network: Ordinary, names: list[str]) -> Iterator[Fault]:
    try:
        whole, parts = _snapshot(built), _snapshot(built, chunk_size=CHUNK)
    except Exception as error:
        wrong = what_is_wrong(error, network)
        if wrong is not None:
            yield Fault("Snapshot", wrong, _said(error))
        return
    for name in names:
        metric = METRICS[name]()
        outcome = attempted(lambda metric=metric: _measured(metric, whole))
        fault = _fault_of(name, outcome, network, _documented(metric), metric.name)
        if fault is None and network.is_undefined and _sees_outputs(metric, case):
            fault = _number_from_nan(name, outcome, metric.name)
        if fault is not None:
            yield fault
            continue
        other = attempted(lambda name=name: _measured(METRICS[name](), parts))
        documented = _documented(metric) or _is_coupled(case)
        fault = _fault_of(f"{name} by chunks", other, network, documented, metric.name)
        if fault is None and case.precision == "double" and network.is_finite and not _is_coupled(case):
            fault = _difference(name, outcome, other, "chunks")
        if fault is not None:
            yield fault


def _faults_of_penalties(case: Case, built: Built, network: Ordinary, names: list[str]) -> Iterator[Fault]:
    for name in names:
        penalty = f"penalty {name}"
        outcome = attempted(lambda name=name: _penalised(name, built))
        if outcome.error is not None and not network.has_derivatives and not isinstance(outcome.error, ValueError):
            continue  # the backward pass of the penalty is that of the network
        metric = COUNTERPARTS[name]()
        fault = _fault_of(penalty, outcome, network, _documented(metric), "value")
        if fault is None and outcome.values is not None:
            expected = attempted(lambda metric=metric: _value(metric, built))
            exact = case.precision == "double" and case.outputs != "half" and not _is_coupled(case)
            if exact and network.is_finite:
                fault = _difference(penalty, Outcome({"value": outcome.values["value"]}), expected, "its metric")
            gradient = outcome.values.get("gradient")
            ordinary_slope = network.is_finite and metric.order < 2 and not _documented(metric)
            if fault is None and ordinary_slope and gradient is not None and not gradient.isfinite().all():
                fault = Fault(penalty, "a gradient that is not finite", f"at {outcome.values['value']}")
        if fault is not None:
            yield fault


def _value(metric: ComplexityMetric, built: Built) -> dict[str, Tensor]:
    return {"value": _measured(metric, _snapshot(built))[metric.name]}


def _fault_of(subject: str, outcome: Outcome, network: Ordinary, documented: bool, key: str) -> Fault | None:
    if outcome.error is not None:
        wrong = what_is_wrong(outcome.error, network)
        return None if wrong is None else Fault(subject, wrong, _said(outcome.error))
    assert outcome.values is not None
    value = outcome.values[key]
    if value.shape != ():
        return Fault(subject, "no number", f"{value.dtype} of shape {tuple(value.shape)}")
    if not (value.isfinite() or documented) and network.is_finite:
        return Fault(subject, "not finite, undocumented", str(value))
    return None


def _sees_outputs(metric: ComplexityMetric, case: Case) -> bool:
    """Whether outputs that are nan must show."""
    if case.judge == "constant" and type(metric).__name__ in OF_LOSSES_ALONE:
        return False
    return metric.reads_samples and "inputs" in metric.needs and type(metric).__name__ not in BEAR_NAN


def _number_from_nan(subject: str, outcome: Outcome, key: str) -> Fault | None:
    if outcome.values is None or outcome.values[key].isnan():
        return None
    return Fault(subject, "a number where the network gives nan", str(outcome.values[key]))


def _difference(subject: str, first: Outcome, second: Outcome, other: str) -> Fault | None:
    if (first.error is None) != (second.error is None):
        error = first.error or second.error
        assert error is not None
        return Fault(subject, f"refused only with or without {other}", _said(error))
    if first.values is None or second.values is None:
        return None
    for key, value in first.values.items():
        a, b = value.double(), second.values[key].double()
        if not torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True):
            return Fault(subject, f"differs by {other}", f"{key}: {a} and {b}")
    return None


def _is_coupled(case: Case) -> bool:
    names = [name for layer in case.layers for name in (layer if isinstance(layer, tuple) else (layer,))]
    if "hidden" in names:  # from evaluation mode as well
        return True
    return any(name in COUPLED for name in names)
