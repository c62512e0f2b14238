"""Where the weights of a training have been: distances by hand, and under a Trainer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor
from lightning_complexity.functional import minimum_spanning_tree_sum, positive_magnitude
from lightning_complexity.metrics import TrajectoryDimension, TrajectoryMagnitude, TrajectoryTreeLength, UpdateRatio
from lightning_complexity.network import LiveSteps, MeasureError, WeightTrajectory
from tests.networks import mlp
from tests.training import Classifier, trainer


def kept(places: Tensor, **options: int) -> Tensor:
    trajectory = WeightTrajectory(**options)
    for place in places:
        trajectory.add([place[:3].view(1, 3), place[3:]])
    return trajectory.points()


class TestProjection:
    def test_few_parameters_keep_all_distances(self) -> None:
        places = torch.randn(5, 40).float()
        torch.testing.assert_close(
            torch.pdist(kept(places, dimensions=40)), torch.pdist(places).double(), rtol=1e-5, atol=0
        )

    def test_dimensions_add_up_entries_in_turn(self) -> None:
        places = torch.cat([torch.zeros(1, 10), torch.eye(10)]).float()
        points = kept(places, dimensions=4)
        signed = points[1:] - points[0]
        assert signed.abs().argmax(1).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
        assert signed.abs().sum(1).tolist() == [1] * 10

    def test_many_parameters_keep_distances_nearly(self) -> None:
        places = torch.randn(20, 30_000).float()
        ratios = torch.pdist(kept(places, dimensions=512)) / torch.pdist(places).double()
        assert (ratios - 1).abs().mean() < 2 / math.sqrt(2 * 512)
        assert 0.02 < ratios.std() < 0.06  # sqrt(1 / (2 * 512)) is 0.031

    def test_the_last_places_are_kept(self) -> None:
        places = torch.randn(9, 5).float()
        torch.testing.assert_close(kept(places, window=4), kept(places[-4:]))

    def test_goes_on_from_its_state(self) -> None:
        places = torch.randn(9, 5).float()
        first, other = WeightTrajectory(window=6), WeightTrajectory(window=6)
        for place in places[:5]:
            first.add([place])
        other.load_state_dict(first.state_dict())
        for place in places[5:]:
            other.add([place])
        torch.testing.assert_close(other.points(), torch.stack([kept_alone(place) for place in places[-6:]]))


def kept_alone(place: Tensor) -> Tensor:
    trajectory = WeightTrajectory()
    trajectory.add([place])
    return trajectory.points()[0]


class TestInTraining:
    def test_values_are_those_of_the_steps(self) -> None:
        torch.manual_seed(0)
        x, y = torch.randn(24, 4, dtype=torch.float64), torch.arange(24) % 3
        module = Classifier(mlp(4, 6, 3))
        copied = Classifier(mlp(4, 6, 3))
        copied.load_state_dict(module.state_dict())
        metrics = [TrajectoryTreeLength(every=2), TrajectoryMagnitude(every=2), TrajectoryDimension(), UpdateRatio()]
        monitor = ComplexityMonitor(metrics)
        fit = trainer(callbacks=[monitor])
        loader = DataLoader(TensorDataset(x, y), batch_size=8)
        fit.fit(module, loader)

        places = []
        optimizer = copied.configure_optimizers()
        for _ in range(fit.max_epochs):
            for batch in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(copied(batch[0]), batch[1]).backward()
                optimizer.step()
                places.append(nn.utils.parameters_to_vector(copied.parameters()).detach())
        points = torch.stack(places)  # the least of the distances is that of all
        last = monitor.history[-1].values
        assert last["complexity/trajectory_tree_length"] == pytest.approx(
            float(minimum_spanning_tree_sum(points)), rel=1e-4
        )
        assert last["complexity/trajectory_magnitude"] == pytest.approx(float(positive_magnitude(points)), rel=1e-4)

    def test_needs_places(self) -> None:
        net = mlp(2, 3, 2)
        with pytest.raises(MeasureError, match="needs places of the weights; pass LiveSteps"):
            TrajectoryTreeLength().update(net, live=LiveSteps(net))
        metric = TrajectoryTreeLength()
        metric.update(net, live=LiveSteps(net, trajectory=WeightTrajectory()))
        assert metric.compute().isnan()

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: TrajectoryMagnitude(scale=0), "scale must be positive"),
            (lambda: TrajectoryTreeLength(-1.0), "exponent must be positive"),
            (lambda: TrajectoryDimension(window=1), "window must be a whole number of at least 2"),
        ],
    )
    def test_options_that_make_no_sense(self, build: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build()
