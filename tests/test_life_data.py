"""The probe lies inside what is trained, or validated, on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, metrics
from tests.networks import mlp
from tests.test_contract import assert_same
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


class Hooks:
    """Hooks for data that count, normalize by what came by, and remember what they made."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.mean, self.calls, self.made = torch.zeros(1, dtype=torch.float64), list[str](), None

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.calls.append("before")
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.mean.lerp_(batch[0].mean(), 0.1)
        return [batch[0] - self.mean, batch[1]]

    def val_dataloader(self) -> DataLoader[Any]:
        self.calls.append("val_dataloader")
        self.made = data()
        return self.made


class Hooked(Hooks, Classifier):
    pass


class HookedData(Hooks, LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return data()


@pytest.mark.parametrize("of_data_module", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2}], ids=["now", "late"]
)
@pytest.mark.parametrize("observer", ["monitor", "given probe", "constraint"])
def test_hooks_for_data_go_on_as_if_no_probe_had_been_drawn(
    observer: str, options: dict[str, Any], of_data_module: bool
) -> None:
    observers: dict[str, Any] = {
        "monitor": lambda: ComplexityMonitor(["MarginPercentile"]),
        "given probe": lambda: ComplexityMonitor(["MarginPercentile"], probe=(NUMBERS[:4, None], torch.arange(4) % 3)),
        "constraint": lambda: ComplexityConstraint(metrics.GradientNorm(), at_most=1e6),
    }

    def trained(callbacks: list[Any]) -> Any:
        torch.manual_seed(1)
        module = Classifier(mlp(1, 4, 3)) if of_data_module else Hooked(mlp(1, 4, 3))
        hooked = HookedData() if of_data_module else module
        source = {"datamodule": hooked} if of_data_module else {"train_dataloaders": data()}
        trainer(callbacks=callbacks, **options).fit(module, **source)
        return hooked.calls, hooked.mean, hooked.made is not None, module.state_dict()

    assert_same(trained([]), trained([observers[observer]()]))
