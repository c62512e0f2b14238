"""Margins, by hand and against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lightning_complexity.functional import margin_percentile, signed_margins
from lightning_complexity.metrics import MarginPercentile

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
