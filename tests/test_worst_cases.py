"""The largest box of weights that a network bears, against closed forms, grids and loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional import (
    BoxPoint,
    find_tolerated_box,
    magnitude_aware_sharpness_capacity,
    pac_bayes_capacity,
    sharpness_capacity,
)
from lightning_complexity.metrics import SharpnessMeasure, WorstCaseTolerance, sharpness_measures
from lightning_complexity.network import Snapshot, Task, initial_state
from lightning_complexity.network.landscape import worst_cases
from tests.networks import mlp
from tests.test_flatness import Point, measured, quadratic, symmetric
from tests.test_generalization_measures import PUBLISHED, NetworkInNetwork, wave
from tests.test_pac_bayes import folded_distances

BOXES: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": torch.ones_like,
    "magnitude": torch.abs,
    "keskar": lambda w: w.abs() + 1,
}
NARROW = 1.02  # the bracket


def tolerance(net: nn.Module, *data: Any, **options: Any) -> float:
    given = {key: options.pop(key) for key in ("loss", "task") if key in options}
    metric = WorstCaseTolerance(**options)
    metric.update(net, *data, **given)
    return metric.compute().item()


def assert_is_bracketed(value: float, exact: float) -> None:
    assert exact / NARROW * (1 - 1e-9) <= value <= exact * (1 + 1e-9)


# The bracket ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [3e-5, 0.07, 1.0, 40.0])
@pytest.mark.parametrize(("precision", "most"), [(0.02, 20), (1e-6, 60)])
def test_the_box_is_the_largest_within_the_tolerance(exact: float, precision: float, most: int) -> None:
    calls: list[float] = []

    def worst(scale: float) -> BoxPoint:
        calls.append(scale)
        return BoxPoint(scale, (scale / exact) ** 2)

    found = find_tolerated_box(worst, 1.0, precision=precision)
    assert exact / (1 + precision) <= found.scale * (1 + 1e-9) <= exact * (1 + 2e-9)
    assert found.rise == (found.scale / exact) ** 2
    assert found.converged
    assert len(calls) <= most


def test_a_box_just_below_a_jump() -> None:
    found = find_tolerated_box(lambda scale: BoxPoint(scale, float(scale > 0.7)), 0.5)
    assert_is_bracketed(found.scale, 0.7)
    assert (found.rise, found.converged) == (0.0, True)


def test_a_point_counts_for_every_box_that_it_is_in() -> None:
    """A search that finds its way to a point only from some boxes does not make larger ones safe."""
    seen: list[float] = []

    def fickle(scale: float) -> BoxPoint:
        seen.append(scale)
        if 0.4 < scale < 0.45:
            return BoxPoint(0.2, 0.9)
        return BoxPoint(scale, 1.0) if scale > 0.9 else BoxPoint(scale / 2, 0.1 * scale)

    found = find_tolerated_box(fickle, 0.5)
    assert 0.9 / NARROW <= found.scale <= 0.9  # never looked where the point is found
    found = find_tolerated_box(fickle, 0.5, start=0.42)
    assert_is_bracketed(found.scale, 0.2)


def test_a_box_that_was_searched_before_is_ruled_out_by_a_later_point() -> None:
    def late(scale: float) -> BoxPoint:
        return BoxPoint(scale, 0.0) if scale < 1.5 else BoxPoint(0.5, 2.0)

    found = find_tolerated_box(late, 1.0)  # a box of 1 was searched first
    assert_is_bracketed(found.scale, 0.5)


def test_the_rise_is_the_largest_of_all_points_in_the_box() -> None:
    points = iter([BoxPoint(0.3, 0.4), BoxPoint(1.01, 2.0), BoxPoint(0.2, 0.1)])
    found = find_tolerated_box(lambda _: next(points), 1.0)
    assert (found.scale, found.rise) == (1.0, 0.4)


@pytest.mark.parametrize("rise", [0.0, 2.0, math.nan])
def test_without_a_largest_box_there_is_none(rise: float) -> None:
    found = find_tolerated_box(lambda scale: BoxPoint(scale, rise), 1.0)
    assert math.isnan(found.scale)
    assert not found.converged


# Classifiers in closed form -----------------------------------------------------------------------------


def disjoint(n: int, num_wrong: int) -> tuple[nn.Linear, Tensor, Tensor]:
    """Two classes, and samples that share no feature, so that the worst of all of them is at one corner."""
    net, x = nn.Linear(3 * n, 2, bias=False), torch.zeros(n, 3 * n)
    for i in range(n):
        x[i, 3 * i : 3 * i + 3] = torch.randn(3) * 4 * torch.rand(1)
    y = net(x).argmax(1)
    y[:num_wrong] = 1 - y[:num_wrong]
    return net, x, y


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("n", "num_wrong", "borne"), [(10, 0, 1), (10, 2, 1), (20, 0, 2), (30, 9, 3), (39, 20, 3)])
def test_a_linear_classifier(box: str, n: int, num_wrong: int, borne: int) -> None:
    """A margin falls by the scale times ``|x|`` times the widths of both classes' weights."""
    net, x, y = disjoint(n, num_wrong)
    outputs, width = net(x).detach(), BOXES[box](net.weight.detach())
    margins = outputs.gather(1, y[:, None])[:, 0] - outputs.gather(1, 1 - y[:, None])[:, 0]
    borders = (margins / (x.abs() @ width.sum(0)))[margins > 0].sort().values
    metric = WorstCaseTolerance(box=box)  # type: ignore[arg-type]
    metric.update(net, x, y)
    value = metric.compute().item()
    assert_is_bracketed(value, borders[borne].item())
    name = "worst_case_tolerance" if box == "plain" else f"worst_case_tolerance_{box}"
    report = metric.report()
    assert report[f"{name}/drop"].item() == pytest.approx((borders < value).sum().item() / n)
    assert report[f"{name}/converged"] == 1


def test_one_sample_of_several_classes() -> None:
    net, x = nn.Linear(5, 4), torch.randn(1, 5)
    outputs = net(x)[0].detach()
    first, second = outputs.topk(2).values
    exact = (first - second) / (2 * (x.abs().sum() + 1))
    assert_is_bracketed(tolerance(net, x, outputs.argmax()[None]), exact.item())


def test_two_classes_by_a_threshold() -> None:
    net, x = nn.Linear(5, 1), torch.randn(1, 5)
    for threshold in (0.0, -2.0, 3.0):
        above = (net(x)[0, 0] - threshold).detach()
        task = Task(loss=F.binary_cross_entropy_with_logits, threshold=threshold)
        value = tolerance(net, x, (above > 0).double().view(1, 1), task=task)
        assert_is_bracketed(value, (above.abs() / (x.abs().sum() + 1)).item())


def test_ignored_samples_do_not_count() -> None:
    net, x, y = disjoint(20, 0)
    ignored = torch.cat([y, torch.full((20,), 7)])
    loss = nn.CrossEntropyLoss(ignore_index=7)
    assert tolerance(net, torch.cat([x, torch.randn(20, 60)]), ignored, loss=loss) == tolerance(net, x, y)


def test_how_sure_a_network_is_does_not_matter() -> None:
    """The cross-entropy has no slope left here."""
    net, x, y = disjoint(20, 0)
    value = tolerance(net, x, y, box="magnitude")
    with torch.no_grad():
        net.weight.mul_(1e5)
    assert F.cross_entropy(net(x), y) == 0
    assert tolerance(net, x, y, box="magnitude") == pytest.approx(value, rel=1e-9)


def test_the_loss_does_not_matter_where_there_are_classes() -> None:
    net, x = mlp(4, 6, 3), torch.randn(30, 4)
    y = net(x).argmax(1)
    assert tolerance(net, x, y) == tolerance(net, x, y, loss=lambda z, t: 1e-6 * F.multi_margin_loss(z, t))


class TwoWeights(nn.Module):
    """Two classes, told apart by the sign of a function of two weights."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.w, self.function = nn.Parameter(torch.randn(2)), function

    def forward(self, x: Tensor) -> Tensor:
        score = self.function(x, *self.w)
        return torch.stack([score, -score], 1)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "line": lambda x, a, b: x[:, 0] * a + x[:, 1] * b,
    "border": lambda x, a, b: x[:, 0] * a + b,
    "curve": lambda x, a, b: torch.tanh(x[:, 0] * a) * b + 0.3 * x[:, 1],
}


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_two_weights_by_a_grid(seed: int, function: str, box: str) -> None:
    """The errors at all points of a fine grid; some samples are wrong from the start."""
    torch.manual_seed(seed)
    net, x = TwoWeights(FUNCTIONS[function]), torch.randn(20, 2)
    y = net(x).argmax(1)
    y[: 2 * (seed % 2)] = 1 - y[: 2 * (seed % 2)]
    value = tolerance(net, x, y, box=box)
    line = torch.linspace(-1, 1, 241)
    edges = [torch.stack(pair, -1) for end in (-1.0, 1.0) for pair in orders(line, torch.full_like(line, end))]
    scales = value * torch.cat([torch.linspace(0.01, 0.97, 25), torch.linspace(0.98, 1.06, 33)])
    points = scales[:, None, None] * torch.cat(edges) * BOXES[box](net.w.detach()) + net.w.detach()
    scores = net.function(x[..., None, None], *points.unbind(-1))
    errors = ((scores < 0) != y[:, None, None]).double().mean(0)
    before = (net(x).argmax(1) != y).double().mean()
    beyond = scales[(errors - before > 0.1 + 1e-9).any(1)].min().item()
    # Of what the grid misses; nothing beyond the tolerance in the box, and something just outside.
    assert value <= beyond <= value * NARROW * 1.01


def orders(first: Tensor, second: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    return (first, second), (second, first)


def test_samples_on_both_sides_of_a_border() -> None:
    """The two nearest are on different sides, and no border is beyond both."""
    net = TwoWeights(lambda x, a, b: x[:, 0] - b + 0 * a)
    nn.init.zeros_(net.w)
    x = torch.tensor([-0.10, 0.11, -0.30, 0.31, *torch.linspace(1, 3, 12).tolist()])[:, None]
    y = net(x).argmax(1)
    assert_is_bracketed(tolerance(net, x, y), 0.30)  # two of sixteen


# Losses in closed form ----------------------------------------------------------------------------------


@pytest.mark.parametrize("box", BOXES)
def test_a_linear_loss(box: str) -> None:
    w, slope = torch.randn(7), torch.randn(7)
    metric = WorstCaseTolerance(box=box, rise=0.3)  # type: ignore[arg-type]
    value = measured(metric, Point(*w.tolist()), quadratic(slope, torch.zeros(7, 7)))
    assert_is_bracketed(value.item(), 0.3 / (BOXES[box](w) @ slope.abs()).item())
    assert 0.3 / NARROW < metric.details()["drop"].item() <= 0.3


def test_a_minimum_has_no_slope_to_go_by() -> None:
    curvatures = torch.tensor([0.1, 1.0, 20.0])
    metric = WorstCaseTolerance(rise=0.7)
    value = measured(metric, Point(0.0, 0.0, 0.0), quadratic(torch.zeros(3), curvatures.diag()))
    assert_is_bracketed(value.item(), math.sqrt(2 * 0.7 / curvatures.sum()))


@pytest.mark.parametrize("seed", range(4))
def test_a_quadratic_loss_by_its_corners(seed: int) -> None:
    torch.manual_seed(seed)
    w, slope, root = torch.randn(5), torch.randn(5), symmetric(5)
    hessian = root @ root
    metric = WorstCaseTolerance(rise=2.0, num_starts=20)
    value = measured(metric, Point(*w.tolist()), quadratic(slope, hessian)).item()
    gradient = slope + hessian @ w
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=5)))
    a, b = ((corners @ hessian) * corners).sum(1) / 2, corners @ gradient
    exact = ((-b + (b.square() + 4 * a * 2.0).sqrt()) / (2 * a)).min().item()
    assert_is_bracketed(value, exact)


# What does not matter, and edges ------------------------------------------------------------------------


def test_a_box_in_proportion_does_not_see_that_layers_were_rescaled() -> None:
    net, x = mlp(4, 16, 3, bias=False), torch.randn(60, 4)
    y = net(x).argmax(1)
    found: dict[str, list[float]] = {"magnitude": [], "plain": []}
    for factor in (1.0, 8.0):
        with torch.no_grad():
            net[0].weight.mul_(factor), net[2].weight.div_(factor)
        for box, values in found.items():
            values.append(tolerance(net, x, y, box=box))
    assert found["magnitude"][0] == pytest.approx(found["magnitude"][1], rel=1e-9)
    assert found["plain"][1] < found["plain"][0] / 2


def test_the_box_is_around_the_folded_network() -> None:
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
    assert tolerance(net, x, y) == pytest.approx(tolerance(plain, x, y), rel=1e-9)


def test_frozen_parameters_do_not_move() -> None:
    net, x = mlp(4, 6, 3), torch.randn(30, 4)
    y = net(x).argmax(1)
    net[0].requires_grad_(False)
    head = nn.Sequential(nn.Linear(6, 3))
    head[0].load_state_dict(net[2].state_dict())
    assert tolerance(net, x, y) == pytest.approx(tolerance(head, net[:2](x).detach(), y), rel=1e-9)


def test_the_order_of_samples_does_not_matter() -> None:
    net, x = mlp(4, 6, 3), torch.randn(30, 4)
    y, order = net(x).argmax(1), torch.randperm(30)
    assert tolerance(net, x[order], y[order]) == pytest.approx(tolerance(net, x, y), rel=1e-9)


def test_a_box_for_all_samples_in_chunks() -> None:
    net, x = mlp(4, 6, 3), torch.randn(30, 4)
    y = net(x).argmax(1)
    in_chunks = WorstCaseTolerance()(Snapshot(net, x, y, chunk_size=7))
    assert in_chunks.item() == pytest.approx(tolerance(net, x, y), rel=1e-9)


@pytest.mark.parametrize("num_wrong", [18, 19, 20])
def test_where_too_many_are_wrong_already_there_is_no_box(num_wrong: int) -> None:
    net, x, y = disjoint(20, num_wrong)
    metric = WorstCaseTolerance()
    metric.update(net, x, y)
    assert metric.compute().isnan()
    assert metric.details()["converged"] == 0


def test_weights_that_do_not_matter_bear_any_box() -> None:
    net = nn.Linear(4, 2, bias=False)
    metric = WorstCaseTolerance()
    metric.update(net, torch.zeros(10, 4), torch.zeros(10, dtype=torch.long))
    assert metric.compute().isnan()
    assert metric.details()["converged"] == 0


def test_weights_of_zero_do_not_move_in_proportion() -> None:
    net = nn.Linear(4, 2, bias=False)
    nn.init.zeros_(net.weight)
    assert math.isnan(tolerance(net, torch.randn(10, 4), torch.zeros(10, dtype=torch.long), box="magnitude"))


class RootOfZero(nn.Module):
    """A weight for which nothing has a slope that is a number, and one that matters."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.off = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        score = x[:, 0] * self.w + 0 * self.off.square().sqrt()
        return torch.stack([score, -score], 1)


def test_a_slope_that_is_no_number_is_none() -> None:
    assert_is_bracketed(tolerance(RootOfZero(), torch.ones(3, 1), torch.zeros(3, dtype=torch.long)), 1.0)


class Exploding(nn.Module):
    """Outputs that are not finite beyond a weight of 1.5."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        score = x[:, 0] * (self.w + torch.where(self.w > 1.5, torch.nan, 0.0))
        return torch.stack([9 - score, 0 * score], 1)


def test_outputs_that_are_not_finite_are_beyond_the_tolerance() -> None:
    assert_is_bracketed(tolerance(Exploding(), torch.ones(3, 1), torch.zeros(3, dtype=torch.long)), 0.5)


@pytest.mark.parametrize(
    "options",
    [{"drop": 0.0}, {"rise": math.nan}, {"box": "round"}, {"num_starts": 0}, {"max_steps": 0}],
    ids=lambda o: next(iter(o)),
)
def test_impossible_searches_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be"):
        WorstCaseTolerance(**options)


# The six measures ---------------------------------------------------------------------------------------


@cache
def published() -> Snapshot:
    """The network of the published norms, so that each box is searched once for all tests."""
    net, x = NetworkInNetwork(1.0), wave(30, 2, 8, 8, phase=0.3)
    return Snapshot(net, x, net.eval()(x).argmax(1), initial=initial_state(NetworkInNetwork(5.0)))


def of_paper(name: str, **options: Any) -> dict[str, float]:
    metric = SharpnessMeasure(name, **options)
    metric.update(published())
    report = metric.report()
    return {key.removeprefix(metric.name).removeprefix("/"): value.item() for key, value in report.items()}


def test_a_capacity_is_that_of_noise_in_the_box() -> None:
    squares, alpha, m, omega = torch.tensor([0.0, 7.0]), torch.tensor(0.3), 50, 189
    for delta, factor in ((1.0, 4.0), (0.05, 4.0), (0.05, 1.0)):
        logarithm = math.log(2 * omega / delta)
        expected = squares.numpy() * logarithm / (factor * 0.3**2)
        sigma = 0.3 * math.sqrt(factor) / (2 * math.sqrt(logarithm))
        found = sharpness_capacity(squares, alpha, omega, m, delta=delta, factor=factor)
        np.testing.assert_allclose(found.numpy(), expected + math.log(m / sigma) + 10)
        torch.testing.assert_close(found, pac_bayes_capacity(squares, torch.tensor(sigma), m))


def test_a_capacity_in_proportion_by_a_loop() -> None:
    w, start, alpha, m, delta = np.array([0.5, -2.0, 1.0]), np.array([0.1, -1.0, 1.0]), 0.3, 50, 0.1
    for factor in (4.0, 1.0):
        total = 0.0
        for k in range(3):
            above = 1e-6 + (alpha**2 + factor * math.log(2 * 3 / delta)) * (w**2).sum() / 3
            total += math.log(above / (1e-6 + alpha**2 * (w[k] - start[k]) ** 2)) / 4
        found = magnitude_aware_sharpness_capacity(
            *(torch.tensor((w**2).sum()), torch.tensor(w - start), torch.tensor(alpha), m), delta=delta, factor=factor
        )
        assert found.item() == pytest.approx(total + math.log(m / delta) + 10)


@pytest.mark.parametrize(("name", "norm_name"), [("init", "fro_dist"), ("orig", "param_norm")])
@pytest.mark.parametrize("options", [{}, {"delta": 0.05, "factor": 1.0, "num_samples": 1000}], ids=["plain", "other"])
def test_the_measures_from_published_norms(name: str, norm_name: str, options: dict[str, Any]) -> None:
    squared, m = PUBLISHED[norm_name], options.get("num_samples", 30)
    delta, factor = options.get("delta", 1.0), options.get("factor", 4.0)
    logarithm, found = math.log(2 * 189 / delta), of_paper(f"sharpness_{name}", **options)
    alpha = found["alpha"]
    sigma = alpha * math.sqrt(factor / logarithm) / 2
    expected = squared * logarithm / (factor * alpha**2) + math.log(m / sigma) + 10
    assert found[""] == pytest.approx(expected, rel=1e-9)
    moved, in_proportion = folded_distances(), of_paper(f"sharpness_mag_{name}", **options)
    alpha = in_proportion["alpha"]
    above = 1e-6 + (alpha**2 + factor * logarithm) * squared / 189
    terms = np.log(above / (1e-6 + alpha**2 * moved**2))
    # Published norms are of BatchNorms that were folded in before their own small constant was added again.
    assert in_proportion[""] == pytest.approx(terms.sum() / 4 + math.log(m / delta) + 10, rel=1e-6)


def test_flatness_is_the_inverse_square_of_the_box() -> None:
    for name, box in (("sharpness_flatness", "plain"), ("sharpness_mag_flatness", "magnitude")):
        found = of_paper(name)
        assert found["alpha"] == WorstCaseTolerance(box=box)(published())  # type: ignore[arg-type]
        assert found[""] == pytest.approx(found["alpha"] ** -2)
        assert found["converged"] == 1
        assert 0 <= found["drop"] <= 0.1 + 1e-9
        assert of_paper(name, adjusted=True)[""] == pytest.approx(math.sqrt(found[""] / 30))
    assert of_paper("sharpness_flatness", box="magnitude") == of_paper("sharpness_mag_flatness")
    default = of_paper("sharpness_flatness")["alpha"]
    assert of_paper("sharpness_flatness", drop=0.3)["alpha"] > default
    for short in ({"num_starts": 1}, {"max_steps": 1}):
        assert of_paper("sharpness_flatness", **short)["alpha"] == WorstCaseTolerance(**short)(published()) != default


def test_measures_share_a_search_for_each_box(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[float] = []

    def counted(worst: Any, tolerated: float) -> Any:
        searches.append(tolerated)
        return find_tolerated_box(worst, tolerated)

    monkeypatch.setattr(worst_cases, "find_tolerated_box", counted)
    net, x = mlp(4, 6, 3), torch.randn(30, 4)
    snapshot = Snapshot(net, x, net(x).argmax(1), initial=initial_state(mlp(4, 6, 3)))
    values = {metric.of: metric(snapshot) for metric in [*sharpness_measures(), *sharpness_measures(delta=0.1)]}
    assert len(values) == 6
    assert all(value.isfinite() for value in values.values())
    WorstCaseTolerance()(snapshot), WorstCaseTolerance(box="magnitude")(snapshot)
    assert len(searches) == 2


def test_without_a_box_there_is_no_measure() -> None:
    net, x, y = disjoint(20, 19)
    for metric in sharpness_measures():
        metric.update(net, x, y, initial=initial_state(net))
        report = metric.report()
        assert report[metric.name].isnan()
        assert report[f"{metric.name}/converged"] == 0


def test_names_and_options_of_the_measures() -> None:
    both = [*sharpness_measures(), *sharpness_measures(adjusted=True)]
    assert len({metric.name for metric in both}) == 12
    assert SharpnessMeasure().name == SharpnessMeasure.name
    refused: list[tuple[Callable[[], Any], str]] = [
        (partial(SharpnessMeasure, "sharpness"), r"of must be one of sharpness_init, .* got 'sharpness'"),
        (partial(SharpnessMeasure, drop=-1.0), "drop must be positive"),
        (partial(SharpnessMeasure, factor=0.0), "factor must be positive"),
        (partial(SharpnessMeasure, delta=2.0), "delta must be above 0 and at most 1, got 2.0"),
        (partial(SharpnessMeasure, box="round"), "box must be one of"),
        (partial(SharpnessMeasure, num_starts=0), "num_starts must be at least 1, got 0"),
    ]
    for make, message in refused:
        with pytest.raises(ValueError, match=message):
            make()
