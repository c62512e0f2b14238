"""Trainings by Lightning that report to the pruner, and end where it says so."""

from __future__ import annotations

import math
import re
from typing import Any

import optuna
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity.selection.stopping import EarlyVerdictCallback, EarlyVerdictPruner


class Net(pl.LightningModule):
    def __init__(self, rate: float = 0.1, explode: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.rate, self.explode = rate, explode

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        self.log("val_loss", loss * (math.nan if self.explode else 1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=self.rate)


class Count(pl.Callback):
    def __init__(self) -> None:
        self.epochs, self.exceptions = 0, []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs += 1

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.exceptions.append(exception)


def fit(net: Net, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    torch.manual_seed(1)
    x = torch.randn(32, 3)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    options = {"max_epochs": 10, **options}
    trainer = pl.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(net, DataLoader(data, batch_size=8, shuffle=True), DataLoader(data, batch_size=8))
    return trainer


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = EarlyVerdictPruner(0.2, keep=0, features=["losses"])
    return optuna.create_study(
        directions=["minimize"] * 2, pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0)
    )


def objective(study: optuna.Study, trials: list[Count], rates: list[float]) -> Any:
    def run(trial: optuna.Trial) -> tuple[float, float]:
        rate = rates[trial.number]
        trial.suggest_float("rate", 1e-4, 1)
        count = Count()
        trials.append(count)
        size = 5 if trial.number == 7 else 10
        study.pruner.set_exact(trial, {1: size})
        trainer = fit(Net(rate), count, EarlyVerdictCallback(study.pruner, trial, losses=["val_loss", "train_loss"]))
        return float(trainer.callback_metrics["val_loss"]), size

    return run


def test_a_search_prunes_hopeless_trainings_and_goes_on(study: optuna.Study) -> None:
    counts: list[Count] = []
    rates = [0.01, 0.02, 0.03, 0.05, 0.1, 0.0002, 0.07, 0.03]
    study.optimize(objective(study, counts, rates), n_trials=8)
    states = [trial.state.name for trial in study.trials]
    assert states[:6] == ["COMPLETE"] * 5 + ["PRUNED"]
    assert states[-1] == "COMPLETE"  # smaller than all others
    pruned = study.trials[5]
    assert re.search(r"dominated by trial [0-4]:", pruned.user_attrs["early:reason"])
    assert counts[5].epochs in (1, 2)  # the hook of the second epoch is this callback's or the counter's first
    assert isinstance(counts[5].exceptions[0], optuna.TrialPruned)
    assert counts[4].epochs == 10


def test_a_training_that_is_not_pruned_is_the_same_bit_for_bit(study: optuna.Study) -> None:
    ends = []
    for watched in (False, True):
        net = Net()
        callbacks = [EarlyVerdictCallback(study.pruner, study.ask(), losses=["val_loss"])] if watched else []
        fit(net, *callbacks)
        ends.append([p.clone() for p in net.parameters()] + [torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_reports_are_at_the_ends_of_epochs_and_at_validations_inside(study: optuna.Study) -> None:
    trial = study.ask()
    callback = EarlyVerdictCallback(study.pruner, trial, losses=["val_loss"])
    fit(Net(), callback, max_epochs=2, val_check_interval=2)  # of four batches
    reports = sorted(float(n.removeprefix("early:report:")) for n in trial.user_attrs if n.startswith("early:report"))
    assert reports == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("options", "first"), [({"max_epochs": -1, "max_steps": 16}, 0.25), ({"accumulate_grad_batches": 3}, 0.1)]
)
def test_progress_is_of_the_length_that_the_trainer_has(
    study: optuna.Study, options: dict[str, Any], first: float
) -> None:
    trial = study.ask()
    fit(Net(), EarlyVerdictCallback(study.pruner, trial, losses=["val_loss"]), **options)
    reports = sorted(float(n.removeprefix("early:report:")) for n in trial.user_attrs if n.startswith("early:report"))
    assert reports[0] == pytest.approx(first)
    assert reports[-1] == 1.0


def test_a_loss_that_is_not_a_number_ends_the_training(study: optuna.Study) -> None:
    net, count = Net(explode=True), Count()
    with pytest.raises(optuna.TrialPruned, match="diverged: val_loss is nan"):
        fit(net, EarlyVerdictCallback(study.pruner, study.ask(), losses=["val_loss"]), count)
    assert len(count.exceptions) == 1
    fit(Net(), max_epochs=1)  # nothing is left behind


def test_what_is_not_logged_is_said_with_what_is(study: optuna.Study) -> None:
    callback = EarlyVerdictCallback(study.pruner, study.ask(), losses=["val_error"])
    with pytest.raises(
        ValueError, match=r"nothing was logged as 'val_error' after 20% .* there are train_loss, val_loss"
    ):
        fit(Net(), callback)


def test_a_training_without_an_end_is_refused(study: optuna.Study) -> None:
    callback = EarlyVerdictCallback(study.pruner, study.ask(), losses=["val_loss"])
    with pytest.raises(ValueError, match="give the Trainer max_epochs or max_steps"):
        fit(Net(), callback, max_epochs=-1)


def test_names_must_be_given(study: optuna.Study) -> None:
    with pytest.raises(ValueError, match="losses must name at least one"):
        EarlyVerdictCallback(study.pruner, study.ask(), losses=[])
    with pytest.raises(TypeError, match=r"write \['val_loss'\]"):
        EarlyVerdictCallback(study.pruner, study.ask(), losses="val_loss")
