"""Operator norms of convolutions, against the singular values of the unrolled matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_complexity.metrics import LogSpectralProduct
from lightning_complexity.network import Snapshot, operator_norm, read_weights
from lightning_complexity.network.operators import convolve
from tests.networks import ConvNet

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


def unrolled(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    basis = torch.eye(int(torch.tensor(shape).prod())).reshape(-1, *shape)
    return (module(basis) - module(torch.zeros(1, *shape))).flatten(1).T


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_equals_the_svd_of_the_unrolled_matrix(name: str) -> None:
    module, shape = CONVOLUTIONS[name]
    module = module.double()
    norm = operator_norm(read_weights(module)[0], torch.Size(shape))
    expected = torch.linalg.svdvals(unrolled(module, shape).detach())[0]
    torch.testing.assert_close(norm.detach(), expected, rtol=1e-8, atol=0)


def test_gradient_is_the_central_difference() -> None:
    module, shape = nn.Conv2d(2, 3, 3, stride=2, padding=1), torch.Size((2, 6, 6))
    (gradient,) = torch.autograd.grad(operator_norm(read_weights(module)[0], shape), module.weight)
    direction = torch.randn_like(gradient)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            module.weight.add_(sign * 1e-5 * direction)
            ends.append(operator_norm(read_weights(module)[0], shape))
            module.weight.sub_(sign * 1e-5 * direction)
    torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-8)


def test_zero_and_broken_kernels() -> None:
    module, shape = nn.Conv2d(1, 1, 3, padding=1), torch.Size((1, 8, 8))
    nn.init.zeros_(module.weight)
    assert operator_norm(read_weights(module)[0], shape) == 0
    nn.init.constant_(module.weight, float("nan"))
    assert operator_norm(read_weights(module)[0], shape).isnan()


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
        Snapshot(model, torch.zeros(1, 4)).operator_norms  # noqa: B018


def test_choice_is_named() -> None:
    with pytest.raises(ValueError, match='convolution must be "kernel" or "operator", got \'exact\''):
        LogSpectralProduct(convolution="exact")
    with pytest.raises(ValueError, match="fold_batch_norm needs"):
        LogSpectralProduct(convolution="operator", fold_batch_norm=True)
