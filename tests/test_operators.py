"""Operator norms of convolutions, against the singular values of the unrolled matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_complexity import regularizers
from lightning_complexity.functional import (
    GramOperator,
    MatrixOperator,
    top_eigenvectors,
    warm_started_spectral_norm,
)
from lightning_complexity.metrics import LogNormProduct, LogSpectralProduct
from lightning_complexity.network import Snapshot, layer_norms, read_weights
from lightning_complexity.network.weights.convolutions import convolve, warm_started_operator_norm
from lightning_complexity.network.weights.norms import circular_matrix_norm
from tests.networks import ConvNet, mlp

CONVOLUTIONS = {
    "plain": (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),
    "no padding": (nn.Conv2d(2, 3, 3), (2, 6, 5)),
    "stride": (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 7, 7)),
    "dilation": (nn.Conv2d(1, 2, 3, dilation=2, padding=2), (1, 7, 6)),
    "groups": (nn.Conv2d(4, 4, 3, groups=2, padding=1), (4, 5, 5)),
    "depthwise": (nn.Conv2d(3, 3, 3, groups=3, padding=1), (3, 5, 5)),
    "circular": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 6, 6)),
    "reflect": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (2, 6, 6)),
    "same": (nn.Conv2d(2, 2, 3, padding="same"), (2, 6, 6)),
    "tiny, solved densely": (nn.Conv1d(1, 2, 3, padding=1), (1, 8)),
    "one dimension": (nn.Conv1d(2, 3, 3, padding=1), (2, 20)),
    "three dimensions": (nn.Conv3d(1, 2, 2), (1, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1), (3, 4, 4)),
    "transposed in groups": (nn.ConvTranspose1d(4, 4, 3, stride=2, groups=2), (4, 9)),
}


def operator_norm(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    return warm_started_operator_norm(read_weights(module)[0], torch.Size(shape))[0]


def unrolled(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    basis = torch.eye(int(torch.tensor(shape).prod())).reshape(-1, *shape)
    return (module(basis) - module(torch.zeros(1, *shape))).flatten(1).T


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_equals_the_svd_of_the_unrolled_matrix(name: str) -> None:
    module, shape = CONVOLUTIONS[name]
    module = module.double()
    norm = operator_norm(module, shape)
    expected = torch.linalg.svdvals(unrolled(module, shape).detach())[0]
    torch.testing.assert_close(norm.detach(), expected, rtol=1e-8, atol=0)


def test_gradient_is_the_central_difference() -> None:
    module, shape = nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 6, 6)
    (gradient,) = torch.autograd.grad(operator_norm(module, shape), module.weight)
    direction = torch.randn_like(gradient)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            module.weight.add_(sign * 1e-5 * direction)
            ends.append(operator_norm(module, shape))
            module.weight.sub_(sign * 1e-5 * direction)
    torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-8)


def test_zero_and_broken_kernels() -> None:
    module, shape = nn.Conv2d(1, 1, 3, padding=1), (1, 8, 8)
    nn.init.zeros_(module.weight)
    assert operator_norm(module, shape) == 0
    nn.init.constant_(module.weight, float("nan"))
    assert operator_norm(module, shape).isnan()


def test_linear_part_has_no_bias() -> None:
    module = nn.Conv2d(1, 1, 1)
    assert convolve(module, torch.zeros(1, 1, 2, 2), module.weight).abs().max() == 0


def test_snapshot_uses_the_real_input_sizes() -> None:
    model = ConvNet()
    metric = LogSpectralProduct(convolution="operator", per_layer=True)
    metric.update(model, torch.zeros(1, 2, 8, 8))
    layers = metric.compute()
    for name, module, shape in [
        ("first.weight", model.first, (2, 8, 8)),
        ("second.weight", model.second, (4, 8, 8)),
        ("head.weight", model.head, (16,)),
    ]:
        expected = torch.linalg.svdvals(unrolled(module, shape).detach())[0].log()
        torch.testing.assert_close(layers[name], expected)


def test_a_convolution_that_is_never_called_is_an_error() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model.unused = nn.Conv2d(1, 1, 3)
    model.forward = lambda x: model[1](model[0](x))
    with pytest.raises(ValueError, match=r"'unused.weight' needs its input size"):
        layer_norms(Snapshot(model, torch.zeros(1, 4)), convolution="operator")


def test_choice_is_named() -> None:
    with pytest.raises(ValueError, match='convolution must be "kernel", "circular" or "operator", got \'exact\''):
        LogSpectralProduct(convolution="exact")
    with pytest.raises(ValueError, match="convolution='operator' needs norm=\"spectral\""):
        LogNormProduct("frobenius", convolution="operator")


def test_a_folded_operator_has_the_batch_norms_scale() -> None:
    conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    model = nn.Sequential(conv, nn.BatchNorm1d(1, eps=0.0))
    nn.init.constant_(model[1].weight, -3.0)
    snapshot = Snapshot(model, torch.zeros(1, 1, 9))
    for convolution in ("operator", "circular"):
        plain, folded = (layer_norms(snapshot, convolution=convolution, folded=f)["0.weight"] for f in (False, True))
        torch.testing.assert_close(folded, 3 * plain)


# On a torus ---------------------------------------------------------------------------------------


def sedghi(kernel: np.ndarray, size: tuple[int, ...]) -> float:
    """Largest singular value over the frequencies of numpy's transform, of kernels not larger than the image."""
    axes = tuple(range(2, kernel.ndim))
    at_frequency = np.moveaxis(np.fft.fftn(kernel, size, axes=axes), (0, 1), (-2, -1))
    return np.linalg.svd(at_frequency, compute_uv=False).max()


CIRCULAR = {
    "plain": (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),
    "many outputs": (nn.Conv2d(1, 5, 3, padding=1), (1, 5, 7)),
    "one dimension": (nn.Conv1d(3, 2, 5), (3, 8)),
    "three dimensions": (nn.Conv3d(1, 2, 2), (1, 4, 4, 4)),
}


@pytest.mark.parametrize("name", CIRCULAR)
def test_circular_norm_is_that_of_the_fourier_transform(name: str) -> None:
    module, shape = CIRCULAR[name]
    weight = read_weights(module.double())[0]
    norm = circular_matrix_norm(weight, {id(module): torch.Size(shape)})
    assert norm.item() == pytest.approx(sedghi(weight.tensor.detach().numpy(), shape[1:]), rel=1e-10)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": 1}, (2, 6, 6)),
        ({"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2}, (4, 6, 5)),
        ({"in_channels": 1, "out_channels": 1, "kernel_size": 5, "padding": 2}, (1, 3, 3)),  # wraps around
    ],
)
def test_circular_norm_is_that_of_a_circular_convolution(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    module = nn.Conv2d(**options, padding_mode="circular", bias=False).double()
    norm = circular_matrix_norm(read_weights(module)[0], {id(module): torch.Size(shape)})
    torch.testing.assert_close(norm, torch.linalg.svdvals(unrolled(module, shape).detach())[0])


def test_circular_norm_bounds_zero_padding_and_has_an_exact_gradient() -> None:
    module, shape = nn.Conv2d(2, 3, 3, padding=1), torch.Size((2, 6, 6))

    def norm() -> Tensor:
        return circular_matrix_norm(read_weights(module)[0], {id(module): shape})

    assert norm() > operator_norm(module, shape)
    (gradient,) = torch.autograd.grad(norm(), module.weight)
    direction, step = torch.randn_like(gradient), 1e-5
    with torch.no_grad():
        module.weight.add_(step * direction)
        above = norm()
        module.weight.sub_(2 * step * direction)
    torch.testing.assert_close((gradient * direction).sum(), (above - norm()) / (2 * step), rtol=1e-5, atol=1e-8)


# Followed from step to step -------------------------------------------------------------------------


@pytest.mark.parametrize("convolution", ["kernel", "operator"])
def test_a_live_norm_follows_the_weights(convolution: str) -> None:
    model, vectors, x = ConvNet().float(), {}, torch.zeros(1, 2, 8, 8, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        jump = 1.0 if step == 20 else 0.01
        with torch.no_grad():
            for p in model.parameters():
                p.add_(jump * torch.randn(p.shape, generator=generator))
        live = layer_norms(Snapshot(model, x, differentiable=True), convolution=convolution, warm_start=vectors)
        exact = layer_norms(Snapshot(model, x), convolution=convolution)
        for name, norm in live.items():
            assert norm.item() == pytest.approx(exact[name].item(), rel=1e-3)
    assert {key.partition("/")[2] for key in vectors} >= {"first.weight", "head.weight"}


def test_another_singular_value_may_overtake() -> None:
    layer, vectors = nn.Linear(100, 100, bias=False), {}
    first, second = torch.randn(2, 50, 50, generator=torch.Generator().manual_seed(0)).div(50**0.5)
    generator = torch.Generator().manual_seed(1)
    for share in torch.linspace(0.1, 2, 100):  # in a subspace of its own, which no product with the matrix leaves
        first = first + 0.01 * torch.randn(50, 50, generator=generator) / 50**0.5
        with torch.no_grad():
            layer.weight.copy_(torch.block_diag(first, share * second))
        (norm,) = layer_norms(Snapshot(layer, differentiable=True), warm_start=vectors).values()
        assert norm.item() == pytest.approx(np.linalg.norm(layer.weight.detach(), 2), rel=1e-4)


@pytest.mark.parametrize("size", [5, 60])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_weights_that_are_not_finite_and_those_after_them(size: int, broken: float) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(size, size)
    _, vectors = warm_started_spectral_norm(matrix)
    for kept in (vectors, None):
        norm, after = warm_started_spectral_norm(matrix.clone().fill_diagonal_(broken), kept)
        assert not norm.isfinite()
        assert warm_started_spectral_norm(matrix, after)[0].item() == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-6)


def test_a_start_that_is_far_off_is_not_used() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(60, 60)
    gram, start = GramOperator(MatrixOperator(matrix)), torch.linalg.qr(torch.randn(60, 4)).Q
    torch.testing.assert_close(top_eigenvectors(gram, 4, warm_start=start), top_eigenvectors(gram, 4))


@pytest.mark.parametrize("strength", [0.01, 0.1])
def test_a_penalty_stays_the_metric_while_it_pushes_singular_values_past_each_other(strength: float) -> None:
    torch.manual_seed(0)
    net, x, y = mlp(64, 128, 128, 10), torch.randn(64, 64), torch.arange(64) % 10
    penalty, metric = regularizers.LogSpectralProduct(strength), LogSpectralProduct()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(150):
        optimizer.zero_grad()
        value = penalty(net)
        metric.update(net)
        assert value.item() / strength == pytest.approx(metric.compute().item(), abs=2e-3)
        (nn.functional.cross_entropy(net(x), y) + value).backward()
        optimizer.step()
