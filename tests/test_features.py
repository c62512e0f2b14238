"""Geometry of features against scikit-learn, scipy, known manifolds, and by hand."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import trim_mean
from sklearn.metrics import davies_bouldin_score
from torch import Tensor

from lightning_complexity.functional import (
    davies_bouldin_index,
    graph_variation,
    hidden_margins,
    same_class_pairs,
    trimmed_mean,
    two_nn_dimension,
)


class TestDaviesBouldin:
    @pytest.mark.parametrize("classes", [2, 5])
    def test_equals_scikit_learn(self, classes: int) -> None:
        y = torch.arange(60) % classes
        x = torch.randn(60, 7) + torch.randn(classes, 7)[y]
        expected = davies_bouldin_score(x.numpy(), y.numpy())
        assert davies_bouldin_index(x, y).item() == pytest.approx(expected, rel=1e-12)

    def test_class_numbers_do_not_matter(self) -> None:
        x, y = torch.randn(20, 3), torch.arange(20) % 3
        torch.testing.assert_close(davies_bouldin_index(x, y), davies_bouldin_index(x, torch.tensor([9, 4, 7])[y]))

    def test_invariant_to_shift_rotation_and_scale(self) -> None:
        x, y = torch.randn(20, 3), torch.arange(20) % 3
        rotation = torch.linalg.qr(torch.randn(3, 3)).Q
        torch.testing.assert_close(davies_bouldin_index(x, y), davies_bouldin_index(5 * x @ rotation + 2, y))

    def test_edges(self) -> None:
        points = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
        assert davies_bouldin_index(points, torch.tensor([0, 0, 1, 1])) == 0
        assert davies_bouldin_index(points, torch.tensor([0, 1, 0, 1])).isinf()
        assert davies_bouldin_index(points, torch.zeros(4, dtype=torch.long)).isnan()

    def test_says_what_it_needs(self) -> None:
        with pytest.raises(ValueError, match=r"needs features of shape \(n, d\)"):
            davies_bouldin_index(torch.zeros(4, 2), torch.zeros(3, dtype=torch.long))


class TestTwoNN:
    @pytest.mark.parametrize(("d", "low", "high"), [(1, 0.95, 1.05), (2, 1.9, 2.1), (5, 4.4, 5.0), (10, 8.0, 9.2)])
    def test_uniform_cube(self, d: int, low: float, high: float) -> None:
        assert low < torch.stack([two_nn_dimension(torch.rand(1000, d)) for _ in range(5)]).mean() < high

    def test_embedding_does_not_matter(self) -> None:
        plane = torch.rand(500, 2)
        basis = torch.linalg.qr(torch.randn(20, 2)).Q
        torch.testing.assert_close(two_nn_dimension(3 * plane @ basis.T + 1), two_nn_dimension(plane))

    def test_fit_by_hand(self) -> None:
        # Distances to the two neighbours: (1, 3), (1, 2), (2, 3), (5, 7): ratios 3, 2, 1.5, 1.4.
        x = torch.tensor([[0.0], [1.0], [3.0], [8.0]])
        ratios = torch.tensor([1.4, 1.5, 2.0]).log()
        y = -(1 - torch.tensor([0.2, 0.4, 0.6])).log()
        expected = (ratios * y).sum() / ratios.square().sum()
        torch.testing.assert_close(two_nn_dimension(x, discard=0.25), expected)

    def test_duplicates_count_once(self) -> None:
        x = torch.rand(200, 2)
        torch.testing.assert_close(two_nn_dimension(torch.cat([x, x[:20]])), two_nn_dimension(x))

    def test_too_few_samples(self) -> None:
        assert two_nn_dimension(torch.rand(2, 3)).isnan()
        assert two_nn_dimension(torch.ones(10, 3)).isnan()

    def test_discard_is_a_share(self) -> None:
        with pytest.raises(ValueError, match="discard must be"):
            two_nn_dimension(torch.rand(5, 2), discard=1.0)


class TestGraphVariation:
    def test_is_the_trace_of_the_dense_laplacian(self) -> None:
        x, y = torch.randn(12, 5), torch.rand(12, 3)
        unit = x / x.norm(dim=1, keepdim=True)
        squares = (unit[:, None] - unit).square().sum(2)
        gamma = 1 / (3 * squares[~torch.eye(12, dtype=torch.bool)].numpy().std())
        a = torch.zeros(12, 12)
        for i in range(12):
            j = min((j for j in range(12) if j != i), key=lambda j: squares[i, j])
            a[i, j] = a[j, i] = torch.exp(-gamma * squares[i, j])
        root = torch.diag(a.sum(1) ** -0.5)
        laplacian = torch.eye(12) - root @ a @ root
        expected = torch.trace(y.T @ laplacian @ y) / 48
        torch.testing.assert_close(graph_variation(x, y), expected)

    def test_separated_classes_vary_less_than_random_labels(self) -> None:
        y = torch.arange(40) % 4
        one_hot = torch.eye(4)[y]
        x = 5 * torch.randn(4, 8)[y] + torch.randn(40, 8)
        assert graph_variation(x, one_hot) < 0.5 * graph_variation(x, one_hot[torch.randperm(40)])

    def test_coinciding_features_are_finite(self) -> None:
        assert graph_variation(torch.ones(5, 3), torch.eye(5)).isfinite()
        assert graph_variation(torch.zeros(5, 3), torch.eye(5)).isfinite()


def brute_force_pairs(targets: list[int], at_most: int) -> set[tuple[int, int]]:
    first: dict[int, list[int]] = {}
    for i, target in enumerate(targets):
        if len(first.setdefault(target, [])) < at_most:
            first[target].append(i)
    return {(i, j) for members in first.values() for i in members for j in members if i < j}


def test_same_class_pairs() -> None:
    targets = torch.randint(0, 4, (30,))
    for at_most in (1, 3, 30):
        pairs = {tuple(pair) for pair in same_class_pairs(targets, at_most).tolist()}
        assert pairs == brute_force_pairs(targets.tolist(), at_most)


def test_hidden_margin_is_the_distance_to_the_boundary_of_a_linear_classifier() -> None:
    w, b, y = torch.randn(3, 4), torch.randn(3), torch.tensor([0, 1, 2, 0, 1])
    h = torch.randn(5, 4, requires_grad=True)
    logits = h @ w.T + b
    margins = hidden_margins(logits, h, y).detach()
    for i in range(5):
        rival = max((c for c in range(3) if c != y[i]), key=lambda c: logits[i, c].item())
        normal = w[y[i]] - w[rival]
        moved = h[i].detach() - margins[i] * normal / normal.norm()
        at_boundary = w @ moved + b
        assert at_boundary[y[i]].item() == pytest.approx(at_boundary[rival].item(), abs=1e-5)


@pytest.mark.parametrize("n", [1, 19, 20, 57])
def test_trimmed_mean_equals_scipy(n: int) -> None:
    values: Tensor = torch.randn(n)
    assert trimmed_mean(values).item() == pytest.approx(trim_mean(values.numpy(), 0.05))
