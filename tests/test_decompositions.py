"""What is made from other operations has torch's values and derivatives, and those that torch lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.network.errors import MissingDerivativeError, missing_derivatives_named
from lightning_complexity.network.tracing.calls import running_order
from lightning_complexity.network.tracing.costs import count_costs
from lightning_complexity.network.tracing.decompositions import (
    Decompositions,
    FrozenStatistics,
    check_derivatives,
)
from lightning_complexity.network.tracing.embedding_bags import embedding_bag

FLAT = torch.tensor([1, 4, 4, 0, 2, 5, 1])
OFFSETS = torch.tensor([0, 3, 3, 5])
LAST = torch.tensor([0, 3, 3, 5, 7])
MATRIX = torch.tensor([[1, 4, 4], [0, 2, 5]])
SCALES = torch.linspace(-1, 2, 7, dtype=torch.float64)
BAGS: dict[str, tuple[Tensor, dict[str, Any]]] = {
    "matrix": (MATRIX, {}),
    "offsets": (FLAT, {"offsets": OFFSETS}),
    "last offset": (FLAT, {"offsets": LAST, "include_last_offset": True}),
    "padding": (FLAT, {"offsets": OFFSETS, "padding_idx": 4}),
    "negative padding": (MATRIX, {"padding_idx": -2}),
    "a bag of padding": (torch.tensor([[4, 4], [1, 4]]), {"padding_idx": 4}),
}


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("case", BAGS)
def test_bags_of_embeddings(case: str, mode: str) -> None:
    indices, options = BAGS[case]
    weight = torch.randn(6, 3, requires_grad=True)
    expected = F.embedding_bag(indices, weight, mode=mode, **options)
    made = embedding_bag(indices, weight, mode=mode, **options)
    torch.testing.assert_close(made, expected)
    slope = torch.randn_like(expected)
    gradients = [torch.autograd.grad((slope * y).sum(), weight)[0] for y in (made, expected)]
    torch.testing.assert_close(*gradients)
    assert torch.autograd.gradgradcheck(lambda w: embedding_bag(indices, w, mode=mode, **options).square(), (weight,))


@pytest.mark.parametrize("indices", [FLAT, FLAT[:6].reshape(2, 3)])
def test_bags_with_weights_of_samples(indices: Tensor) -> None:
    weight, scales = torch.randn(6, 3, requires_grad=True), SCALES[: indices.numel()].reshape(indices.shape)
    options: dict[str, Any] = {"mode": "sum", "per_sample_weights": scales.clone().requires_grad_()}
    if indices.ndim == 1:
        options["offsets"] = OFFSETS
    torch.testing.assert_close(embedding_bag(indices, weight, **options), F.embedding_bag(indices, weight, **options))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("layer", [nn.Embedding(6, 3, sparse=True), nn.EmbeddingBag(6, 3, mode="sum", sparse=True)])
def test_gradients_of_embeddings_are_dense(order: int, layer: nn.Module) -> None:
    layer = layer.double()
    outputs = layer(MATRIX)
    (sparse,) = torch.autograd.grad(outputs.square().sum(), layer.weight)
    assert sparse.is_sparse
    with Decompositions(order):
        made = layer(MATRIX)
    torch.testing.assert_close(made, outputs)
    (dense,) = torch.autograd.grad(made.square().sum(), layer.weight, create_graph=order > 1)
    torch.testing.assert_close(dense, sparse.to_dense())


X = torch.linspace(-4.1, 4.3, 12, dtype=torch.float64).reshape(3, 4)
MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "hardsigmoid": F.hardsigmoid,
    "hardsigmoid in place": lambda x: F.hardsigmoid(x * 1, inplace=True),
    "cdist": lambda x: torch.cdist(x, x[:2] * 2 + 1),
    "cdist of order 3": lambda x: torch.cdist(x, x[:2] * 2 + 1, p=3.0),
    "pdist": lambda x: F.pdist(x),
}


@pytest.mark.parametrize("name", MADE)
def test_what_torch_differentiates_once_only(name: str) -> None:
    def cubed(x: Tensor) -> Tensor:
        return MADE[name](x) ** 3

    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cubed(x).sum(), x, create_graph=True)
    with pytest.raises(MissingDerivativeError), missing_derivatives_named(2):
        torch.autograd.grad(expected.square().sum(), x)
    with Decompositions(2):
        torch.testing.assert_close(cubed(x), MADE[name](x.detach()) ** 3)
        (gradient,) = torch.autograd.grad(cubed(x).sum(), x, create_graph=True)
        torch.testing.assert_close(gradient, expected)
        assert torch.autograd.gradgradcheck(cubed, (x,))


@pytest.mark.parametrize("function", [nn.Hardswish(), nn.Mish(), nn.CELU(0.5), nn.LogSigmoid(), nn.Softplus()])
def test_activations_that_torch_differentiates_twice(function: nn.Module) -> None:
    assert torch.autograd.gradgradcheck(function, (X.clone().requires_grad_(),))


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


def test_a_missing_derivative_is_named() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.hardsigmoid(x).square().sum(), x, create_graph=True)
    message = r"order 2, .* 'hardsigmoid'.* replace it"
    with pytest.raises(MissingDerivativeError, match=message) as caught, missing_derivatives_named(2):
        torch.autograd.grad(gradient.sum(), x)
    assert (caught.value.operation, caught.value.order) == ("hardsigmoid", 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), missing_derivatives_named(2):
        x @ x


def test_a_function_that_is_marked_as_differentiable_once() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(Once.apply(2 * x).square().sum(), x, create_graph=True)
    with pytest.raises(MissingDerivativeError, match="once_differentiable"), missing_derivatives_named(2):
        gradient.sum().backward()
    # Given the inputs, torch says nothing, and the second derivative, 32, is missing.
    (gradient,) = torch.autograd.grad(Once.apply(2 * x).square().sum(), x, create_graph=True)
    assert torch.autograd.grad(gradient.sum(), x, allow_unused=True) == (None,)
    with pytest.raises(MissingDerivativeError, match="once_differentiable"):
        check_derivatives([gradient], order=2)


@pytest.mark.parametrize("by_keyword", [False, True])
def test_one_sample_goes_through_a_batch_norm_without_statistics(by_keyword: bool) -> None:
    class Normalized(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = self[0](x)
            return self[2](self[1](input=x) if by_keyword else self[1](x))

    model = Normalized(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False, eps=0.0), nn.Linear(8, 2)).eval()
    x = torch.randn(1, 4)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(x)
    with FrozenStatistics():
        torch.testing.assert_close(model(x), model[2](model[0](x)))
        assert running_order(model, x) == ["0", "2"]
        assert sum(p.flops for p in count_costs(model, x).products) == 2 * (4 * 8 + 8 * 2)


def test_running_statistics_stay_in_use() -> None:
    norm, x = nn.BatchNorm1d(3).eval(), torch.randn(2, 3)
    norm.running_mean.fill_(2.0)
    with FrozenStatistics():
        frozen = norm(x)
    torch.testing.assert_close(frozen, norm(x))
