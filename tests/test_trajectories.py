"""Trajectories and single units: crossings counted by hand, orthogonal maps, shares and entropies of a few samples."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_complexity.functional import (
    activation_codes,
    ellipse_through,
    shifted_images,
    trajectory_length,
    transitions,
)
from lightning_complexity.metrics import (
    ActivationEntropy,
    ComplexityMetric,
    DeadUnits,
    PatternEntropy,
    TrajectoryLength,
    Transitions,
)
from lightning_complexity.network import Snapshot, UnsupportedOperationError
from tests.networks import conv_net, mlp


def value(metric: ComplexityMetric, model: nn.Module, x: Tensor) -> Tensor:
    metric.update(model, x)
    return metric.compute()


def affine(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


# Trajectories -----------------------------------------------------------------------------------


def test_the_ellipse_goes_through_its_corners() -> None:
    corners = torch.randn(3, 2, 4)
    points = ellipse_through(corners, 300)
    torch.testing.assert_close(points[::100], corners)
    # One ellipse: the affine map that takes the corners to an equilateral triangle takes it to a circle.
    unit = torch.stack([torch.tensor([math.cos(a), math.sin(a)]) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)])
    weights = torch.linalg.solve(torch.cat([unit, torch.ones(3, 1)], 1), corners.flatten(1))
    on_circle = torch.linalg.lstsq(weights[:2].T, (points.flatten(1) - weights[2]).T).solution
    torch.testing.assert_close(torch.linalg.vector_norm(on_circle, dim=0), torch.ones(300))


def test_shifts_wrap_around() -> None:
    image = torch.randn(2, 3, 5)
    points = shifted_images(image, 20)
    for shift in range(5):
        torch.testing.assert_close(points[4 * shift], image.roll(shift, -1))
        following = image.roll(shift + 1, -1)
        torch.testing.assert_close(points[4 * shift + 1], 0.75 * image.roll(shift, -1) + 0.25 * following)


def test_every_hyperplane_that_an_ellipse_crosses_is_crossed_twice() -> None:
    model, x = mlp(3, 40, 2), torch.randn(3, 3)
    center, axes = x.mean(0), torch.stack([x[0] - x.mean(0), (x[1] - x[2]) / math.sqrt(3)])
    # z = w c + b + (w a) cos t + (w b) sin t has two zeros if the amplitude exceeds the offset.
    amplitude = torch.linalg.vector_norm(axes @ model[0].weight.T, dim=0)
    crossed = (amplitude > model[0](center).abs()).sum()
    assert crossed > 5
    metric = Transitions(num_points=4096)
    assert value(metric, model, x) == 2 * crossed
    assert metric.report()["transitions/found_by_doubling"] == 0


def test_units_with_two_kinks_have_three_codes() -> None:
    corners = 3 * torch.tensor([[1.0, 0.0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]])
    line = affine([[1.0, 0.0]], [0.0])
    for activation, crossings in ((nn.ReLU(), 2), (nn.Hardtanh(), 4), (nn.ReLU6(), 2), (nn.Hardtanh(-5, 5), 0)):
        assert value(Transitions(), nn.Sequential(line, activation), corners) == crossings


def test_more_points_find_more_until_they_find_all() -> None:
    model, x = mlp(2, 20, 20, 2), 3 * torch.randn(3, 2)
    codes = [activation_codes(model[0](ellipse_through(x, n))) for n in (2, 4, 8, 16, 32, 64, 4096, 8192)]
    counts = [int(transitions(c)) for c in codes]
    assert counts == sorted(counts)
    assert counts[-1] == counts[-2] > counts[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value(Transitions(num_points=8192), model, x)
    metric = Transitions(num_points=4)
    with pytest.warns(UserWarning, match="4 points are too few to find all transitions; half of them miss"):
        value(metric, model, x)
    assert metric.report()["transitions/found_by_doubling"] > 0.01
    metric.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once
        value(metric, model, x)


def test_trajectories_take_three_samples_each() -> None:
    model, x = mlp(3, 20, 2), torch.randn(8, 3)
    both = [value(Transitions(), model, x[:3]), value(Transitions(), model, x[3:6])]
    assert value(Transitions(), model, x) == np.mean(both)
    assert value(Transitions(num_trajectories=1), model, x) == both[0]
    assert value(Transitions(), model, x[:1]) == 0


def test_shifts_of_images() -> None:
    images = torch.zeros(2, 1, 1, 4)
    images[0, 0, 0, 0] = images[1, 0, 0, 2] = 1
    model = nn.Sequential(nn.Flatten(), affine([[1.0, 0, 0, 0]], [-0.5]), nn.ReLU())
    assert value(Transitions("shifts", num_points=64), model, images) == 2
    # The bright pixel moves to its neighbour through a corner of the square, over a distance of sqrt(2) four times.
    flat = nn.Sequential(nn.Flatten(), nn.LeakyReLU(1.0))
    assert trajectory_length(shifted_images(images[0], 64)).item() == pytest.approx(4 * math.sqrt(2))
    assert value(TrajectoryLength("shifts", num_points=64), flat, images).item() == pytest.approx(1)
    for metric in (Transitions("shifts"), TrajectoryLength("shifts")):
        with pytest.raises(ValueError, match=r"shifted images need inputs of shape \(n, ..., height, width\)"):
            metric.update(mlp(3, 4, 2), torch.randn(2, 3))


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
def test_orthogonal_layers_keep_lengths(scale: float) -> None:
    layers: list[nn.Module] = []
    for _ in range(3):
        linear = nn.Linear(6, 6)
        nn.init.orthogonal_(linear.weight, gain=scale)
        layers += [linear, nn.LeakyReLU(1.0)]
    lengths = value(TrajectoryLength(per_layer=True), nn.Sequential(*layers), torch.randn(9, 6))
    assert list(lengths) == ["1", "3", "5"]
    assert [v.item() for v in lengths.values()] == pytest.approx([scale, scale**2, scale**3])


def test_a_long_trajectory_is_the_same_in_chunks() -> None:
    model, x = mlp(4, 9, 9, 2), torch.randn(7, 4)
    metric = TrajectoryLength()
    metric.update(Snapshot(model, x, chunk_size=5))
    torch.testing.assert_close(metric.compute(), value(TrajectoryLength(), model, x))
    points = torch.cat([ellipse_through(x[:3], 512), ellipse_through(x[3:6], 512)]).split(512)
    expected = sum(trajectory_length(model[:4](p)) for p in points) / sum(trajectory_length(p) for p in points)
    torch.testing.assert_close(metric.compute(), expected)


def test_length_grows_with_depth_for_large_weights_only() -> None:
    """Raghu et al. for large weights, Hanin et al. for variance 2 / fan-in."""
    growth = {}
    for variance in (2.0, 8.0):
        torch.manual_seed(0)
        model = mlp(64, *[64] * 6, 2)
        for layer in model[::2]:
            nn.init.normal_(layer.weight, std=math.sqrt(variance / 64))
            nn.init.zeros_(layer.bias)
        lengths = list(value(TrajectoryLength(per_layer=True), model, torch.randn(9, 64)).values())
        growth[variance] = (lengths[-1] / lengths[0]).item() ** (1 / 5)
    # At infinite width the factor of a layer is sqrt(variance / 2) at most.
    assert 0.8 < growth[2.0] < 1.05
    assert growth[8.0] == pytest.approx(2 * growth[2.0], rel=1e-6)


def test_smooth_networks_have_lengths_but_no_codes() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(3, 3)
    assert value(TrajectoryLength(), model, x) > 0
    for metric in (Transitions(), DeadUnits(), ActivationEntropy(), PatternEntropy()):
        with pytest.raises(UnsupportedOperationError, match=r"for the operation 'tanh', called in .*'1'"):
            metric.update(model, x)
    for metric in (Transitions(), DeadUnits(), ActivationEntropy(), PatternEntropy(), TrajectoryLength()):
        with pytest.raises(ValueError, match="needs a network with nonlinearities"):
            metric.update(nn.Linear(3, 2), x)


def test_bad_options() -> None:
    for build, message in (
        (lambda: Transitions("circle"), 'along must be "ellipse" or "shifts"'),
        (lambda: Transitions(num_points=7), "num_points must be even"),
        (lambda: TrajectoryLength(num_points=0), "num_points must be even and at least 2"),
        (lambda: TrajectoryLength(num_trajectories=0), "num_trajectories must be at least 1"),
        (lambda: DeadUnits("asleep"), 'count must be "dead" or "always_on"'),
    ):
        with pytest.raises(ValueError, match=message):
            build()


# Units ------------------------------------------------------------------------------------------

X = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("activation", "biases", "dead", "always_on"),
    [
        (nn.ReLU(), [-9.0, 0.0, 9.0, 1.5], 1 / 4, 1 / 4),
        (nn.ReLU6(), [-9.0, 9.0, 3.0, 5.5], 2 / 4, 1 / 4),
        (nn.Hardtanh(-3, 3), [-9.0, 9.0, 0.0, 2.0], 2 / 4, 1 / 4),
        (nn.LeakyReLU(), [-9.0, 0.0, 9.0, 1.5], 0.0, 2 / 4),
        (nn.Softshrink(3.0), [0.0, 9.0, -9.0, 2.0], 1 / 4, 2 / 4),
    ],
)
def test_dead_and_always_on(activation: nn.Module, biases: list[float], dead: float, always_on: float) -> None:
    model = nn.Sequential(affine([[1.0]] * 4, biases), activation)
    assert value(DeadUnits(), model, X) == dead
    metric = DeadUnits("always_on")
    assert value(metric, model, X) == always_on
    assert metric.report().keys() == {"always_on_units"}


def test_a_unit_that_is_flat_on_both_sides_is_dead() -> None:
    model = nn.Sequential(affine([[9.0]], [0.0]), nn.Hardtanh())
    assert value(DeadUnits(), model, X) == 1
    assert value(DeadUnits("always_on"), model, X) == 0


def test_later_batches_wake_units() -> None:
    model, metric = nn.Sequential(affine([[1.0], [1.0]], [0.0, -9.0]), nn.ReLU()), DeadUnits()
    metric.update(model, X[:2])
    assert metric.compute() == 1
    metric.update(model, X[2:])
    assert metric.compute() == 1 / 2


def test_the_unit_of_a_convolution_is_a_channel_and_of_a_sequence_a_feature() -> None:
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, 1, 2] = 5.0  # one bright pixel in one of the images wakes the channel
    conv = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        conv.bias.fill_(-1.0)
    assert value(DeadUnits(), nn.Sequential(conv, nn.ReLU()), x) == 1 / 2
    tokens = torch.zeros(2, 3, 1)
    tokens[1, 2] = 5.0
    assert value(DeadUnits(), nn.Sequential(affine([[1.0], [-1.0]], [-1.0, -1.0]), nn.ReLU()), tokens) == 1 / 2
    sequence = nn.Sequential(nn.Conv1d(1, 2, 1), nn.ReLU())
    with torch.no_grad():
        sequence[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1))
        sequence[0].bias.fill_(-1.0)
    assert value(DeadUnits(), sequence, tokens.transpose(1, 2)) == 1 / 2


def test_the_whole_counts_units_and_not_layers() -> None:
    model = nn.Sequential(affine([[1.0]] * 3, [-9.0] * 3), nn.ReLU(), affine([[1.0] * 3], [1.0]), nn.ReLU())
    assert value(DeadUnits(per_layer=True), model, X) == {"1": 1.0, "3": 0.0}
    assert value(DeadUnits(), model, X) == 3 / 4


def test_entropy_of_units() -> None:
    model = nn.Sequential(affine([[1.0]] * 3, [0.0, 1.5, 9.0]), nn.ReLU())
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert value(ActivationEntropy(), model, X).item() == pytest.approx((math.log(2) + quarter + 0) / 3)
    three = nn.Sequential(affine([[1.0]], [0.0]), nn.Hardtanh(-1.5, 1.5))
    assert value(ActivationEntropy(), three, X).item() == pytest.approx(1.5 * math.log(2))


def test_entropy_of_patterns() -> None:
    model = nn.Sequential(affine([[1.0]] * 2, [0.0, 1.5]), nn.ReLU(), affine([[1.0, 0.0]], [1.0]), nn.ReLU())
    # Patterns 00, 01, 11, 11 in the first layer, and always 1 in the second.
    expected = 1.5 * math.log(2)
    layers = value(PatternEntropy(per_layer=True), model, X)
    assert {n: v.item() for n, v in layers.items()} == pytest.approx({"1": expected, "3": 0.0})
    assert value(PatternEntropy(), model, X).item() == pytest.approx(expected)


def test_patterns_are_told_apart() -> None:
    model, x = conv_net().eval(), torch.randn(50, 2, 8, 8)
    assert value(PatternEntropy(), model, x).item() == pytest.approx(math.log(50))
    assert value(PatternEntropy(), model, x[:10].repeat(5, 1, 1, 1)).item() == pytest.approx(math.log(10))
