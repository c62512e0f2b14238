"""Measures of the robust-measures study, against figures of its authors' code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_complexity.functional import order_statistic_margin
from lightning_complexity.metrics import GeneralizationMeasure, generalization_measures
from lightning_complexity.network import initial_state


def wave(*shape: int, phase: float) -> Tensor:
    """Numbers that any machine makes alike, without a random generator."""
    return torch.sin(phase + 0.7 * torch.arange(math.prod(shape)) ** 1.3).reshape(shape)


class NetworkInNetwork(nn.Module):
    """Three convolutions with BatchNorm between them, and the mean over an image of 4 x 4 at the end."""

    def __init__(self, phase: float) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3)
        self.conv3 = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(wave(*p.shape, phase=phase + k))
            for norm in (self.bn1, self.bn2):
                norm.running_mean.copy_(wave(norm.num_features, phase=phase))
                norm.running_var.copy_(1 + wave(norm.num_features, phase=phase) ** 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.conv3(x).mean((2, 3))


# Raw values that nitarshan/robust-generalization-measures @8e90129 gives for the networks of phase 1 (trained) and 5
# (initial) on 30 images, in double precision.
PUBLISHED = {
    "l2": 6.024537010316335,
    "l2_dist": 6.724574875849375,
    "params": 189.0,
    "inverse_margin": 239.05810832685256,
    "log_prod_of_spec": 5.670907737419602,
    "log_prod_of_spec_over_margin": 11.14761439087424,
    "log_spec_init_main": 13.24220935570046,
    "fro_over_spec": 4.460216667408613,
    "log_spec_orig_main": 12.642811735862697,
    "log_sum_of_spec_over_margin": 4.8144837522928565,
    "log_sum_of_spec": 2.988914867807977,
    "log_prod_of_fro": 6.801610302030955,
    "log_prod_of_fro_over_margin": 12.278316955485593,
    "log_sum_of_fro_over_margin": 5.191384607163307,
    "log_sum_of_fro": 3.3658157226784278,
    "fro_dist": 45.219907260904634,
    "dist_spec_init": 23.9820250692281,
    "param_norm": 36.29504618867128,
    "path_norm": 67.69727686267936,
    "path_norm_over_margin": 16183.582945671333,
    "log_prod_of_spec_fft": 9.645806883089199,
    "log_prod_of_spec_over_margin_fft": 15.122513536543837,
    "fro_over_spec_fft": 1.8464214704104094,
    "log_sum_of_spec_over_margin_fft": 6.139450134182722,
    "log_sum_of_spec_fft": 4.313881249697842,
    "dist_spec_init_fft": 94.63065502726103,
    "log_spec_init_main_fft": 16.83419866115231,
    "log_spec_orig_main_fft": 15.735762962063077,
}


def value(metric: GeneralizationMeasure) -> float:
    net, x = NetworkInNetwork(1.0), wave(30, 2, 8, 8, phase=0.3)
    metric.update(net, x, net.eval()(x).argmax(1), initial=initial_state(NetworkInNetwork(5.0)))
    return metric.compute().item()


@pytest.mark.parametrize("name", PUBLISHED)
def test_equals_the_public_code(name: str) -> None:
    # That code leaves a BatchNorm of 1 / sqrt(1 + 1e-5) behind, and gives averages over 16 places the weight 1/16.
    expected = PUBLISHED[name] / (16 if name.startswith("path_norm") else 1)
    of_outputs = "margin" in name or "main" in name or "path" in name
    assert value(GeneralizationMeasure(name)) == pytest.approx(expected, rel=2e-4 if of_outputs else 1e-12)


def test_every_measure_is_compared() -> None:
    assert {metric.of for metric in generalization_measures()} == PUBLISHED.keys()


def test_adjustment_for_the_number_of_samples() -> None:
    assert value(GeneralizationMeasure("param_norm", adjusted=True)) == pytest.approx(math.sqrt(36.29504618867128 / 30))
    logarithm = value(GeneralizationMeasure("log_prod_of_fro", adjusted=True))
    assert logarithm == pytest.approx((6.801610302030955 - math.log(30)) / 2)
    many = GeneralizationMeasure("param_norm", adjusted=True, num_samples=50_000)
    assert value(many) == pytest.approx(math.sqrt(36.29504618867128 / 50_000))


def test_margin_is_the_tenth_of_a_hundred() -> None:
    assert order_statistic_margin(torch.arange(1.0, 101.0)) == 10
    assert order_statistic_margin(torch.arange(1.0, 100.0)) == 9
    assert order_statistic_margin(torch.tensor([3.0, 2.0])) == 2
    assert order_statistic_margin(torch.tensor([-1.0, 2.0])).isnan()
    assert order_statistic_margin(torch.tensor([1.0, math.nan])).isnan()


def test_names_tell_measures_apart() -> None:
    metrics = generalization_measures() + generalization_measures(adjusted=True)
    assert len({metric.name for metric in metrics}) == 56
    assert GeneralizationMeasure().name == GeneralizationMeasure.name
    with pytest.raises(ValueError, match=r"of must be one of l2, .* got 'sharpness'"):
        GeneralizationMeasure("sharpness")


def test_the_image_is_what_the_first_convolution_gets() -> None:
    images = wave(30, 2, 8, 8, phase=0.3)
    metric, flat = GeneralizationMeasure("log_prod_of_spec_fft"), GeneralizationMeasure("log_prod_of_spec_fft")
    metric.update(NetworkInNetwork(1.0), images)
    flat.update(nn.Sequential(nn.Unflatten(1, (2, 8, 8)), NetworkInNetwork(1.0)), images.flatten(1))
    assert flat.compute() == metric.compute()


def test_every_kernel_is_transformed_at_the_size_of_the_image() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.Flatten())
    metric = GeneralizationMeasure("log_prod_of_spec_fft")
    metric.update(net, torch.zeros(1, 1, 8, 8))
    norms = []
    for layer in (net[0], net[2]):
        at_frequency = np.fft.fft2(layer.weight.detach().numpy(), (8, 8)).transpose(2, 3, 0, 1)
        norms.append(np.linalg.svd(at_frequency, compute_uv=False).max())
    assert metric.compute().item() == pytest.approx(2 * np.log(norms).sum(), rel=1e-10)
