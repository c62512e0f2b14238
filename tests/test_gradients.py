"""The norm of the loss's gradient, against gradients by hand and dense Hessians."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity import regularizers
from lightning_complexity.metrics import GradientNorm
from lightning_complexity.network import Context, HessianOperator, Snapshot
from tests.networks import conv_net, gradient_vector, mlp
from tests.test_curvature import exact_hessian, flat_gradient


def batch(classes: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(7, 3), torch.arange(7) % classes


def regression() -> tuple[nn.Module, Tensor, Tensor]:
    return nn.Linear(3, 1, bias=False), torch.randn(9, 3), torch.randn(9, 1)


def test_linear_regression_has_a_closed_form() -> None:
    model, x, y = regression()
    w = model.weight.detach().T
    gradient = 2 / 9 * x.T @ (x @ w - y)
    metric, square = GradientNorm(), GradientNorm(squared=True)
    for m in (metric, square):
        m.update(model, x, y, loss=F.mse_loss)
    torch.testing.assert_close(metric.compute(), gradient.norm())
    torch.testing.assert_close(square.compute(), gradient.square().sum())


@pytest.mark.parametrize("chunk_size", [3, 100])
@pytest.mark.parametrize("differentiable", [False, True])
def test_it_is_the_norm_of_the_gradient_that_autograd_gives(chunk_size: int, differentiable: bool) -> None:
    model, (x, y) = mlp(3, 4, 2), batch()
    expected = flat_gradient(F.cross_entropy(model(x), y), model)
    snapshot = Snapshot(model, x, y, chunk_size=chunk_size, differentiable=differentiable)
    torch.testing.assert_close(gradient_vector(snapshot).detach(), expected)
    torch.testing.assert_close(GradientNorm().measure(snapshot, Context()).detach(), expected.norm())


def test_gradients_of_batches_are_added_before_the_norm_is_taken() -> None:
    model, (x, y) = mlp(3, 4, 2), batch()
    whole = flat_gradient(F.cross_entropy(model(x), y), model).norm()
    metric = GradientNorm()
    parts = [metric(model, x[rows], y[rows]) for rows in (slice(0, 5), slice(5, 7))]
    torch.testing.assert_close(metric.compute(), whole)
    assert (5 * parts[0] + 2 * parts[1]) / 7 > 1.01 * whole, "the mean of the norms is another number"


def test_gradients_of_ranks_are_added_before_the_norm_is_taken() -> None:
    model, (x, y) = mlp(3, 4, 2), batch()
    ranks: list[GradientNorm] = []

    def gather(state: Tensor, group: object) -> list[Tensor]:
        name = "weighted" if state.ndim else "count"
        return [getattr(rank, name).clone() for rank in ranks]

    for rows in (slice(0, 5), slice(5, 7)):
        ranks.append(GradientNorm(dist_sync_fn=gather, distributed_available_fn=lambda: True))
        ranks[-1].update(model, x[rows], y[rows])
    expected = flat_gradient(F.cross_entropy(model(x), y), model).norm()
    torch.testing.assert_close([copy.deepcopy(rank).compute() for rank in ranks], [expected] * 2)


@pytest.mark.parametrize("squared", [False, True])
def test_layers_are_the_parameters(squared: bool) -> None:
    model, (x, y) = mlp(3, 4, 2), batch()
    model[0].bias.requires_grad_(False)
    metric = GradientNorm(squared=squared, per_layer=True)
    for rows in (slice(0, 5), slice(5, 7)):
        metric.update(model, x[rows], y[rows])
    F.cross_entropy(model(x), y).backward()
    power = 2 if squared else 1
    expected = {n: p.grad.norm() ** power for n, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(metric.compute(), expected)
    name = "squared_gradient_norm" if squared else "gradient_norm"
    total = metric.report()[name]
    torch.testing.assert_close(total ** (2 / power), sum(v ** (2 / power) for v in expected.values()))
    assert metric.report().keys() == {name, *(f"{name}/{n}" for n in expected)}


@pytest.mark.parametrize("name", ["cross-entropy", "mse"])
def test_the_gradient_of_the_penalty_is_a_product_with_the_hessian(name: str) -> None:
    model, (x, y) = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), batch()
    loss, targets = (F.cross_entropy, y) if name == "cross-entropy" else (F.mse_loss, torch.randn(7, 2))
    hessian = exact_hessian(model, x, targets, loss)
    g = flat_gradient(loss(model(x), targets), model)
    norm = regularizers.GradientNorm(1.0)(model, x, targets, loss=loss)
    square = regularizers.GradientNorm(0.5, squared=True)(model, x, targets, loss=loss)
    torch.testing.assert_close(flat_gradient(norm, model), hessian @ g / g.norm())
    torch.testing.assert_close(flat_gradient(square, model), hessian @ g)
    torch.testing.assert_close(square.detach(), g.square().sum() / 2)


def test_the_penalty_of_a_batch_in_several_chunks_is_that_of_the_whole() -> None:
    model, (x, y) = mlp(3, 4, 2), batch()
    snapshots = [Snapshot(model, x, y, differentiable=True, chunk_size=size) for size in (3, 100)]
    values = [GradientNorm().measure(snapshot, Context()) for snapshot in snapshots]
    torch.testing.assert_close(flat_gradient(values[0], model), flat_gradient(values[1], model))


@pytest.mark.parametrize("squared", [False, True])
def test_the_gradient_of_the_penalty_is_0_where_the_gradient_is(squared: bool) -> None:
    model, x, _ = regression()
    penalty = regularizers.GradientNorm(1.0, squared=squared)(model, x, model(x).detach(), loss=F.mse_loss)
    assert penalty == 0
    assert not flat_gradient(penalty, model).any()


def test_a_loss_linear_in_the_parameters_adds_a_constant() -> None:
    model, x, _ = regression()
    penalty = regularizers.GradientNorm(1.0)(model, x, x, loss=lambda outputs, _: outputs.mean())
    torch.testing.assert_close(penalty, x.mean(0).norm())
    gradient = flat_gradient(model(x).mean() + penalty, model)
    torch.testing.assert_close(gradient, x.mean(0))


# The outputs of the training step --------------------------------------------------------------------


@pytest.mark.parametrize("squared", [False, True])
def test_given_outputs_save_the_forward_pass_and_change_nothing_else(squared: bool) -> None:
    model, x, y = conv_net().eval(), torch.randn(5, 2, 8, 8), torch.arange(5) % 3
    penalty, calls = regularizers.GradientNorm(1.0, squared=squared), []
    outputs = model(x)
    model.register_forward_hook(lambda *_: calls.append(1))
    reusing = penalty(model, x, y, outputs=outputs)
    assert not calls
    alone = penalty(model, x, y)
    assert calls
    torch.testing.assert_close(reusing, alone)
    gradient = flat_gradient(F.cross_entropy(outputs, y) + reusing, model)
    torch.testing.assert_close(gradient, flat_gradient(F.cross_entropy(model(x), y) + alone, model))


def test_given_outputs_are_those_of_the_network_as_it_ran() -> None:
    model, (x, y) = nn.Sequential(nn.Linear(3, 20), nn.Dropout(0.5), nn.Linear(20, 2)), batch()
    outputs = model(x)
    gradients = torch.autograd.grad(F.cross_entropy(outputs, y), list(model.parameters()), retain_graph=True)
    expected = torch.cat([g.flatten() for g in gradients]).norm()
    reusing = regularizers.GradientNorm(1.0)(model, x, y, outputs=outputs).detach()
    torch.testing.assert_close(reusing, expected)
    assert (reusing - regularizers.GradientNorm(1.0)(model, x, y).detach()).abs() > 0.01


def test_given_outputs_work_in_half_precision() -> None:
    model, (x, y) = mlp(3, 4, 2).bfloat16(), batch()
    outputs = model(x.bfloat16())
    penalty = regularizers.GradientNorm(1.0)(model, x.bfloat16(), y, outputs=outputs)
    gradients = torch.autograd.grad(F.cross_entropy(outputs.float(), y), list(model.parameters()), retain_graph=True)
    expected = torch.cat([g.float().flatten() for g in gradients]).norm()
    torch.testing.assert_close(penalty.detach(), expected, rtol=1e-6, atol=0)
    assert flat_gradient(penalty, model).isfinite().all()
    alone = regularizers.GradientNorm(1.0)(model, x.bfloat16(), y)
    torch.testing.assert_close(penalty, alone, rtol=0.05, atol=0.05)


def test_outputs_without_a_graph_are_an_error() -> None:
    model, (x, y) = mlp(3, 4, 2), batch()
    with pytest.raises(ValueError, match="needs outputs with the graph from the parameters to them"):
        regularizers.GradientNorm(1.0)(model, x, y, outputs=model(x).detach())


# What observing costs -------------------------------------------------------------------------------


def test_observing_makes_no_graph_of_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    differentiate, graphs = torch.autograd.grad, []

    def noted(*args: Any, create_graph: bool = False, **kwargs: Any) -> Any:
        graphs.append(create_graph)
        return differentiate(*args, create_graph=create_graph, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", noted)
    model, (x, y) = mlp(3, 4, 2), batch()
    GradientNorm().update(model, x, y)
    assert graphs == [False]
    regularizers.GradientNorm(1.0)(model, x, y)
    assert graphs == [False, True]


def test_observing_reads_the_gradient_off_a_graph_that_is_there() -> None:
    model, (x, y) = mlp(3, 4, 2), batch()
    first, second, calls = Snapshot(model, x, y), Snapshot(model, x, y), []
    expected = gradient_vector(first)
    HessianOperator(second).matvec(torch.ones(26))
    model.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(gradient_vector(second), expected)
    assert not gradient_vector(second).requires_grad
    assert not calls


def test_observing_given_outputs_leaves_their_graph() -> None:
    model, (x, y) = mlp(3, 4, 2), batch()
    outputs, metric = model(x), GradientNorm()
    metric.update(Snapshot(model, x, y, outputs=outputs))
    expected = flat_gradient(F.cross_entropy(outputs, y), model).norm()
    torch.testing.assert_close(metric.compute(), expected)
