"""Tangent approximations, and the complexity they give: closed forms, laws, and brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_complexity.functional import (
    CURVES,
    TangentApproximation,
    approximate_by_tangents,
    lann_complexity,
    mean_absolute_jacobians,
    propagated_error,
)

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
