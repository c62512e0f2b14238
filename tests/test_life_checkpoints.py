"""Callbacks that look at our values see those of the weights they act on; checkpoints bring everything back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, ComplexityPenalty, regularizers
from lightning_complexity.callbacks import NeuronPruning
from lightning_complexity.recording import read_record
from tests.networks import mlp
from tests.quick import quick_suite
from tests.training import Classifier, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
]

X = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
KEY = "complexity/parameter_norm"


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=4)  # six steps an epoch


class BySteps(Classifier):
    """Trains on what the step says, as the position of a loader is not in checkpoints."""

    def training_step(self, batch: Any) -> Tensor:
        rows = torch.arange(4) + self.global_step
        return torch.nn.functional.cross_entropy(self(X[rows % 24]), Y[rows % 24])


def fitted(*callbacks: Any, ckpt_path: Any = None, validates: bool = True, **options: Any) -> pl.Trainer:
    torch.manual_seed(0)
    saves = any(isinstance(c, ModelCheckpoint) for c in callbacks)
    fit = trainer(callbacks=list(callbacks), **{"enable_checkpointing": saves, "max_epochs": 4, **options})
    fit.fit(BySteps(mlp(4, 6, 3)), data(), data() if validates else None, ckpt_path=ckpt_path)
    return fit


def norm(path: str) -> float:
    state = torch.load(path, weights_only=True)["state_dict"]
    return float(sum(value.square().sum() for value in state.values()).sqrt())


WHEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "each epoch": ({}, {}),
    "every second validation": ({}, {"check_val_every_n_epoch": 2}),
    "validation within epochs": ({}, {"val_check_interval": 0.5}),
    "validation across epochs": ({}, {"val_check_interval": 4, "check_val_every_n_epoch": None}),
    "steps": ({"every_n_train_steps": 4}, {}),
    "steps and validation": ({"every_n_train_steps": 4}, {"val_check_interval": 3}),
    "accumulated steps": ({"every_n_train_steps": 2}, {"accumulate_grad_batches": 2}),
    "second epochs": ({"every_n_epochs": 2}, {}),
}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("when", WHEN)
def test_a_checkpoint_is_ranked_by_the_weights_that_it_holds(when: str, order: int, tmp_path: Path) -> None:
    saving, options = WHEN[when]
    best = ModelCheckpoint(tmp_path, monitor=KEY, mode="max", save_top_k=-1, **saving)
    monitor = ComplexityMonitor(["ParameterNorm"], every_n_epochs=None)
    fitted(*[best, monitor][::order], **options)
    assert len(best.best_k_models) >= 2
    for path, score in best.best_k_models.items():
        assert float(score) == pytest.approx(norm(path), rel=1e-6)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("options", [{}, {"val_check_interval": 0.5}, {"check_val_every_n_epoch": 2}])
def test_early_stopping_sees_the_value_of_the_moment(options: dict[str, Any], order: int) -> None:
    seen = []

    class Looking(EarlyStopping):
        def _run_early_stopping_check(self, trainer: Any) -> None:
            weights = [p.detach().square().sum() for p in trainer.lightning_module.parameters()]
            seen.append((float(trainer.callback_metrics[KEY]), float(sum(weights).sqrt())))
            super()._run_early_stopping_check(trainer)

    fitted(*[Looking(KEY, patience=99), ComplexityMonitor(["ParameterNorm"], every_n_epochs=None)][::order], **options)
    assert len(seen) >= 2
    assert [value for value, _ in seen] == pytest.approx([truth for _, truth in seen])


def test_a_plateau_scheduler_sees_the_value_of_the_moment() -> None:
    class Scheduled(BySteps):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10)
            scheduler = {"scheduler": plateau, "monitor": KEY, "interval": "step", "frequency": 2}
            return {"optimizer": optimizer, "lr_scheduler": scheduler}

    monitor = ComplexityMonitor(["ParameterNorm"], every_n_epochs=None)
    trainer(callbacks=[monitor], max_epochs=1).fit(Scheduled(mlp(4, 6, 3)), data())
    assert [m.step for m in monitor.history] == [0, 2, 4, 6]


def test_what_cannot_be_ranked_is_said_before_training(tmp_path: Path) -> None:
    from datetime import timedelta

    timed = ModelCheckpoint(tmp_path, monitor=KEY, train_time_interval=timedelta(seconds=1))
    with pytest.raises(ValueError, match=r"train_time_interval=...\) saves after steps.*every_n_steps=1"):
        fitted(timed, ComplexityMonitor(["ParameterNorm"]))
    averaged = ModelCheckpoint(tmp_path, monitor=KEY)
    with pytest.warns(UserWarning, match="saves averaged weights, but 'complexity/parameter_norm' is measured on"):
        fitted(averaged, ComplexityMonitor(["ParameterNorm"]), EMAWeightAveraging())


# Going on ---------------------------------------------------------------------------------------


def without_clock(monitor: ComplexityMonitor) -> list[Any]:
    clock = "complexity/overhead"
    return [(m.step, {k: v for k, v in m.values.items() if k != clock}) for m in monitor.history]


SAVING: dict[str, Callable[[Path], tuple[ModelCheckpoint, dict[str, Any]]]] = {
    "after a step": lambda path: (ModelCheckpoint(path, "a", every_n_train_steps=8), {}),
    "after the last step of an epoch": lambda path: (ModelCheckpoint(path, "a", every_n_train_steps=6), {}),
    "after a validation": lambda path: (ModelCheckpoint(path, "a"), {"val_check_interval": 4}),
    "after the validation of an epoch": lambda path: (ModelCheckpoint(path, "a", save_on_train_epoch_end=False), {}),
    "at the end of an epoch": lambda path: (ModelCheckpoint(path, "a", save_on_train_epoch_end=True), {}),
}


@pytest.mark.parametrize("saving", SAVING)
def test_a_continued_run_is_the_same_to_the_last_bit(saving: str, tmp_path: Path) -> None:
    def monitor() -> ComplexityMonitor:
        return ComplexityMonitor(["StableRank", "JacobianNorm", "DistanceFromInitialization"], every_n_steps=1)

    whole, first, second = monitor(), monitor(), monitor()
    checkpoint, options = SAVING[saving](tmp_path / "a")
    fitted(whole, max_steps=20, **options)
    # Lightning counts an epoch twice that ends with the training: 20 steps may take it more epochs.
    options["max_epochs"] = 9
    fitted(first, checkpoint, max_steps=9, logger=CSVLogger(tmp_path, "", "x"), **options)
    torch.manual_seed(5)
    logger = CSVLogger(tmp_path, "", "y")
    fitted(second, ckpt_path=tmp_path / "a" / "a.ckpt", max_steps=20, logger=logger, **options)
    assert without_clock(second) == without_clock(whole)
    assert [m.step for m in second.history] == list(range(21))
    assert read_record(logger.log_dir) == second.history


def test_the_last_values_are_there_before_anything_asks(tmp_path: Path) -> None:
    seen: list[float] = []

    class Asking(pl.Callback):
        def on_train_start(self, trainer: Any, *args: Any) -> None:
            seen.append(float(trainer.callback_metrics[KEY]))

    saving = ModelCheckpoint(tmp_path, "{step}", monitor=KEY, every_n_train_steps=4, save_top_k=-1)
    first = ComplexityMonitor(["ParameterNorm"])
    fitted(first, saving, max_epochs=2)
    stopping = EarlyStopping(KEY, patience=99)
    again = ModelCheckpoint(tmp_path / "b", "{step}", monitor=KEY, every_n_train_steps=4, save_top_k=-1)
    second = ComplexityMonitor(["ParameterNorm"])
    fitted(Asking(), second, stopping, again, ckpt_path=tmp_path / "step=8.ckpt")
    assert seen == pytest.approx([m.values[KEY] for m in first.history if m.step == 8])
    assert {int(path.stem[5:]) for path in (tmp_path / "b").iterdir()} == {12, 16, 20, 24}


# What is in them --------------------------------------------------------------------------------


def everything() -> list[Any]:
    return [
        ComplexityMonitor(quick_suite("full"), loss=torch.nn.functional.cross_entropy),
        ComplexityMonitor(["JacobianNorm"], probe=(X + 1, Y), name="shifted"),
        ComplexityPenalty(regularizers.LogSpectralProduct(1e-3), regularizers.DistanceFromInitialization(1e-3)),
        ComplexityConstraint(regularizers.JacobianNorm(), at_most=0.1, every_n_steps=2),
        NeuronPruning(0.3, at_epochs=[1]),
    ]


def test_they_load_with_weights_only_and_without_the_package(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    fitted(*everything(), max_epochs=1).save_checkpoint(path)
    code = (
        "import sys, torch; sys.modules['lightning_complexity'] = None\n"
        f"print(sorted(torch.load({str(path)!r}, weights_only=True)['callbacks']))"
    )
    keys = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "'ComplexityMonitor'" in keys
    assert keys.count("Complexity") == 4
    fitted(*everything(), ckpt_path=path, max_epochs=2)


@pytest.mark.filterwarnings("error:Be aware that when using `ckpt_path`:UserWarning")
def test_a_run_goes_on_with_other_metrics_and_options(tmp_path: Path) -> None:
    first = ComplexityMonitor(["StableRank", "PathNorm"])
    fitted(first, max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    second = ComplexityMonitor(["StableRank", "ParameterNorm"], every_n_steps=3, per_layer=True)
    fitted(second, ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
    assert second.curve("stable_rank")[0] == [0, 6, 9, 12]
    assert second.curve("log_path_norm")[0] == [0, 6]
    assert second.curve("parameter_norm")[0] == [9, 12]
    torch.testing.assert_close(second._probes.train.inputs, first._probes.train.inputs)


def test_a_distance_from_a_start_that_was_not_kept_is_refused(tmp_path: Path) -> None:
    fitted(ComplexityMonitor(["StableRank"]), max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    monitor = ComplexityMonitor(["StableRank", "DistanceFromInitialization"])
    with pytest.warns(UserWarning, match="leaves out distance_from_initialization.*the checkpoint does not have"):
        fitted(monitor, ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
    assert monitor.curve("stable_rank")[0] == [0, 6, 12]


def test_a_second_monitor_may_come_and_go(tmp_path: Path) -> None:
    def pair() -> list[ComplexityMonitor]:
        return [ComplexityMonitor(["StableRank"]), ComplexityMonitor(["PathNorm"])]

    one, (first, second), (alone, _) = ComplexityMonitor(["StableRank"]), pair(), pair()
    fitted(one, max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    fitted(first, second, ckpt_path=tmp_path / "a.ckpt", max_epochs=2).save_checkpoint(tmp_path / "b.ckpt")
    fitted(alone, ckpt_path=tmp_path / "b.ckpt", max_epochs=3)
    assert [m.step for m in first.history] == [0, 6, 12]
    assert [m.step for m in second.history] == [6, 12]
    assert len(alone.history) in (1, 4)


def test_a_penalty_goes_on_beside_a_new_one(tmp_path: Path) -> None:
    first = ComplexityPenalty(regularizers.LogSpectralProduct(1e-3))
    fitted(first, max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    second = ComplexityPenalty(regularizers.LogSpectralProduct(1e-3), regularizers.PathNorm(1e-3))
    fitted(second, ckpt_path=tmp_path / "a.ckpt", max_epochs=2)
    assert [measure.calls for measure in second.measures] == [12, 6]
