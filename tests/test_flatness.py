"""Rises of the loss around the parameters, against quadratics, grids and corners."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity import metrics, regularizers
from lightning_complexity.functional import maximize_in_box, sam_perturbation
from lightning_complexity.network import MeasureError, Snapshot, mean_loss
from tests.networks import mlp


class Point(nn.Module):
    """Parameters without a network; the loss is a function of them alone."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x), -1)


def quadratic(slope: Tensor, hessian: Tensor) -> Any:
    """The loss ``w' slope + w' hessian w / 2``."""

    def loss(outputs: Tensor, _: Any) -> Tensor:
        w = outputs[0]
        return w @ slope + w @ hessian @ w / 2

    return loss


def measured(metric: metrics.ComplexityMetric, model: nn.Module, loss: Any, n: int = 3) -> Tensor:
    metric.update(model, torch.zeros(n, 1), torch.zeros(n, 1), loss=loss)
    return metric.total()


def symmetric(d: int) -> Tensor:
    a = torch.randn(d, d)
    return a + a.T


# Sharpness-aware minimization ------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_sam_sharpness_of_a_quadratic(rho: float) -> None:
    w, slope, hessian = torch.randn(5), torch.randn(5), symmetric(5)
    value = measured(metrics.SAMSharpness(rho), Point(*w.tolist()), quadratic(slope, hessian))
    g = slope + hessian @ w
    torch.testing.assert_close(value, rho * g.norm() + rho**2 * (g @ hessian @ g) / (2 * g @ g))


def test_adaptive_sharpness_of_a_quadratic() -> None:
    w, slope, hessian = torch.randn(5), torch.randn(5), symmetric(5)
    value = measured(metrics.SAMSharpness(0.3, adaptive=True), Point(*w.tolist()), quadratic(slope, hessian))
    g = slope + hessian @ w
    e = 0.3 * w**2 * g / (w.abs() * g).norm()
    torch.testing.assert_close(value, e @ g + e @ hessian @ e / 2)


def test_adaptive_sharpness_does_not_see_that_layers_were_rescaled() -> None:
    net, x, y = mlp(4, 6, 3), torch.randn(9, 4), torch.arange(9) % 3
    plain, adaptive = metrics.SAMSharpness(0.1), metrics.SAMSharpness(0.1, adaptive=True)
    before = [metric(net, x, y) for metric in (plain, adaptive)]
    with torch.no_grad():
        net[0].weight.mul_(4), net[0].bias.mul_(4), net[2].weight.div_(4)
    for metric in (plain, adaptive):
        metric.reset()
    after = [metric(net, x, y) for metric in (plain, adaptive)]
    torch.testing.assert_close(after[1], before[1])
    assert not torch.isclose(after[0], before[0], rtol=0.1)


def test_the_step_has_the_length_asked_for() -> None:
    w, g = [torch.randn(2, 3), torch.randn(4)], [torch.randn(2, 3), torch.randn(4)]
    flat = torch.cat([e.flatten() for e in sam_perturbation(w, g, 0.7)])
    torch.testing.assert_close(flat.norm().item(), 0.7)
    relative = [e / p.abs() for e, p in zip(sam_perturbation(w, g, 0.7, adaptive=True), w, strict=True)]
    torch.testing.assert_close(torch.cat([r.flatten() for r in relative]).norm().item(), 0.7)
    for e, of_scaled in zip(sam_perturbation(w, g, 0.7), sam_perturbation(w, [8 * t for t in g], 0.7), strict=True):
        torch.testing.assert_close(e, of_scaled)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, s) for s in (1e-38, 1e-22, 1e20, 1e35)] + [(torch.float16, s) for s in (1e-5, 1.0, 1e4)],
    ids=str,
)
def test_the_step_has_that_length_whatever_the_size_of_the_gradient(
    dtype: torch.dtype, scale: float, adaptive: bool
) -> None:
    w, g = [torch.tensor([1.0, 2.0]), torch.tensor([[0.5]])], [torch.tensor([3.0, -1.0]), torch.tensor([[2.0]])]
    expected = sam_perturbation(w, g, 0.5, adaptive=adaptive)
    found = sam_perturbation([p.to(dtype) for p in w], [(scale * t).to(dtype) for t in g], 0.5, adaptive=adaptive)
    for step, exact in zip(found, expected, strict=True):
        assert step.dtype == dtype
        torch.testing.assert_close(step.double(), exact, rtol=2e-2 if dtype == torch.float16 else 1e-6, atol=0)


def test_no_gradient_no_step() -> None:
    point = Point(0.0, 0.0)
    assert measured(metrics.SAMSharpness(), point, quadratic(torch.zeros(2), torch.eye(2))) == 0
    penalty = regularizers.SAMSharpness(1.0)
    penalty(point, torch.zeros(1, 1), torch.zeros(1), loss=quadratic(torch.zeros(2), torch.eye(2))).backward()
    assert point.w.grad.isfinite().all()


def test_sharpness_by_chunks_and_by_batches_is_that_of_the_whole() -> None:
    net, x, y = mlp(4, 6, 3), torch.randn(9, 4), torch.arange(9) % 3
    whole = metrics.SAMSharpness()(net, x, y)
    torch.testing.assert_close(metrics.SAMSharpness()(Snapshot(net, x, y, chunk_size=4)), whole)
    batches = Snapshot(net, (x, y), loss=lambda module, batch: F.cross_entropy(module(batch[0]), batch[1]))
    torch.testing.assert_close(metrics.SAMSharpness()(batches), whole)


def test_sharpness_takes_one_backward_and_two_forward_passes() -> None:
    calls: list[bool] = []

    class Counting(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(torch.is_grad_enabled())
            return super().forward(x)

    metrics.SAMSharpness()(Counting(*mlp(4, 6, 3)), torch.randn(9, 4), torch.arange(9) % 3)
    assert calls == [True, False]


def test_frozen_parameters_are_not_moved() -> None:
    net, x, y = mlp(4, 6, 3), torch.randn(9, 4), torch.arange(9) % 3
    net[0].requires_grad_(False)
    head = nn.Sequential(nn.Linear(6, 3))
    head[0].load_state_dict(net[2].state_dict())
    features = net[:2](x)
    torch.testing.assert_close(metrics.SAMSharpness()(net, x, y), metrics.SAMSharpness()(head, features, y))


def test_penalty_of_sharpness_makes_the_loss_that_at_the_step() -> None:
    """For a quadratic, through the derivative of the step by hand."""
    w, slope, hessian, rho = torch.randn(4), torch.randn(4), symmetric(4), 0.3
    point, loss = Point(*w.tolist()), quadratic(slope, hessian)
    value = regularizers.SAMSharpness(1.0, rho=rho)(point, torch.zeros(1, 1), torch.zeros(1), loss=loss)
    value.backward()
    g = slope + hessian @ w
    unit = g / g.norm()
    there = g + rho * hessian @ unit  # the gradient at the step
    moved = rho / g.norm() * hessian @ (there - unit * (unit @ there))  # the step's derivative, transposed
    torch.testing.assert_close(point.w.grad, there - g + moved)


def test_sharpness_needs_a_forward_pass_of_its_own() -> None:
    net, x, y = mlp(4, 6, 3), torch.randn(9, 4), torch.arange(9) % 3
    with pytest.raises(MeasureError, match=r"a forward pass of its own .* Leave outputs out"):
        regularizers.SAMSharpness(1.0)(net, x, y, outputs=net(x))


@pytest.mark.parametrize("rho", [0.0, -1.0, float("inf"), float("nan")])
def test_steps_of_no_length_are_refused(rho: float) -> None:
    with pytest.raises(ValueError, match="rho must be positive and finite"):
        metrics.SAMSharpness(rho)


# The worst case in a box ------------------------------------------------------------------------------


def test_a_linear_function_has_its_maximum_at_a_corner() -> None:
    slope, radius = torch.randn(30), torch.rand(30)
    found = maximize_in_box(lambda v: (slope @ v, slope), radius)
    torch.testing.assert_close(found.value, (slope.abs() * radius).sum())
    torch.testing.assert_close(found.at, slope.sign() * radius)
    assert found.converged
    assert found.num_steps == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_convex_quadratic_has_its_maximum_at_the_best_of_all_corners(seed: int) -> None:
    torch.manual_seed(seed)
    a, slope, radius = torch.randn(6, 6), torch.randn(6), torch.rand(6)
    hessian = a @ a.T / 6

    def function(v: Tensor) -> tuple[Tensor, Tensor]:
        return slope @ v + v @ hessian @ v / 2, slope + hessian @ v

    corners = [torch.tensor(signs) * radius for signs in itertools.product((-1.0, 1.0), repeat=6)]
    best = max(function(corner)[0] for corner in corners)
    starts = [torch.zeros(6), *(2 * torch.rand(6) - 1 for _ in range(10))]
    found = maximize_in_box(function, radius, starts=starts)
    torch.testing.assert_close(found.value, best)
    assert found.converged


def test_a_maximum_inside_is_found_too() -> None:
    top = torch.tensor([0.3, -0.2])
    found = maximize_in_box(
        lambda v: (-(v - top).square().sum(), -2 * (v - top)), torch.ones(2), max_steps=200, tolerance=1e-6
    )
    torch.testing.assert_close(found.at, top, atol=1e-3, rtol=0)
    assert found.converged
    short = maximize_in_box(lambda v: (-(v - top).square().sum(), -2 * (v - top)), torch.ones(2), max_steps=2)
    assert not short.converged
    assert short.num_steps == 2


def test_what_is_not_finite_is_given_back() -> None:
    found = maximize_in_box(lambda v: (v.sum() + torch.nan, torch.ones(2)), torch.ones(2))
    assert found.value.isnan()
    assert not found.converged


class TwoParameters(nn.Module):
    """A network with two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.4, -0.8]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.w[0]) * self.w[1]


@pytest.mark.parametrize("offset", [-1.0, -3.0])
def test_a_share_of_one_plus_a_loss_below_minus_one_is_nothing(offset: float) -> None:
    metric = metrics.WorstCaseSharpness()
    metric.update(nn.Linear(2, 1), torch.ones(3, 2), torch.zeros(3, 1), loss=lambda z, _: offset - z.sigmoid().mean())
    found = metric.report()
    assert found["worst_case_sharpness"].isnan()
    assert found["worst_case_sharpness/rise"] > 0


@pytest.mark.parametrize("box", ["keskar", "magnitude", "plain"])
def test_the_worst_case_of_two_parameters_is_that_of_a_grid(box: str) -> None:
    net, x = TwoParameters(), torch.randn(20, 1)
    y = torch.sin(2 * x)
    metric = metrics.WorstCaseSharpness(0.5, box=box, max_steps=60)  # type: ignore[arg-type]
    metric.update(net, x, y, loss=F.mse_loss)
    w = net.w.detach()
    radius = 0.5 * {"keskar": w.abs() + 1, "magnitude": w.abs(), "plain": torch.ones(2)}[box]
    line = torch.linspace(-1, 1, 401)
    first, second = w[0] + radius[0] * line, w[1] + radius[1] * line
    outputs = torch.tanh(x[:, :, None] * first[:, None]) * second
    worst = (outputs - y[:, :, None]).square().mean(0).max()
    loss = F.mse_loss(net(x), y).detach()
    assert metric.compute().item() == pytest.approx((100 * (worst - loss) / (1 + loss)).item(), rel=1e-4)
    details = metric.details()
    assert details["rise"].item() == pytest.approx((worst - loss).item(), rel=1e-4)
    assert details["converged"] == 1


def test_the_worst_case_of_a_linear_loss() -> None:
    w, slope = torch.randn(7), torch.randn(7)
    loss = quadratic(slope, torch.zeros(7, 7))
    metric = metrics.WorstCaseSharpness(0.01)
    value = measured(metric, Point(*w.tolist()), loss)
    rise = (0.01 * (w.abs() + 1) * slope.abs()).sum()
    torch.testing.assert_close(value, 100 * rise / (1 + w @ slope))


def test_a_search_from_a_minimum_leaves_it() -> None:
    """Where there is no slope, the other start finds the way out."""
    value = measured(
        metrics.WorstCaseSharpness(0.1, box="plain"), Point(0.0, 0.0), quadratic(torch.zeros(2), torch.eye(2))
    )
    assert value.item() == pytest.approx(1.0)  # 100 (0.1^2 + 0.1^2) / 2


def test_the_worst_case_is_that_of_all_samples() -> None:
    net, x, y = mlp(4, 6, 3), torch.randn(9, 4), torch.arange(9) % 3
    whole = metrics.WorstCaseSharpness(0.05)(net, x, y)
    torch.testing.assert_close(metrics.WorstCaseSharpness(0.05)(Snapshot(net, x, y, chunk_size=4)), whole)
    small, large = (metrics.WorstCaseSharpness(epsilon)(net, x, y) for epsilon in (0.01, 0.1))
    assert 0 < small < whole < large


@pytest.mark.parametrize(
    "options", [{"epsilon": 0.0}, {"box": "round"}, {"num_starts": 0}, {"max_steps": 0}], ids=lambda o: next(iter(o))
)
def test_impossible_boxes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be"):
        metrics.WorstCaseSharpness(**options)


def test_a_network_with_other_parameters() -> None:
    net, x, y = mlp(4, 6, 3), torch.randn(9, 4), torch.arange(9) % 3
    snapshot = Snapshot(net, x, y)
    before = mean_loss(snapshot)
    other = snapshot.with_tensors({"0.weight": torch.zeros(6, 4)})
    with torch.no_grad():
        copied = mlp(4, 6, 3)
        copied.load_state_dict(net.state_dict())
        copied[0].weight.zero_()
    torch.testing.assert_close(mean_loss(other), F.cross_entropy(copied(x), y).detach())
    assert mean_loss(snapshot) is before
