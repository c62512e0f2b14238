"""What networks are given and give, and what their losses are: the right value by kind, or one clear refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity import metrics, regularizers
from lightning_complexity.metrics import ComplexityMetric, catalogue
from lightning_complexity.network import (
    HessianOperator,
    MeasureError,
    NetworkError,
    Snapshot,
    gradients,
    initial_state,
    jacobian_grams,
    mean_loss,
    predictions,
)
from lightning_complexity.network.outputs import class_dim
from lightning_complexity.regularizers import Regularizer
from tests.kinds import KINDS, OUTPUTS, Kind
from tests.quick import quick

METRICS = [entry.metric for entry in catalogue()]
EXPORTED = [getattr(regularizers, name) for name in regularizers.__all__]
PENALTIES = [c for c in EXPORTED if isinstance(c, type) and issubclass(c, Regularizer) and c is not Regularizer]


def smooth_net(fan_out: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, fan_out))


def parameter_vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def as_function(model: nn.Module, loss: Callable[[Any, Any], Tensor], x: Tensor, y: Any) -> Callable[[Tensor], Tensor]:
    """The loss of the whole batch as a function of one vector of parameters."""
    named = dict(model.named_parameters())

    def function(vector: Tensor) -> Tensor:
        parts = vector.split([p.numel() for p in named.values()])
        values = {name: part.view_as(p) for (name, p), part in zip(named.items(), parts, strict=True)}
        return loss(torch.func.functional_call(model, values, (x,)), y)

    return function


CLASSES = torch.tensor([0, 1, 2, 0, -100, 1, 2])


def contrastive(z: Tensor, _: Tensor) -> Tensor:
    similarities = F.normalize(z) @ F.normalize(z).T
    return F.cross_entropy(4 * similarities, torch.arange(len(z)).roll(1))


def concordance(z: Tensor, t: Tensor) -> Tensor:
    a, b = z[:, 0], t[:, 0]
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    return 1 - 2 * covariance / (a.var(correction=0) + b.var(correction=0) + (a.mean() - b.mean()).square())


def standardized(z: Tensor, t: Tensor) -> Tensor:
    return F.mse_loss((z - z.mean(0)) / z.std(0), t)


def ignoring_negative(z: Tensor, t: Tensor) -> Tensor:
    kept = t[:, 0] > 0
    return F.mse_loss(z[kept], t[kept])


NUMBERS = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, 0.1], [-0.2, 0.4, 0.0]] * 2 + [[0.7, 0.7, -0.3]])
LOSSES: dict[str, tuple[Callable[[Any, Any], Tensor] | None, Tensor]] = {
    "the default": (None, CLASSES),
    "cross-entropy": (nn.CrossEntropyLoss(), CLASSES),
    "another index ignored": (nn.CrossEntropyLoss(ignore_index=0), CLASSES.clamp(min=0)),
    "another index in a partial": (partial(F.cross_entropy, ignore_index=0), CLASSES.clamp(min=0)),
    "class weights": (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]).double()), CLASSES),
    "label smoothing": (nn.CrossEntropyLoss(label_smoothing=0.3), CLASSES),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), CLASSES),
    "soft labels": (None, NUMBERS.double().softmax(1)),
    "squares": (F.mse_loss, NUMBERS.double()),
    "labels": (F.binary_cross_entropy_with_logits, (NUMBERS > 0).double()),
    "contrastive": (contrastive, CLASSES),
    "concordance": (concordance, NUMBERS.double()),
    "standardized": (standardized, NUMBERS.double()),
    "targets left out": (ignoring_negative, NUMBERS.double()),
}


@pytest.mark.parametrize("chunk_size", [1, 3, 256])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_that_of_the_whole_batch(name: str, chunk_size: int) -> None:
    """Chunks of one sample too, of which some have only ignored targets, or no spread."""
    given, y = LOSSES[name]
    model, x, loss = smooth_net(), torch.randn(7, 4), given or F.cross_entropy
    snapshot = Snapshot(model, x, y, loss=given, chunk_size=chunk_size)
    function, vector = as_function(model, loss, x, y), parameter_vector(model)
    gradient = torch.func.grad(function)(vector)
    torch.testing.assert_close(mean_loss(snapshot), function(vector))
    torch.testing.assert_close(torch.cat([g.flatten() for g in gradients(snapshot).values()]), gradient)
    hessian = HessianOperator(snapshot).matmat(torch.eye(len(vector)))
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(function, vector))
    leaf = x.clone().requires_grad_()
    (for_inputs,) = torch.autograd.grad(loss(model(leaf), y), leaf)
    metric = metrics.InputGradientNorm()
    metric.update(snapshot)
    torch.testing.assert_close(metric.compute(), 7 * for_inputs.norm(dim=1).mean())


@pytest.mark.parametrize("chunk_size", [1, 2, 256])
@pytest.mark.parametrize("classes_last", [False, True])
def test_positions_with_classes_on_either_side(classes_last: bool, chunk_size: int) -> None:
    convolution = nn.Conv1d(2, 3, 3, padding=1)
    model = nn.Sequential(convolution, nn.Flatten(1, 1))
    x, y = torch.randn(4, 2, 6), torch.arange(24).view(4, 6) % 3
    y[0] = -100
    forward = (lambda m, x: m(x).transpose(1, 2)) if classes_last else None
    snapshot = Snapshot(model, x, y, forward=forward, chunk_size=chunk_size)
    assert class_dim(snapshot) == (2 if classes_last else 1)
    expected = F.cross_entropy(model(x), y)
    torch.testing.assert_close(mean_loss(snapshot), expected)
    grads = torch.autograd.grad(expected, list(model.parameters()))
    torch.testing.assert_close(list(gradients(snapshot).values()), list(grads))
    of_right = model(x).gather(1, y.clamp(min=0)[:, None])[:, 0]
    others = model(x).scatter(1, y.clamp(min=0)[:, None], -torch.inf).amax(1)
    metric = metrics.MeanMargin()
    metric.update(snapshot)
    torch.testing.assert_close(metric.compute(), (of_right - others)[1:].mean().double())


def test_a_named_dimension_of_classes_where_shapes_do_not_tell() -> None:
    x, y = torch.randn(4, 3, 3), torch.arange(12).view(4, 3) % 3
    for dim in (1, 2):
        snapshot = Snapshot(nn.Identity(), x, y, class_dim=dim)
        torch.testing.assert_close(mean_loss(snapshot), F.cross_entropy(x.movedim(dim, 1), y))
        assert class_dim(snapshot) == dim


@pytest.mark.parametrize("kind", ["one number", "one column", "several numbers", "labels", "truth values"])
def test_without_classes_there_is_no_softmax(kind: str) -> None:
    model, x, y, loss = KINDS[kind]()
    snapshot = Snapshot(model, x, y, loss=loss)
    assert class_dim(snapshot) is None
    assert predictions(snapshot).ndim == 2
    jacobians = torch.stack([torch.func.jacrev(lambda v: model(v[None]).flatten())(row) for row in x])
    expected = jacobians @ jacobians.mT
    for of in ("softmax", "logits"):
        torch.testing.assert_close(jacobian_grams(snapshot, of).double(), expected)
    metric = metrics.JacobianNorm()
    metric.update(snapshot)
    norms = expected.diagonal(dim1=1, dim2=2).sum(1).sqrt()
    torch.testing.assert_close(metric.compute(), norms.mean())
    assert metric.compute() > 0
    noise = metrics.NoiseSensitivity()
    noise.update(snapshot)
    assert noise.compute() > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("cls", METRICS)
def test_outputs_in_a_container_count_as_what_they_hold(cls: type[ComplexityMetric], kind: str) -> None:
    model, x, y, loss = OUTPUTS[kind]()
    initial = initial_state(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    y = model.layers(x).argmax(1)
    values = []
    for network, options in ((model, {"loss": loss}), (model.layers, {})):
        metric = quick(cls)
        own = {name.removeprefix("" if network is model else "layers."): t for name, t in initial.items()}
        try:
            metric.update(network, **needed(cls, x, y, own), **options)
        except ValueError as error:
            if "argmax" in str(error) or "an object of SimpleNamespace" in str(error):
                return  # decisions have no paths and no pieces; tensors in any object are not known
            values.append(re.sub("'layers[.]?", "'", str(error)))
        else:
            values.append(metric.compute())
    torch.testing.assert_close(*values, equal_nan=True) if torch.is_tensor(values[0]) else None
    assert type(values[0]) is type(values[1]), values


def needed(cls: type[ComplexityMetric], x: Any, y: Any, initial: dict[str, Tensor]) -> dict[str, Any]:
    return {k: v for k, v in {"inputs": x, "targets": y, "initial": initial}.items() if k in cls.needs}


def test_several_tensors_are_refused_by_name_and_chosen_by_forward() -> None:
    model, x, y, _ = KINDS["several tensors"]()
    metric = metrics.MeanMargin()
    with pytest.raises(MeasureError, match=r"returns a tuple of Tensor, Tensor.*forward=lambda model, inputs"):
        metric.update(model, x, y)
    metric.update(model, x, y, forward=lambda model, inputs: model(inputs)[0])
    other = metrics.MeanMargin()
    other.update(model.layers, x, y)
    torch.testing.assert_close(metric.compute(), other.compute())


# Any metric or penalty on any network --------------------------------------------------------------


PYTHON = "IndexError", "AttributeError", "KeyError", "TypeError", "AssertionError", "NotImplementedError"
RAW = re.compile(
    "|".join([*PYTHON, "RuntimeError", "that it does not know", "must match the size", "not implemented for"])
)


def check_refusal(error: ValueError, kind: Kind) -> None:
    """It is in words of our own, or it is the network's error, which calling it raises too."""
    if isinstance(error, NetworkError) and error.__cause__ is not None:
        with pytest.raises((type(error.__cause__), RuntimeError)):
            called(kind)
        return
    assert not RAW.search(str(error)), error
    assert re.search(r"[a-z] .*[a-z]", str(error))


def called(kind: Kind) -> float:
    return (kind.loss or F.cross_entropy)(kind.model(kind.inputs), kind.targets).item()


WITHOUT_GRADIENT = {regularizers.FeatureEffectiveRank}  # of a single layer: the inputs are its features


def changed(kind: Kind) -> dict[str, Tensor]:
    initial = initial_state(kind.model)
    with torch.no_grad():
        for p in kind.model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return initial


@pytest.mark.filterwarnings("ignore:Transitions. 1024 points are too few")
@pytest.mark.parametrize("name", KINDS)
def test_a_metric_has_a_value_or_a_reason(name: str) -> None:
    kind = KINDS[name]()
    initial = changed(kind)
    snapshot = Snapshot(kind.model, kind.inputs, kind.targets, loss=kind.loss, initial=initial)
    for cls in METRICS:
        metric = quick(cls)
        try:
            metric.update(snapshot)
        except ValueError as error:
            check_refusal(error, kind)
            continue
        value = metric.compute()
        assert value.shape == ()
        assert value.isfinite() or re.search("nan|[Ii]nfinite", str(cls.__doc__)), cls


COUNTERPARTS: dict[str, Callable[[], ComplexityMetric]] = {  # a step draws fewer probes than a measurement
    "HessianTrace": lambda: metrics.HessianTrace(num_probes=1, estimator="hutchinson"),
    "GaussNewtonTrace": lambda: metrics.GaussNewtonTrace(num_probes=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_penalty_has_a_gradient_or_a_reason(name: str) -> None:
    kind = KINDS[name]()
    initial = changed(kind)
    trained = [p for p in kind.model.parameters() if p.requires_grad]
    for cls in PENALTIES:
        penalty = cls(1.0)
        penalty.initial = initial
        try:
            value = penalty(kind.model, kind.inputs, kind.targets, loss=kind.loss)
            metric = COUNTERPARTS.get(cls.__name__, type(penalty.metric))()
            metric.update(kind.model, kind.inputs, kind.targets, loss=kind.loss, initial=initial)
        except ValueError as error:
            check_refusal(error, kind)
            continue
        torch.testing.assert_close(
            value.detach().double(), metric.compute().double(), equal_nan=True, rtol=1e-3, atol=1e-5
        )
        assert value.requires_grad or not trained or cls in WITHOUT_GRADIENT or not depends_on_all(kind), cls
        if value.requires_grad and trained:
            found = torch.autograd.grad(value, trained, allow_unused=True)
            assert all(g is None or g.to_dense().isfinite().all() for g in found if g is None or not value.isnan()), cls


def depends_on_all(kind: Kind) -> bool:
    """Whether the outputs have a graph back to parameters, all of which are trained."""
    outputs = kind.model(kind.inputs)
    return torch.is_tensor(outputs) and outputs.requires_grad and all(p.requires_grad for p in kind.model.parameters())
