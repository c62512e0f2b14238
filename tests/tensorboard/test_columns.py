"""Final values of complexity among hyper-parameters: what Lightning and the user write stays, and comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_complexity import ComplexityMonitor
from tests.networks import mlp
from tests.tensorboard.runs import Tuned, fitted, plain, written
from tests.training import Classifier

MEASURES = ["ParameterNorm", "JacobianNorm"]
OURS = ["probe/generalization_gap", "complexity/parameter_norm", "complexity/jacobian_norm"]
FIT = ["probe/val_loss", "probe/val_accuracy", "probe/accuracy_gap"]


def logger(folder: Path, **options: Any) -> TensorBoardLogger:
    return TensorBoardLogger(folder.parent, name="", version=folder.name, **options)


def test_saved_hyperparameters_keep_their_session_and_hp_metric_and_get_columns(tmp_path: Path) -> None:
    with_monitor, without = tmp_path / "with", tmp_path / "without"
    fitted(with_monitor, [ComplexityMonitor(MEASURES)], Tuned(5))
    fitted(without, [], Tuned(5))
    found, alone = written(with_monitor), written(without)
    assert found.columns() == ["hp_metric", *OURS, *FIT]
    assert [h.name for h in found.experiments[0].hparam_infos] == ["width", "rate"]
    assert found.sessions == alone.sessions == [{"width": 5, "rate": 0.1}]
    assert found.experiments[1:] == alone.experiments
    assert found.scalars["hp_metric"] == alone.scalars["hp_metric"]
    assert (with_monitor / "hparams.yaml").read_text() == (without / "hparams.yaml").read_text()


def test_all_columns_but_those_left_out_have_a_final_value(tmp_path: Path) -> None:
    monitor = ComplexityMonitor(MEASURES)
    fitted(tmp_path / "run", [monitor], Tuned())
    found = written(tmp_path / "run")
    for column in found.columns()[1:]:
        step, value = found.scalars[column][-1]
        assert (step, value) == (6, pytest.approx(monitor.history[-1].values[column]))


def test_a_run_without_hyperparameters_has_those_that_the_trainer_knows(tmp_path: Path) -> None:
    trained = fitted(tmp_path / "run", [ComplexityMonitor(MEASURES)])
    found = written(tmp_path / "run")
    assert found.columns() == [*OURS, *FIT]
    assert found.sessions == [{"parameters": 51, "optimizer": "SGD", "learning_rate": 0.1, "batch_size": 8}]
    assert (tmp_path / "run" / "hparams.yaml").read_text() == "{}\n"
    assert trained.logger.hparams == {} == dict(trained.lightning_module.hparams)


def test_without_validation_there_are_no_empty_columns(tmp_path: Path) -> None:
    fitted(tmp_path / "plain", [ComplexityMonitor(MEASURES)], validation=False)
    fitted(tmp_path / "saved", [ComplexityMonitor(MEASURES)], Tuned(), validation=False)
    assert written(tmp_path / "plain").columns() == OURS[1:]
    assert written(tmp_path / "saved").columns() == ["hp_metric", *OURS[1:]]


def test_what_is_left_out_is_no_column_of_a_run_without_hyperparameters(tmp_path: Path) -> None:
    monitor = ComplexityMonitor(["ParameterNorm", "TwoLayerBound"])
    with pytest.warns(UserWarning, match="leaves out log_two_layer_bound"):
        fitted(tmp_path / "run", [monitor], Classifier(mlp(4, 5, 5, 3).float()))
    assert "complexity/log_two_layer_bound" not in written(tmp_path / "run").columns()


@pytest.mark.parametrize("module", [plain, Tuned])
def test_a_logger_without_default_metric_is_left_to_its_user(module: Any, tmp_path: Path) -> None:
    fitted(
        tmp_path / "run",
        [ComplexityMonitor(MEASURES)],
        module(),
        logger=logger(tmp_path / "run", default_hp_metric=False),
    )
    found = written(tmp_path / "run")
    assert (found.experiments, found.sessions) == ([], [])


def test_hyperparameters_that_the_user_logs_are_the_ones_that_count(tmp_path: Path) -> None:
    own = logger(tmp_path / "run")
    own.log_hyperparams({"seed": 3}, {"score": 1.0})
    fitted(tmp_path / "run", [ComplexityMonitor(MEASURES)], logger=own)
    found = written(tmp_path / "run")
    assert found.columns() == ["score"]
    assert found.sessions == [{"seed": 3}]


def test_a_user_has_both_by_logging_the_final_values(tmp_path: Path) -> None:
    own, monitor = logger(tmp_path / "run", default_hp_metric=False), ComplexityMonitor(MEASURES)
    fitted(tmp_path / "run", [monitor], logger=own)
    last = monitor.history[-1]
    own.log_hyperparams({"seed": 3}, {"test_accuracy": 0.5, **last.values}, step=last.step)
    own.finalize("success")
    found = written(tmp_path / "run")
    assert {"test_accuracy", *OURS} <= set(found.columns())
    assert found.sessions == [{"seed": 3}]
    assert [step for step, _ in found.scalars["complexity/parameter_norm"]] == [0, 3, 6, 6]


def test_an_optimizer_that_is_unlike_others_does_not_end_a_run(tmp_path: Path) -> None:
    class Unlike(Classifier):
        def on_fit_end(self) -> None:
            self.trainer.strategy.optimizers[0].param_groups.clear()

    with pytest.warns(UserWarning, match="SummaryWriter does not take columns of complexity"):
        fitted(tmp_path / "run", [ComplexityMonitor(MEASURES)], Unlike(plain().net))
    assert written(tmp_path / "run").texts


def test_several_monitors_share_one_table(tmp_path: Path) -> None:
    monitors = [ComplexityMonitor(["ParameterNorm"]), ComplexityMonitor(["StableRank"], name="other")]
    for run, module in (("plain", plain()), ("saved", Tuned())):
        fitted(tmp_path / run, monitors, module)
        columns = [c for c in written(tmp_path / run).columns() if c != "hp_metric"]
        assert columns[:4] == [
            "probe/generalization_gap",
            "probe/other/generalization_gap",
            "complexity/parameter_norm",
            "complexity/other/stable_rank",
        ]
        assert len(written(tmp_path / run).sessions) == 1


def test_a_monitor_that_gets_a_name_has_columns_by_it(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="this one logs it as complexity/monitor_2"):
        fitted(tmp_path / "run", [ComplexityMonitor(["ParameterNorm"]) for _ in range(2)], Tuned())
    assert {"complexity/parameter_norm", "complexity/monitor_2/parameter_norm"} <= set(
        written(tmp_path / "run").columns()
    )


def test_a_run_that_goes_on_in_its_folder_keeps_its_table(tmp_path: Path) -> None:
    first = fitted(tmp_path / "run", [ComplexityMonitor(MEASURES)], Tuned())
    first.save_checkpoint(tmp_path / "last.ckpt")
    fitted(tmp_path / "run", [ComplexityMonitor(MEASURES)], Tuned(), ckpt_path=tmp_path / "last.ckpt", max_epochs=3)
    found = written(tmp_path / "run")
    assert found.columns() == ["hp_metric", *OURS, *FIT]
    assert all(session == {"width": 6, "rate": 0.1} for session in found.sessions)
    steps = [step for step, _ in found.scalars["complexity/parameter_norm"]]
    assert steps == sorted(set(steps)) == [0, 3, 6, 9]


def test_a_run_that_fails_has_columns_too(tmp_path: Path) -> None:
    class Failing(Classifier):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        fitted(tmp_path / "run", [ComplexityMonitor(MEASURES)], Failing(plain().net))
    found = written(tmp_path / "run")
    assert found.columns() == [*OURS, *FIT]
    assert found.texts["complexity/summary/text_summary"][-1][0] == 3


def test_columns_have_the_prefix_of_the_logger(tmp_path: Path) -> None:
    fitted(tmp_path / "run", [ComplexityMonitor(MEASURES)], logger=logger(tmp_path / "run", prefix="a"))
    found = written(tmp_path / "run")
    assert set(found.columns()) <= found.scalars.keys()
    assert found.columns()[0] == "a-probe/generalization_gap"


def test_the_training_is_the_same_to_the_bit_with_everything_shown(tmp_path: Path) -> None:
    weights = []
    for run, callbacks in (("with", [ComplexityMonitor("standard", per_layer=True)]), ("without", [])):
        torch.manual_seed(1)
        module = Tuned()
        fitted(tmp_path / run, callbacks, module)
        weights.append([*module.state_dict().values(), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
