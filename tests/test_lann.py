"""Tangent approximations, and the complexity they give: closed forms, laws, and brute force."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import make_moons
from torch import Tensor, nn

from lightning_complexity import regularizers
from lightning_complexity.functional import (
    CURVES,
    TangentApproximation,
    approximate_by_tangents,
    lann_complexity,
    mean_absolute_jacobians,
    propagated_error,
)
from lightning_complexity.metrics import CustomizedL1, LANNComplexity
from lightning_complexity.network import Snapshot, UnsupportedOperationError

LOCAL = pytest.mark.parametrize("name", CURVES)


def grid(limit: float = 8.0, n: int = 4001) -> Tensor:
    return torch.linspace(-limit, limit, n)[:, None]


class TestCurves:
    @LOCAL
    def test_asymptotes_are_approached(self, name: str) -> None:
        curve, far = CURVES[name], 1e6 if name == "softsign" else 50.0
        for sign, (slope, intercept) in ((-1, curve.left), (1, curve.right)):
            z = torch.tensor(sign * far)
            torch.testing.assert_close(curve.function(z), slope * z + intercept, rtol=0, atol=1e-5)

    @LOCAL
    def test_curvature_changes_sign_exactly_at_the_inflections(self, name: str) -> None:
        curve = CURVES[name]
        z = grid(6.0)[:, 0] + 1e-4
        z.requires_grad_()
        (slope,) = torch.autograd.grad(curve.function(z).sum(), z, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), z)
        changes = (curvature[1:] * curvature[:-1] < 0).nonzero()[:, 0]
        between = [(z[i].item(), z[i + 1].item()) for i in changes]
        assert len(between) == len(curve.inflections)
        for (low, high), inflection in zip(between, curve.inflections, strict=True):
            assert low < inflection < high


class TestTangentApproximation:
    def test_coarsest_tanh_has_the_closed_form_error(self) -> None:
        # z uniform on [-a, a]; integral of |tanh(z) - clip(z, -1, 1)| on paper.
        a = 3.0
        z = (torch.arange(400_000) + 0.5)[:, None] / 400_000 * 2 * a - a
        log_cosh = math.log(math.cosh(1.0))
        expected = (0.5 - log_cosh + (a - 1) - (math.log(math.cosh(a)) - log_cosh)) / a
        assert expected == pytest.approx(0.0635572, abs=1e-7)
        error = TangentApproximation.coarsest(CURVES["tanh"], units=1).errors(z)
        assert error.item() == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("name", ["softplus", "gelu", "silu"])
    def test_coarsest_is_a_rectifier_where_there_are_only_asymptotes(self, name: str) -> None:
        approximation = TangentApproximation.coarsest(CURVES[name], units=1)
        far = torch.tensor([[-9.0], [9.0]])
        torch.testing.assert_close(approximation(far), far.relu())
        assert approximation.pieces.item() == 2 + len(CURVES[name].inflections)

    @LOCAL
    def test_is_continuous_and_touches_at_its_points(self, name: str) -> None:
        curve, z = CURVES[name], grid()
        [approximation] = approximate_by_tangents([curve], [z], [torch.ones(1)], 1e-3)
        b = approximation.breakpoints[0]
        assert b.isfinite().all()
        assert (b.diff() >= 0).all()
        below, above = approximation((b - 1e-9)[:, None]), approximation((b + 1e-9)[:, None])
        torch.testing.assert_close(below, above, rtol=0, atol=1e-7)
        points = approximation.points[0, 1:-1]
        torch.testing.assert_close(approximation(points[:, None])[:, 0], curve.function(points))
        left, right = approximation.points[0, :-1], approximation.points[0, 1:]
        assert ((left <= b) & (b <= right)).all()

    @LOCAL
    def test_another_tangent_is_nowhere_worse(self, name: str) -> None:
        curve, z = CURVES[name], grid()
        coarse = TangentApproximation.coarsest(curve, units=1)
        exact = curve.function(z)
        for points in torch.randn(5, 1, 4) * 3:
            fine = coarse.refined(points)
            assert ((fine(z) - exact).abs() <= (coarse(z) - exact).abs() + 1e-12).all()

    @LOCAL
    def test_the_error_goes_to_zero(self, name: str) -> None:
        z = grid()
        [approximation] = approximate_by_tangents([CURVES[name]], [z], [torch.ones(1)], 1e-5)
        assert approximation.errors(z).item() <= 1e-5

    def test_points_far_out_on_a_saturated_curve_are_harmless(self) -> None:
        coarse = TangentApproximation.coarsest(CURVES["tanh"], units=1)
        fine = coarse.refined(torch.tensor([[-40.0, 25.0, 30.0, 40.0]]))
        z = grid(60.0)
        assert fine(z).isfinite().all()
        assert ((fine(z) - z.tanh()).abs() <= (coarse(z) - z.tanh()).abs() + 1e-12).all()

    @pytest.mark.parametrize("name", ["gelu", "tanhshrink", "logsigmoid"])
    def test_breakpoints_stay_between_points_where_slopes_are_equal_to_rounding(self, name: str) -> None:
        for _ in range(20):
            fine = TangentApproximation.coarsest(CURVES[name], units=1).refined(90 * torch.rand(1, 6) - 45)
            b = fine.breakpoints
            assert ((fine.points[:, :-1] <= b) & (b <= fine.points[:, 1:])).all()

    def test_gains_are_what_the_error_loses(self) -> None:
        z = torch.randn(50, 3) * torch.tensor([0.3, 1.0, 4.0])
        approximation = TangentApproximation.coarsest(CURVES["gelu"], units=3)
        points, gains = approximation.refinements(z)
        for unit in range(3):
            for i in range(points.shape[1]):
                added = torch.full_like(points[:, :1], torch.inf)
                added[unit] = points[unit, i]
                lost = approximation.errors(z) - approximation.refined(added).errors(z)
                expected = torch.zeros(3)
                expected[unit] = gains[unit, i]
                torch.testing.assert_close(lost, expected, rtol=1e-9, atol=1e-14)

    def test_units_are_independent(self) -> None:
        z = torch.randn(40, 2) * torch.tensor([0.2, 3.0])
        both = TangentApproximation.coarsest(CURVES["tanh"], units=2).refined(torch.tensor([[0.5], [2.0]]))
        for unit in range(2):
            alone = TangentApproximation(CURVES["tanh"], both.points[unit : unit + 1])
            torch.testing.assert_close(both(z)[:, unit], alone(z[:, unit : unit + 1])[:, 0])


class TestApproximateByTangents:
    def layers(self) -> tuple[list[Tensor], list[Tensor]]:
        return [torch.randn(200, 6) * 2, torch.randn(200, 4)], [torch.rand(6), torch.rand(4)]

    def test_reaches_the_degree_and_not_much_more(self) -> None:
        z, weights = self.layers()
        for degree in (0.15, 0.1, 0.03):
            built = approximate_by_tangents([CURVES["tanh"], CURVES["gelu"]], z, weights, degree, batch=1)
            assert 0.8 * degree < propagated_error(built, z, weights) <= degree

    def test_lower_degree_more_pieces(self) -> None:
        z, weights = self.layers()
        counts = [
            sum(int(a.pieces.sum()) for a in approximate_by_tangents([CURVES["tanh"]] * 2, z, weights, degree))
            for degree in (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
        ]
        assert counts == sorted(counts)
        assert counts[-1] > 2 * counts[0]

    def test_batches_need_about_as_many_pieces_as_one_after_another(self) -> None:
        z, weights = self.layers()
        one, many = (
            sum(int(a.pieces.sum()) for a in approximate_by_tangents([CURVES["tanh"]] * 2, z, weights, 0.03, batch=b))
            for b in (1.0, 0.5)
        )
        assert abs(many - one) <= 0.05 * one

    def test_one_tangent_is_the_best_of_all_single_ones(self) -> None:
        # Brute force over tangent points on a fine grid, up to what a choice from two candidates may lose.
        z = torch.rand(500, 1) * 3
        coarse = TangentApproximation.coarsest(CURVES["tanh"], units=1)
        _, gains = coarse.refinements(z)
        tried = [coarse.refined(torch.tensor([[p]])).errors(z).item() for p in torch.linspace(0.05, 3, 200)]
        assert coarse.errors(z).item() - gains.max().item() <= 1.1 * min(tried)

    def test_two_clusters_with_nothing_between_are_no_dead_end(self) -> None:
        # The tangent between them, at the mean, helps neither.
        z = torch.tensor([[0.3], [2.5]]).repeat(5, 1)
        [built] = approximate_by_tangents([CURVES["tanh"]], [z], [torch.ones(1)], 1e-6)
        assert built.errors(z).item() <= 1e-6

    def test_weights_decide_where_the_pieces_go(self) -> None:
        z = torch.randn(100, 1).expand(100, 2) * 2
        [built] = approximate_by_tangents([CURVES["tanh"]], [z], [torch.tensor([10.0, 0.1])], 0.05)
        assert built.pieces[0] > built.pieces[1] == 3

    def test_linear_zone_needs_no_more_than_the_coarsest(self) -> None:
        z = torch.randn(50, 8) * 1e-3
        [built] = approximate_by_tangents([CURVES["tanh"]], [z], [torch.ones(8)], 1e-3)
        assert (built.pieces == 3).all()

    @pytest.mark.parametrize("degree", [0.0, -1.0, math.nan])
    def test_degree_must_be_positive(self, degree: float) -> None:
        with pytest.raises(ValueError, match="degree must be above 0"):
            approximate_by_tangents([], [], [], degree)

    def test_batch_is_a_share(self) -> None:
        with pytest.raises(ValueError, match="batch must be above 0 and at most 1"):
            approximate_by_tangents([], [], [], 0.1, batch=1.5)


class TestMeanAbsoluteJacobians:
    def test_is_the_mean_of_dense_jacobians(self) -> None:
        first, second, third = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2)
        nn.init.normal_(second.weight, std=3)  # so that derivatives change their sign from sample to sample
        h1 = first(torch.randn(6, 3)).tanh()
        h2 = second(h1).tanh()
        weights = mean_absolute_jacobians(third(h2), [h1, h2])
        torch.testing.assert_close(weights[1], third.weight.abs().mean(0))
        dense = torch.stack(
            [torch.autograd.functional.jacobian(lambda h: third(second(h).tanh()), row) for row in h1.detach()]
        )
        torch.testing.assert_close(weights[0], dense.abs().mean((0, 1)))

    def test_is_zero_for_what_the_outputs_do_not_depend_on(self) -> None:
        h = torch.randn(4, 3, requires_grad=True)
        assert (mean_absolute_jacobians(torch.ones(4, 2), [h])[0] == 0).all()


class TestComplexity:
    def test_in_one_dimension_it_counts_the_linear_regions(self) -> None:
        # Kinks of the approximated network on a line, counted from its second differences.
        first, second = nn.Linear(1, 6), nn.Linear(6, 1)
        x = torch.linspace(-30, 30, 300_001)[:, None]
        z = first(x).detach()
        [built] = approximate_by_tangents([CURVES["tanh"]], [z], [second.weight.detach().abs()[0]], 0.05)
        values = second(built(z)).detach()[:, 0]
        bends = values.diff(n=2).abs() > 1e-9
        kinks = (bends[1:] & ~bends[:-1]).sum() + bends[0]
        limits = (built.breakpoints - first.bias.detach()[:, None]) / first.weight.detach()
        assert (limits[limits.isfinite()].abs() < 30).all()
        assert lann_complexity([built.pieces], dim=1).exp().item() == pytest.approx(kinks.item() + 1)

    def test_floor_of_a_linear_function(self) -> None:
        threes = [torch.full((32,), 3)] * 2
        assert lann_complexity(threes, dim=2).item() == pytest.approx(4 * math.log(65))
        assert lann_complexity(threes, dim=2).item() == pytest.approx(16.70, abs=0.005)

    def test_rectifiers_give_the_bound_by_widths(self) -> None:
        assert lann_complexity([torch.full((4,), 2)] * 2, dim=2).exp().item() == pytest.approx(625)


def moons(n: int = 100, seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = make_moons(n, noise=0.35, random_state=seed)
    return torch.tensor(x), torch.tensor(y)


def network(activation: type[nn.Module] = nn.Tanh, width: int = 32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 2))


def trained(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def measured(model: nn.Module, x: Tensor, degree: float = 0.1) -> dict[str, float]:
    metric = LANNComplexity(degree, per_layer=True)
    metric.update(model, x)
    return {name.removeprefix("lann_complexity").lstrip("/"): v.item() for name, v in metric.report().items()}


class FunctionalCalls(nn.Module):
    """The same function as a sequential network, written with functions and methods."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.first, self.second, self.third = net[0], net[2], net[4]

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(torch.tanh(self.first(x))).tanh_())


class Residual(nn.Module):
    """Convolutions, a skip connection that overwrites an activation, and a transformer's MLP block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.mlp, self.head = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(x))
        skip, x = x, F.silu(self.second(x))
        x += skip
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head((tokens + self.mlp(tokens)).mean(1))


class TestLANNComplexity:
    def test_trained_networks_keep_what_the_estimate_promises(self) -> None:
        x, y = moons()
        for activation in (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus):
            model = network(activation)
            for steps in (0, 20, 200):
                report = measured(trained(model, x, y, steps), x)
                assert 0 < report["actual_error"] <= report["propagated_error"] <= 0.1

    def test_complexity_rises_while_training(self) -> None:
        x, y = moons()
        model = network()
        values = [measured(trained(model, x, y, steps), x)[""] for steps in (0, 50, 300)]
        assert values[0] < values[1] - 1 < values[2] - 2

    def test_floor_in_the_linear_zone(self) -> None:
        model = network()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1e-3)
        assert measured(model, moons()[0])[""] == pytest.approx(4 * math.log(65))

    def test_lower_degree_is_more_complex(self) -> None:
        x, y = moons()
        model = trained(network(), x, y, 50)
        values = [measured(model, x, degree)[""] for degree in (1.0, 0.3, 0.1, 0.03, 0.01)]
        assert values == sorted(values)
        assert values[-1] > values[0] + 2

    def test_coarsest_errors_are_those_of_the_clipped_network(self) -> None:
        x, y = moons()
        model = trained(network(), x, y, 50)
        clipped = nn.Sequential(*[nn.Hardtanh() if isinstance(m, nn.Tanh) else m for m in model])
        report = measured(model, x, degree=1e3)
        assert report["actual_error"] == pytest.approx((clipped(x) - model(x)).abs().mean().item())

    def test_estimate_of_one_hidden_layer_by_hand(self) -> None:
        x, model = torch.randn(30, 3), nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
        z = 3 * model[0](x)
        with torch.no_grad():
            model[0].weight.mul_(3)
            model[0].bias.mul_(3)
        expected = model[2].weight.abs().mean(0) @ (z.tanh() - z.clamp(-1, 1)).abs().mean(0)
        assert measured(model, x, degree=1e3)["propagated_error"] == pytest.approx(expected.item())

    def test_terms_of_layers_by_hand(self) -> None:
        model, x = (
            nn.Sequential(nn.Linear(5, 4), nn.ReLU6(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)),
            torch.ones(1, 5),
        )
        report = measured(model, x)
        assert report["1"] == pytest.approx(5 * math.log(2 * 4 + 1))
        assert report["3"] == pytest.approx(5 * math.log(1 * 3 + 1))
        assert report["propagated_error"] == report["actual_error"] == 0

    def test_functions_and_modules_agree(self) -> None:
        model, x = network(), 3 * torch.randn(40, 2)
        by_function, by_module = measured(FunctionalCalls(model), x), measured(model, x)
        for key in ("", "propagated_error", "actual_error"):
            assert by_function[key] == pytest.approx(by_module[key])

    def test_chunks_do_not_matter(self) -> None:
        model, x = Residual(), 3 * torch.randn(10, 1, 4, 4)
        whole, parts = LANNComplexity(0.02), LANNComplexity(0.02)
        whole.update(model, x)
        parts.update(Snapshot(model, x, chunk_size=3))
        for key, value in whole.report().items():
            torch.testing.assert_close(parts.report()[key], value)

    def test_convolutions_skip_connections_and_transformer_blocks(self) -> None:
        model, x = Residual(), 3 * torch.randn(10, 1, 4, 4)
        report = measured(model, x, degree=0.02)
        assert set(report) == {"", "silu", "tanh", "mlp.1", "propagated_error", "actual_error"}
        assert 0 < report["actual_error"] <= report["propagated_error"] <= 0.02
        assert report["tanh"] > 16 * math.log(3 * 4 * 16 + 1)

    def test_works_with_frozen_parameters(self) -> None:
        model, x = network(), torch.randn(20, 2)
        before = measured(model, x, 0.01)
        assert measured(model.requires_grad_(False), x, 0.01) == before

    def test_histograms_count_pieces(self) -> None:
        model, x = network(), 3 * torch.randn(40, 2)
        metric = LANNComplexity(0.05)
        snapshot = Snapshot(model, x)
        fresh = metric.histograms(snapshot)
        metric.update(snapshot)
        pieces = metric.histograms(snapshot)
        assert list(pieces) == ["pieces/1", "pieces/3"]
        assert lann_complexity(list(pieces.values()), dim=2).item() == pytest.approx(metric.compute().item())
        torch.testing.assert_close(fresh, pieces)

    @pytest.mark.parametrize("activation", [nn.Hardswish(), nn.SELU(), nn.Softplus(beta=5), nn.ELU(alpha=0.5)])
    def test_refuses_what_it_has_no_tangents_for(self, activation: nn.Module) -> None:
        model = nn.Sequential(nn.Linear(2, 5), activation, nn.Linear(5, 1))
        with pytest.raises(UnsupportedOperationError, match=r"LANNComplexity has no meaning .* module '1'"):
            LANNComplexity().update(model, torch.randn(20, 2))

    def test_tanh_form_of_gelu_is_told_apart(self) -> None:
        model, x = nn.Sequential(nn.Linear(2, 50), nn.GELU(approximate="tanh"), nn.Linear(50, 1)), torch.randn(200, 2)
        assert measured(model, x, degree=1e-5)["actual_error"] < 1e-5

    def test_needs_activations(self) -> None:
        with pytest.raises(ValueError, match="needs a network with activation functions"):
            LANNComplexity().update(nn.Linear(2, 2), torch.ones(1, 2))

    def test_degree_must_be_positive(self) -> None:
        with pytest.raises(ValueError, match=r"degree must be above 0, got 0\."):
            LANNComplexity(0.0)


def customized(model: nn.Module, x: Tensor, *args: object, **options: object) -> float:
    metric = CustomizedL1(*args, **options)
    metric.update(model, x)
    return metric.compute().item()


class TestCustomizedL1:
    def test_of_a_tanh_network_by_hand(self) -> None:
        model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(20, 3)
        z, rows = model[0](x), model[0].weight.abs().sum(1)
        slope = 1 - z.tanh().square()
        assert customized(model, x) == pytest.approx((slope.mean(0) @ rows).item())
        curvature = (2 * z.tanh() * slope).abs().mean(0)
        assert customized(model, x, "curvature") == pytest.approx((curvature @ rows).item())
        assert customized(model, x, "uniform") == pytest.approx(rows.sum().item())
        pieces = LANNComplexity(0.01).histograms(Snapshot(model, x))["pieces/1"]
        assert pieces.min() < pieces.max()
        assert customized(model, x, "pieces", degree=0.01) == pytest.approx((pieces @ rows).item())

    def test_positions_of_a_convolution_are_averaged(self) -> None:
        model, x = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)), torch.randn(5, 2, 4, 4)
        share_active = (model[0](x) > 0).double().mean((0, 2, 3))
        expected = share_active @ model[0].weight.abs().sum((1, 2, 3))
        assert customized(model, x) == pytest.approx(expected.item())
        pieces = LANNComplexity().histograms(Snapshot(model, x))["pieces/1"]
        assert customized(model, x, "pieces") == pytest.approx(2 * model[0].weight.abs().sum().item())
        assert len(pieces) == 12

    def test_chunks_do_not_matter(self) -> None:
        model, x = network(), torch.randn(10, 2)
        for coefficient in ("slope", "curvature", "pieces"):
            metric = CustomizedL1(coefficient)
            metric.update(Snapshot(model, x, chunk_size=3))
            assert metric.compute().item() == pytest.approx(customized(model, x, coefficient))

    def test_gradient_is_that_of_l1_with_constant_coefficients(self) -> None:
        model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(20, 3)
        slope = (1 - model[0](x).tanh().square()).mean(0).detach()
        regularizers.CustomizedL1(0.5)(model, x).backward()
        torch.testing.assert_close(model[0].weight.grad, 0.5 * slope[:, None] * model[0].weight.sign())
        assert all(p.grad is None for p in (model[0].bias, model[2].weight, model[2].bias))

    def test_options_are_checked(self) -> None:
        with pytest.raises(ValueError, match=r"coefficient must be one of 'slope', 'curvature', .* got 'slopes'"):
            CustomizedL1("slopes")
        with pytest.raises(ValueError, match="degree must be above 0"):
            regularizers.CustomizedL1(1.0, "pieces", degree=-1.0)
        with pytest.raises(ValueError, match="a linear layer or convolution reaches"):
            customized(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2))
