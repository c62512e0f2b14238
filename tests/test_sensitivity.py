"""Jacobian norms, against the closed form of a linear softmax and dense Jacobians."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_complexity.functional import (
    jacobian_grams,
    jacobian_norms,
    normal_by_sample,
    sample_keys,
    squared_jacobian_norms,
    standard_error,
    unit_directions,
)
from lightning_complexity.metrics import (
    GeometricComplexity,
    InputGradientNorm,
    JacobianNorm,
    LocalLipschitzConstant,
    LogSpectralProduct,
    NoiseSensitivity,
    ShiftSensitivity,
)
from lightning_complexity.network import MissingInputError, Snapshot
from lightning_complexity.regularizers import GeometricComplexity as GeometricComplexityPenalty
from lightning_complexity.regularizers import JacobianNorm as JacobianPenalty
from tests.networks import conv_net, mlp


def test_linear_softmax_has_a_closed_form() -> None:
    model, x = nn.Linear(5, 4), torch.randn(6, 5)
    p = model(x).softmax(1).detach()
    jacobians = (torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)) @ model.weight.detach()
    metric = JacobianNorm()
    metric.update(model, x)
    torch.testing.assert_close(metric.compute(), jacobians.flatten(1).norm(dim=1).mean())
    # The mean over classes of the norms of single rows, which public code has instead, is another number.
    assert not torch.isclose(metric.compute(), jacobians.norm(dim=2).mean())


def test_samples_in_parts_are_samples_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = mlp(4, 6, 3), torch.randn(7, 4)
    whole, parts = JacobianNorm(per_class=True), JacobianNorm(per_class=True)
    whole.update(model, x)
    monkeypatch.setattr("lightning_complexity.network.derivatives._JACOBIAN_ENTRIES", 30)
    parts.update(model, x)
    torch.testing.assert_close(parts.compute(), whole.compute())


def test_logits_of_a_linear_network() -> None:
    model = nn.Linear(5, 4)
    metric = JacobianNorm(of="logits")
    metric.update(model, torch.randn(3, 5))
    torch.testing.assert_close(metric.compute(), model.weight.detach().norm())


@pytest.mark.parametrize("of", ["softmax", "logits"])
def test_equals_dense_jacobians(of: str) -> None:
    model, x = conv_net().eval(), torch.randn(4, 2, 8, 8)

    def outputs(sample: torch.Tensor) -> torch.Tensor:
        logits = model(sample.unsqueeze(0))[0]
        return logits.softmax(0) if of == "softmax" else logits

    expected = torch.stack([torch.autograd.functional.jacobian(outputs, sample).norm() for sample in x])
    metric = JacobianNorm(of)
    metric.update(Snapshot(model, x, chunk_size=3))
    torch.testing.assert_close(metric.compute(), expected.mean())
    torch.testing.assert_close(metric.standard_error(), expected.std() / 2)


def test_projections_are_unbiased_for_the_square() -> None:
    x = torch.randn(2, 5, requires_grad=True)
    outputs = mlp(5, 8, 4)(x)
    exact = jacobian_norms(jacobian_grams(outputs, x))
    squares = torch.stack(
        [squared_jacobian_norms(outputs, x, unit_directions(torch.randn(2, 2, 4))) for _ in range(2000)]
    )
    error = squares.std(0) / len(squares) ** 0.5
    assert ((squares.mean(0) - exact.square()).abs() < 4 * error).all()
    assert (error < 0.02 * exact.square()).all()


def test_metric_draws_the_same_projections_and_penalty_new_ones_of_the_same_mean() -> None:
    model, x = mlp(5, 8, 4), torch.randn(3, 5)
    metric, penalty = GeometricComplexity(num_projections=1), GeometricComplexityPenalty(1.0, num_projections=1)
    values = []
    for _ in range(2):
        metric.reset()
        metric.update(model, x)
        values.append(metric.compute())
    assert values[0] == values[1]
    drawn = torch.stack([penalty(model, x).detach() for _ in range(500)])
    assert len(drawn.unique()) == 500
    exact, error = GeometricComplexity(), drawn.std() / 500**0.5
    exact.update(model, x)
    assert abs(drawn.mean() - exact.compute()) < 3 * error < 0.1 * exact.compute()


def test_zero_jacobian_has_zero_gradient() -> None:
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    (gradient,) = torch.autograd.grad(JacobianPenalty(1.0)(model, torch.randn(2, 3)), model.weight)
    assert torch.equal(gradient, torch.zeros(2, 3))


def test_outputs_save_the_second_forward_pass() -> None:
    calls = []
    model = mlp(3, 4, 2)
    model.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(5, 3, requires_grad=True)
    outputs = model(x)
    with_outputs = JacobianPenalty(1.0)(model, x, outputs=outputs)
    assert len(calls) == 1
    torch.testing.assert_close(with_outputs, JacobianPenalty(1.0)(model, x))
    assert len(calls) == 2


@pytest.mark.parametrize("inputs", [torch.zeros(2, 3, dtype=torch.long), {"x": torch.zeros(2, 3), "z": torch.ones(2)}])
def test_inputs_that_cannot_be_differentiated_are_named(inputs: object) -> None:
    with pytest.raises(MissingInputError, match=r"one floating-point tensor, got (torch.int64|a dict with 2)"):
        JacobianNorm().update(nn.Linear(3, 2), inputs)


def test_inputs_that_do_not_reach_the_outputs() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), 2) + 0 * x.detach()[:, :2]

    with pytest.raises(ValueError, match="do not depend on the inputs"):
        JacobianNorm().update(Constant(), torch.randn(2, 3))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match='of must be "softmax" or "logits"'):
        JacobianNorm("probabilities")
    with pytest.raises(ValueError, match="num_projections must be at least 1"):
        JacobianNorm(num_projections=0)
    with pytest.raises(ValueError, match=r"outputs of shape \(n, C\)"):
        squared_jacobian_norms(torch.zeros(3), torch.zeros(3, 1), torch.ones(1, 3, 1))


# Other measures of the Jacobian --------------------------------------------------------------------


def test_rows_of_each_class() -> None:
    model, x = mlp(5, 8, 3), torch.randn(6, 5)
    dense = torch.stack([torch.autograd.functional.jacobian(lambda s: model(s).softmax(0), sample) for sample in x])
    metric = JacobianNorm(per_class=True)
    for part in x.split(4):
        metric.update(model, part)
    expected = dense.norm(dim=2).mean(0)
    torch.testing.assert_close(metric.compute(), {str(c): expected[c] for c in range(3)})
    report = metric.report()
    torch.testing.assert_close(report["jacobian_norm"], dense.flatten(1).norm(dim=1).mean())
    assert report.keys() == {"jacobian_norm", "jacobian_norm/standard_error", *(f"jacobian_norm/{c}" for c in range(3))}
    with pytest.raises(ValueError, match="per_class needs the exact Jacobian"):
        JacobianNorm(per_class=True, num_projections=1)


def test_geometric_complexity_of_a_linear_network_and_of_scaled_inputs() -> None:
    linear = nn.Linear(5, 4)
    metric = GeometricComplexity()
    metric.update(linear, torch.randn(3, 5))
    torch.testing.assert_close(metric.compute(), linear.weight.detach().square().sum())
    net, x = mlp(5, 8, 3), torch.randn(6, 5)
    scaled = nn.Sequential(nn.Linear(5, 5, bias=False), net)
    scaled[0].weight.data.copy_(torch.eye(5) / 3)
    values = []
    for model, inputs in ((net, x), (scaled, 3 * x)):
        metric.reset()
        metric.update(model, inputs)
        values.append(metric.compute())
    torch.testing.assert_close(values[1], values[0] / 9)


def test_local_lipschitz_constant_lies_below_the_product_of_norms() -> None:
    net, x = mlp(5, 8, 8, 3), torch.randn(20, 5)
    dense = torch.stack([torch.autograd.functional.jacobian(net, sample) for sample in x])
    metric, product = LocalLipschitzConstant(), LogSpectralProduct()
    metric.update(Snapshot(net, x, chunk_size=7))
    product.update(net)
    torch.testing.assert_close(metric.compute(), torch.linalg.matrix_norm(dense, ord=2).amax())
    assert metric.compute() < product.compute().exp()


def test_input_gradient_of_linear_logits_has_a_closed_form() -> None:
    model, x, y = nn.Linear(5, 4), torch.randn(6, 5), torch.arange(6) % 4
    error = model(x).softmax(1).detach() - F.one_hot(y, 4)
    metric = InputGradientNorm()
    metric.update(Snapshot(model, x, y, chunk_size=4))
    torch.testing.assert_close(metric.compute(), (error @ model.weight.detach()).norm(dim=1).mean())
    metric.reset()
    metric.update(model, x, torch.zeros(6, 4), loss=F.mse_loss)
    residual = model(x).detach() * 2 / 4
    torch.testing.assert_close(metric.compute(), (residual @ model.weight.detach()).norm(dim=1).mean())


def test_small_noise_moves_outputs_by_the_jacobian() -> None:
    net, x, sigma = mlp(5, 16, 3), torch.randn(40, 5), 1e-4
    metric = NoiseSensitivity("logits", sigma=sigma, num_draws=400)
    metric.update(net, x)
    dense = torch.stack([torch.autograd.functional.jacobian(net, sample) for sample in x])
    draws = torch.randn(4000, 5)
    expected = sigma * torch.einsum("ncd,kd->nkc", dense, draws).norm(dim=2).mean()
    assert metric.compute().item() == pytest.approx(expected.item(), rel=0.05)


def test_shifts_wrap_around_in_every_direction() -> None:
    net, images = nn.Flatten(), torch.zeros(2, 1, 3, 3)
    images[:, 0, 0, 0] = 1.0
    metric = ShiftSensitivity("logits")
    metric.update(net, images)
    torch.testing.assert_close(metric.compute(), torch.tensor(2.0).sqrt())  # the one goes out here and in there
    around = ShiftSensitivity("logits", pixels=3)
    around.update(net, images)
    assert around.compute() == 0
    with pytest.raises(ValueError, match=r"inputs of shape \(n, channels, ...\), got \(2, 5\)"):
        ShiftSensitivity().update(nn.Linear(5, 2), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="sigma must be positive"):
        NoiseSensitivity(sigma=0)


def test_exact_measures_share_their_backward_passes() -> None:
    net, x = mlp(5, 8, 3), torch.randn(6, 5)
    snapshot, passes = Snapshot(net, x), []
    grad = torch.autograd.grad

    def counted(*args: object, **kwargs: object) -> object:
        passes.append(1)
        return grad(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", counted)
        for metric in (JacobianNorm(), JacobianNorm("logits"), GeometricComplexity(), LocalLipschitzConstant()):
            metric.update(snapshot)
    assert len(passes) == 3


def test_shifts_go_both_ways() -> None:
    first = nn.Sequential(nn.Flatten(), nn.Linear(3, 1, bias=False))
    first[1].weight.data.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
    metric = ShiftSensitivity("logits")
    metric.update(first, torch.tensor([[[0.0, 1.0, 3.0]]]))  # 3 enters from the left, or 1 from the right
    assert metric.compute() == 2


# Random directions ---------------------------------------------------------------------------------


def test_each_sample_has_directions_of_its_own() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    outputs, directions = mlp(5, 8, 4)(x), unit_directions(torch.randn(2, 3, 4))
    dense = [torch.stack([torch.autograd.grad(o, x, retain_graph=True)[0][i] for o in outputs[i]]) for i in range(3)]
    expected = [4 / 2 * sum((dense[i].T @ v[i]).square().sum() for v in directions) for i in range(3)]
    torch.testing.assert_close(squared_jacobian_norms(outputs, x, directions), torch.stack(expected))


def test_directions_have_length_one() -> None:
    directions = unit_directions(torch.randn(1000, 3))
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(1000))
    torch.testing.assert_close(directions.T @ directions / 1000, torch.eye(3) / 3, atol=0.04, rtol=0)


@pytest.mark.parametrize("shape", [(3, 4), (0, 3, 4), (2, 1, 4), (2, 3, 5)])
def test_directions_must_fit_the_outputs(shape: tuple[int, ...]) -> None:
    x = torch.randn(3, 5, requires_grad=True)
    with pytest.raises(ValueError, match=r"directions of shape \(num_projections >= 1, 3, 4\)"):
        squared_jacobian_norms(mlp(5, 8, 4)(x), x, torch.ones(shape))


@pytest.mark.slow
@pytest.mark.parametrize("num_projections", [1, 3])
@pytest.mark.parametrize("by_sample", [True, False])
def test_two_standard_errors_cover_the_truth(num_projections: int, by_sample: bool) -> None:
    weight = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    truth = weight.square().sum() * (1 + 1 / 12)  # scales s are uniform on (1/2, 3/2): E s^2 = 1 + 1/12
    values, covered = [], 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(300, 6, generator=generator).requires_grad_()
        scale = 0.5 + torch.rand(300, 1, generator=generator)
        if by_sample:
            normals = normal_by_sample(sample_keys(x, seed), (num_projections, 10), torch.float64).transpose(0, 1)
        else:
            normals = torch.randn(num_projections, 300, 10, generator=generator)
        squares = squared_jacobian_norms(scale * (x @ weight.T), x, unit_directions(normals))
        values.append(squares.mean())
        covered += int((squares.mean() - truth).abs() <= 2 * standard_error(squares))
    means = torch.stack(values)
    assert (means.mean() - truth).abs() < 3 * standard_error(means)
    assert 0.90 <= covered / 200 <= 0.97


@pytest.mark.slow
def test_directions_that_samples_share_are_not_covered() -> None:
    weight = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    covered = 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(300, 6, generator=generator).requires_grad_()
        scale = 0.5 + torch.rand(300, 1, generator=generator)
        directions = unit_directions(torch.randn(1, 1, 10, generator=generator)).expand(-1, 300, -1)
        squares = squared_jacobian_norms(scale * (x @ weight.T), x, directions)
        truth = weight.square().sum() * (1 + 1 / 12)
        covered += int((squares.mean() - truth).abs() <= 2 * standard_error(squares))
    assert covered < 120
