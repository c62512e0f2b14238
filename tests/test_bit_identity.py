"""Training with an observer is the same training, to the last bit; so is training with a penalty of strength 0."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_complexity import ComplexityMonitor, ComplexityPenalty, regularizers
from tests.quick import quick_suite
from tests.test_contract import REGULARIZERS, assert_same
from tests.training import Delicate, loader, trainer


@pytest.fixture(autouse=True)
def single_precision(seeded_double_precision: None) -> None:
    torch.set_default_dtype(torch.float32)


def trained(callbacks: list[Any], model: Delicate | None = None, **options: Any) -> dict[str, Any]:
    """Everything there is after a short training."""
    pl.seed_everything(5, verbose=False)
    model = model or Delicate()
    fit = trainer(callbacks=callbacks, **options)
    fit.fit(model, loader(shuffle=True), loader(8))
    return {
        "state": model.state_dict(),
        "optimizer": fit.optimizers[0].state_dict(),
        "random": [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()],
        "losses": model.losses,
        "logged": {k: v for k, v in fit.callback_metrics.items() if k in ("train_loss", "val_loss")},
        "modes": [m.training for m in model.modules()],
        "gradients": [p.grad for p in model.parameters()],
    }


def test_two_plain_trainings_are_equal_and_other_seeds_are_not() -> None:
    assert_same(trained([]), trained([]))
    pl.seed_everything(5, verbose=False)
    other = Delicate()
    with torch.no_grad():
        other.net[0].weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(AssertionError):
        assert_same(trained([])["losses"], trained([], other)["losses"])


@pytest.mark.parametrize(
    "options",
    [  # others are in test_observer_matrix.py
        {},
        pytest.param({"val_check_interval": 2}, marks=pytest.mark.slow),
        pytest.param({"gradient_clip_val": 0.1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_monitor_changes_nothing(options: dict[str, Any]) -> None:
    monitor = ComplexityMonitor(quick_suite("full", per_layer=True), every_n_steps=1)
    assert_same(trained([], **options), trained([monitor], **options))
    assert len(monitor.history) > 3
    assert len(monitor.history[-1].values) > 20


def test_monitor_with_a_loader_as_probe_changes_nothing() -> None:
    assert_same(trained([]), trained([ComplexityMonitor("fast", probe=loader(16, shuffle=True))]))


def test_monitor_changes_nothing_for_the_other_lightning() -> None:
    lightning = importlib.import_module("lightning.pytorch")

    class Other(lightning.LightningModule):
        forward, training_step = Delicate.forward, Delicate.training_step
        configure_optimizers = Delicate.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            inner = Delicate()
            self.frozen, self.net, self.losses = inner.frozen, inner.net, []

    def weights(callbacks: list[Any]) -> dict[str, Tensor]:
        pl.seed_everything(5, verbose=False)
        model = Other()
        lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(model, loader(shuffle=True))
        return model.state_dict()

    monitor = ComplexityMonitor(every_n_steps=1)
    assert_same(weights([]), weights([monitor]))
    assert monitor.history


def zero_strength() -> ComplexityPenalty:
    return ComplexityPenalty(*(cls(0.0) for cls in REGULARIZERS))


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}], ids=str)
def test_penalty_of_strength_zero_changes_nothing(options: dict[str, Any]) -> None:
    assert_same(trained([], **options), trained([zero_strength()], **options))


class ComputedAndIgnored(Delicate):
    """Computes penalties, gradients included, and throws them away."""

    def __init__(self, make: Callable[[], regularizers.Regularizer]) -> None:
        super().__init__()
        self.__dict__["penalty"] = make()  # not registered, so that both trainings have the same modules

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        value = self.penalty(self, *batch)
        torch.autograd.grad(value, list(self.parameters()), allow_unused=True)
        return loss + 0.0 * value.detach()


@pytest.mark.parametrize("cls", REGULARIZERS)
def test_computing_a_penalty_changes_nothing(cls: type[regularizers.Regularizer]) -> None:
    pl.seed_everything(5, verbose=False)
    assert_same(trained([], _fresh(Delicate)), trained([], _fresh(lambda: ComputedAndIgnored(lambda: cls(1.0)))))


def _fresh(make: Callable[[], Delicate]) -> Delicate:
    pl.seed_everything(5, verbose=False)
    return make()
