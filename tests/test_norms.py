"""Norms of parameters and distances, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_complexity.functional import combine_norms, distance, lp_norm
from lightning_complexity.metrics import (
    DistanceFromInitialization,
    LogNormProduct,
    LogNormSum,
    LogSpectralProduct,
    ParameterNorm,
    WeightDistance,
)
from lightning_complexity.network import initial_state
from lightning_complexity.regularizers import DistanceFromInitialization as DistancePenalty
from lightning_complexity.regularizers import WeightDistance as WeightDistancePenalty
from tests.networks import mlp


@pytest.mark.parametrize(("p", "expected"), [(1, 7.0), (2, 5.0), (3, 91 ** (1 / 3)), (math.inf, 4.0)])
def test_norm_of_two_numbers(p: float, expected: float) -> None:
    assert lp_norm(torch.tensor([3.0, -4.0]), p).item() == pytest.approx(expected)


@pytest.mark.parametrize("p", [1, 2, 3.5, math.inf])
def test_norm_of_norms_is_the_norm_of_everything(p: float) -> None:
    a, b = torch.randn(3, 2), torch.randn(5)
    whole = lp_norm(torch.cat([a.flatten(), b]), p)
    torch.testing.assert_close(combine_norms(torch.stack([lp_norm(a, p), lp_norm(b, p)]), p), whole)
    torch.testing.assert_close(distance([a, b], [torch.zeros_like(a), torch.zeros_like(b)], p), whole)


def measured(metric: LogNormProduct, model: nn.Module, *inputs: torch.Tensor) -> float:
    metric.update(model, *inputs)
    return metric.compute().item()


def numpy_norms(model: nn.Module, norm: object) -> np.ndarray:
    matrices = [m.weight.detach().numpy() for m in model if isinstance(m, nn.Linear)]
    if isinstance(norm, tuple):
        p, q = norm
        return np.array([np.linalg.norm(np.linalg.norm(m, ord=p, axis=1), ord=q) for m in matrices])
    orders = {"frobenius": "fro", "spectral": 2, "trace": "nuc"}
    return np.array([np.linalg.norm(m, orders[norm]) for m in matrices])


@pytest.mark.parametrize("norm", ["frobenius", "spectral", "trace", (1, math.inf), (3, 1.5), (2, 2)])
def test_products_and_sums_of_norms_are_numpys(norm: Any) -> None:
    model = mlp(4, 6, 3)
    norms = numpy_norms(model, norm)
    assert measured(LogNormProduct(norm), model) == pytest.approx(np.log(norms).sum())
    # Equations 35 and 39 of Jiang et al.: d (prod ||W||^2)^(1/d), as a logarithm.
    assert measured(LogNormSum(norm), model) == pytest.approx(np.log(2 * (norms**2).prod() ** (1 / 2)))


def test_names_and_equal_choices() -> None:
    norms = ["frobenius", "spectral", (1, math.inf), (3, 1.5), ("schatten", 3)]
    assert [LogNormProduct(norm).name for norm in norms] == [
        "log_frobenius_product",
        "log_spectral_product",
        "log_1_inf_product",
        "log_3_1p5_product",
        "log_schatten_3_product",
    ]
    model = mlp(4, 6, 3)
    spectral = LogSpectralProduct()
    spectral.update(model)
    assert measured(LogNormProduct("spectral"), model) == pytest.approx(spectral.compute().item())
    assert measured(LogNormProduct((2, 2)), model) == pytest.approx(measured(LogNormProduct(), model))


def test_a_folded_batch_norm_scales_the_norm() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4, eps=0.0))
    nn.init.constant_(model[1].weight, 5.0)
    x = torch.randn(2, 3)
    folded, plain = (measured(LogNormProduct((1, 2), fold_batch_norm=fold), model, x) for fold in (True, False))
    assert math.exp(folded - plain) == pytest.approx(5)


@pytest.mark.parametrize("norm", ["nuclear", (0.5, 2), (1,), 2, ("schatten", 0.5), ("ky fan", 2)])
def test_unknown_norms_are_named(norm: Any) -> None:
    with pytest.raises(ValueError, match=r'norm must be "frobenius", "spectral", "trace", .* or a pair'):
        LogNormProduct(norm)


def test_the_gradient_of_the_euclidean_norm() -> None:
    w = torch.tensor([[3.0, 0.0], [-4.0, 12.0]], requires_grad=True)
    torch.testing.assert_close(torch.autograd.grad(lp_norm(w), w)[0], w.detach() / 13)
    assert torch.autograd.gradgradcheck(lp_norm, w)
    zero = torch.zeros(3, requires_grad=True)
    assert torch.equal(torch.autograd.grad(lp_norm(zero), zero)[0], torch.zeros(3))
    rows = torch.func.vmap(torch.func.grad(lp_norm))(w.detach())
    torch.testing.assert_close(rows, w.detach() / torch.tensor([[3.0], [160**0.5]]))


def test_empty_tensor_has_norm_zero() -> None:
    assert lp_norm(torch.zeros(0), math.inf) == 0


NUMPY_NORMS: dict[Any, Callable[[np.ndarray], float]] = {
    "frobenius": np.linalg.norm,
    "spectral": lambda w: np.linalg.norm(w, 2),
    "trace": lambda w: np.linalg.norm(w, "nuc"),
    ("schatten", 3): lambda w: (np.linalg.svd(w, compute_uv=False) ** 3).sum() ** (1 / 3),
    (2, 1): lambda w: np.linalg.norm(w, axis=1).sum(),
    (1, math.inf): lambda w: np.linalg.norm(w, np.inf),
}


@pytest.mark.parametrize("norm", NUMPY_NORMS)
def test_distance_of_the_weight_matrices(norm: Any) -> None:
    model = mlp(4, 6, 3)
    start = initial_state(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    metric = WeightDistance(norm)
    metric.update(model, initial=start)
    changes = [(model[i].weight.detach() - start[f"{i}.weight"]).numpy() for i in (0, 2)]
    assert metric.compute().item() == pytest.approx(math.hypot(*map(NUMPY_NORMS[norm], changes)))
    penalty = WeightDistancePenalty(1.0, norm=norm)
    penalty.initial = start
    torch.testing.assert_close(penalty(model).detach(), metric.compute())


def test_a_folded_distance_folds_the_start_with_its_own_statistics() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=0.0))
    nn.init.constant_(model[0].weight, 2.0)
    start, x = initial_state(model), torch.zeros(1, 1)
    model[1].running_var.fill_(0.25)
    metric = WeightDistance(fold_batch_norm=True)
    metric.update(model, x, initial=start)
    assert metric.compute() == 2 / 0.5 - 2 / 1
    del start["1.running_var"]
    with pytest.raises(ValueError, match=r"'1.running_var' was not there"):
        metric.update(model, x, initial=start)
    DistanceFromInitialization().update(model, initial=start)


def test_biases_and_tied_weights_count_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    for p in model.parameters():
        nn.init.ones_(p)
    metric = ParameterNorm(p=1)
    metric.update(model)
    assert metric.compute() == 4 + 2 + 2


def test_distance_is_from_the_given_start() -> None:
    model = nn.Linear(2, 1)
    start = initial_state(model)
    with torch.no_grad():
        model.weight += torch.tensor([[3.0, 4.0]])
    metric = DistanceFromInitialization(per_layer=True)
    metric.update(model, initial=start)
    torch.testing.assert_close(metric.compute(), {"weight": torch.tensor(5.0), "bias": torch.tensor(0.0)})


def test_initial_state_is_a_copy() -> None:
    model = nn.Linear(2, 1)
    start = initial_state(model)
    with torch.no_grad():
        model.weight += 1
    assert not torch.equal(start["weight"], model.weight)


def test_another_networks_start_is_an_error() -> None:
    metric = DistanceFromInitialization()
    with pytest.raises(ValueError, match="'weight' was not there, or had another shape"):
        metric.update(nn.Linear(2, 1), initial=initial_state(nn.Linear(3, 1)))


def test_penalty_measures_from_its_first_call_unless_told() -> None:
    model, penalty, told = nn.Linear(2, 1), DistancePenalty(1.0), DistancePenalty(1.0)
    told.initial = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    assert penalty(model) == 0
    metric = ParameterNorm()
    metric.update(model)
    torch.testing.assert_close(told(model).detach(), metric.compute())
    (gradient,) = torch.autograd.grad(penalty(model), model.weight)
    assert torch.equal(gradient, torch.zeros(1, 2))


def test_p_must_give_a_norm() -> None:
    with pytest.raises(ValueError, match=r"p must be at least 1 for a norm, got 0.5"):
        ParameterNorm(p=0.5)
