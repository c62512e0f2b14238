"""Critical and preconditioned sharpness: quadratics in closed form, and torch's own optimizers at their limits."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityConstraint, ComplexityMonitor
from lightning_complexity.functional.loss_surface.stability import critical_step
from lightning_complexity.metrics import CriticalSharpness, LargestHessianEigenvalue, PreconditionedSharpness
from lightning_complexity.network import HessianOperator, MeasureError, Snapshot, gradients
from lightning_complexity.network.optimization.optimizers import next_update, scaling
from lightning_complexity.regularizers import CriticalSharpness as CriticalSharpnessPenalty
from tests.networks import mlp
from tests.training import Classifier


class Quadratic(nn.Module):
    """Its one output is ``w^T H w / 2``."""

    def __init__(self, hessian: Tensor, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("hessian", hessian)
        self.w = nn.Parameter(start.clone())

    def forward(self, x: Tensor) -> Tensor:
        return (self.w @ self.hessian @ self.w / 2).expand(len(x), 1)


def mean_output(outputs: Tensor, _: Any) -> Tensor:
    return outputs.mean()


def snapshot_of(model: nn.Module, *optimizers: Optimizer) -> Snapshot:
    return Snapshot(model, torch.zeros(2, 1), torch.zeros(2), loss=mean_output, optimizers=optimizers)


def quadratic(*eigenvalues: float) -> Quadratic:
    basis = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues))).Q
    return Quadratic(basis * torch.tensor(eigenvalues) @ basis.T, torch.randn(len(eigenvalues)))


def network() -> tuple[nn.Module, Tensor, Tensor]:
    return mlp(4, 6, 3), torch.randn(12, 4), torch.arange(12) % 3


def report(metric: CriticalSharpness | PreconditionedSharpness, *args: Any, **options: Any) -> dict[str, float]:
    metric.update(*args, **options)
    return {key.rpartition("/")[2]: float(value) for key, value in metric.report().items()}


# The search ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1e-3, 0.5, 4.0])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_smooth_loss_is_known_within_eight_evaluations(first: float, scale: float) -> None:
    found = critical_step(
        lambda s: scale * math.cosh(3 * s - 1), scale * math.cosh(1), -3 * scale * math.sinh(1), first=first
    )
    assert found.converged
    assert found.evaluations <= 8
    assert found.step == pytest.approx(2 / 3, rel=1e-4)


def test_what_is_not_finite_is_too_far() -> None:
    found = critical_step(lambda s: math.nan if s > 0.3 else 1 - s + 5 * s * s, 1.0, -1.0)
    assert found.step == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("rounding", [-1e-16, 0.0, 1e-16])
def test_rounding_at_the_place_itself_is_no_reason_to_look_further(rounding: float) -> None:
    seen = []

    def loss_at(step: float) -> float:
        seen.append(step)
        return 1 - 2 * step + 0.5 * step * step if len(seen) == 1 else 1 + rounding * step

    found = critical_step(loss_at, 1.0, -2.0)
    assert (found.converged, found.evaluations) == (True, 2)
    assert found.step == pytest.approx(4)


def test_a_loss_that_falls_without_end_has_a_step_at_least_as_long() -> None:
    found = critical_step(lambda s: math.exp(-s), 1.0, -1.0)
    assert not found.converged
    assert found.step > 10


@pytest.mark.parametrize("first", [1e-9, 1e-6, 1e-3])
def test_no_step_is_looked_at_whose_change_rounding_hides(first: float) -> None:
    found = critical_step(lambda s: round((1 - s + s * s / 40) / 1e-7) * 1e-7, 1.0, -1.0, first=first)
    assert found.converged
    assert found.step == pytest.approx(40, rel=1e-3)


def test_a_place_that_rounding_hides_is_not_known() -> None:
    assert not critical_step(lambda s: 1 - s + 1e7 * s * s, 1.0, -1.0, first=1e-3).converged


def test_edges_of_the_search() -> None:
    assert critical_step(lambda s: s, 1.0, 2.0).step == 0
    assert math.isnan(critical_step(lambda s: s, 1.0, 0.0).step)
    assert math.isnan(critical_step(lambda s: s, math.nan, -1.0).step)


# Critical sharpness ----------------------------------------------------------------------------------


def test_along_the_gradient_of_a_quadratic_it_is_the_curvature_weighted_by_the_gradient() -> None:
    model = quadratic(9.0, 4.0, 1.0, 0.1)
    g = model.hessian @ model.w.detach()
    found = report(CriticalSharpness(), snapshot_of(model))
    assert found["critical_sharpness"] == pytest.approx(float(g @ model.hessian @ g / (g @ g)), rel=1e-4)
    assert found["converged"] == 1
    assert "share_of_limit" not in found


@pytest.mark.parametrize("kind", [SGD, AdamW])
@pytest.mark.parametrize("rate", [1e-6, 1e-10])
def test_a_rate_so_small_that_its_step_is_lost_in_single_precision(kind: type[Optimizer], rate: float) -> None:
    """As warm-up begins with; the direction, and so the place, does not depend on the rate in the first step."""
    model, x, y = network()
    model, x = model.float(), x.float()
    expected = report(CriticalSharpness(), model, x, y, optimizer=kind(model.parameters(), lr=0.1))
    found = report(CriticalSharpness(), model, x, y, optimizer=kind(model.parameters(), lr=rate))
    assert found["critical_sharpness"] == pytest.approx(expected["critical_sharpness"], rel=0.02)
    assert found["share_of_limit"] == pytest.approx(rate / 0.1 * expected["share_of_limit"], rel=0.02)


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.05),
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9),
    "dampened": lambda p: SGD(p, lr=0.05, momentum=0.9, dampening=0.5),
    "nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, lr=0.01),
    "amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [0, 3])
def test_the_next_update_is_the_one_that_the_optimizer_takes(name: str, steps: int) -> None:
    model, x, y = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    snapshot = Snapshot(model, x, y, optimizers=optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    update = next_update(snapshot, gradients(snapshot))
    assert str(optimizer.state_dict()) == str(before)
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(update.changes[name], p.detach() - old[name])


def test_along_an_update_it_is_the_closed_form_of_a_quadratic() -> None:
    model = quadratic(9.0, 4.0, 1.0, 0.1)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.5)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.zeros(1, 1)).sum().backward()
        optimizer.step()
    g = model.hessian @ model.w.detach()
    d = 0.5 * optimizer.state[model.w]["momentum_buffer"] + g
    expected = float(d @ model.hessian @ d / (g @ d))
    found = report(CriticalSharpness(), snapshot_of(model, optimizer))
    assert found["critical_sharpness"] == pytest.approx(expected, rel=1e-4)
    assert found["share_of_limit"] == pytest.approx(0.02 * expected / 2, rel=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_share_is_one_where_momentum_begins_to_diverge(momentum: float) -> None:
    model = quadratic(10.0, 1.0)
    optimizer = SGD(model.parameters(), lr=2 * (1 + momentum) / 10 * 0.9999, momentum=momentum)
    for _ in range(400):
        optimizer.zero_grad()
        model(torch.zeros(1, 1)).sum().backward()
        optimizer.step()
    found = report(CriticalSharpness(), snapshot_of(model, optimizer))
    assert found["share_of_limit"] == pytest.approx(1, rel=0.02)


def test_several_optimizers_step_together_and_rates_are_in_units_of_the_largest() -> None:
    model, x, y = network()
    first = SGD(model[0].parameters(), lr=0.1)
    second = SGD(model[2].parameters(), lr=0.2)
    together = SGD([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.2}])
    for cls in (CriticalSharpness, PreconditionedSharpness):
        one, several = (
            report(cls(), model, x, y, optimizer=together),
            report(cls(), model, x, y, optimizer=[first, second]),
        )
        assert one == pytest.approx(several)


def test_at_rate_zero_the_share_is_zero() -> None:
    model, x, y = network()
    optimizer = SGD([{"params": model.parameters(), "initial_lr": 0.1}], lr=0.0)
    found = report(CriticalSharpness(), model, x, y, optimizer=optimizer)
    assert found["share_of_limit"] == 0
    assert 0 < found["critical_sharpness"] < math.inf
    assert report(PreconditionedSharpness(), model, x, y, optimizer=optimizer)["share_of_limit"] == 0


def test_an_update_that_points_uphill_is_infinitely_sharp() -> None:
    model = quadratic(1.0, 2.0)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    (-5 * model(torch.zeros(1, 1)).sum()).backward()
    optimizer.step()
    assert report(CriticalSharpness(), snapshot_of(model, optimizer))["critical_sharpness"] == math.inf


def test_an_optimizer_that_needs_a_closure_is_named() -> None:
    model, x, y = network()
    with pytest.raises(MeasureError, match="the next step of LBFGS could not be computed"):
        CriticalSharpness().update(model, x, y, optimizer=torch.optim.LBFGS(model.parameters()))


def test_an_optimizer_of_another_network_is_named() -> None:
    model, x, y = network()
    with pytest.raises(MeasureError, match="SGD trains no parameter of this network"):
        CriticalSharpness().update(model, x, y, optimizer=SGD(mlp(2, 2).parameters(), lr=0.1))


class Counting(nn.Sequential):
    """Counts its forward passes."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return super().forward(x)


def test_ten_forward_passes_are_enough() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        model, x, y = network()
        model = Counting(*model)
        Counting.calls = 0
        found = report(CriticalSharpness(), model, x, y, optimizer=Adam(model.parameters(), lr=1e-2))
        assert Counting.calls <= 10
        assert found["converged"] == 1


# Preconditioned sharpness ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "rmsprop"])
def test_factors_are_what_the_optimizer_divides_by(name: str) -> None:
    """Without momentum an update is minus rate times factor times gradient."""
    options: dict[str, Any] = {"lr": 0.01}
    options |= {"betas": (0.0, 0.9)} if name != "rmsprop" else {"centered": True}
    options |= {"amsgrad": True} if name == "amsgrad" else {}
    options |= {"weight_decay": 0.0} if name == "adamw" else {}
    cls = {"rmsprop": RMSprop, "adamw": AdamW}.get(name, Adam)
    model, x, y = network()
    optimizer = cls(model.parameters(), **options)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    snapshot = Snapshot(model, x, y, optimizers=optimizer)
    found = gradients(snapshot)
    factors, changes = scaling(snapshot, found).factors, next_update(snapshot, found).changes
    for parameter, change in changes.items():
        torch.testing.assert_close(-0.01 * factors[parameter] * found[parameter], change)


def test_it_is_the_largest_eigenvalue_of_the_dense_preconditioned_hessian() -> None:
    model, x, y = network()
    optimizer = Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    snapshot = Snapshot(model, x, y, optimizers=optimizer)
    operator = HessianOperator(snapshot)
    hessian = operator.matmat(torch.eye(operator.shape[0]))
    factors = torch.cat([f.flatten() for f in scaling(snapshot, gradients(snapshot)).factors.values()])
    expected = float(torch.linalg.eigvals(factors.unsqueeze(1) * hessian).real.max())
    found = report(PreconditionedSharpness(tolerance=1e-6), snapshot)
    assert found["preconditioned_sharpness"] == pytest.approx(expected, rel=1e-6)
    assert found["share_of_limit"] == pytest.approx(0.01 * expected / 38, rel=1e-6)
    assert found["converged"] == 1


def test_without_an_optimizer_it_is_the_plain_one() -> None:
    model, x, y = network()
    plain = LargestHessianEigenvalue(tolerance=1e-6)
    plain.update(model, x, y)
    found = report(PreconditionedSharpness(tolerance=1e-6), model, x, y)
    assert found["preconditioned_sharpness"] == pytest.approx(float(plain.compute()))
    assert "share_of_limit" not in found


def test_an_optimizer_that_maximizes_is_named() -> None:
    model, x, y = network()
    with pytest.raises(MeasureError, match="maximize=True"):
        PreconditionedSharpness().update(model, x, y, optimizer=SGD(model.parameters(), lr=0.1, maximize=True))


@pytest.mark.parametrize("share", [0.98, 1.02])
@pytest.mark.parametrize(
    ("build", "eigenvalue"),
    [
        (lambda p, lr: SGD(p, lr=lr), 1.0),
        (lambda p, lr: SGD(p, lr=lr, momentum=0.5), 1.0),
        (lambda p, lr: SGD(p, lr=lr, momentum=0.9), 1.0),
        (lambda p, lr: SGD(p, lr=lr, momentum=0.9, dampening=0.3), 1.0),
        (lambda p, lr: SGD(p, lr=lr, momentum=0.9, nesterov=True), 1.0),
        # With eps far above the gradients, Adam's preconditioner is frozen.
        (lambda p, lr: Adam(p, lr=1e80 * lr, eps=1e80), 1e80),
        (lambda p, lr: Adam(p, lr=1e80 * lr, eps=1e80, betas=(0.5, 0.999)), 1e80),
        (lambda p, lr: RMSprop(p, lr=1e80 * lr, eps=1e80, momentum=0.5), 1e80),
    ],
)
def test_torchs_own_optimizers_diverge_where_the_share_is_above_one(
    build: Callable[[Any, float], Optimizer], eigenvalue: float, share: float
) -> None:
    model = Quadratic(torch.tensor([[3.0]]), torch.tensor([1e-60]))
    trial = report(PreconditionedSharpness(), snapshot_of(model, build(model.parameters(), 1.0)))
    rate = share / trial["share_of_limit"]
    optimizer = build(model.parameters(), rate)
    found = report(PreconditionedSharpness(), snapshot_of(model, optimizer))
    assert found["share_of_limit"] == pytest.approx(share, rel=1e-3)
    assert found["preconditioned_sharpness"] * eigenvalue == pytest.approx(
        3.0 * (0.7 if optimizer.param_groups[0].get("dampening") else 1.0), rel=1e-3
    )
    sizes = []  # the first steps of Adam are longer, until its averages have settled
    for _ in range(1600):
        optimizer.zero_grad()
        model(torch.zeros(1, 1)).sum().backward()
        optimizer.step()
        sizes.append(abs(float(model.w.detach())))
    assert (max(sizes[-400:]) > max(sizes[-800:-400])) == (share > 1)


def test_gradient_descent_rises_to_the_edge_of_stability() -> None:
    """Full-batch gradient descent on a network: sharpness settles at two over the rate, as in the literature."""
    torch.manual_seed(0)
    x = torch.randn(40, 4)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    model = nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 1))
    optimizer = SGD(model.parameters(), lr=0.25)
    for _ in range(3000):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    found = report(PreconditionedSharpness(), model, x, y, loss=F.mse_loss, optimizer=optimizer)
    assert found["share_of_limit"] == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_at_the_edge_the_critical_sharpness_the_largest_eigenvalue_and_two_over_the_rate_are_one_number() -> None:
    """Full-batch gradient descent on digits; before the edge the update has little of the sharpest direction."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images[:500] / 16, dtype=torch.float32), torch.tensor(labels[:500])
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)).float()
    optimizer = SGD(model.parameters(), lr=0.1)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return 5 * F.mse_loss(outputs, F.one_hot(targets, 10).to(outputs.dtype))

    found = []
    for step in range(2001):
        if step == 750 or (step >= 1500 and step % 50 == 0):
            metrics = CriticalSharpness(), LargestHessianEigenvalue()
            for metric in metrics:
                metric.update(model, x, y, loss=loss, optimizer=optimizer)
            found.append([float(metric.compute()) for metric in metrics])
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    before, *later = found
    assert before[0] < 0.1 * before[1] < 0.1 * 20
    critical, largest = zip(*later, strict=True)
    assert sum(largest) / len(largest) == pytest.approx(20, rel=0.05)
    assert max(critical) == pytest.approx(20, rel=0.05)  # while the sharpest direction is what the update is of
    assert all(c <= 1.02 * sharpest for c, sharpest in later)


# In a training ---------------------------------------------------------------------------------------


def fitted(*callbacks: pl.Callback, optimizer: Callable[[Any], Optimizer], steps: int = 4) -> pl.LightningModule:
    torch.manual_seed(3)
    module = Classifier(mlp(4, 6, 3)).float()
    module.configure_optimizers = lambda: optimizer(module.parameters())
    data = TensorDataset(torch.randn(16, 4, dtype=torch.float32), torch.arange(16) % 3)
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(module, DataLoader(data, batch_size=8))
    return module


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw"])
def test_a_monitor_hands_over_the_optimizer_and_changes_nothing(name: str) -> None:
    metrics = ["CriticalSharpness", "PreconditionedSharpness"]
    monitor = ComplexityMonitor(metrics, every_n_steps=1, budget=None)
    watched, alone = fitted(monitor, optimizer=OPTIMIZERS[name]), fitted(optimizer=OPTIMIZERS[name])
    assert not monitor.left_out
    for measurement in monitor.history:
        for metric in ("critical_sharpness", "preconditioned_sharpness"):
            assert measurement.values[f"complexity/{metric}/share_of_limit"] > 0
    for one, other in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)
    states = [m.optimizers(use_pl_optimizer=False).state_dict() for m in (watched, alone)]
    assert str(states[0]) == str(states[1])


def test_a_constraint_holds_it_below_its_limit() -> None:
    limit = 0.8
    free = fitted(optimizer=OPTIMIZERS["momentum"], steps=80)
    constraint = ComplexityConstraint(CriticalSharpness(), at_most=limit, every_n_steps=5)
    held = fitted(constraint, optimizer=OPTIMIZERS["momentum"], steps=80)
    torch.manual_seed(3)
    Classifier(mlp(4, 6, 3))
    x, y = torch.randn(16, 4, dtype=torch.float32), torch.arange(16) % 3
    values = []
    for module in (free, held):
        metric = CriticalSharpness()
        metric.update(module.net, x, y)
        values.append(float(metric.compute()))
    assert values[1] < 0.75 * values[0]


# The penalty -----------------------------------------------------------------------------------------


def test_the_gradient_of_the_penalty_is_a_central_difference() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    penalty = CriticalSharpnessPenalty(1.0)
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(penalty(model, x, y), parameters)
    direction = [torch.randn_like(p) for p in parameters]
    values = []
    for sign in (1e-5, -2e-5):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * d)
        values.append(penalty(model, x, y).detach())
    expected = (values[0] - values[1]) / 2e-5
    actual = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=0)


def test_the_penalty_leaves_a_parameter_that_the_network_does_not_use_alone() -> None:
    model, x, y = network()
    CriticalSharpnessPenalty(1.0)(model, x, y).backward()
    used = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    CriticalSharpnessPenalty(1.0)(model, x, y).backward()
    for p, expected in zip([p for n, p in model.named_parameters() if n != "unused"], used, strict=True):
        assert expected.any()
        torch.testing.assert_close(p.grad, expected)
    assert model.unused.grad is None


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="tolerance must be between 0 and 1, got 0"):
        CriticalSharpness(tolerance=0)
    with pytest.raises(ValueError, match="max_products must be at least 1, got 0"):
        PreconditionedSharpness(max_products=0)
