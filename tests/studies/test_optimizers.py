"""Path-normalised SGD, and the optimizers by name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_complexity.network import MeasureError
from lightning_complexity.studies.training.networks import perceptron
from lightning_complexity.studies.training.optimizers import OPTIMIZERS, build_optimizer, path_curvatures


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return perceptron([3, 4, 5, 2]).double()


def path_regularizer(network: nn.Sequential) -> Tensor:
    """Sum over paths of products of squared weights, by matrices of squares."""
    value = torch.ones(3, dtype=torch.float64)
    for layer in network:
        if isinstance(layer, nn.Linear):
            value = layer.weight.square() @ value + layer.bias.square()
    return value.sum()


def test_curvature_is_half_the_second_derivative(network: nn.Sequential) -> None:
    found = path_curvatures(network, torch.zeros(1, 3, dtype=torch.float64))
    gradients = torch.autograd.grad(path_regularizer(network), list(network.parameters()), create_graph=True)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        for index in range(parameter.numel()):
            second = torch.autograd.grad(gradient.flatten()[index], parameter, retain_graph=True)[0]
            assert found[parameter].flatten()[index] == pytest.approx(float(second.flatten()[index]) / 2)


def stepped(network: nn.Sequential, num_steps: int = 3) -> nn.Sequential:
    example = torch.zeros(1, 3, dtype=torch.float64)
    optimizer = build_optimizer("path_sgd", network, example, learning_rate=0.01)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 3, generator=generator, dtype=torch.float64), torch.arange(8) % 2
    for _ in range(num_steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network


def test_training_does_not_depend_on_how_units_are_scaled(network: nn.Sequential) -> None:
    scaled = copy.deepcopy(network)
    with torch.no_grad():
        factors = torch.tensor([0.1, 1.0, 7.0, 20.0], dtype=torch.float64)
        scaled[0].weight *= factors[:, None]
        scaled[0].bias *= factors
        scaled[2].weight /= factors
    x = torch.randn(6, 3, dtype=torch.float64)
    before = network(x)
    torch.testing.assert_close(scaled(x), before)
    torch.testing.assert_close(stepped(scaled)(x), stepped(network)(x))
    assert not torch.allclose(network(x), before)


def test_a_step_in_closed_form() -> None:
    network = perceptron([1, 1, 1]).double()
    weights = (2.0, 1.0, 3.0, 0.5)
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), weights, strict=True):
            parameter.fill_(value)
    optimizer = build_optimizer("path_sgd", network, torch.zeros(1, 1, dtype=torch.float64), learning_rate=0.1)
    network(torch.full((1, 1), 2.0, dtype=torch.float64)).sum().backward()
    optimizer.step()
    # Gradients 3 * 2, 3, 5, 1; curvatures 3**2, 3**2, 2**2 + 1**2, 1.
    expected = (2 - 0.1 * 6 / 9, 1 - 0.1 * 3 / 9, 3 - 0.1 * 5 / 5, 0.5 - 0.1)
    assert [p.item() for p in network.parameters()] == pytest.approx(list(expected))


def test_weights_without_a_path_stay(network: nn.Sequential) -> None:
    with torch.no_grad():
        network[4].weight.zero_()
    before = network[0].weight.clone()
    stepped(network, num_steps=1)
    assert torch.equal(network[0].weight, before)
    assert all(p.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("normalization", [nn.BatchNorm1d, nn.LayerNorm])
def test_other_networks_are_refused(normalization: type[nn.Module]) -> None:
    layer = normalization(4)
    network = nn.Sequential(nn.Linear(3, 4), layer, nn.ReLU(), nn.Linear(4, 2))
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 0.3)
    with pytest.raises(MeasureError):
        build_optimizer("path_sgd", network, torch.zeros(1, 3), learning_rate=0.1)


def test_convolutions_have_paths_too() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)).double()
    found = path_curvatures(network, torch.zeros(1, 1, 7, 7, dtype=torch.float64))
    build_optimizer("path_sgd", network, torch.zeros(1, 1, 7, 7, dtype=torch.float64), learning_rate=0.1)
    # The last layer's bias is on one path each.
    assert found[network[3].bias].tolist() == [1, 1]


def test_unknown_names_say_what_there_is(network: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="there is no optimizer 'adma'; there are sgd, momentum"):
        build_optimizer("adma", network, None, learning_rate=0.1)
    assert len(OPTIMIZERS) == 6
