"""Which layers feed which nonlinearity."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.network import Snapshot, trace_sources
from tests.networks import conv_net, mlp


def feeds(model: nn.Module, x: Tensor) -> list[list[tuple[str, bool]]]:
    """Names of the weights that feed each nonlinearity, and whether each is alone."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [[(names[id(f.weight)], f.alone) for f in fed.feeds] for fed in trace_sources(model.eval(), x)]


class Called(nn.Module):
    """Calls a function with its layers."""

    def __init__(self, forward: object, **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def test_sequential() -> None:
    assert feeds(mlp(4, 5, 6, 3), torch.randn(2, 4)) == [[("0.weight", True)], [("2.weight", True)]]


def test_residual_convolutions() -> None:
    assert feeds(conv_net(), torch.randn(2, 2, 8, 8)) == [[("first.weight", True)], [("second.weight", False)]]


def test_batch_norm_brings_its_affine_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU()).eval()
    [fed] = trace_sources(model, torch.randn(4, 2))
    assert [p is q for p, q in zip(fed.feeds[0].affine, model[1].parameters(), strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("between", "alone"),
    [
        (nn.BatchNorm1d(3, affine=False), False),  # a zero does not stay one
        (nn.LayerNorm(3), False),
        (nn.Dropout(0.5), True),
        (nn.Identity(), True),
    ],
)
def test_what_comes_between(between: nn.Module, alone: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 3), between, nn.Tanh()).double()
    assert feeds(model, torch.randn(4, 2)) == [[("0.weight", alone)]]


def test_pooling_keeps_channels() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.ReLU(inplace=True))
    assert feeds(model, torch.randn(2, 1, 6, 6)) == [[("0.weight", True)]]


def test_functions_methods_and_in_place_operations() -> None:
    def forward(self: Called, x: Tensor) -> Tensor:
        x = F.linear(x, self.a.weight, bias=self.a.bias).relu_()
        y = self.b(x)
        y += x
        return F.gelu(input=y)

    model = Called(forward, a=nn.Linear(2, 3), b=nn.Linear(3, 3))
    assert feeds(model, torch.randn(2, 2)) == [[("a.weight", True)], [("b.weight", False)]]


def test_a_layer_belongs_to_the_first_nonlinearity_it_reaches() -> None:
    def forward(self: Called, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + self.b(torch.relu(x))
        return torch.relu(x)

    model = Called(forward, a=nn.Linear(3, 3), b=nn.Linear(3, 3))
    assert feeds(model, torch.randn(2, 3)) == [[("a.weight", True)], [("b.weight", False)]]


def test_a_weight_that_is_used_twice_is_not_alone() -> None:
    def forward(self: Called, x: Tensor) -> Tensor:
        return torch.tanh(self.a(torch.tanh(self.a(x))))

    assert feeds(Called(forward, a=nn.Linear(3, 3)), torch.randn(2, 3)) == [[("a.weight", False)], []]


def test_reshaping_products_and_comparisons_are_not_followed() -> None:
    x = torch.randn(2, 3)
    layers = {"a": nn.Linear(3, 4), "b": nn.Linear(3, 4)}
    for forward in (
        lambda self, x: torch.relu(self.a(x).reshape(2, 2, 2)),
        lambda self, x: torch.relu(self.a(x) * self.b(x)),
        lambda self, x: torch.maximum(self.a(x), self.b(x)),
    ):
        assert feeds(Called(forward, **layers), x) == [[]]


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.Softplus(beta=3), nn.LeakyReLU(0.3), nn.PReLU()])
def test_the_nonlinearity_is_that_of_the_network_with_its_options(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(2, 3), activation).double()
    [fed] = trace_sources(model, torch.randn(4, 2))
    z = torch.randn(5, 3)
    torch.testing.assert_close(fed.function(z), activation(z.clone()))


def test_layers_and_functions_that_are_called_by_keyword() -> None:
    def forward(self: Called, x: Tensor) -> Tensor:
        x = self.norm(input=self.a(input=x))
        x = F.relu(input=x)
        return torch.tanh(F.linear(input=x, weight=self.b.weight, bias=self.b.bias))

    model = Called(forward, a=nn.Linear(2, 3), norm=nn.BatchNorm1d(3), b=nn.Linear(3, 3))
    assert feeds(model, torch.randn(2, 2)) == [[("a.weight", True)], [("b.weight", True)]]


def test_feeds_have_the_names_of_their_weights() -> None:
    def forward(self: Called, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(F.linear(x, self.b.weight))
        return torch.relu(F.linear(x, torch.ones(2, 3)))

    layers = {"a": nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), "b": nn.Linear(3, 3)}
    model, x = Called(forward, **layers).double(), torch.randn(2, 2)
    assert [feed.name for fed in trace_sources(model, x) for feed in fed.feeds] == ["a.weight", "b.weight", ""]
    # In a run the module's parameters are others.
    named = Snapshot(model, x).run(lambda m: [feed.name for fed in trace_sources(m, x) for feed in fed.feeds])
    assert named == ["a.weight", "b.weight", ""]
    [fed] = trace_sources(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), x)
    assert fed.feeds[0].name == "0.weight"
