"""The gradient of every penalty on every kind of normalization and attention is a central difference, by discovery.

torch gets third derivatives of some of these operations wrong without a word, and has no second ones of others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations

from lightning_complexity import metrics, regularizers
from lightning_complexity.network import MeasureError
from lightning_complexity.regularizers import Regularizer
from tests.networks import randomize_batch_norm
from tests.test_contract import REGULARIZERS, Network, given, moved, penalty

Penalty = Callable[[], Regularizer]


class Attention(nn.Module):
    """Attention by a module or by the function, behind a normalization, with a hidden layer after it."""

    def __init__(self, *, by_module: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True) if by_module else None
        self.projections = None if by_module else nn.Linear(4, 12)
        self.hidden, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        if self.projections is None:
            z = self.attention(z, z, z, need_weights=False)[0]
        else:
            q, k, v = (t.unflatten(2, (2, 2)).transpose(1, 2) for t in self.projections(z).chunk(3, -1))
            z = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(torch.tanh(self.hidden(x + z)).mean(1))


class Recurrent(nn.Module):
    """A recurrent layer behind a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer, self.head = nn.LayerNorm(4), nn.GRU(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.norm(x))[0][:, -1])


def rows(*layers: nn.Module) -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(4, 6), *layers, nn.Tanh(), nn.Linear(6, 3)), torch.randn(7, 4)


def channels(norm: nn.Module) -> tuple[nn.Module, Tensor]:
    layers = nn.Conv1d(2, 4, 2), norm, nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    return nn.Sequential(*layers), torch.randn(7, 2, 4)


def reparametrized(function: Callable[[nn.Module], nn.Module]) -> tuple[nn.Module, Tensor]:
    return nn.Sequential(function(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3)), torch.randn(7, 4)


KINDS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "layer norm": lambda: rows(nn.LayerNorm(6)),
    "layer norm without weights": lambda: rows(nn.LayerNorm(6, elementwise_affine=False)),
    "rms norm": lambda: rows(nn.RMSNorm(6)),
    "group norm": lambda: rows(nn.GroupNorm(2, 6)),
    "batch norm": lambda: rows(nn.BatchNorm1d(6)),
    "batch norm of the batch": lambda: rows(nn.BatchNorm1d(6, track_running_stats=False)),
    "instance norm": lambda: channels(nn.InstanceNorm1d(4, affine=True)),
    "local response norm": lambda: channels(nn.LocalResponseNorm(2)),
    "weight norm": lambda: reparametrized(parametrizations.weight_norm),
    "spectral norm": lambda: reparametrized(parametrizations.spectral_norm),
    "attention module": lambda: (Attention(by_module=True), torch.randn(7, 3, 4)),
    "attention function": lambda: (Attention(by_module=False), torch.randn(7, 3, 4)),
    "recurrent": lambda: (Recurrent(), torch.randn(7, 3, 4)),
}
# By hand, as constants of a penalty are no functions of the weights.
VARIANTS: dict[str, Penalty] = {
    "CustomizedL1": lambda: regularizers.CustomizedL1(1.0, "uniform"),
    "FisherRaoNorm squared": lambda: regularizers.FisherRaoNorm(1.0, squared=True),
    "FisherRaoNorm of weights": lambda: regularizers.FisherRaoNorm(1.0, biases=False),
    "JacobianNorm of the softmax": lambda: regularizers.JacobianNorm(1.0, of="softmax"),
    "JacobianNorm estimated": lambda: regularizers.JacobianNorm(1.0, num_projections=2),
}
PENALTIES: dict[str, Penalty] = {cls.__name__: lambda cls=cls: cls(1.0) for cls in REGULARIZERS} | VARIANTS
PIECEWISE_LINEAR = {"PathNorm", "SmoothLocalComplexity"}
OF_SAMPLES = ("GaussNewtonTrace", "FisherRaoNorm", "GeometricComplexity", "InputGradientNorm", "JacobianNorm")


def refuses(name: str, kind: str) -> bool:
    """Whether the measure has no meaning there."""
    if kind == "batch norm of the batch" and name.startswith(OF_SAMPLES):
        return True
    if name == "CustomizedL1" and kind in ("recurrent", "local response norm"):
        return True  # no layer leads to an activation that is known
    return name in PIECEWISE_LINEAR


def network_of(kind: str) -> Network:
    model, x = KINDS[kind]()
    if kind == "batch norm":
        randomize_batch_norm(model)
    return model, x, torch.randint(0, 3, (7,))


def assert_gradient_is_the_central_difference(value: Callable[[], Tensor], parameters: list[nn.Parameter]) -> None:
    gradient = torch.autograd.grad(value(), parameters, materialize_grads=True)
    direction = [torch.randn_like(p) for p in parameters]

    def at(step: float) -> Tensor:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(step * d)
        found = value().detach()
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(step * d)
        return found

    expected = (at(1e-6) - at(-1e-6)) / 2e-6
    actual = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PENALTIES)
def test_gradient_is_the_central_difference(name: str, kind: str) -> None:
    network, regularizer = network_of(kind), PENALTIES[name]()
    regularizer.initial = moved(network)
    network[2].add_(1).remainder_(3)  # losses that do not fall without end along the gradient
    if refuses(name, kind):
        with pytest.raises(MeasureError):
            penalty(regularizer, network)
        return
    assert_gradient_is_the_central_difference(lambda: penalty(regularizer, network), list(network[0].parameters()))


# Of outputs that were given, whose operations are torch's own ---------------------------------------


def of_given_outputs(regularizer: Regularizer, network: Network, backend: SDPBackend) -> Tensor:
    model, x, _ = network
    regularizer.measure.calls = 0
    needed = given(regularizer.metric, network, {})
    needed.pop("initial", None)
    x = x.clone().requires_grad_()
    with sdpa_kernel(backend):
        outputs = model(x)
    return regularizer(model, **{**needed, "inputs": x}, outputs=outputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in PENALTIES if name not in PIECEWISE_LINEAR])
def test_gradient_of_given_outputs_is_right_or_refused(name: str, kind: str) -> None:
    """In training mode, in which BatchNorm has the statistics of the batch."""
    network, regularizer = network_of(kind), PENALTIES[name]()
    regularizer.initial = moved(network)
    for module in network[0].modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.0  # running statistics are those of several passes
    if kind == "spectral norm":
        network[0].eval()  # the same for its vectors
    refusal = ""
    try:
        of_given_outputs(regularizer, network, SDPBackend.MATH)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert "outputs" in refusal or refuses(name, kind)
        return
    value = lambda: of_given_outputs(regularizer, network, SDPBackend.MATH)  # noqa: E731 (a formula)
    assert_gradient_is_the_central_difference(value, list(network[0].parameters()))


@pytest.mark.parametrize("kind", ["layer norm", "batch norm", "instance norm", "weight norm"])
def test_wrong_derivatives_of_given_outputs_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"torch gets derivatives of order 3 wrong for .* leave them out"):
        of_given_outputs(regularizers.FisherRaoNorm(1.0), network_of(kind), SDPBackend.MATH)


@pytest.mark.parametrize("cls", [cls for cls in REGULARIZERS if cls(1.0).metric.order > 0])
def test_missing_derivatives_of_given_outputs_are_refused_before_the_backward_pass(cls: type[Regularizer]) -> None:
    model, x = Attention(by_module=False), torch.randn(7, 3, 4)
    model.norm = nn.Identity()
    with pytest.raises(ValueError, match="outputs"):
        of_given_outputs(cls(1.0), (model, x, torch.randint(0, 3, (7,))), SDPBackend.FLASH_ATTENTION)


def test_a_penalty_without_a_derivative_says_so_at_once() -> None:
    model = nn.Sequential(nn.Linear(3, 4), Cubed(), nn.Linear(4, 2))
    with pytest.raises(MeasureError, match="torch has too few of them for the operation 'a function marked as once"):
        regularizers.JacobianNorm(1.0)(model, torch.randn(5, 3))
    with torch.no_grad():
        value = regularizers.JacobianNorm(1.0)(model, torch.randn(5, 3))
    assert value.isfinite()


class Cubed(nn.Module):
    """By a function that torch differentiates once."""

    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0].square() * gradient


# Samples that normalizations keep apart -------------------------------------------------------------


def test_jacobians_of_instance_norm_are_those_of_each_sample_alone() -> None:
    model, x = KINDS["instance norm"]()
    square = sum(torch.autograd.functional.jacobian(model, sample[None]).square().sum() for sample in x.unbind())
    metric = metrics.GeometricComplexity()
    metric.update(model, x)
    torch.testing.assert_close(metric.compute(), square / len(x))
    y = torch.arange(7) % 3
    together, alone = metrics.InputGradientNorm(), metrics.InputGradientNorm()
    together.update(model, x, y)
    for i in range(7):
        alone.update(model, x[i : i + 1], y[i : i + 1])
    torch.testing.assert_close(together.compute(), alone.compute())
