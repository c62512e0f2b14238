"""Margins, by hand and against numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import hinge_loss
from torch import nn

from lightning_complexity.functional import (
    inverse_squared_margin,
    log_over_margin,
    margin_percentile,
    positions_as_samples,
    signed_margins,
    smooth_margin_losses,
)
from lightning_complexity.metrics import (
    CapacityOverMargin,
    ComplexityMetric,
    GeneralizationMeasure,
    InverseSquaredMargin,
    JacobianNorm,
    LogNormProduct,
    MarginPercentile,
    MeanMargin,
    NormalizedMargin,
    ParameterNorm,
    PathNorm,
    SmoothMarginLoss,
)
from lightning_complexity.network import Snapshot
from tests.networks import mlp

LOGITS = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, -1.0], [5.0, 7.0, 1.0]], dtype=torch.float64)


def test_margins_are_signed() -> None:
    expected = torch.tensor([1.0, 0.0, -2.0])
    torch.testing.assert_close(signed_margins(LOGITS, torch.tensor([0, 1, 0])), expected)


@pytest.mark.parametrize("percentile", [0, 5, 10, 37.5, 50, 100])
@pytest.mark.parametrize("n", [1, 2, 11, 100])
def test_percentile_is_numpys(percentile: float, n: int) -> None:
    values = torch.randn(n)
    expected = np.percentile(values.numpy(), percentile)
    assert margin_percentile(values, percentile).item() == pytest.approx(expected)


def test_percentile_keeps_nan() -> None:
    assert margin_percentile(torch.tensor([1.0, torch.nan, 2.0])).isnan()


def test_percentile_of_batches_is_not_the_mean_of_percentiles() -> None:
    metric, targets = MarginPercentile(percentile=0), torch.tensor([0, 1, 0])
    for i in (2, 0, 1):
        metric.update(nn.Identity(), LOGITS[i : i + 1], targets[i : i + 1])
    assert metric.compute() == -2


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), r"logits of shape \(n, classes >= 2\), got \(3,\)"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), r"got \(3, 1\)"),
        (torch.zeros(3, 2), torch.zeros(3), r"integer class targets of shape \(3,\), got torch.float"),
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.long), r"got torch.int64 of shape \(3, 1\)"),
    ],
)
def test_wrong_shapes_are_named(logits: torch.Tensor, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        signed_margins(logits, targets)


def test_percentile_must_be_one() -> None:
    with pytest.raises(ValueError, match="percentile must be between 0 and 100, got 101"):
        MarginPercentile(101)


# Of a margin -------------------------------------------------------------------------------------


def measured(metric: ComplexityMetric, net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    metric.update(net, x, y)
    return metric.compute().item()


def test_a_margin_that_is_not_positive_has_no_inverse_and_no_quotient() -> None:
    margins = torch.tensor([-2.0, 0.0, 2.0])
    assert inverse_squared_margin(margins).isnan().tolist() == [True, True, False]
    assert log_over_margin(torch.tensor(1.0), margins).isnan().tolist() == [True, True, False]
    net, targets = nn.Identity(), torch.tensor([1, 1, 1])
    assert math.isnan(measured(InverseSquaredMargin(percentile=0), net, LOGITS, targets))
    assert measured(InverseSquaredMargin(percentile=100), net, LOGITS, targets) == 1 / 2**2


def test_mean_margin_and_its_standard_error() -> None:
    metric = MeanMargin()
    for i in range(3):
        metric.update(nn.Identity(), LOGITS[i : i + 1], torch.tensor([0, 1, 0])[i : i + 1])
    assert metric.compute() == -1 / 3
    assert metric.standard_error().item() == pytest.approx(np.std([1, 0, -2], ddof=1) / math.sqrt(3))


def test_smooth_margin_loss_is_cross_entropy_and_sklearns_hinge_at_its_ends() -> None:
    logits, targets = torch.randn(20, 4), torch.arange(20) % 4
    torch.testing.assert_close(
        smooth_margin_losses(logits, targets, margin=0.0), F.cross_entropy(logits, targets, reduction="none")
    )
    hinge = smooth_margin_losses(logits, targets, margin=1.0, temperature=1e-3).mean().item()
    assert hinge == pytest.approx(hinge_loss(targets.numpy(), logits.numpy()), abs=2e-3)
    losses = smooth_margin_losses(logits, targets, margin=5.0, temperature=0.5)
    assert measured(SmoothMarginLoss(5.0, temperature=0.5), nn.Identity(), logits, targets) == pytest.approx(
        losses.mean().item()
    )


# Over a capacity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capacity", "equation", "name"),
    [
        (None, "log_prod_of_spec_over_margin", "log_spectral_product_over_margin"),
        (LogNormProduct(), "log_prod_of_fro_over_margin", "log_frobenius_product_over_margin"),
        (PathNorm(), "path_norm_over_margin", "log_path_norm_over_margin"),
        (PathNorm(log=False), "path_norm_over_margin", "log_path_norm_over_margin"),
    ],
)
def test_capacities_over_the_margin_are_the_studys(capacity: Any, equation: str, name: str) -> None:
    net, x = mlp(5, 8, 3), torch.randn(10, 5)
    y = net(x).argmax(1)
    metric, study = CapacityOverMargin(capacity, percentile=0), GeneralizationMeasure(equation)
    assert metric.name == name
    expected = measured(study, net, x, y)
    expected = math.log(expected) if equation.startswith("path") else expected
    assert 2 * measured(metric, net, x, y) == pytest.approx(expected)


def test_normalized_margins_do_not_see_how_layers_share_a_factor() -> None:
    net, x = mlp(5, 8, 3, bias=False), torch.randn(10, 5)
    y = torch.arange(10) % 3
    before = measured(NormalizedMargin(), net, x, y)
    assert before < 0
    with torch.no_grad():
        net[0].weight.mul_(3)
        net[2].weight.mul_(7)
    assert measured(NormalizedMargin(), net, x, y) == pytest.approx(before)


def test_normalized_margins_are_a_histogram() -> None:
    net, x, y = mlp(5, 3), torch.randn(10, 5), torch.arange(10) % 3
    metric = NormalizedMargin(ParameterNorm())
    snapshot = Snapshot(net, x, y)
    metric.update(snapshot)
    ((name, values),) = metric.histograms(snapshot).items()
    assert name == f"{metric.name}/margins" == "margin_over_parameter_norm/margins"
    norm = math.sqrt(sum(p.square().sum().item() for p in net.parameters()))
    torch.testing.assert_close(values, signed_margins(net(x), y).detach() / norm)
    assert metric.compute().item() == pytest.approx(np.percentile(values.numpy(), 10))


def test_a_capacity_is_a_metric_of_the_weights() -> None:
    with pytest.raises(TypeError, match=r"a metric of the weights, .*; JacobianNorm depends on the samples"):
        CapacityOverMargin(JacobianNorm())
    with pytest.raises(TypeError, match="got 'PathNorm'"):
        NormalizedMargin("PathNorm")
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        SmoothMarginLoss(temperature=0)


# Positions as samples ------------------------------------------------------------------------------


def by_brute_force(logits: torch.Tensor, targets: torch.Tensor, axis: int, ignored: int = -100) -> tuple[list, list]:
    rows, classes = [], []
    for place in np.ndindex(tuple(targets.shape)):
        if targets[place] != ignored:
            index = list(place)
            index.insert(axis % logits.ndim, slice(None))
            rows.append(logits[tuple(index)].tolist())
            classes.append(int(targets[place]))
    return rows, classes


@pytest.mark.parametrize(
    ("logits", "targets", "class_dim", "axis"),
    [
        ((6, 3), (6,), None, 1),
        ((2, 3, 4), (2, 4), None, 1),
        ((2, 3, 4, 5), (2, 4, 5), None, 1),
        ((2, 4, 3), (2, 4), None, -1),
        ((2, 4, 5, 3), (2, 4, 5), None, -1),
        ((2, 4, 4), (2, 4), None, 1),  # both fit
        ((2, 4, 4), (2, 4), 2, 2),
        ((2, 4, 4), (2, 4), -1, -1),
        ((3, 2, 4), (2, 4), 0, 0),
    ],
)
def test_positions_count_as_samples(
    logits: tuple[int, ...], targets: tuple[int, ...], class_dim: int | None, axis: int
) -> None:
    values = torch.randn(logits)
    classes = torch.randint(0, logits[axis], targets)
    classes.view(-1)[::3] = -100
    found = positions_as_samples(values, classes, class_dim=class_dim)
    rows, expected = by_brute_force(values, classes, axis)
    assert found.logits.tolist() == rows
    assert found.targets.tolist() == expected
    assert torch.equal(found.kept, classes != -100)


def test_another_target_may_be_ignored() -> None:
    logits = torch.randn(4, 3)
    found = positions_as_samples(logits, torch.tensor([0, 2, 1, 2]), ignore_index=2)
    assert torch.equal(found.logits, logits[[0, 2]])
    assert found.targets.tolist() == [0, 1]


def test_the_kept_positions_give_the_loss_of_torch() -> None:
    logits, targets = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    targets[0, :2] = -100
    rows, classes, _ = positions_as_samples(logits, targets)
    cross_entropy = torch.nn.functional.cross_entropy
    torch.testing.assert_close(cross_entropy(rows, classes), cross_entropy(logits, targets))


@pytest.mark.parametrize(
    ("logits", "targets", "options", "message"),
    [
        ((2, 3), [0, 3], {}, "needs targets from 0 to 2, or -100 where a position does not count, got 0 to 3"),
        ((2, 3), [-1, 0], {}, "got -1 to 0"),
        ((2, 3), [-100, -100], {}, "every target is the ignored -100"),
        ((2, 3), [0, -100], {"ignore_index": 255}, "or 255 where a position does not count, got -100 to 0"),
        ((2, 3), [0.0, 1.0], {}, "integer class targets"),
        ((2, 3), [0, 1, 2], {}, r"targets of shape \(2,\)"),
        ((2, 1), [0, 0], {}, r"classes >= 2"),
        ((2,), [0, 0], {}, r"classes on axis 1 or the last .* got logits \(2,\) and targets \(2,\)"),
        ((2, 3, 4), [0, 1], {}, r"classes on axis 1 or the last"),
        ((2, 3, 4), [0, 1], {"class_dim": 1}, r"classes on axis 1 and targets"),
        ((2, 3), [0, 1], {"class_dim": 5}, r"classes on axis 5"),
    ],
)
def test_what_is_no_sample(logits: tuple[int, ...], targets: list[float], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        positions_as_samples(torch.randn(logits), torch.tensor(targets), **options)
