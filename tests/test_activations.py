"""Nonlinearities are captured however they are called, as they were before anything overwrote them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.network import Activation, UnsupportedOperationError, capture_activations
from tests.networks import conv_net, mlp

CALLS: dict[str, tuple[Callable[[Tensor], Tensor], str, tuple[float, ...], tuple[int, ...]]] = {
    "F.relu": (F.relu, "relu", (0.0,), (0,)),
    "torch.relu": (torch.relu, "relu", (0.0,), (0,)),
    "relu keyword": (lambda x: torch.relu(input=x), "relu", (0.0,), (0,)),
    "method": (lambda x: x.relu(), "relu", (0.0,), (0,)),
    "method in place": (lambda x: x.relu_(), "relu", (0.0,), (0,)),
    "module in place": (nn.ReLU(inplace=True), "relu", (0.0,), (0,)),
    "F.relu positional in place": (lambda x: F.relu(x, True), "relu", (0.0,), (0,)),
    "relu6": (nn.ReLU6(), "relu6", (0.0, 6.0), (0, 2)),
    "hardtanh": (nn.Hardtanh(-0.5, 0.25), "hardtanh", (-0.5, 0.25), (0, 2)),
    "hardtanh in place": (F.hardtanh_, "hardtanh", (-1.0, 1.0), (0, 2)),
    "hardsigmoid": (nn.Hardsigmoid(), "hardsigmoid", (-3.0, 3.0), (0, 2)),
    "leaky_relu": (nn.LeakyReLU(0.1), "leaky_relu", (0.0,), ()),
    "prelu": (lambda x: F.prelu(x, torch.full((1,), 0.25)), "prelu", (0.0,), ()),
    "rrelu": (nn.RReLU().eval(), "rrelu", (0.0,), ()),
    "threshold": (nn.Threshold(0.25, 0.25), "threshold", (0.25,), (0,)),
    "threshold in place": (lambda x: F.threshold_(x, 0.0, 0.0), "threshold", (0.0,), (0,)),
    "softshrink": (nn.Softshrink(0.25), "softshrink", (-0.25, 0.25), (1,)),
    "abs": (abs, "abs", (0.0,), ()),
    "abs in place": (lambda x: x.abs_(), "abs", (0.0,), ()),
    "clamp": (lambda x: x.clamp(min=0), "clamp", (0.0,), (0,)),
    "clamp_max": (lambda x: x.clamp_max(0.5), "clamp", (0.5,), (1,)),
    "clip in place": (lambda x: x.clip_(-0.5, 0.5), "clamp", (-0.5, 0.5), (0, 2)),
    "maximum": (lambda x: torch.maximum(x, torch.zeros(())), "maximum", (0.0,), (0,)),
    "max, swapped": (lambda x: torch.max(torch.ones(()), x), "maximum", (1.0,), (0,)),
    "minimum": (lambda x: x.minimum(torch.zeros(())), "minimum", (0.0,), (1,)),
    "tanh": (nn.Tanh(), "tanh", (), ()),
    "tanh in place": (torch.tanh_, "tanh", (), ()),
    "sigmoid": (torch.sigmoid, "sigmoid", (), ()),
    "gelu": (nn.GELU("tanh"), "gelu", (), ()),
    "silu": (nn.SiLU(inplace=True), "silu", (), ()),
    "softplus": (nn.Softplus(), "softplus", (), ()),
    "elu": (nn.ELU(inplace=True), "elu", (), ()),
    "elu with a kink": (nn.ELU(0.5), "elu", (0.0,), ()),
    "selu": (nn.SELU(), "selu", (0.0,), ()),
    "logsigmoid": (nn.LogSigmoid(), "logsigmoid", (), ()),
    "mish": (nn.Mish(), "mish", (), ()),
}


class Calling(nn.Module):
    """An affine map, a nonlinearity, and an in-place change of its result."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(3, 4), function

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(self.linear(x))
        y += 1
        return y


@pytest.mark.parametrize("call", CALLS)
def test_every_way_to_call(call: str) -> None:
    function, name, kinks, flat = CALLS[call]
    model, x = Calling(function), torch.randn(5, 3)
    expected = model(x)
    (found,) = capture_activations(model, x)
    assert (found.function, found.kinks, found.flat) == (name, kinks, flat)
    assert found.piecewise_linear == (name not in {"tanh", "sigmoid", "gelu", "silu", "softplus", "mish"}
                                      | {"elu", "selu", "logsigmoid"})  # fmt: skip
    torch.testing.assert_close(found.inputs, model.linear(x))
    torch.testing.assert_close(found.outputs, expected - 1)


@pytest.mark.parametrize("call", [c for c in CALLS if CALLS[c][2] and CALLS[c][1] not in ("elu", "selu")])
def test_kinks_and_flat_pieces_are_where_the_slope_says(call: str) -> None:
    function, _, kinks, flat = CALLS[call]
    ends = [-10.0, *kinks, 10.0]
    for piece, (low, high) in enumerate(itertools.pairwise(ends)):
        z = torch.linspace(low, high, 7)[1:-1].requires_grad_()
        (slope,) = torch.autograd.grad(function(z * 1).sum(), z)
        torch.testing.assert_close(slope, slope[:1].expand_as(slope))
        assert (slope[0] == 0) == (piece in flat)


class Block(nn.Module):
    """Functional calls, a shared module, modules that look like further calls, in-place changes of what was noted."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.linear = nn.Linear(3, 3)
        self.inner = nn.Sequential(nn.Tanh(), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.linear(x))
        y = self.act(self.linear(y))
        z = self.linear(y)
        y = y + F.relu(z)
        z[:, 0] = 7.0
        z.mul_(3)
        return F.relu(y + self.inner(z))


def test_names_are_unique_paths() -> None:
    model = nn.Sequential(Block(), nn.ReLU())
    names = [a.name for a in capture_activations(model, torch.randn(2, 3))]
    assert names == ["0.act", "0.act.1", "0", "0.inner.0", "0.inner.1", "0.1", "1"]
    assert [a.name for a in capture_activations(Block(), torch.randn(2, 3))][2::3] == ["relu", "relu.1"]


def test_a_further_call_does_not_take_a_module_s_name() -> None:
    class Twice(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.relu(F.relu(x) - 1))

    names = [a.name for a in capture_activations(nn.Sequential(Twice(nn.Linear(2, 2), nn.ReLU())), torch.ones(1, 2))]
    assert names == ["0", "0.2", "0.1"]


def test_later_changes_in_place_leave_what_was_noted() -> None:
    model, x = Block(), torch.randn(4, 3)
    third = capture_activations(model, x)[2]
    y = model.linear(x).relu()
    y = model.linear(y).relu()
    torch.testing.assert_close(third.inputs, model.linear(y))


def test_in_place_forms_without_a_telling_name() -> None:
    class Dropping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(x)
            return F.dropout(y, 0.999, True, True)

    (found,) = capture_activations(Dropping(), torch.ones(50, 3))
    assert found.outputs.sum() == 150


def test_capturing_changes_nothing() -> None:
    for model, x in ((Block(), torch.randn(4, 3)), (conv_net().eval(), torch.randn(2, 2, 8, 8))):
        expected = model(x)
        assert capture_activations(model, x)
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_functional_calls_in_a_residual_network() -> None:
    found = capture_activations(conv_net().eval(), torch.randn(2, 2, 8, 8))
    assert [(a.name, a.function, tuple(a.inputs.shape), a.unit_dim) for a in found] == [
        ("relu", "relu", (2, 4, 8, 8), 1),
        ("relu.1", "relu", (2, 4, 8, 8), 1),
    ]


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("grad", [True, False])
def test_transformer_blocks(activation: str, grad: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with torch.set_grad_enabled(grad):
        found = capture_activations(model, torch.randn(3, 5, 8))
    assert [(a.name, a.function, tuple(a.inputs.shape), a.unit_dim) for a in found] == [
        ("layers.0", activation, (3, 5, 16), -1),
        ("layers.1", activation, (3, 5, 16), -1),
    ]


@pytest.mark.parametrize("call", ["F.relu", "module in place", "tanh", "tanh in place", "maximum"])
def test_replacing(call: str) -> None:
    model, x, seen = Calling(CALLS[call][0]), torch.randn(5, 3), []

    def halve(activation: Activation) -> Tensor:
        seen.append(activation)
        return activation.inputs / 2

    (found,) = capture_activations(model, x, replace=halve)
    torch.testing.assert_close(found.outputs, model.linear(x) / 2)
    torch.testing.assert_close(seen[0].outputs, CALLS[call][0](model.linear(x)))
    (kept,) = capture_activations(model, x, replace=lambda _: None)
    torch.testing.assert_close(kept.outputs, seen[0].outputs)


@pytest.mark.parametrize("inplace", [False, True])
def test_preactivations_lead_to_the_outputs(inplace: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace), nn.Linear(4, 1))
    x, outputs = torch.randn(5, 3), []
    model.register_forward_hook(lambda *args: outputs.append(args[2]))
    (found,) = capture_activations(model, x)
    (gradient,) = torch.autograd.grad(outputs[0].sum(), found.inputs)
    torch.testing.assert_close(gradient, (found.inputs > 0) * model[2].weight)


def test_maxout_is_an_activation_of_the_difference() -> None:
    class Maxout(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.max(x[:, :2], x[:, 2:])

    x = torch.randn(3, 4)
    (found,) = capture_activations(Maxout(), x)
    torch.testing.assert_close(found.inputs, x[:, :2] - x[:, 2:])
    torch.testing.assert_close(found.outputs, x.view(3, 2, 2).amax(1))


POOLINGS: dict[str, tuple[nn.Module, int]] = {
    "1d": (nn.MaxPool1d(2), 1),
    "2d": (nn.MaxPool2d(3, stride=2, padding=1, dilation=1), 2),
    "2d, ceiled": (nn.MaxPool2d((2, 3), stride=(3, 2), ceil_mode=True), 2),
    "2d, dilated": (nn.MaxPool2d(2, stride=1, dilation=2), 2),
    "2d, indices": (nn.MaxPool2d(2, return_indices=True), 2),
    "3d": (nn.MaxPool3d(2), 3),
    "adaptive 1d": (nn.AdaptiveMaxPool1d(3), 1),
    "adaptive 2d": (nn.AdaptiveMaxPool2d((2, 3)), 2),
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_compares_exactly_what_shares_a_window(pooling: str) -> None:
    module, num_dims = POOLINGS[pooling]
    size = (5, 4, 4)[:num_dims]
    x = torch.randn(2, 2, *size)
    assert capture_activations(module, x) == []
    (found,) = capture_activations(module, x, pooling=True)
    # Two entries share a window if lifting both above all others makes some output jump from one to the other.
    entries = range(torch.tensor(size).prod())
    base = torch.full((1, 1, *size), -9.0)
    pairs = []
    for i, j in itertools.combinations(entries, 2):
        first, second = (base.clone().view(-1).scatter(0, torch.tensor([i, j]), torch.tensor(v)).view(base.shape)
                         for v in ([2.0, 1.0], [1.0, 2.0]))  # fmt: skip
        changes = [module(t) for t in (first, second)]
        a, b = (c if isinstance(c, Tensor) else c[0] for c in changes)
        if ((a == 2) & (b == 2)).any():
            pairs.append((i, j))
    flat = x.flatten(2)
    expected = torch.stack([flat[..., i] - flat[..., j] for i, j in pairs], -1).flatten(1)
    torch.testing.assert_close(found.inputs, expected)


@pytest.mark.parametrize("maximum", [lambda x: x.amax((1, 2)), lambda x: x.flatten(1).max(1)[0]])
def test_maxima_along_dimensions_compare_every_two_entries(maximum: Callable[[Tensor], Tensor]) -> None:
    class Maxout(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return maximum(x)

    x = torch.randn(3, 2, 2)
    assert capture_activations(Maxout(), x) == []
    (found,) = capture_activations(Maxout(), x, pooling=True, measure="A measure")
    flat = x.flatten(1)
    expected = torch.stack([flat[:, i] - flat[:, j] for i, j in itertools.combinations(range(4), 2)], 1)
    torch.testing.assert_close(found.inputs, expected)
    assert (found.kinks, found.piecewise_linear) == ((0.0,), True)


def test_a_maximum_over_samples_is_refused() -> None:
    class Largest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.amax(0)

    with pytest.raises(UnsupportedOperationError, match="amax over samples"):
        capture_activations(Largest(), torch.randn(3, 2), pooling=True)


def test_the_larger_of_an_activation_and_its_mean_has_no_constant_kink() -> None:
    class AboveMean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.maximum(x, x.mean())

    x = torch.randn(1, 4)
    (found,) = capture_activations(AboveMean(), x)
    torch.testing.assert_close(found.inputs, x - x.mean())


def test_an_unknown_function_is_a_smooth_activation() -> None:
    for function in (torch.sin, lambda x: x.atan_(), torch.special.exp2, lambda x: torch.logaddexp(x, -x)):
        model, x = Calling(function), torch.randn(5, 3)
        expected = model(x)
        (found,) = capture_activations(model, x)
        assert not found.piecewise_linear
        torch.testing.assert_close(found.inputs, model.linear(x))
        torch.testing.assert_close(found.outputs, expected - 1)


def test_what_is_applied_to_constants_is_no_activation() -> None:
    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            written = torch.zeros_like(x)
            written[:, :2] = x[:, :2]
            return torch.relu(written) * torch.sigmoid(self.gate) + F.relu(torch.sin(self.gate))

    (found,) = capture_activations(Gates(), torch.randn(2, 3), measure="A measure")
    assert found.inputs.shape == (2, 3)


@pytest.mark.parametrize("between", [nn.Softmax(1), nn.LayerNorm(4), lambda x: x.exp(), lambda x: x.relu().square()])
def test_what_stands_between_two_layers(between: Callable[[Tensor], Tensor]) -> None:
    class Between(nn.Module):
        def __init__(self, function: Callable[[Tensor], Tensor], skip: float) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)
            self.function, self.skip = function, skip

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y = self.function(y + x) if self.skip else self.function(y).unsqueeze(1)
            return self.second(y)

    if isinstance(between, nn.Module):
        between.double()
    model, x = Between(between, 0.0), torch.randn(3, 4)
    assert all(a.piecewise_linear for a in capture_activations(model, x))
    found = capture_activations(model, x, between_layers=True)
    assert [a.piecewise_linear for a in found if a.function != "relu"] == [False]
    residual = [a for a in capture_activations(Between(between, 1.0), x, between_layers=True) if a.function != "relu"]
    assert len(residual) == (0 if isinstance(between, nn.Module) else 1)


def test_a_mean_of_squares_is_a_statistic() -> None:
    class Energies(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](self[0](x).square().mean(2))

    assert (
        capture_activations(Energies(nn.Conv1d(1, 2, 1), nn.Linear(2, 1)), torch.randn(3, 1, 5), between_layers=True)
        == []
    )


def test_what_is_refused() -> None:
    x = torch.randn(2, 3)
    for function in (lambda x: x.clamp(min=torch.tensor([0.0, 1.0, 2.0, 3.0])), nn.Threshold(0.0, 1.0)):
        with pytest.raises(UnsupportedOperationError, match="the capture of activations has no meaning"):
            capture_activations(Calling(function), x)
    for function, name in (
        (nn.Tanh(), "tanh"),
        (nn.Softmax(1), "softmax"),
        (nn.LayerNorm(4), "layer_norm"),
        (lambda x: x**2, "pow"),
    ):
        capture_activations(Calling(function), x)
        with pytest.raises(UnsupportedOperationError, match=f"A measure has no meaning for the operation '{name}'"):
            capture_activations(Calling(function), x, measure="A measure")
    assert capture_activations(Calling(lambda x: F.relu(x * torch.sqrt(torch.tensor(2.0)))), x, measure="A measure")


def test_a_plain_mlp() -> None:
    model, x = mlp(3, 5, 4, 2), torch.randn(6, 3)
    first, second = capture_activations(model, x, measure="A measure")
    assert (first.name, second.name) == ("1", "3")
    torch.testing.assert_close(second.inputs, model[:3](x))
