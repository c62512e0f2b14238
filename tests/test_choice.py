"""Penalties on some layers only."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lightning_complexity import metrics, regularizers
from tests.networks import conv_net, mlp


def test_a_norm_of_the_chosen_layers() -> None:
    model = mlp(4, 5, 5, 3)
    penalty = regularizers.ParameterNorm(1.0).on("0", "4.bias")
    expected = torch.cat([p.detach().flatten() for p in (*model[0].parameters(), model[4].bias)]).norm()
    torch.testing.assert_close(penalty(model).detach(), expected)
    penalty(model).backward()
    assert model[2].weight.grad is None or not model[2].weight.grad.any()
    assert model[0].weight.grad.any()


@pytest.mark.parametrize("choice", [(nn.Conv2d,), ("first", "second"), ("*irst.weight", "second.*")])
def test_layers_by_type_and_by_pattern(choice: tuple[str | type[nn.Module], ...]) -> None:
    model = conv_net()
    metric = metrics.StableRank(per_layer=True)
    metric.update(model)
    layers = metric.compute()
    expected = (layers["first.weight"] + layers["second.weight"]) / 2
    torch.testing.assert_close(regularizers.StableRank(1.0).on(*choice)(model).detach(), expected)


def test_folding_distances_and_operators_follow_the_choice() -> None:
    model, x = conv_net(), torch.zeros(1, 2, 8, 8)
    for cls, options in (
        (regularizers.LogSpectralProduct, {"fold_batch_norm": True}),
        (regularizers.LogSpectralProduct, {"convolution": "operator"}),
    ):
        whole, part, rest = (cls(1.0, **options) for _ in range(3))
        total = part.on("first")(model, x) + rest.on("second", nn.Linear)(model, x)
        torch.testing.assert_close(total, whole(model, x))
    distance = regularizers.DistanceFromInitialization(1.0).on("head*")
    assert distance(model) == 0
    with torch.no_grad():
        model.first.weight.add_(1)
        model.head.bias.add_(2)
    torch.testing.assert_close(distance(model).detach(), 2 * torch.tensor(3.0).sqrt())


def test_a_parametrized_layer_is_chosen_by_its_type() -> None:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert regularizers.LogSpectralProduct(1.0).on(nn.Linear)(model) != 0


def test_a_choice_that_fits_nothing_warns_once_and_costs_nothing() -> None:
    penalty = regularizers.StableRank(1.0).on("encodr.*", nn.Conv3d)
    with pytest.warns(UserWarning, match=r"StableRank penalises nothing: no layer fits 'encodr.\*', Conv3d"):
        assert penalty(mlp(4, 3)) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert penalty(mlp(4, 3)) == 0


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="PathNorm has no layers to choose: it belongs to the network as a whole"):
        regularizers.PathNorm(1.0).on("0")
    with pytest.raises(TypeError, match="a name pattern or a module type, got Linear"):
        regularizers.StableRank(1.0).on(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="needs layers"):
        regularizers.StableRank(1.0).on()
