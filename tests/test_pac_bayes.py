"""Noise on the weights: the scale that a network bears, capacities and bounds, against closed forms and loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor, nn

from lightning_complexity.functional import (
    find_scale,
    kl_inverse,
    magnitude_aware_pac_bayes_capacity,
    maurer_bound,
    mcallester_bound,
    pac_bayes_capacity,
)
from lightning_complexity.metrics import GeneralizationMeasure, NoiseTolerance, PACBayesBound
from lightning_complexity.network import Snapshot, initial_state, predictions, read_weights
from lightning_complexity.network.tracing.folding import folded_network
from tests.networks import conv_net, mlp, randomize_batch_norm
from tests.test_generalization_measures import PUBLISHED, NetworkInNetwork, value

# Formulas ---------------------------------------------------------------------------------------------


def test_capacities_by_loops() -> None:
    w, start, sigma, m = np.array([0.5, -2.0, 1.0]), np.array([0.1, -1.0, 3.0]), 0.3, 50
    found = pac_bayes_capacity(torch.tensor((w**2).sum()), torch.tensor(sigma), m)
    assert found.item() == pytest.approx((w**2).sum() / 4 / sigma**2 + math.log(m / sigma) + 10)
    aware = magnitude_aware_pac_bayes_capacity(
        torch.tensor((w**2).sum()), torch.tensor(w - start), torch.tensor(sigma), m
    )
    summed = 0.0
    for k in range(3):
        above = 1e-6 + (sigma**2 + 1) * (w**2).sum() / 3
        summed += math.log(above / (1e-6 + sigma**2 * (w[k] - start[k]) ** 2)) / 4
    assert aware.item() == pytest.approx(summed + math.log(m / sigma) + 10)


@pytest.mark.parametrize("q", [0.0, 1e-3, 0.2, 0.7])
@pytest.mark.parametrize("c", [1e-6, 0.05, 1.0])
def test_the_inverse_divergence_is_that_of_a_root_finder(q: float, c: float) -> None:
    def excess(p: float) -> float:
        of_zero = 0.0 if q == 0 else q * math.log(q / p)
        return of_zero + (1 - q) * math.log((1 - q) / (1 - p)) - c

    found = kl_inverse(torch.tensor(q), torch.tensor(c)).item()
    assert found == pytest.approx(brentq(excess, max(q, 1e-300), 1 - 1e-15, xtol=1e-15), rel=1e-9)


def test_the_inverse_divergence_at_its_ends() -> None:
    errors, zeros = torch.tensor([0.0, 0.3, 1.0, math.nan]), torch.zeros(4)
    torch.testing.assert_close(kl_inverse(errors, zeros), errors, equal_nan=True, rtol=0, atol=1e-7)
    assert kl_inverse(torch.tensor(0.3), torch.tensor(1e4)) == 1
    assert kl_inverse(torch.zeros(2, 3), torch.tensor(1.0)).shape == (2, 3)


def test_bounds_on_paper() -> None:
    error, kl, n, delta = torch.tensor(0.0), torch.tensor(3.0), 400, 0.05
    exponent = (3 + math.log(2 * 20 / 0.05)) / 400
    assert maurer_bound(error, kl, n, delta).item() == pytest.approx(1 - math.exp(-exponent))
    looser = mcallester_bound(torch.tensor(0.1), kl, n, delta).item()
    assert looser == pytest.approx(0.1 + math.sqrt(exponent / 2))
    assert maurer_bound(torch.tensor(0.1), kl, n, delta).item() < looser


# The search -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("target", [1e-6, 0.1, 50.0])
def test_a_scale_is_found_whatever_its_order(power: int, target: float) -> None:
    calls: list[float] = []

    def function(scale: float) -> float:
        calls.append(scale)
        return (scale / 3) ** power

    found = find_scale(function, target, precision=1e-3, max_doublings=40)
    exact = 3 * target ** (1 / power)
    assert exact <= found.scale <= 1.001 * exact
    assert found.converged
    assert found.reached == (found.scale / 3) ** power
    assert len(calls) < 45


def test_jumps_constants_and_undefined_functions() -> None:
    jump = find_scale(lambda s: float(s > 0.7), 0.1)
    assert 0.7 < jump.scale < 0.7071
    assert (jump.reached, jump.converged) == (1.0, True)
    for constant in (0.0, 1.0, math.nan):
        found = find_scale(lambda _, constant=constant: constant, 0.1)
        assert math.isnan(found.scale)
        assert not found.converged
    near = find_scale(lambda s: s, 0.1, tolerance=0.05)
    assert near == (2**-4, 2**-4, True)


def separator() -> tuple[nn.Linear, Tensor, Tensor]:
    net = nn.Linear(1, 2, bias=False)
    nn.init.constant_(net.weight[:1], 1.0)
    nn.init.constant_(net.weight[1:], -1.0)
    return net, torch.ones(1, 1), torch.tensor([0])


def test_the_tolerated_noise_is_where_a_tenth_of_the_draws_fails() -> None:
    """A draw fails from the scale on at which the difference of its numbers is the difference of the outputs."""
    metric = NoiseTolerance(num_draws=100)
    metric.update(*separator())
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([torch.randn(2, 1, generator=generator) for _ in range(100)]).squeeze()
    fails_from = 2 / (draws[:, 1] - draws[:, 0]).clamp(min=1e-9)
    tenth = fails_from.sort().values[9].item()
    assert tenth <= metric.compute().item() <= 1.02 * tenth
    details = metric.report()
    assert details["noise_tolerance/drop"].item() == pytest.approx(0.1)
    assert details["noise_tolerance/converged"] == 1


def test_the_slope_of_the_loss_does_not_count_in_the_tolerated_noise() -> None:
    """Of a linear layer the loss rises by the square of the scale times the trace of half of its Hessian."""
    net, x = nn.Linear(3, 1, bias=False), torch.randn(200, 3)
    metric = NoiseTolerance(num_draws=60, rise=0.5)
    metric.update(net, x, net(x).detach() + 30 * x[:, :1], loss=F.mse_loss)
    expected = (0.5 / x.square().sum(1).mean()).sqrt()
    assert float(metric.compute()) == pytest.approx(float(expected), rel=0.2)


@pytest.mark.slow
def test_the_tolerated_noise_in_closed_form() -> None:
    metric = NoiseTolerance(num_draws=1000)
    metric.update(*separator())
    assert metric.compute().item() == pytest.approx(2 / (math.sqrt(2) * norm.ppf(0.9)), rel=0.06)
    aware = NoiseTolerance(num_draws=1000, magnitude_aware=True)  # all weights have size 1
    aware.update(*separator())
    assert aware.compute().item() == pytest.approx(metric.compute().item(), rel=0.02)


def test_magnitude_aware_noise_does_not_see_that_layers_were_rescaled() -> None:
    net, x = mlp(4, 16, 3, bias=False), torch.randn(60, 4)
    y = net(x).argmax(1)
    found: dict[bool, list[float]] = {True: [], False: []}
    for factor in (1.0, 8.0):
        with torch.no_grad():
            net[0].weight.mul_(factor), net[2].weight.div_(factor)
        for aware, values in found.items():
            metric = NoiseTolerance(magnitude_aware=aware)
            metric.update(net, x, y)
            values.append(metric.compute().item())
    assert found[True][0] == pytest.approx(found[True][1], rel=0.1)  # but for the noise of zeros
    assert found[False][1] < found[False][0] / 2


def test_noise_where_there_are_no_classes_raises_the_loss() -> None:
    net, x = nn.Linear(3, 1, bias=False), torch.randn(50, 3)
    metric = NoiseTolerance(num_draws=1000, rise=0.7)
    metric.update(net, x, net(x).detach(), loss=F.mse_loss)
    of_one = x.square().sum(1).mean().item()  # the loss that noise of scale 1 adds
    assert metric.compute().item() == pytest.approx(math.sqrt(0.7 / of_one), rel=0.06)


def test_a_network_at_chance_level_has_no_tolerance() -> None:
    net = nn.Linear(4, 2)
    metric = NoiseTolerance()
    metric.update(net, torch.randn(40, 4), 1 - net(torch.randn(40, 4)).argmax(1))
    if metric.report()["noise_tolerance/converged"] == 0:
        assert metric.compute().isnan()
    wrong = NoiseTolerance()
    x = torch.randn(40, 4)
    wrong.update(net, x, 1 - net(x).argmax(1))
    assert wrong.compute().isnan()


# Folding ----------------------------------------------------------------------------------------------


class Norms(nn.Module):
    """BatchNorm behind a layer with a bias, behind one without, and one that has no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU()),
            *(nn.Linear(5, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU()),
            *(nn.Linear(5, 5, bias=False), nn.BatchNorm1d(5, affine=False), nn.ReLU()),
            nn.Linear(5, 3),
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    nn.init.normal_(module.weight)
                    nn.init.normal_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("make", [Norms, conv_net])
def test_a_folded_network_is_the_same_function(make: Any) -> None:
    net = make()
    x = torch.randn(6, 2, 8, 8) if make is conv_net else torch.randn(6, 4)
    snapshot = Snapshot(net, x)
    folded = snapshot.run_one(lambda model, sample: folded_network(model, sample, read_weights(model)))
    other = snapshot.with_tensors(folded.tensors)
    torch.testing.assert_close(predictions(other), predictions(snapshot))
    assert {name.rpartition(".")[2] for name in folded.normalizations} == {"weight", "bias"}
    tensors = dict(net.state_dict()) | folded.tensors
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{name}.weight" in folded.normalizations:
            torch.testing.assert_close(tensors[f"{name}.weight"], torch.ones_like(module.weight))


def test_noise_is_on_the_folded_network() -> None:
    """As on the one layer whose weights are those with BatchNorm multiplied in."""
    net, plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Sequential(nn.Linear(3, 4))
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    with torch.no_grad():
        net[1].weight.uniform_(5, 9)
        scale = net[1].weight / (net[1].running_var + net[1].eps).sqrt()
        plain[0].weight.copy_(scale[:, None] * net[0].weight)
        plain[0].bias.copy_(scale * (net[0].bias - net[1].running_mean) + net[1].bias)
    x = torch.randn(50, 3)
    y = net.eval()(x).argmax(1)
    found = []
    for model in (net, plain):
        metric = NoiseTolerance()
        metric.update(model, x, y)
        found.append(metric.compute())
    torch.testing.assert_close(*found)


# As the study has it ----------------------------------------------------------------------------------


def of_study(name: str, **options: Any) -> float:
    return value(GeneralizationMeasure(name, **options))


def folded_distances() -> np.ndarray:
    """``w_k - w^0_k`` of the study's networks, BatchNorm multiplied in by hand."""
    parts = []
    for net in (NetworkInNetwork(1.0), NetworkInNetwork(5.0)):
        kernels = []
        for conv, bn in ((net.conv1, net.bn1), (net.conv2, net.bn2), (net.conv3, None)):
            kernel = conv.weight.detach().numpy()
            if bn is not None:
                scale = (bn.weight / (bn.running_var + bn.eps).sqrt()).detach().numpy()
                kernel = kernel * scale[:, None, None, None]
            kernels.append(kernel.ravel())
        parts.append(np.concatenate(kernels))
    return parts[0] - parts[1]


@pytest.mark.parametrize("compat", [None, "rgm"])
@pytest.mark.parametrize(("name", "norm_name"), [("init", "fro_dist"), ("orig", "param_norm")])
def test_the_studys_measures_from_its_published_norms(name: str, norm_name: str, compat: Any) -> None:
    squared, m = PUBLISHED[norm_name], 30
    sigma = of_study("pacbayes_flatness", compat=compat) ** -0.5
    expected = squared / (4 * sigma**2) + math.log(m / sigma) + 10
    assert of_study(f"pacbayes_{name}", compat=compat) == pytest.approx(expected, rel=1e-9)
    aware = of_study("pacbayes_mag_flatness", compat=compat) ** -0.5
    above = 1e-6 + (aware**2 + 1) * squared / PUBLISHED["params"]
    below = 1e-6 + aware**2 * folded_distances() ** 2
    expected = np.log(above / below).sum() / 4 + math.log(m / aware) + 10
    assert of_study(f"pacbayes_mag_{name}", compat=compat) == pytest.approx(expected, rel=1e-9)
    of_many = GeneralizationMeasure(f"pacbayes_mag_{name}", compat=compat, num_samples=5000, adjusted=True)
    assert value(of_many) == pytest.approx(math.sqrt((expected + math.log(5000 / m)) / 5000))


@pytest.mark.parametrize("aware", [False, True])
def test_the_studys_search_with_its_quirks(aware: bool) -> None:
    """The loop as its code has it, with the variance in the place of the standard deviation."""
    net, x = mlp(4, 8, 3), torch.randn(40, 4)
    y = net(x).argmax(1)
    y[:4] = (y[:4] + 1) % 3
    weights = [p.detach().clone() for p in net.parameters()]
    before = (net(x).argmax(1) == y).double().mean().item()
    generator = torch.Generator().manual_seed(0)
    lower, upper = 0.0, 2.0
    for _ in range(15):
        sigma = (lower + upper) / 2
        accuracies = []
        for _ in range(10):
            with torch.no_grad():
                for p, w in zip(net.parameters(), weights, strict=True):
                    std = sigma**2 * w.abs() ** 2 + 1e-3**2 if aware else torch.full_like(w, sigma**2)
                    p.copy_(w + std * torch.randn(w.shape, generator=generator))
            accuracies.append((net(x).argmax(1) == y).double().mean().item())
        displacement = abs(np.mean(accuracies) - before)
        if abs(displacement - 0.1) < 0.01:
            break
        if displacement > 0.1:
            upper = sigma
        else:
            lower = sigma
    with torch.no_grad():
        for p, w in zip(net.parameters(), weights, strict=True):
            p.copy_(w)
    metric = NoiseTolerance(magnitude_aware=aware, compat="rgm")
    metric.update(net, x, y)
    assert metric.compute().item() == sigma


def test_the_studys_code_moves_what_folding_left_of_batch_norm() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    randomize_batch_norm(net)
    x = torch.randn(50, 3)
    y = net.eval()(x).argmax(1)
    seen: list[int] = []
    normal = torch.randn

    def counting(shape: Any, **options: Any) -> Tensor:
        seen.append(math.prod(shape))
        return normal(shape, **options)

    for compat, expected in ((None, {12, 4}), ("rgm", {12, 4})):
        seen.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randn", counting)
            NoiseTolerance(compat=compat, num_draws=1).update(net, x, y)
        assert set(seen) == expected
        assert seen.count(4) == seen.count(12) * (1 if compat is None else 3)


def test_a_measure_of_noise_takes_one_snapshot() -> None:
    net, x = mlp(4, 8, 3), torch.randn(40, 4)
    metric = GeneralizationMeasure("pacbayes_flatness")
    metric.update(net, x, net(x).argmax(1))
    with pytest.raises(ValueError, match="takes one snapshot, since its noise"):
        metric.update(net, x, net(x).argmax(1))


# The bound --------------------------------------------------------------------------------------------


def test_the_bound_on_paper() -> None:
    """Draws that never fail: the error is what the draws cannot exclude."""
    net, start = nn.Linear(1, 2, bias=False), {"weight": torch.tensor([[99.0], [-101.0]])}
    nn.init.constant_(net.weight[:1], 100.0)
    nn.init.constant_(net.weight[1:], -100.0)
    x, y = torch.ones(500, 1), torch.zeros(500, dtype=torch.long)
    metric = PACBayesBound(sigmas=[0.5, 0.1], delta=0.04, num_draws=200)
    metric.update(net, x, y, initial=start)
    share = 0.04 / 4
    error, kl = 1 - math.exp(-math.log(1 / share) / 200), 2 / (2 * 0.5**2)

    def excess(p: float) -> float:
        inside = error * math.log(error / p) + (1 - error) * math.log((1 - error) / (1 - p))
        return inside - (kl + math.log(2 * math.sqrt(500) / share)) / 500

    report = metric.report()
    assert report["pac_bayes_bound"].item() == pytest.approx(brentq(excess, error, 1 - 1e-12), rel=1e-9)
    found = [report[f"pac_bayes_bound/{name}"].item() for name in ("divergence", "error", "sigma")]
    assert found == pytest.approx([kl, error, 0.5])


def test_the_bound_is_above_the_true_error() -> None:
    """Two Gaussians and a linear network: the error of each draw is known."""
    centre, closest = torch.tensor([1.0, 0.5]), []
    for seed in range(40):
        torch.manual_seed(seed)
        y = torch.arange(2000) % 2
        x = torch.randn(2000, 2) + (2 * y[:, None] - 1) * centre
        net = nn.Linear(2, 2, bias=False)
        start = initial_state(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        for _ in range(30):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        metric = PACBayesBound(num_draws=50)
        metric.update(net, x, y, initial=start)
        sigma = metric.report()["pac_bayes_bound/sigma"]
        w = net.weight.detach() + sigma * torch.randn(2000, 2, 2)
        v = w[:, 1] - w[:, 0]
        true = norm.cdf(-(v @ centre / v.norm(dim=1)).numpy()).mean()
        assert metric.compute().item() > true
        closest.append(metric.compute().item() - true)
    assert min(closest) < 0.3


def test_the_looser_form_is_looser_and_says_at_most_nothing() -> None:
    net, x = mlp(4, 8, 3), torch.randn(40, 4)
    start, y = initial_state(net), net(x).argmax(1)
    with torch.no_grad():
        net[0].weight.add_(0.05)
    values = []
    for form in ("maurer", "mcallester"):
        metric = PACBayesBound(form=form, num_draws=20)  # type: ignore[arg-type]
        metric.update(net, x, y, initial=start)
        values.append(metric.compute().item())
    assert values[0] < values[1] <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PACBayesBound(sigmas=[]), "sigmas must be positive"),
        (lambda: PACBayesBound(sigmas=[0.1, -1.0]), "sigmas must be positive"),
        (lambda: PACBayesBound(delta=1.0), "delta must be between 0 and 1, got 1.0"),
        (lambda: PACBayesBound(num_draws=0), "num_draws must be at least 1"),
        (lambda: PACBayesBound(form="x"), "form must be one of maurer, mcallester"),  # type: ignore[arg-type]
        (lambda: NoiseTolerance(drop=0.0), "drop must be positive"),
        (lambda: NoiseTolerance(num_draws=0), "num_draws must be at least 1"),
        (lambda: NoiseTolerance(compat="x"), "compat must be None or 'rgm', got 'x'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
