"""Parameter counts, by hand."""

from __future__ import annotations

from torch import nn

from lightning_complexity.metrics import ParameterCount, ParameterNorm


def count(model: nn.Module, **options: bool) -> int:
    metric = ParameterCount(**options)
    metric.update(model)
    return int(metric.compute())


def test_biases_count_and_ties_count_once() -> None:
    assert count(nn.Linear(3, 2)) == 8
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert count(tied) == 9 + 3 + 3
    assert count(nn.Conv2d(4, 6, 3, groups=2, bias=False)) == 6 * 2 * 9


def test_frozen_parameters_can_be_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    assert count(model, trainable_only=True) == 3


def test_a_network_without_parameters_has_none() -> None:
    assert count(nn.ReLU()) == 0
    norm = ParameterNorm()
    norm.update(nn.ReLU())
    assert norm.compute() == 0
