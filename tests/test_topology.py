"""Topology against scipy on the whole graph, brute force, published constants, and shapes of known dimension."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor, nn

from lightning_complexity.functional import (
    maximum_spanning_tree,
    minimum_spanning_tree_sum,
    neural_persistence,
    persistent_homology_dimension,
    positive_magnitude,
)
from lightning_complexity.metrics import NeuralPersistence, WeightVariance
from tests.networks import mlp


def tree_of_the_whole_graph(weights: Tensor) -> np.ndarray:
    rows, columns = weights.shape
    graph = np.zeros((rows + columns, rows + columns))
    graph[:rows, rows:] = 1 + weights.amax().item() - weights.numpy()
    return np.sort(1 + weights.amax().item() - minimum_spanning_tree(graph).data)


class TestMaximumSpanningTree:
    @pytest.mark.parametrize("kind", ["distinct", "ties", "dead rows", "blocks"])
    @pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (30, 3), (60, 80)])
    def test_equals_scipy(self, kind: str, rows: int, columns: int) -> None:
        weights = torch.rand(rows, columns)
        if kind == "ties":
            weights = (4 * weights).round() / 4
        if kind == "dead rows":
            weights[::3] *= 1e-6
        if kind == "blocks":  # the largest weights connect nothing across
            weights[: rows // 2, columns // 2 :] *= 1e-3
            weights[rows // 2 :, : columns // 2] *= 1e-3
        np.testing.assert_allclose(maximum_spanning_tree(weights).numpy(), tree_of_the_whole_graph(weights), atol=1e-14)

    def test_by_all_trees(self) -> None:
        weights = torch.rand(2, 3)
        edges = [(i, 2 + j, weights[i, j].item()) for i in range(2) for j in range(3)]
        best = max(sum(w for *_, w in tree) for tree in itertools.combinations(edges, 4) if _connects(tree, vertices=5))
        assert maximum_spanning_tree(weights).sum().item() == pytest.approx(best)


def _connects(tree: tuple[tuple[int, int, float], ...], vertices: int) -> bool:
    reached = {0}
    for _ in tree:
        reached |= {v for a, b, _ in tree if {a, b} & reached for v in (a, b)}
    return len(reached) == vertices


class TestNeuralPersistence:
    @pytest.mark.parametrize(("shape", "expected"), [((3, 3), 0.4472135955), ((2, 2), 0.5773502692)])
    def test_equal_weights(self, shape: tuple[int, int], expected: float) -> None:
        assert neural_persistence(torch.full((1, *shape), 0.7), 0.7).item() == pytest.approx(expected, abs=1e-10)

    def test_by_hand(self) -> None:
        value = neural_persistence(torch.tensor([[[1.0, -0.5], [0.25, 0.1]]]), 1)
        assert value.item() == pytest.approx((1.8125 / 3) ** 0.5)

    def test_largest_weight_is_that_of_the_network(self) -> None:
        net = mlp(2, 2, 2, bias=False).double()
        with torch.no_grad():
            net[0].weight.copy_(torch.tensor([[1.0, 0.5], [0.25, 0.1]]))
            net[2].weight.fill_(-2.0)
        metric = NeuralPersistence(per_layer=True)
        metric.update(net)
        halved = (1 + (1 - 0.5) ** 2 + (1 - 0.25) ** 2 + (1 - 0.125) ** 2) ** 0.5 / 3**0.5
        assert metric.compute() == pytest.approx({"0.weight": halved, "2.weight": 3**-0.5})

    def test_scale_and_order_do_not_matter(self) -> None:
        net, other = mlp(5, 4, 3), mlp(5, 4, 3)
        order = torch.randperm(4)
        with torch.no_grad():
            other[0].weight.copy_(-3 * net[0].weight[order])
            other[2].weight.copy_(3 * net[2].weight[:, order])
        torch.testing.assert_close(_value(NeuralPersistence(), other), _value(NeuralPersistence(), net))

    def test_a_group_is_a_graph_of_its_own(self) -> None:
        convolution = nn.Conv2d(4, 6, 3, groups=2).double()
        largest = convolution.weight.abs().amax()
        halves = [neural_persistence(w[None].flatten(2), largest) for w in convolution.weight.chunk(2)]
        expected = torch.stack(halves).square().mean().sqrt()
        torch.testing.assert_close(_value(NeuralPersistence(), convolution), expected.detach())

    def test_no_weights_above_zero(self) -> None:
        net = nn.Linear(2, 2)
        nn.init.zeros_(net.weight)
        assert _value(NeuralPersistence(), net).isnan()


def test_weight_variance() -> None:
    net = mlp(2, 3, 1)
    expected = (np.var(net[0].weight.detach().numpy()) + np.var(net[2].weight.detach().numpy())) / 2
    assert _value(WeightVariance(), net).item() == pytest.approx(expected)


def _value(metric: NeuralPersistence | WeightVariance, net: nn.Module) -> Tensor:
    metric.update(net)
    return metric.compute()


class TestPoints:
    def test_tree_by_all_trees(self) -> None:
        points = torch.randn(5, 2)
        pairs = list(itertools.combinations(range(5), 2))
        edges = [(i, j, (points[i] - points[j]).norm().item()) for i, j in pairs]
        best = min(sum(w for *_, w in tree) for tree in itertools.combinations(edges, 4) if _connects(tree, vertices=5))
        assert minimum_spanning_tree_sum(points).item() == pytest.approx(best)

    def test_tree_by_hand(self) -> None:
        points = torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
        assert minimum_spanning_tree_sum(points, exponent=2).item() == pytest.approx(13)
        assert minimum_spanning_tree_sum(points[:1]) == 0
        assert minimum_spanning_tree_sum(points[[0, 0, 1]]).item() == pytest.approx(2)

    def test_magnitude(self) -> None:
        distance = 1.5
        two = torch.tensor([[0.0], [distance]])
        assert positive_magnitude(two).item() == pytest.approx(2 / (1 + np.exp(-distance)))
        assert positive_magnitude(two).item() == pytest.approx(1.635148952, abs=1e-9)
        six = 2**0.5 * torch.eye(6)
        assert positive_magnitude(six).item() == pytest.approx(3.578508019, abs=1e-9)
        assert positive_magnitude(six[[0, 0, 1, 2, 3, 4, 5]]).item() == pytest.approx(3.578508019, abs=1e-9)
        torch.testing.assert_close(positive_magnitude(six, scale=3.0), positive_magnitude(3 * six))

    def test_negative_weights_do_not_count(self) -> None:
        points = torch.tensor([[0.0, 0.0], [0.01, 0.0], [-0.01, 0.0], [0.0, 0.01], [0.0, -0.01]])
        similarity = np.exp(-torch.cdist(points, points).numpy())
        weights = np.linalg.solve(similarity, np.ones(5))
        assert (weights < 0).any()
        assert positive_magnitude(points).item() == pytest.approx(weights[weights > 0].sum(), rel=1e-6)

    @pytest.mark.parametrize(("d", "low", "high"), [(1, 0.98, 1.03), (2, 1.85, 2.1), (5, 4.2, 5.0), (10, 8.0, 9.2)])
    def test_dimension_of_cubes(self, d: int, low: float, high: float) -> None:
        values = [persistent_homology_dimension(torch.rand(600, d)) for _ in range(4)]
        assert low < torch.stack(values).mean() < high

    def test_dimension_is_that_of_the_points_and_not_of_their_space(self) -> None:
        plane = torch.rand(300, 2)
        rotation = torch.linalg.qr(torch.randn(20, 20)).Q[:2]
        torch.testing.assert_close(
            persistent_homology_dimension(3 * plane @ rotation), persistent_homology_dimension(plane)
        )

    def test_dimension_of_few_points(self) -> None:
        assert persistent_homology_dimension(torch.rand(9, 2)).isnan()
        assert persistent_homology_dimension(torch.ones(50, 2)).isnan()
