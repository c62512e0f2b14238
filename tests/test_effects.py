"""Every penalty holds its measure down on real data, at about the same training accuracy."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_complexity import metrics, regularizers
from lightning_complexity.network import Snapshot, accuracy, initial_state
from lightning_complexity.regularizers import Regularizer
from tests.networks import mlp

LEAST_FALL = 0.15  # of the measure itself; of a logarithm the difference
OPTIONS = {"HessianTrace": {"num_probes": 4}}  # with one, the estimate is so noisy that the trace may rise
EXPORTED = [getattr(regularizers, name) for name in regularizers.__all__]
PENALTIES = [c for c in EXPORTED if isinstance(c, type) and issubclass(c, Regularizer) and c is not Regularizer]


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.data[:600]).float() / 16, torch.tensor(data.target[:600])


def trained(penalty: Regularizer | None, seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(seed)
    model = mlp(64, 32, 32, 10).float()
    start, (x, y) = initial_state(model), digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    for epoch in range(50):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(50):
            optimizer.zero_grad()
            inputs, targets = x[rows], y[rows]
            loss = F.cross_entropy(model(inputs), targets)
            if penalty is not None:
                loss = loss + penalty(model, inputs, targets)
            loss.backward()
            optimizer.step()
    return model, start


@cache
def unpenalised(seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    return trained(None, seed)


def measured(name: str, run: tuple[nn.Module, dict[str, Tensor]]) -> tuple[float, float]:
    model, start = run
    snapshot = Snapshot(model, *digits(), initial=start)
    metric = getattr(metrics, name)()
    metric.update(snapshot)
    return metric.compute().item(), accuracy(snapshot).item()


@pytest.mark.parametrize(
    "cls", [pytest.param(cls, marks=pytest.mark.slow) if place % 2 else cls for place, cls in enumerate(PENALTIES)]
)
def test_a_penalty_lowers_its_measure_at_similar_accuracy(cls: type[Regularizer]) -> None:
    name = cls.__name__
    without, accuracy = measured(name, unpenalised())
    penalised, accuracy_penalised = measured(name, trained(cls(cls.example_strength, **OPTIONS.get(name, {}))))
    fall = without - penalised
    if not getattr(metrics, name)().is_logarithm:
        fall /= abs(without)
    fall *= 1 if cls.example_strength > 0 else -1
    assert fall > LEAST_FALL
    assert accuracy_penalised > accuracy - 0.03
