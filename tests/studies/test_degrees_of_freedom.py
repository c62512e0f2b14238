"""Degrees of freedom of procedures whose map from targets to fitted values is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.studies import generalized_degrees_of_freedom

Model = Callable[[Tensor], Tensor]
Fit = Callable[[Tensor, Tensor], Model]

X = torch.randn(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = X.sum(1) + torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def ridge(strength: float) -> Fit:
    def fit(x: Tensor, y: Tensor) -> Model:
        w = torch.linalg.solve(x.mT @ x + strength * torch.eye(x.shape[1]).to(x), x.mT @ y)
        return lambda inputs: inputs @ w

    return fit


@pytest.mark.parametrize("strength", [0.0, 3.0, 50.0])
def test_ridge_regression(strength: float) -> None:
    s = torch.linalg.svdvals(X)
    expected = (s**2 / (s**2 + strength)).sum().item()
    found = generalized_degrees_of_freedom(ridge(strength), X, Y, perturbations=300)
    assert found.value == pytest.approx(expected, abs=3 * found.standard_error)
    assert 0 < found.standard_error < 0.03 * 6


def test_all_signs_of_few_samples_give_the_trace() -> None:
    smoother = torch.randn(2, 2, dtype=torch.float64)

    def smooth(_: Tensor, y: Tensor) -> Model:
        return lambda inputs: smoother @ y

    found = generalized_degrees_of_freedom(smooth, X[:2], Y[:2], perturbations=1)
    off = (smoother[0, 1] + smoother[1, 0]).item()
    assert min(abs(found.value - smoother.trace().item() - sign * off) for sign in (1, -1)) < 1e-9


def test_several_outputs_and_a_mean() -> None:
    def mean(_: Tensor, y: Tensor) -> Model:
        return lambda inputs: y.mean(0).expand(len(inputs), -1)

    targets = torch.stack([Y, Y], 1)
    found = generalized_degrees_of_freedom(mean, X, targets, perturbations=400)
    assert found.value == pytest.approx(2, abs=3 * found.standard_error)


def test_noise_of_training_does_not_count() -> None:
    def initial_values(x: Tensor, _: Tensor) -> Model:
        values = torch.randn(len(x), dtype=x.dtype)
        return lambda inputs: values

    assert generalized_degrees_of_freedom(initial_values, X, Y).value == 0


def test_of_a_network() -> None:
    def train(x: Tensor, y: Tensor) -> Model:
        net = nn.Sequential(nn.Linear(6, 4, dtype=x.dtype), nn.Tanh(), nn.Linear(4, 1, dtype=x.dtype))
        optimizer = torch.optim.LBFGS(net.parameters(), max_iter=15, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(net(x)[:, 0], y)
            loss.backward()
            return loss

        optimizer.step(closure)
        return net

    found = generalized_degrees_of_freedom(train, X, Y, perturbations=6)
    assert 1 < found.value < 30
    assert len(found.estimates) == 6
    assert "degrees of freedom" in str(found)


def test_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="targets must be floating-point numbers"):
        generalized_degrees_of_freedom(ridge(1.0), X, torch.zeros(30, dtype=torch.long))
    with pytest.raises(ValueError, match="size must be positive"):
        generalized_degrees_of_freedom(ridge(1.0), X, torch.ones(30, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"the model must give outputs in the shape of the targets, \(30,\)"):
        generalized_degrees_of_freedom(lambda x, y: lambda inputs: inputs, X, Y)
