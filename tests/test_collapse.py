"""Neural collapse against its closed forms, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_complexity.functional import (
    class_distance_normalized_variance,
    class_means,
    collapse_duality,
    collapse_geometry,
    collapse_variability,
    nearest_class_means,
)
from lightning_complexity.metrics import (
    ClassDistanceNormalizedVariance,
    CollapseDuality,
    CollapseGeometry,
    CollapseMismatch,
    CollapseVariability,
)
from lightning_complexity.network import MeasureError
from tests.networks import mlp

C, D, R, S = 4, 6, 1.5, 0.3


def simplex() -> Tensor:
    """Corners of norm ``R``, rotated into ``D`` dimensions."""
    corners = torch.eye(C) - 1 / C
    corners = R * corners / torch.linalg.vector_norm(corners, dim=1, keepdim=True)
    return corners @ torch.linalg.qr(torch.randn(D, D)).Q[:C]


def whitened_noise(n: int) -> Tensor:
    """Of exactly mean zero and covariance ``S^2``, for each class."""
    noise = torch.randn(C, n, D)
    noise = noise - noise.mean(1, keepdim=True)
    factor = torch.linalg.cholesky(noise.mT @ noise / n)
    return S * torch.linalg.solve_triangular(factor, noise.mT, upper=False).mT


@pytest.fixture
def frame() -> tuple[Tensor, Tensor]:
    x = simplex()[:, None] + whitened_noise(20)
    return x.flatten(0, 1) + 3, torch.arange(C).repeat_interleave(20)


class TestOnASimplex:
    def test_variability(self, frame: tuple[Tensor, Tensor]) -> None:
        expected = S**2 * (C - 1) ** 2 / (R**2 * C)
        assert collapse_variability(*frame).item() == pytest.approx(expected, rel=1e-10)

    def test_class_distance_normalized_variance(self, frame: tuple[Tensor, Tensor]) -> None:
        expected = S**2 * D * (C - 1) / (2 * R**2 * C)
        assert class_distance_normalized_variance(*frame).item() == pytest.approx(expected, rel=1e-10)

    def test_geometry_and_its_spreads(self, frame: tuple[Tensor, Tensor]) -> None:
        metric = CollapseGeometry()
        metric.update(nn.Linear(D, C), *frame)
        assert metric.report() == pytest.approx(
            {"collapse_geometry": 0, "collapse_geometry/norms": 0, "collapse_geometry/angles": 0}, abs=1e-7
        )

    def test_duality(self, frame: tuple[Tensor, Tensor]) -> None:
        weight = class_means(*frame).centred
        assert collapse_duality(*frame, 7 * weight).item() == pytest.approx(0, abs=1e-12)
        assert collapse_duality(*frame, -weight).item() == pytest.approx(2, rel=1e-12)


class TestFormulas:
    def test_variability_by_covariances(self) -> None:
        x, y = torch.randn(50, 5), torch.arange(50) % 3
        means = torch.stack([x[y == c].mean(0) for c in range(3)]).numpy()
        differences = x.numpy() - means[y]
        within = differences.T @ differences / 50
        between = np.cov(means.T, bias=True)
        expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 3
        assert collapse_variability(x, y).item() == pytest.approx(expected, rel=1e-8)

    def test_variability_of_features_far_from_zero_in_single_precision(self) -> None:
        """The means of C classes have C - 1 directions; rounding of the means is no other one."""
        x, y = torch.randn(50, 5).float(), torch.arange(50) % 3
        assert collapse_variability(x + 1000, y).item() == pytest.approx(collapse_variability(x, y).item(), rel=0.02)
        line = x[:, :1] * torch.ones(5) + y[:, None].float()
        shifted = line + 1000
        assert collapse_variability(shifted, y).item() == pytest.approx(collapse_variability(line, y).item(), rel=0.02)

    def test_pairs_by_hand(self) -> None:
        x = torch.tensor([[0.0], [2.0], [9.0], [11.0], [30.0]])
        y = torch.tensor([7, 7, 1, 1, 4])
        expected = (2 / (2 * 81) + 1 / (2 * 29**2) + 1 / (2 * 20**2)) / 3
        assert class_distance_normalized_variance(x, y).item() == pytest.approx(expected)

    def test_geometry_sees_norms_and_angles(self) -> None:
        y = torch.arange(3)
        equal = torch.tensor([[0.0, 1.0], [3**0.5 / 2, -0.5], [-(3**0.5) / 2, -0.5]])
        assert collapse_geometry(equal, y).item() == pytest.approx(0, abs=1e-12)
        x = np.diag([1.0, 2, 3])
        gram = (x - x.mean(0)) @ (x - x.mean(0)).T
        expected = np.linalg.norm(gram / np.linalg.norm(gram) - (np.eye(3) - 1 / 3) / 2**0.5)
        assert collapse_geometry(torch.diag(torch.tensor([1.0, 2, 3])), y).item() == pytest.approx(expected)

    def test_nearest_of_two_means_that_are_equally_near(self) -> None:
        x = torch.tensor([[0.0], [2.0], [0.5], [1.5]])
        assert nearest_class_means(x, torch.tensor([0, 0, 1, 1])).tolist() == [0, 0, 0, 0]

    def test_edges(self) -> None:
        x, one = torch.randn(4, 3), torch.zeros(4, dtype=torch.long)
        for value in (
            collapse_variability(x, one),
            collapse_geometry(x, one),
            class_distance_normalized_variance(x, one),
            collapse_variability(torch.ones(4, 3), torch.arange(4)),
        ):
            assert value.isnan()
        assert collapse_variability(x, torch.arange(4)) == 0
        assert class_distance_normalized_variance(torch.tensor([[0.0], [2], [1]]), torch.tensor([0, 0, 1])).isinf()

    def test_says_what_it_needs(self) -> None:
        with pytest.raises(ValueError, match=r"needs features of shape \(n, d\) and class indices"):
            class_means(torch.zeros(4, 2), torch.zeros(3, dtype=torch.long))


class TestOfNetworks:
    def test_collapse_of_a_trained_network(self) -> None:
        torch.manual_seed(1)
        net = mlp(2, 32, 16, 3)
        y = torch.arange(60) % 3
        x = torch.randn(60, 2) + 3 * torch.tensor([[0.0, 1], [1, -1], [-1, -1]])[y]
        before = [_value(cls(), net, x, y) for cls in (CollapseVariability, ClassDistanceNormalizedVariance)]
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(300):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        after = [_value(cls(), net, x, y) for cls in (CollapseVariability, ClassDistanceNormalizedVariance)]
        assert all(a < 0.6 * b for a, b in zip(after, before, strict=True))
        assert _value(CollapseMismatch(), net, x, y) <= 0.02
        assert _value(CollapseDuality(), net, x, y) < 1

    def test_targets_that_are_ignored_do_not_count(self) -> None:
        net, x, y = mlp(2, 5, 3), torch.randn(12, 2), torch.arange(12) % 3
        more, ignored = torch.cat([torch.randn(2, 2), x]), torch.cat([torch.full((2,), -100), y])
        for cls in (CollapseVariability, CollapseGeometry, CollapseDuality, CollapseMismatch):
            torch.testing.assert_close(_value(cls(), net, more, ignored), _value(cls(), net, x, y))

    @pytest.mark.parametrize("embedding_first", [True, False])
    def test_duality_of_a_classifier_that_is_the_embedding_too(self, embedding_first: bool) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                names = ["table", "head"] if embedding_first else ["head", "table"]
                for name in names:
                    self.add_module(name, nn.Embedding(5, 4) if name == "table" else nn.Linear(4, 5))
                self.head.weight = self.table.weight

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.table(x).tanh().mean(1))

        net, x, y = Tied(), torch.randint(0, 5, (20, 3)), torch.arange(20) % 5
        features = net.table(x).tanh().mean(1).detach()
        expected = collapse_duality(features, y, net.head.weight.detach())
        torch.testing.assert_close(_value(CollapseDuality(), net, x, y), expected)

    def test_means_without_a_direction_have_no_angles(self) -> None:
        y = torch.arange(12) % 3
        for x in (torch.ones(12, 2), (y - 1.0)[:, None] * torch.tensor([[1.0, 2.0]])):  # all at once, or one of them
            metric = CollapseGeometry()
            metric.update(nn.Linear(2, 3), x, y)
            assert metric.report()["collapse_geometry/angles"].isnan()

    def test_duality_refuses_what_is_no_classifier(self) -> None:
        net, x, y = mlp(2, 5, 3), torch.randn(9, 2), torch.arange(9) % 3
        with pytest.raises(MeasureError, match="needs a linear layer with a row for each class, but '1'"):
            CollapseDuality("1").update(net, x, y)
        with pytest.raises(MeasureError, match="but '0' is none"):
            CollapseDuality(0).update(mlp(2, 2, 3), x, y)


def _value(metric: CollapseVariability, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    metric.update(net, x, y)
    return metric.compute()
