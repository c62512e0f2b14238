"""The probe lies inside what is trained, or validated, on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor
from tests.networks import mlp
from tests.training import Classifier, trainer

NUMBERS = torch.arange(24, dtype=torch.float64)
SEEN: dict[str, set[int]] = {"evaluated": set(), "trained": set()}


class Noting(Classifier):
    """Notes which samples come by, outside of itself, where nothing is put back."""

    def __init__(self) -> None:
        super().__init__(mlp(1, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        SEEN["trained" if self.training else "evaluated"].update(x[:, 0].int().tolist())
        return super().forward(x)


def data(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(NUMBERS[:, None], torch.arange(24) % 3), batch_size=4, **options)


@pytest.mark.parametrize(
    "options", [{"overfit_batches": 2}, {"limit_train_batches": 2}, {"limit_train_batches": 0.25}], ids=str
)
def test_the_training_probe_is_inside_what_is_trained_on(options: dict[str, Any]) -> None:
    for numbers in SEEN.values():
        numbers.clear()
    trainer(callbacks=[ComplexityMonitor(["MarginPercentile"])], **options).fit(Noting(), data())
    assert SEEN["evaluated"]
    assert SEEN["evaluated"] <= SEEN["trained"]


def test_a_shuffled_probe_may_be_any_of_the_samples() -> None:
    for numbers in SEEN.values():
        numbers.clear()
    monitor = ComplexityMonitor(["MarginPercentile"])
    trainer(callbacks=[monitor], limit_train_batches=2, max_epochs=30).fit(Noting(), data(shuffle=True))
    assert SEEN["evaluated"] <= SEEN["trained"]
