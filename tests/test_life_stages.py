"""The other stages of a run, and its sudden ends; the validation probe wherever there are validation data."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, ComplexityPenalty, metrics, regularizers
from lightning_complexity.callbacks import NeuronPruning
from tests.networks import mlp
from tests.test_contract import assert_same
from tests.training import Classifier, trainer

X = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def data(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=4, **options)


def everything() -> list[Any]:
    return [
        ComplexityMonitor(["StableRank", "JacobianNorm"], every_n_steps=2),
        ComplexityPenalty(regularizers.PathNorm(0.0)),
        ComplexityConstraint(metrics.JacobianNorm(), at_most=0.5, every_n_steps=2),
        NeuronPruning(0.3, at_epochs=[1]),
    ]


class AllStages(Classifier):
    test_step = Classifier.validation_step

    def predict_step(self, batch: Any) -> Tensor:
        return self(batch[0])


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("after_fit", [False, True])
def test_other_stages_are_left_alone(stage: str, after_fit: bool) -> None:
    callbacks, module = everything(), AllStages(mlp(4, 8, 3))
    fit = trainer(callbacks=callbacks)
    if after_fit:
        fit.fit(module, data(), data())
    before, state = list(callbacks[0].history), {k: v.clone() for k, v in module.state_dict().items()}
    getattr(fit, stage)(module, data(), **({} if stage == "predict" else {"verbose": False}))
    assert callbacks[0].history == before
    assert bool(before) == after_fit
    assert_same(module.state_dict(), state)


def test_a_fast_run_measures_and_writes_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    callbacks = everything()
    logger = pl.loggers.CSVLogger(tmp_path)
    trainer(callbacks=callbacks, fast_dev_run=3, logger=logger).fit(AllStages(mlp(4, 8, 3)), data(), data())
    assert [m.step for m in callbacks[0].history] == [0, 2, 3]
    assert not list(tmp_path.iterdir())


def test_a_run_that_its_time_ends_is_measured_at_its_end() -> None:
    class Slow(Classifier):
        def training_step(self, batch: Any) -> Tensor:
            time.sleep(0.02)
            return super().training_step(batch)

    callbacks = everything()
    fit = trainer(callbacks=callbacks, max_epochs=1000, max_time=timedelta(seconds=0.5))
    fit.fit(Slow(mlp(4, 8, 3)), data())
    assert callbacks[0].history[-1].step == fit.global_step < 6000


@pytest.mark.filterwarnings(
    "ignore:ComplexityMonitor leaves out probe/train_loss:UserWarning"
)  # the step fails there too
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("moment", ["training_step", "validation_step", "on_train_epoch_end", "on_train_start"])
def test_an_error_of_the_user_stays_and_leaves_everything_in_order(moment: str, error: type[BaseException]) -> None:
    class Failing(Classifier):
        fails = True

    def fail(self: Failing, *args: Any) -> Any:
        if self.fails and (self.trainer.global_step == 4 or moment != "training_step"):
            raise error("of the user")
        return getattr(Classifier, moment)(self, *(args[:1] if moment.endswith("step") else args))

    setattr(Failing, moment, fail)
    callbacks, module = everything(), Failing(mlp(4, 8, 3))
    fit = trainer(callbacks=callbacks, num_sanity_val_steps=0)
    # Lightning ends the program at an interrupt.
    with pytest.raises(SystemExit if error is KeyboardInterrupt else RuntimeError):
        fit.fit(module, data(), data())
    assert not {"training_step", "manual_backward"} & module.__dict__.keys()
    monitor = callbacks[0]
    if monitor.history:
        assert monitor.overhead == monitor.overhead
    module.fails = False
    module.train()  # Lightning leaves the mode of a validation
    trainer(callbacks=callbacks).fit(module, data(), data())
    assert [m.step for m in monitor.history] == [0, 2, 4, 6, 8, 10, 12]


# The validation probe ----------------------------------------------------------------------------


class Hooks(Classifier):
    """Its loaders come from hooks, of which one draws random numbers."""

    def __init__(self) -> None:
        super().__init__(mlp(4, 8, 3))
        self.losses: list[float] = []

    def training_step(self, batch: Any) -> Tensor:
        loss = super().training_step((batch[0] + 0.1 * torch.randn(()) + random.random(), batch[1]))
        self.losses.append(loss.item())
        return loss

    def train_dataloader(self) -> Any:
        return data(shuffle=True)

    def val_dataloader(self) -> Any:
        np.random.rand()
        return DataLoader(random_split(TensorDataset(X, Y), [16, 8])[1], batch_size=4)


EARLY: dict[str, dict[str, Any]] = {
    "every second epoch": {"check_val_every_n_epoch": 2},
    "no sanity check": {"num_sanity_val_steps": 0},
    "neither": {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0},
    "later than the first epoch": {"num_sanity_val_steps": 0, "val_check_interval": 9, "check_val_every_n_epoch": None},
    "new loaders": {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0, "reload_dataloaders_every_n_epochs": 1},
}


@pytest.mark.parametrize("when", EARLY)
def test_the_validation_probe_is_there_from_the_start_and_changes_nothing(when: str) -> None:
    def run(*callbacks: Any) -> dict[str, Any]:
        pl.seed_everything(3, verbose=False)
        module = Hooks()
        fit = trainer(callbacks=list(callbacks), max_epochs=4, **EARLY[when])
        fit.fit(module)
        states = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]
        logged = {k: v for k, v in fit.callback_metrics.items() if k in ("train_loss", "val_loss")}
        return {"losses": module.losses, "state": module.state_dict(), "random": states, "logged": logged}

    plain = run()
    monitor = ComplexityMonitor(["StableRank", "JacobianNorm"])
    assert_same(run(monitor), plain)
    for measurement in monitor.history:
        assert {"probe/val_loss", "probe/generalization_gap"} <= measurement.values.keys()


def test_no_validation_probe_where_validation_is_switched_off() -> None:
    monitor = ComplexityMonitor(["StableRank"])
    trainer(callbacks=[monitor], limit_val_batches=0).fit(Hooks())
    assert "probe/val_loss" not in monitor.history[-1].values
