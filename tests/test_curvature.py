"""The Hessian trace and its penalty, against exact Hessians."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_complexity.functional import MatrixOperator, hutchinson_samples, standard_error
from lightning_complexity.metrics import HessianTrace
from lightning_complexity.network import Context, HessianOperator, LossFunction, Snapshot
from lightning_complexity.regularizers import GradientNorm
from lightning_complexity.regularizers import HessianTrace as HessianTracePenalty
from tests.networks import conv_net, gradient_vector, mlp


def exact_hessian(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss_function: LossFunction = F.cross_entropy,
    *,
    at: Tensor | None = None,
) -> Tensor:
    """The dense Hessian, at other parameters where they are given; differentiable if these are."""
    parameters = dict(model.named_parameters())
    sizes = [p.numel() for p in parameters.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = [part.view_as(p) for part, p in zip(flat.split(sizes), parameters.values(), strict=True)]
        outputs = torch.func.functional_call(model, dict(zip(parameters, parts, strict=True)), (x,))
        return loss_function(outputs, y)

    flat = torch.cat([p.detach().flatten() for p in parameters.values()]) if at is None else at
    return torch.autograd.functional.hessian(loss, flat, create_graph=flat.requires_grad)


@pytest.mark.parametrize("chunk_size", [3, 100])
def test_products_and_gradient_are_exact(chunk_size: int) -> None:
    model, x, y = mlp(3, 4, 2), torch.randn(7, 3), torch.randint(0, 2, (7,))
    snapshot = Snapshot(model, x, y, chunk_size=chunk_size)
    hessian = exact_hessian(model, x, y)
    v = torch.randn(len(hessian))
    torch.testing.assert_close(HessianOperator(snapshot).matvec(v), hessian @ v)
    expected = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    torch.testing.assert_close(gradient_vector(snapshot), torch.cat([g.flatten() for g in expected]))


def test_estimate_is_within_its_standard_error() -> None:
    model, x, y = mlp(3, 4, 2), torch.randn(7, 3), torch.randint(0, 2, (7,))
    hessian = exact_hessian(model, x, y)
    metric = HessianTrace(num_probes=2000, estimator="hutchinson")
    metric.update(model, x, y)
    error = metric.standard_error()
    assert abs(metric.compute() - hessian.trace()) < 3 * error
    # The variance of one probe is twice the sum of the squared off-diagonal entries.
    variance = 2 * (hessian.square().sum() - hessian.diagonal().square().sum())
    torch.testing.assert_close(error, (variance / 2000).sqrt(), rtol=0.1, atol=0)


def test_layers_are_the_diagonal_blocks() -> None:
    model, x, y = mlp(3, 4, 2), torch.randn(7, 3), torch.randint(0, 2, (7,))
    diagonal = exact_hessian(model, x, y).diagonal()
    sizes = [p.numel() for p in model.parameters()]
    metric = HessianTrace(num_probes=4000, estimator="hutchinson", per_layer=True)
    metric.update(model, x, y)
    blocks = torch.stack(list(metric.compute().values()))
    torch.testing.assert_close(blocks, torch.stack([part.sum() for part in diagonal.split(sizes)]), rtol=0.1, atol=0.02)
    assert list(metric.compute()) == [name for name, _ in model.named_parameters()]


def test_linear_regression_has_a_closed_form() -> None:
    model, x, y = nn.Linear(1, 1), torch.randn(9, 1), torch.randn(9, 1)
    metric = HessianTrace(num_probes=3000, estimator="hutchinson")
    metric.update(model, x, y, loss=F.mse_loss)
    expected = 2 * (x.square().mean() + 1)
    assert abs(metric.compute() - expected) < 4 * metric.standard_error()


def test_trace_of_a_piecewise_linear_network_is_that_of_its_gauss_newton_matrix() -> None:
    model, x, y = mlp(3, 5, 4), torch.randn(6, 3), torch.randint(0, 4, (6,))
    gauss_newton = torch.zeros(())
    for sample in x:
        logits = model(sample)
        jacobian = torch.stack(
            [
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(logit, list(model.parameters()), retain_graph=True)]
                )
                for logit in logits
            ]
        )
        p = logits.detach().softmax(0)
        gauss_newton += (jacobian.T @ (p.diag() - p.outer(p)) @ jacobian).trace() / len(x)
    torch.testing.assert_close(exact_hessian(model, x, y).trace(), gauss_newton)
    metric = HessianTrace(num_probes=2000, estimator="hutchinson")
    metric.update(model, x, y)
    assert abs(metric.compute() - gauss_newton) < 3 * metric.standard_error()


def test_frozen_parameters_do_not_count() -> None:
    model, x, y = mlp(3, 4, 2), torch.randn(7, 3), torch.randint(0, 2, (7,))
    model[0].requires_grad_(False)
    metric = HessianTrace(num_probes=1, per_layer=True)
    metric.update(model, x, y)
    assert list(metric.compute()) == ["2.weight", "2.bias"]


def test_network_without_trained_parameters_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a network with parameters that are trained"):
        HessianTrace().update(mlp(3, 2).requires_grad_(False), torch.randn(2, 3), torch.tensor([0, 1]))


def test_batch_norm_counts_with_running_statistics() -> None:
    model, x, y = conv_net(), torch.randn(5, 2, 8, 8), torch.randint(0, 3, (5,))
    whole, single = HessianTrace(num_probes=2), HessianTrace(num_probes=2)
    whole.update(model, x, y)
    for i in range(5):
        single.update(model, x[i : i + 1], y[i : i + 1])
    torch.testing.assert_close(whole.compute(), single.compute())


def test_attention_has_second_derivatives() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 2))
    metric = HessianTrace(num_probes=2, estimator="hutchinson")
    metric.update(model, torch.randn(5, 3, 4), torch.randint(0, 2, (5,)))
    assert metric.compute().isfinite()


def test_one_probe_is_exact_for_a_diagonal_matrix() -> None:
    matrix = MatrixOperator(torch.diag(torch.tensor([1.0, 2.0, 4.0])), blocks={"first": 2, "last": 1})
    samples = hutchinson_samples(matrix, 3)
    torch.testing.assert_close(samples, torch.tensor([[3.0, 4.0]] * 3))


def test_one_sample_tells_no_spread() -> None:
    assert standard_error(torch.ones(1)).isnan()
    assert standard_error(torch.tensor([1.0, 3.0])) == 1


def test_number_of_probes_is_checked() -> None:
    with pytest.raises(ValueError, match="num_probes must be at least 1, got 0"):
        HessianTrace(num_probes=0)


# The penalty ----------------------------------------------------------------------------------------


def flat_gradient(value: Tensor, model: nn.Module) -> Tensor:
    gradients = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


def random_signs(seed: int, num_probes: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(0, 2, (length,), generator=generator, dtype=torch.int8) for _ in range(num_probes)]
    return 2.0 * torch.stack(drawn) - 1


def smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize("build", [lambda: mlp(3, 4, 2), smooth], ids=["relu", "tanh"])
@pytest.mark.parametrize("loss", [F.cross_entropy, F.mse_loss], ids=["cross_entropy", "mse"])
def test_gradient_of_the_penalty_is_that_of_the_same_probes_in_a_dense_hessian(
    build: Callable[[], nn.Module], loss: LossFunction
) -> None:
    model, x = build(), torch.randn(7, 3)
    y = torch.arange(7) % 2 if loss is F.cross_entropy else torch.randn(7, 2)
    penalty, parameters = HessianTracePenalty(0.5, num_probes=3), list(model.parameters())
    for call in range(2):
        signs = random_signs(call, 3, sum(p.numel() for p in parameters))

        def estimate(flat: Tensor, signs: Tensor = signs) -> Tensor:
            hessian = exact_hessian(model, x, y, loss, at=flat)
            return 0.5 * torch.einsum("mi,ij,mj->", signs, hessian, signs) / 3

        at = torch.cat([p.detach().flatten() for p in parameters]).requires_grad_()
        expected = estimate(at)
        value = penalty(model, x, y, loss=loss)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(flat_gradient(value, model), torch.autograd.grad(expected, at)[0])


def test_over_all_probes_the_mean_is_the_exact_trace_and_its_gradient() -> None:
    model, x, y = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 2)), torch.randn(5, 1), torch.arange(5) % 2
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 10)
    snapshot = Snapshot(model, x, y, differentiable=True)
    mean = torch.stack([v @ HessianOperator(snapshot).matvec(v) for v in signs]).mean()
    at = torch.cat([p.detach().flatten() for p in model.parameters()]).requires_grad_()
    trace = exact_hessian(model, x, y, at=at).trace()
    torch.testing.assert_close(mean, trace)
    torch.testing.assert_close(flat_gradient(mean, model), torch.autograd.grad(trace, at)[0])


@pytest.mark.parametrize("chunk_size", [2, 5])
def test_the_penalty_of_a_batch_in_several_chunks_is_that_of_the_whole(chunk_size: int) -> None:
    model, x, y = mlp(3, 4, 2), torch.randn(7, 3), torch.arange(7) % 2
    metric = HessianTrace(num_probes=2, estimator="hutchinson")
    snapshots = [Snapshot(model, x, y, differentiable=True, chunk_size=size) for size in (chunk_size, 100)]
    values = [metric.measure(snapshot, Context()) for snapshot in snapshots]
    torch.testing.assert_close(flat_gradient(values[0], model), flat_gradient(values[1], model))


class LastStep(nn.Module):
    """A recurrent network, of which the outputs at the last step count."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "attention": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 2)),
        (3, 4),
    ),
    "layer norm and gelu": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 2)),
        (4,),
    ),
    "weight norm": (lambda: nn.Sequential(weight_norm(nn.Linear(4, 3)), nn.Tanh(), weight_norm(nn.Linear(3, 2))), (4,)),
    "weight norm by a hook": (
        lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 2)),
        (4,),
    ),
    "statistics of the batch": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3, track_running_stats=False), nn.Tanh(), nn.Flatten()
        ),
        (2, 4),
    ),
    "statistics of the sample": (
        lambda: nn.Sequential(
            *(nn.Conv1d(2, 4, 2), nn.InstanceNorm1d(4, affine=True), nn.Tanh(), nn.GroupNorm(2, 4), nn.Flatten())
        ),
        (2, 4),
    ),
    "convolutions and batch norm": (conv_net, (2, 8, 8)),
    "recurrent": (LastStep, (3, 4)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("name", NETWORKS)
def test_derivatives_of_all_orders_are_right(name: str) -> None:
    build, shape = NETWORKS[name]
    model, x, y = build(), torch.randn(5, *shape), torch.arange(5) % 2
    parameters, step = list(model.parameters()), 1e-6
    direction = random_signs(0, 1, sum(p.numel() for p in parameters))[0]

    def along(function: Callable[[], Tensor], direction: Tensor) -> Tensor:
        start = torch.nn.utils.parameters_to_vector(parameters).detach()
        values = []
        for sign in (1, -1):
            torch.nn.utils.vector_to_parameters(start + sign * step * direction, parameters)
            values.append(function().detach())
        torch.nn.utils.vector_to_parameters(start, parameters)
        return (values[0] - values[1]) / (2 * step)

    # Each estimate is exact for its probe, so that derivatives can be compared one after another.
    gradient = along(lambda: F.cross_entropy(model.eval()(x), y), direction)
    torch.testing.assert_close(gradient, gradient_vector(Snapshot(model, x, y)) @ direction, rtol=1e-6, atol=1e-8)
    curvature = along(lambda: gradient_vector(Snapshot(model, x, y)) @ direction, direction)
    torch.testing.assert_close(curvature, HessianTracePenalty(1.0)(model, x, y).detach(), rtol=1e-6, atol=1e-8)
    other = torch.randn_like(direction)
    change = along(lambda: HessianTracePenalty(1.0)(model, x, y), other)
    actual = flat_gradient(HessianTracePenalty(1.0)(model, x, y), model) @ other
    torch.testing.assert_close(actual, change, rtol=1e-5, atol=1e-7)


def test_derivatives_that_torch_gets_wrong_are_refused() -> None:
    class Functional(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.native_layer_norm(super().forward(x), (2,), None, None, 1e-5)[0]

    x, y = torch.randn(7, 3), torch.arange(7) % 2
    with pytest.raises(ValueError, match="derivatives of order 3 wrong for NativeLayerNorm"):
        HessianTracePenalty(1.0)(Functional(3, 2), x, y)
    HessianTrace().update(Functional(3, 2), x, y)
    normalized = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match=r"order 3 wrong for NativeBatchNorm.*leave them out"):
        HessianTracePenalty(1.0)(normalized, x, y, outputs=normalized(x))
    GradientNorm(1.0)(normalized, x, y, outputs=normalized(x))
    weighted = weight_norm(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"order 2 wrong for WeightNorm.*leave them out"):
        GradientNorm(1.0)(weighted, x, y, outputs=weighted(x))


def test_a_loss_without_curvature_adds_nothing() -> None:
    model, x = nn.Linear(3, 1), torch.randn(9, 3)
    penalty = HessianTracePenalty(1.0)(model, x, x, loss=lambda outputs, _: outputs.mean())
    assert penalty == 0
    gradient = flat_gradient(model(x).mean() + penalty, model)
    torch.testing.assert_close(gradient, torch.cat([x.mean(0), torch.ones(1)]))


def test_a_quadratic_loss_adds_a_constant() -> None:
    model, x, y = nn.Linear(1, 1, bias=False), torch.randn(9, 1), torch.randn(9, 1)
    penalty = HessianTracePenalty(1.0)(model, x, y, loss=F.mse_loss)
    torch.testing.assert_close(penalty.detach(), 2 * x.square().mean())
    torch.testing.assert_close(flat_gradient(model.weight.sum() + penalty, model), torch.ones(1))


def test_given_outputs_save_the_forward_pass_and_change_nothing_else() -> None:
    model, x, y = conv_net().eval(), torch.randn(5, 2, 8, 8), torch.arange(5) % 3
    outputs, calls = model(x), []
    model.register_forward_hook(lambda *_: calls.append(1))
    reusing = HessianTracePenalty(1.0)(model, x, y, outputs=outputs)
    assert not calls
    alone = HessianTracePenalty(1.0)(model, x, y)
    torch.testing.assert_close(reusing, alone)
    torch.testing.assert_close(flat_gradient(reusing, model), flat_gradient(alone, model))


def test_products_that_are_observed_have_no_graph() -> None:
    model, x, y = smooth(), torch.randn(7, 3), torch.arange(7) % 2
    assert not HessianOperator(Snapshot(model, x, y)).matvec(torch.ones(26)).requires_grad
