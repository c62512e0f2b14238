"""The monitor: what it logs, when, against which steps, and what it keeps."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor, metrics
from lightning_complexity.callbacks.probe import evenly_spaced
from lightning_complexity.network import initial_state
from lightning_complexity.recording import read_record
from tests.networks import mlp
from tests.training import Classifier, Delicate, trainer

X = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


@pytest.fixture
def model() -> Classifier:
    return Classifier(mlp(4, 6, 3))


def data(n: int = 24) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X[:n].double(), Y[:n]), batch_size=8)


def steps(monitor: ComplexityMonitor) -> list[int]:
    return [m.step for m in monitor.history]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [0, 3, 6]),
        ({"every_n_epochs": 2}, [0, 6]),
        ({"every_n_epochs": None}, [0, 6]),
        ({"every_n_steps": 2, "every_n_epochs": None}, [0, 2, 4, 6]),
        ({"every_n_steps": 2}, [0, 2, 3, 4, 6]),
        ({"every_n_steps": 4, "every_n_epochs": None}, [0, 4, 6]),
    ],
    ids=str,
)
def test_measures_at_the_start_on_schedule_and_at_the_end(
    model: Classifier, schedule: dict[str, Any], expected: list[int]
) -> None:
    monitor = ComplexityMonitor("fast", **schedule)
    trainer(callbacks=[monitor]).fit(model, data())
    assert steps(monitor) == expected


def test_steps_are_optimizer_steps_under_accumulation(model: Classifier) -> None:
    monitor = ComplexityMonitor("fast", every_n_steps=1)
    trainer(callbacks=[monitor], accumulate_grad_batches=2).fit(model, data())
    assert steps(monitor) == [0, 1, 2, 3, 4]  # the last batch of an epoch steps alone


@pytest.mark.parametrize(("every_n_epochs", "epochs"), [(1, [0, 0, 1, 2]), (None, [0, 2])])
def test_epochs_are_indices_also_at_the_end(model: Classifier, every_n_epochs: int | None, epochs: list[int]) -> None:
    monitor = ComplexityMonitor("fast", every_n_epochs=every_n_epochs)
    trainer(callbacks=[monitor], max_epochs=3).fit(model, data())
    assert [m.epoch for m in monitor.history] == epochs


def test_two_optimizers_step_once_a_batch() -> None:
    class Two(Classifier):
        automatic_optimization = False

        def training_step(self, batch: Any) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(nn.functional.cross_entropy(self(batch[0]), batch[1]))
                optimizer.step()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    monitor = ComplexityMonitor("fast")
    fit = trainer(callbacks=[monitor])
    fit.fit(Two(mlp(4, 3)), data())
    assert fit.global_step == 12
    assert steps(monitor) == [0, 3, 6]


def test_values_are_those_of_the_metrics_on_the_probe(model: Classifier) -> None:
    start = initial_state(model)
    monitor = ComplexityMonitor("full", probe=(X, Y), every_n_epochs=None)
    fit = trainer(callbacks=[monitor])
    fit.fit(model, data())
    final = monitor.history[-1].values
    for name in metrics.SUITES["full"]:
        metric = getattr(metrics, name)()
        given = {"inputs": X, "targets": Y, "initial": start}
        needed = {need: given[need] for need in metric.needs if need != "loss"}
        metric.update(model, **needed, optimizer=fit.optimizers)
        expected = pytest.approx(metric.compute().item(), rel=1e-12, nan_ok=True)
        assert final[f"complexity/{metric.name}"] == expected
    assert final["probe/train_loss"] == pytest.approx(nn.functional.cross_entropy(model(X), Y).item())
    assert final["probe/train_accuracy"] == pytest.approx((model(X).argmax(1) == Y).double().mean().item())
    assert {"complexity/jacobian_norm/standard_error", "complexity/hessian_trace/standard_error"} <= final.keys()


def test_validation_probe_gives_the_gap(model: Classifier) -> None:
    monitor = ComplexityMonitor("fast")
    trainer(callbacks=[monitor]).fit(model, data(), data(8))
    values = monitor.history[-1].values
    gap = values["probe/val_loss"] - values["probe/train_loss"]
    assert values["probe/generalization_gap"] == pytest.approx(gap)
    assert values["probe/val_loss"] == pytest.approx(nn.functional.cross_entropy(model(X[:8]), Y[:8]).item())
    assert values["probe/accuracy_gap"] == pytest.approx(values["probe/train_accuracy"] - values["probe/val_accuracy"])


def test_no_validation_loader_no_gap(model: Classifier) -> None:
    monitor = ComplexityMonitor("fast")
    trainer(callbacks=[monitor]).fit(model, data())
    assert not any("val" in key or "gap" in key for key in monitor.history[-1].values)


def test_probe_is_evenly_spaced_over_the_dataset(model: Classifier) -> None:
    monitor = ComplexityMonitor("fast", probe=4)
    trainer(callbacks=[monitor], max_epochs=1).fit(model, data())
    assert evenly_spaced(range(24), 4) == [0, 8, 15, 23]
    torch.testing.assert_close(monitor._probes.train.inputs, X[[0, 8, 15, 23]])


def test_probe_of_a_subset_sampler_stays_in_the_subset(model: Classifier) -> None:
    subset = torch.utils.data.SubsetRandomSampler([1, 3, 5, 7])
    loader = DataLoader(TensorDataset(X, Y), batch_size=2, sampler=subset)
    monitor = ComplexityMonitor("fast")
    trainer(callbacks=[monitor], max_epochs=1).fit(model, loader)
    torch.testing.assert_close(monitor._probes.train.inputs, X[[1, 3, 5, 7]])


def test_transfer_hooks_of_the_module_are_applied_to_the_probe() -> None:
    class Scaled(Classifier):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] * 10, batch[1]

    monitor = ComplexityMonitor("fast", probe=24)
    trainer(callbacks=[monitor], max_epochs=1).fit(Scaled(mlp(4, 3)), data())
    torch.testing.assert_close(monitor._probes.train.inputs, 10 * X)


def test_transfer_hooks_see_validation_for_the_validation_probe() -> None:
    stages = []

    class Asking(Classifier):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            if "draw" in {frame.function for frame in inspect.stack()}:
                stages.append((self.trainer.training, self.trainer.validating))
            return batch

    fit = trainer(callbacks=[ComplexityMonitor("fast")], max_epochs=1)
    fit.fit(Asking(mlp(4, 3)), data(), data(8))
    assert stages == [(True, False), (False, True)]


def test_overhead_stands_still_after_training(model: Classifier) -> None:
    monitor = ComplexityMonitor("fast")
    trainer(callbacks=[monitor]).fit(model, data())
    assert monitor.overhead == monitor.overhead


def test_per_layer_values_and_names(model: Classifier) -> None:
    monitor = ComplexityMonitor(["StableRank", "jacobian_norm"], per_layer=True)
    trainer(callbacks=[monitor], max_epochs=1).fit(model, data())
    keys = monitor.history[-1].values.keys()
    assert {f"complexity/stable_rank{layer}" for layer in ("", "/net.0.weight", "/net.2.weight")} <= keys


def test_lightnings_callbacks_can_monitor_our_keys(model: Classifier, tmp_path: Path) -> None:
    monitor = ComplexityMonitor("fast")
    stopping = pl.callbacks.EarlyStopping("complexity/parameter_norm", mode="min", patience=1, min_delta=1e9)
    best = pl.callbacks.ModelCheckpoint(tmp_path, monitor="complexity/stable_rank", mode="min")
    fit = trainer(callbacks=[stopping, monitor, best], max_epochs=10, enable_checkpointing=True)
    fit.fit(model, data(), data(8))
    assert fit.current_epoch == 2
    values = [m.values["complexity/stable_rank"] for m in monitor.history]
    assert best.best_model_score.item() == pytest.approx(min(values[1:]))


# Loggers ----------------------------------------------------------------------------------------


def test_tensorboard_gets_scalars_and_histograms(model: Classifier, tmp_path: Path) -> None:
    monitor = ComplexityMonitor()
    logger = TensorBoardLogger(tmp_path)
    trainer(callbacks=[monitor], logger=logger, log_every_n_steps=100).fit(model, data(), data(8))
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0, "histograms": 0}).Reload()
    points = events.Scalars("complexity/stable_rank")
    assert [p.step for p in points] == steps(monitor) == [0, 3, 6]
    assert [p.value for p in points] == pytest.approx(monitor.curve("stable_rank")[1])
    assert events.Tags()["histograms"] == [
        "complexity/spectrum/net.0.weight",
        "complexity/spectrum/net.2.weight",
        "complexity/margin",
    ]
    assert events.Histograms("complexity/margin")[0].histogram_value.num == 24


def test_tensorboard_gets_figures(model: Classifier, tmp_path: Path) -> None:
    backend = matplotlib.get_backend()
    monitor = ComplexityMonitor([metrics.LinearRegions(along="plane")], on_error="raise")
    logger = TensorBoardLogger(tmp_path)
    trainer(callbacks=[monitor], logger=logger, log_every_n_steps=100).fit(model, data(), data(8))
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["complexity/linear_regions/picture"]
    images = events.Images("complexity/linear_regions/picture")
    assert [image.step for image in images] == steps(monitor)
    assert min(images[0].width, images[0].height) > 300
    assert matplotlib.get_backend() == backend


def test_nothing_is_drawn_without_a_place_for_it(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.LinearRegions, "figures", lambda *_: pytest.fail("drawn"))
    trainer(callbacks=[ComplexityMonitor([metrics.LinearRegions(along="plane")], on_error="raise")]).fit(model, data())


def test_every_logger_gets_one_call_a_measurement(model: Classifier, tmp_path: Path) -> None:
    calls = []

    class Counting(CSVLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            calls.append((step, len([k for k in metrics if k.startswith("complexity/")])))
            super().log_metrics(metrics, step)

    monitor = ComplexityMonitor("fast")
    trainer(callbacks=[monitor], logger=[Counting(tmp_path / "a"), Counting(tmp_path / "b")]).fit(model, data())
    ours = [step for step, count in calls if count]
    assert ours == [0, 0, 3, 3, 6, 6]


def test_record_is_written_beside_the_logs(model: Classifier, tmp_path: Path) -> None:
    monitor, logger = ComplexityMonitor("fast"), CSVLogger(tmp_path)
    trainer(callbacks=[monitor], logger=logger).fit(model, data())
    assert read_record(logger.log_dir) == monitor.history
    assert len((Path(logger.log_dir) / "complexity.jsonl").read_text().splitlines()) == 3


def test_nothing_is_written_without_a_logger_or_in_a_fast_run(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer(callbacks=[ComplexityMonitor("fast")]).fit(model, data())
    trainer(callbacks=[ComplexityMonitor("fast")], logger=CSVLogger(tmp_path), fast_dev_run=2).fit(model, data())
    assert not list(tmp_path.rglob("*.jsonl"))


def test_overhead_is_the_share_of_all_monitors(model: Classifier) -> None:
    monitors = [ComplexityMonitor("fast"), ComplexityMonitor(["HessianTrace"])]
    trainer(callbacks=monitors).fit(model, data())
    first = monitors[1].history[-1].values["complexity/overhead"]
    assert "complexity/overhead" not in monitors[0].history[0].values
    assert first > monitors[0].overhead > 0
    assert set(monitors[0].history[-1].seconds) == {m.name for m in monitors[0].metrics}


# Checkpoints ------------------------------------------------------------------------------------


def test_a_continued_run_keeps_history_probe_and_start(model: Classifier, tmp_path: Path) -> None:
    def fit(epochs: int, checkpoint: str | None) -> ComplexityMonitor:
        monitor = ComplexityMonitor("standard", probe=6)
        run = trainer(callbacks=[monitor], max_epochs=epochs)
        run.fit(model, data(), ckpt_path=checkpoint)
        run.save_checkpoint(tmp_path / "a.ckpt")
        return monitor

    start = initial_state(model)
    first = fit(1, None)
    second = fit(3, str(tmp_path / "a.ckpt"))
    assert steps(second) == [0, 3, 6, 9]
    assert second.history[:2] == first.history
    torch.testing.assert_close(second._probes.train.inputs, first._probes.train.inputs)
    torch.testing.assert_close(second._initial, start)
    assert second.overhead > 0


def test_start_is_in_the_checkpoint_only_where_it_is_needed() -> None:
    monitor = ComplexityMonitor(["ParameterNorm"])
    trainer(callbacks=[monitor], max_epochs=1).fit(Classifier(mlp(4, 3)), data())
    assert monitor.state_dict()["initial"] is None


def test_a_second_fit_starts_afresh(model: Classifier) -> None:
    monitor, starts = ComplexityMonitor("fast"), []
    for _ in range(2):
        trainer(callbacks=[monitor], max_epochs=1).fit(model, data())
        assert steps(monitor) == [0, 3]
        assert monitor.history[0].values["complexity/distance_from_initialization"] == 0
        starts.append(monitor.history[0].values["complexity/parameter_norm"])
    assert starts[0] != starts[1]


def test_the_same_trainer_can_go_on(model: Classifier) -> None:
    monitor = ComplexityMonitor("fast")
    fit = trainer(callbacks=[monitor], max_epochs=1)
    fit.fit(model, data())
    fit.fit_loop.max_epochs = 2
    fit.fit(model, data())
    assert steps(monitor) == [0, 3, 6]


def test_other_stages_measure_nothing(model: Classifier) -> None:
    monitor = ComplexityMonitor("fast")
    trainer(callbacks=[monitor]).validate(model, data(), verbose=False)
    assert monitor.history == []


# Both packages, and looking at the result ---------------------------------------------------------


def test_one_line_with_either_lightning() -> None:
    for name in ("pytorch_lightning", "lightning.pytorch"):
        package = importlib.import_module(name)

        class Module(package.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net = mlp(4, 6, 3)

            forward = Classifier.forward
            training_step = Classifier.training_step
            configure_optimizers = Classifier.configure_optimizers

        options = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        for monitor in (ComplexityMonitor(), [ComplexityMonitor()]):
            fit = package.Trainer(callbacks=monitor, max_epochs=1, accelerator="cpu", **options)
            fit.fit(Module(), data())
            assert fit.callback_metrics["complexity/stable_rank"] > 1


def test_curves_and_plot(model: Classifier) -> None:
    monitor = ComplexityMonitor("fast")
    trainer(callbacks=[monitor]).fit(model, data())
    xs, ys = monitor.curve("stable_rank")
    assert xs == [0, 3, 6]
    assert ys == [m.values["complexity/stable_rank"] for m in monitor.history]
    assert monitor.curve("probe/train_loss")[0] == xs
    with pytest.raises(KeyError, match="'stable_rnk' was never measured; there are complexity/"):
        monitor.curve("stable_rnk")
    titles = [axes.get_title().split("\n") for axes in monitor.plot().axes]
    fits = ["loss", "accuracy", "generalization gap", "accuracy gap"]
    assert [title[0] for title in titles if title[0] in fits] == fits[: len(titles) - len(monitor.metrics)]
    assert {m.name for m in monitor.metrics} <= {title[0] for title in titles}
    assert ["stable_rank", "(higher: more complex)"] in titles
    assert monitor.to_frame()["complexity/stable_rank"].to_dict() == dict(zip(xs, ys, strict=True))
    assert len(monitor.plot(["stable_rank", "probe/train_loss"]).axes) == 2
    titles = [axes.get_title().split("\n")[0] for axes in monitor.plot(["StableRank", "train_loss"]).axes]
    assert titles == ["stable_rank", "probe/train_loss"]
    for name, hint in (("x", ""), ("stable_rnk", " Did you mean 'stable_rank'?"), ("probe/x", "")):
        with pytest.raises(ValueError, match=f"^nothing was measured as '{name}'.{re.escape(hint)}") as error:
            monitor.plot([name])
        assert hint or "complexity/" not in str(error.value)
    with pytest.raises(ValueError, match="nothing was measured yet"):
        ComplexityMonitor().plot()


@pytest.mark.slow
def test_delicate_network_is_measured_whole() -> None:
    from tests.training import loader

    torch.set_default_dtype(torch.float32)
    monitor = ComplexityMonitor("full")
    trainer(callbacks=[monitor]).fit(Delicate(), loader(), loader(8))
    names = {f"complexity/{m.name}" for m in monitor.metrics}
    assert names <= monitor.history[-1].values.keys()
    increments = [b.step - a.step for a, b in itertools.pairwise(monitor.history)]
    assert increments == [3, 3]
