"""Losses and outputs of whole batches: equal to those by hand, however the batch is cut and whatever it holds."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity import metrics, regularizers
from lightning_complexity.network import (
    Batches,
    HessianOperator,
    MeasureError,
    MissingInputError,
    NetworkError,
    Snapshot,
    Task,
    gradients,
    initial_state,
    input_gradients,
    jacobian_grams,
    margins,
    mean_loss,
    predictions,
)
from lightning_complexity.network.running.batches import batch_size, can_be_cut, copied, owned, tensors_in
from lightning_complexity.network.running.reading import Reading, readings
from tests.networks import mlp

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(7) % 3


class Sample(NamedTuple):
    features: Tensor
    Y: Tensor


class Plain:
    """A batch that is no container."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def judged(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def judged_object(module: nn.Module, batch: Plain) -> Tensor:
    return F.cross_entropy(module(batch.x), batch.y)


WHOLE = {
    "one batch": (Batches.of((X, Y)), judged),
    "cut by threes": (Batches(((X, Y),), (7,), at_once=3), judged),
    "two batches": (Batches(((X[:4], Y[:4]), (X[4:], Y[4:])), (4, 3)), judged),
    "two objects": (Batches((Plain(X[:4], Y[:4]), Plain(X[4:], Y[4:])), (4, 3)), judged_object),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("chunk_size", [2, 100])
def test_losses_of_batches_and_their_derivatives_are_those_of_the_whole(kind: str, chunk_size: int) -> None:
    batches, loss = WHOLE[kind]
    task = Task(loss=loss, forward=None if loss is judged else lambda module, batch: module(batch.x))
    model = net()
    found = Snapshot(model, batches, task=task, chunk_size=chunk_size)
    given = Snapshot(model, X, Y)
    torch.testing.assert_close(mean_loss(found), mean_loss(given))
    torch.testing.assert_close(predictions(found), predictions(given))
    for name, gradient in gradients(given).items():
        torch.testing.assert_close(gradients(found)[name], gradient)
    vector = torch.randn(HessianOperator(given).shape[0], dtype=torch.float64)
    torch.testing.assert_close(HessianOperator(found).matvec(vector), HessianOperator(given).matvec(vector))


@pytest.mark.parametrize("kind", ["one batch", "cut by threes", "two batches"])
def test_gradients_for_the_inputs_of_batches(kind: str) -> None:
    found = torch.cat(list(input_gradients(Snapshot(net(), WHOLE[kind][0], loss=judged))))
    torch.testing.assert_close(found, torch.cat(list(input_gradients(Snapshot(net(), X, Y)))))


def test_penalties_of_a_loss_that_takes_the_batch_have_the_gradient_of_the_one_by_hand() -> None:
    for penalty in (regularizers.GradientNorm(0.3), regularizers.HessianTrace(0.3)):
        by_batch, by_hand = net(), net()
        penalty(by_batch, (X, Y), loss=judged).backward()
        type(penalty)(0.3)(by_hand, X, Y).backward()
        for p, q in zip(by_batch.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


def test_metrics_take_a_batch_and_what_reads_it() -> None:
    metric = metrics.MarginPercentile()
    batch = {"x": X, "classes": {"of": Y}}
    metric.update(net(), batch, forward=lambda module, batch: module(batch["x"]), targets=lambda b: b["classes"]["of"])
    by_hand = metrics.MarginPercentile()
    by_hand.update(net(), X, Y)
    assert metric.compute() == by_hand.compute()


def test_a_loss_without_a_graph_is_refused() -> None:
    metric = metrics.GradientNorm()
    with pytest.raises(MeasureError, match="needs a loss with a derivative"):
        metric.update(net(), (X, Y), loss=lambda module, batch: judged(module, batch).detach())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda module, batch: batch["nothing"], r"could not be computed .*KeyError.* Give one that takes this batch"),
        (lambda module, batch: module(batch[0]), "one number for the whole batch"),
        (lambda module, batch: 1j * module(batch[0]).sum(), "must be a real number, got torch.complex128"),
    ],
)
def test_errors_of_losses_are_named(loss: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        metrics.GradientNorm().update(net(), {"x": X} if "KeyError" in message else (X, Y), loss=loss)


OF_THE_ACCURACY = ("NoiseTolerance", "SharpnessMeasure", "WorstCaseTolerance")  # where there are classes
OF_A_LOSS = [
    entry.metric
    for entry in metrics.catalogue()
    if {"loss", "targets"} <= entry.metric().needs and entry.metric.__name__ not in OF_THE_ACCURACY
]


@pytest.mark.parametrize("cls", OF_A_LOSS)
def test_a_complex_loss_is_refused(cls: type[metrics.ComplexityMetric]) -> None:
    options = {"initial": initial_state(net())} if "initial" in cls().needs else {}
    with pytest.raises(NetworkError, match="the loss must be a real number"):
        cls().update(net(), X, Y, loss=lambda outputs, targets: 1j * outputs.sum(), **options)


# For what enters a submodule --------------------------------------------------------------------


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.hidden, self.head = nn.Embedding(5, 4), nn.Linear(12, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(self.embedding(tokens).flatten(1)).tanh())


def test_derivatives_for_what_enters_a_submodule() -> None:
    model, tokens = Tokens(), torch.tensor([[0, 1, 2], [4, 4, 0]])
    entering = model.hidden(model.embedding(tokens).flatten(1)).tanh()
    for chunk_size in (1, 2):
        snapshot = Snapshot(model, tokens, torch.tensor([0, 2]), wrt="head", chunk_size=chunk_size)
        expected = (model.head.weight @ model.head.weight.T).expand(2, 3, 3).detach()
        torch.testing.assert_close(jacobian_grams(snapshot), expected.double())
        loss = F.cross_entropy(model.head(leaf := entering.detach().requires_grad_()), torch.tensor([0, 2]))
        (gradient,) = torch.autograd.grad(2 * loss, leaf)
        torch.testing.assert_close(torch.cat(list(input_gradients(snapshot))), gradient)


def test_the_penalty_for_what_enters_a_submodule_is_that_of_the_rest_by_hand() -> None:
    model, tokens = Tokens(), torch.tensor([[0, 1, 2], [4, 4, 0]])
    penalty = regularizers.GeometricComplexity(1.0)(model, tokens, wrt="hidden")
    found = torch.autograd.grad(penalty, list(model.parameters()), materialize_grads=True)
    tanh = model.hidden(model.embedding(tokens).flatten(1)).tanh()
    jacobians = model.head.weight * (1 - tanh.square()).unsqueeze(1) @ model.hidden.weight
    by_hand = jacobians.square().sum((1, 2)).mean()
    expected = torch.autograd.grad(by_hand, list(model.parameters()), materialize_grads=True)
    torch.testing.assert_close(found, expected)


def test_what_cannot_be_differentiated_for_names_a_submodule_that_can() -> None:
    with pytest.raises(MissingInputError, match=r"got torch.int64. .* wrt='hidden'"):
        metrics.JacobianNorm().update(Tokens(), torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(MeasureError, match=r"no module 'tail' to take derivatives at .* embedding, hidden, head"):
        metrics.JacobianNorm().update(Tokens(), torch.zeros(2, 3, dtype=torch.long), wrt="tail")
    with pytest.raises(MeasureError, match=r"enters module 'embedding', but none does"):
        metrics.JacobianNorm().update(Tokens(), torch.zeros(2, 3, dtype=torch.long), wrt="embedding")


# Reading batches --------------------------------------------------------------------------------


def test_which_batches_can_be_cut() -> None:
    assert can_be_cut((X, {"y": Y, "scale": 2.0, "none": None}))
    assert not can_be_cut((X, Y[:2]))
    assert not can_be_cut({"x": X, "text": ["a"] * 7})
    assert not can_be_cut((X, Plain(X, Y)))
    assert not can_be_cut(())


def test_sizes_of_batches() -> None:
    assert batch_size((X, Y)) == 7
    assert batch_size({"edges": X.T, "y": Y}) == 7
    graph = Plain(X, Y)
    graph.num_graphs = 3
    assert batch_size((graph, X, X[:2])) == 3
    assert batch_size(Plain(X, Y)) == 7
    assert batch_size("text") == 1


def test_batches_may_be_written_to() -> None:
    batch = (X.clone(), Plain(X.clone(), Y.clone()), [{"y": Y.clone()}])
    own = owned(batch)
    own[0].zero_()
    own[1].x.zero_()
    own[2][0]["y"].zero_()
    assert torch.equal(batch[0], X)
    assert torch.equal(batch[1].x, X)
    assert torch.equal(batch[2][0]["y"], Y)


@pytest.mark.parametrize("wrapped", [tuple, list, lambda pair: {"x": pair[0], "y": pair[1]}, lambda pair: Plain(*pair)])
def test_batches_may_hold_what_was_computed_with_gradients(wrapped: Any) -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    batch = wrapped((weight * X, Y))
    for copy in (owned(batch), copied(batch)):
        x = copy.x if isinstance(copy, Plain) else copy["x"] if isinstance(copy, dict) else copy[0]
        assert torch.equal(x, X)
        x.detach().zero_()
    assert torch.equal(batch.x if isinstance(batch, Plain) else next(iter(tensors_in(batch))), X)


class Takes(nn.Module):
    def forward(self, a: Tensor, b: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        return a + b


class TakesAny(nn.Module):
    def forward(self, **inputs: Tensor) -> Tensor:
        return inputs["a"]


@pytest.mark.parametrize(
    ("model", "batch", "expected"),
    [
        (mlp(4, 3), (X, Y), "model(batch[0])"),
        (mlp(4, 3), X, "model(batch)"),
        (Takes(), (X, X, Y), "model(batch[0], batch[1])"),
        (Takes(), {"a": X, "b": X, "other": X, "labels": Y}, "model(a=batch['a'], b=batch['b'])"),
        (Takes(), {"a": X, "mask": X, "b": X}, "model(a=batch['a'], b=batch['b'], mask=batch['mask'])"),
        (TakesAny(), {"a": X, "labels": Y}, "model(a=batch['a'])"),
        (mlp(4, 3), {"x": X}, "model(batch)"),
        (Takes(), ({"a": X, "b": X}, Y), "model(a=batch[0]['a'], b=batch[0]['b'])"),
    ],
    ids=str,
)
def test_the_likeliest_way_to_take_a_batch(model: nn.Module, batch: Any, expected: str) -> None:
    assert expected in [str(reading) for reading in readings(model, batch)][:2]


def test_entries_of_objects_and_named_tuples_go_in_by_name() -> None:
    class Graph(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    assert next(iter(readings(Graph(), Plain(X, Y)))).split(Plain(X, Y)) == (X, Y)
    assert Reading(names=("features",)).split(Sample(X, Y)) == (X, Y)


def test_targets_of_the_next_token() -> None:
    tokens = torch.tensor([[1, 2, 3]])
    assert Reading(positions=1, next_token=True).split((tokens, tokens))[1].tolist() == [[2, 3, -100]]


def test_margins_of_batches_of_different_lengths_need_outputs_of_one_shape() -> None:
    batches = Batches((torch.zeros(2, 3), torch.zeros(2, 4)), (2, 2))
    with pytest.raises(MeasureError, match="outputs of all batches that can be put together"):
        predictions(Snapshot(nn.Identity(), batches))


def test_what_a_task_says_is_completed_by_options() -> None:
    task = Task(class_dim=2)
    assert task.updated(loss=F.mse_loss, wrt=None) == dataclasses.replace(task, loss=F.mse_loss)


def test_targets_function_that_fails_is_named() -> None:
    with pytest.raises(NetworkError, match=r"targets\(batch\) could not be computed .*KeyError"):
        margins(Snapshot(net(), {"x": X}, task=Task(targets=lambda batch: batch["y"])))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_sequences_of_different_lengths_are_to_be_padded() -> None:
    jagged = torch.nested.nested_tensor([torch.ones(3, 2), torch.ones(2, 2)], layout=torch.jagged)
    with pytest.raises(MeasureError, match=r"layout torch.jagged. Give inputs.to_padded_tensor"):
        metrics.JacobianNorm().update(net(), jagged)
