"""Several callbacks of a kind, callbacks that are used again, and callbacks that change the weights."""

from __future__ import annotations

import copy
import csv
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import (
    ComplexityConstraint,
    ComplexityMonitor,
    ComplexityPenalty,
    metrics,
    regularizers,
)
from lightning_complexity.callbacks import NeuronPruning
from lightning_complexity.callbacks.changes import fingerprint
from lightning_complexity.recording import read_record
from tests.networks import mlp
from tests.test_contract import assert_same
from tests.training import Classifier, trainer

X = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=4)


def fitted(*callbacks: Any, module: Any = None, seed: int = 0, **options: Any) -> tuple[Any, pl.Trainer]:
    torch.manual_seed(seed)
    module = Classifier(mlp(4, 8, 3)) if module is None else module()
    fit = trainer(callbacks=list(callbacks), **{"max_epochs": 4, **options})
    fit.fit(module, data())
    return module, fit


def norm(module: nn.Module) -> float:
    return float(sum(p.detach().square().sum() for p in module.parameters()).sqrt())


# One callback, two fits ----------------------------------------------------------------------------


def makers() -> list[Any]:
    return [
        lambda: ComplexityConstraint(regularizers.PathNorm(), at_most_relative_to_init=0.8, every_n_steps=2),
        lambda: ComplexityConstraint(metrics.JacobianNorm(), at_most=0.01, every_n_steps=2),
        lambda: ComplexityConstraint(metrics.DistanceFromInitialization(), at_most=0.5, every_n_steps=2),
        lambda: ComplexityPenalty(regularizers.DistanceFromInitialization(0.1), regularizers.JacobianNorm(0.1)),
        lambda: ComplexityPenalty(regularizers.LogSpectralProduct(0.01)),
        lambda: NeuronPruning(0.3, at_epochs=[1]),
    ]


@pytest.mark.parametrize("make", makers())
def test_a_second_fit_is_that_of_a_new_callback(make: Any) -> None:
    reused, new = make(), make()
    fitted(reused, seed=1)
    again, _ = fitted(reused, seed=2)
    expected, _ = fitted(new, seed=2)
    assert_same(again.state_dict(), expected.state_dict())
    if isinstance(new, ComplexityConstraint):
        assert reused.lagrangians == new.lagrangians


@pytest.mark.parametrize("make", makers())
def test_the_same_trainer_goes_on(make: Any) -> None:
    def in_two_parts(callback: Any) -> Any:
        torch.manual_seed(0)
        module = Classifier(mlp(4, 8, 3))
        fit = trainer(callbacks=[callback], max_epochs=2)
        fit.fit(module, data())
        fit.fit_loop.max_epochs = 4
        fit.fit(module, data())
        return module

    assert_same(in_two_parts(make()).state_dict(), fitted(make())[0].state_dict())


# Several of a kind --------------------------------------------------------------------------------


def test_two_monitors_have_keys_and_records_of_their_own(tmp_path: Path) -> None:
    plain = ComplexityMonitor(["JacobianNorm"], probe=(X, Y))
    shifted = ComplexityMonitor(["JacobianNorm"], probe=(X + 1, Y), name="shifted")
    module, fit = fitted(plain, shifted, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    for monitor, x, keys in (
        (plain, X, ("complexity/jacobian_norm", "probe/train_loss")),
        (shifted, X + 1, ("complexity/shifted/jacobian_norm", "probe/shifted/train_loss")),
    ):
        metric = metrics.JacobianNorm()
        metric.update(module, x)
        last = monitor.history[-1].values
        assert last[keys[0]] == pytest.approx(metric.compute().item())
        assert last[keys[1]] == pytest.approx(F.cross_entropy(module(x), Y).item())
        assert fit.callback_metrics[keys[0]].item() == pytest.approx(last[keys[0]])
        assert monitor.curve("jacobian_norm")[1][-1] == last[keys[0]]
        assert monitor.curve("probe/train_loss")[1][-1] == last[keys[1]]
        titles = [axes.get_title().split("\n")[0] for axes in monitor.plot().axes]
        assert titles == ["loss", "accuracy", "jacobian_norm"]
        assert read_record(monitor.record_path) == monitor.history
    assert Path(str(shifted.record_path)).name == "complexity.shifted.jsonl"
    assert not plain.history[-1].values.keys() & shifted.history[-1].values.keys()


def test_a_monitor_without_a_name_gets_one_where_it_would_log_the_keys_of_another(tmp_path: Path) -> None:
    monitors = [ComplexityMonitor(["JacobianNorm"], probe=(x, Y)) for x in (X, X + 1)]
    with pytest.warns(UserWarning, match="this one logs it as complexity/monitor_2/jacobian_norm. Choose a name"):
        fitted(*monitors)
    assert "complexity/jacobian_norm" in monitors[0].history[-1].values
    assert "complexity/monitor_2/jacobian_norm" in monitors[1].history[-1].values
    with pytest.raises(ValueError, match="two monitors would log complexity/same/stable_rank: give one of them a name"):
        fitted(*(ComplexityMonitor(["StableRank"], probe=(x, Y), name="same") for x in (X, X + 1)))
    monitors = [ComplexityMonitor(["StableRank"]), ComplexityMonitor(["PathNorm"])]
    fitted(*monitors, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    merged = read_record(monitors[0].record_path)
    assert [m.step for m in merged] == [m.step for m in monitors[0].history]
    assert {"complexity/stable_rank", "complexity/log_path_norm"} <= merged[-1].values.keys()


@pytest.mark.parametrize("name", ["a/b", "", "1", "ä"])
def test_names_are_parts_of_keys_and_files(name: str) -> None:
    for make in (
        lambda: ComplexityMonitor(name=name),
        lambda: ComplexityPenalty(regularizers.PathNorm(), name=name),
        lambda: ComplexityConstraint(regularizers.PathNorm(), at_most=1.0, name=name),
    ):
        with pytest.raises(ValueError, match="name must consist of"):
            make()


class Sharpness(Classifier):
    """Sharpness-aware minimization: two backward passes a step."""

    def __init__(self, *by_hand: Any) -> None:
        super().__init__(mlp(4, 8, 3))
        self.automatic_optimization, self.by_hand = False, by_hand

    def loss(self, batch: Any) -> Tensor:
        return sum((penalty(self) for penalty in self.by_hand), start=F.cross_entropy(self(batch[0]), batch[1]))

    def training_step(self, batch: Any) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.loss(batch))
        up = [0.05 * p.grad for p in self.parameters()]
        with torch.no_grad():
            torch._foreach_add_(list(self.parameters()), up)
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        with torch.no_grad():
            torch._foreach_sub_(list(self.parameters()), up)
        optimizer.step()
        optimizer.zero_grad()


def test_both_passes_of_sharpness_aware_minimization_are_penalised() -> None:
    by_hand, _ = fitted(module=lambda: Sharpness(regularizers.ParameterNorm(0.1)))
    listed, fit = fitted(
        ComplexityPenalty(regularizers.ParameterNorm(0.1), manual_backward_index=[0, 1]), module=Sharpness
    )
    assert_same(listed.net.state_dict(), by_hand.net.state_dict())
    assert "penalty/parameter_norm" in fit.callback_metrics
    two = [ComplexityPenalty(regularizers.ParameterNorm(0.1), manual_backward_index=i) for i in (0, 1)]
    apart, fit = fitted(*two, module=Sharpness)
    assert_same(apart.net.state_dict(), by_hand.net.state_dict())
    first, second = (fit.callback_metrics[f"penalty/{part}parameter_norm"] for part in ("", "backward_1/"))
    assert first != second
    assert len({callback.state_key for callback in two}) == 2


def test_equal_penalties_need_names() -> None:
    with pytest.raises(ValueError, match="two callbacks would log penalty/stable_rank: give one of them a name"):
        fitted(*(ComplexityPenalty(regularizers.StableRank(0.1)) for _ in range(2)))
    _, fit = fitted(*(ComplexityPenalty(regularizers.StableRank(0.1), name=name) for name in (None, "b")))
    assert {"penalty/stable_rank", "penalty/b/stable_rank"} <= fit.callback_metrics.keys()
    _, fit = fitted(ComplexityConstraint(regularizers.StableRank(), at_most=1.0, every_n_steps=1, name="b"))
    assert {"penalty/b/stable_rank", "constraint/b/stable_rank/value"} <= fit.callback_metrics.keys()


@pytest.mark.parametrize("index", [[], [0, 0], [0, -1], [0.5], True])
def test_indices_are_checked(index: Any) -> None:
    with pytest.raises(ValueError, match="manual_backward_index counts calls from 0, got"):
        ComplexityPenalty(regularizers.StableRank(0.1), manual_backward_index=index)


def test_a_listed_call_that_is_never_made_is_named() -> None:
    penalty = ComplexityPenalty(regularizers.StableRank(0.1), manual_backward_index=[1, 2])
    with pytest.raises(ValueError, match=r"called manual_backward 3 times, as manual_backward_index=\[1, 2\] needs"):
        fitted(penalty, module=Sharpness)


def test_the_parts_of_the_loss_reach_callbacks_at_the_end_of_each_epoch() -> None:
    seen = []

    class Asking(pl.callbacks.EarlyStopping):
        def on_train_epoch_end(self, trainer: Any, *args: Any) -> None:
            seen.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    penalty = ComplexityPenalty(regularizers.StableRank(0.1))
    limit = ComplexityConstraint(metrics.ParameterNorm(), at_most=1.0, every_n_steps=2)
    fitted(Asking("loss/total", patience=9), penalty, limit, log_every_n_steps=1000)
    assert len(seen) == 4
    for values in seen:
        parts = values["loss/task"] + values["penalty/stable_rank"] + values["penalty/parameter_norm"]
        assert values["loss/total"] == pytest.approx(parts)
    assert len({values["loss/total"] for values in seen}) == 4


@pytest.mark.parametrize("name", ["JacobianNorm", "GradientNorm", "PathNorm", "LogSpectralProduct", "HessianTrace"])
def test_constraint_and_monitor_agree_at_the_same_step(name: str, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    monitor = ComplexityMonitor([name], every_n_steps=2, every_n_epochs=None)
    limit = ComplexityConstraint(getattr(metrics, name)(), at_most=0.5, every_n_steps=2)
    fitted(monitor, limit, NeuronPruning(0.2, at_epochs=[1]), logger=logger, log_every_n_steps=1000)
    measure = monitor.metrics[0].name
    logged = _rows(logger, measure)
    expected = dict(zip(*monitor.curve(measure), strict=True))
    assert len(logged) == 12
    for step, value in logged.items():
        assert value == pytest.approx(expected[step], rel=1e-12)


def _rows(logger: CSVLogger, measure: str) -> dict[int, float]:
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        key = f"constraint/{measure}/value"
        return {int(row["step"]): float(row[key]) for row in csv.DictReader(file) if row[key]}


# Callbacks and modules that change the weights --------------------------------------------------


def averaging(kind: str) -> Any:
    return StochasticWeightAveraging(0.05, swa_epoch_start=1) if kind == "SWA" else EMAWeightAveraging(decay=0.9)


def with_batch_norm() -> Classifier:
    return Classifier(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))


@pytest.mark.parametrize("module", [None, with_batch_norm])
@pytest.mark.parametrize(("kind", "order"), list(itertools.product(["SWA", "EMA"], [1, -1])))
def test_the_network_that_is_left_is_the_one_measured_and_pruned(kind: str, order: int, module: Any) -> None:
    monitor, pruning = ComplexityMonitor(["ParameterNorm"]), NeuronPruning(0.5, at_epochs=[2])
    left, _ = fitted(*[averaging(kind), pruning, monitor][::order], module=module)
    assert monitor.history[-1].values["complexity/parameter_norm"] == pytest.approx(norm(left), rel=1e-6)
    assert [m.step for m in monitor.history] == sorted({m.step for m in monitor.history})
    mask = pruning.masks["net.0.weight"]
    assert mask.sum() == 4
    assert left.net[0].weight[mask].abs().max() == 0


@pytest.mark.parametrize("kind", ["SWA", "EMA"])
def test_averaging_is_the_same_with_a_monitor(kind: str) -> None:
    plain, _ = fitted(averaging(kind), module=with_batch_norm)
    measured, _ = fitted(ComplexityMonitor(), averaging(kind), module=with_batch_norm)
    assert_same(measured.state_dict(), plain.state_dict())


def test_what_a_module_does_at_the_end_is_measured(tmp_path: Path) -> None:
    class Rescaled(Classifier):
        def on_train_end(self) -> None:
            for p in self.parameters():
                p.data.mul_(2)

    monitor = ComplexityMonitor(["ParameterNorm"])
    left, _ = fitted(monitor, module=lambda: Rescaled(mlp(4, 8, 3)), logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert monitor.history[-1].values["complexity/parameter_norm"] == pytest.approx(norm(left))
    assert [m.step for m in monitor.history] == [0, 6, 12, 18, 24]
    assert len(Path(str(monitor.record_path)).read_text().splitlines()) == 5
    assert 0 < monitor.overhead < 10


def test_a_change_of_anything_is_a_change() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Embedding(3, 2), nn.LazyLinear(2))
    network.register_buffer("mask", torch.tensor([True, False]))
    network.register_buffer("complex", torch.zeros(2, dtype=torch.complex64))
    network.register_buffer("sparse", torch.eye(3).to_sparse())
    network.register_buffer("empty", torch.zeros(0))
    before = fingerprint(network)
    assert fingerprint(network) == before
    for name in ("0.weight", "1.running_mean", "1.num_batches_tracked", "complex", "mask"):
        tensor = {**dict(network.named_parameters()), **dict(network.named_buffers())}[name]
        kept = tensor.detach().clone()
        tensor.data.view(-1)[0] = 1 - kept.flatten()[0].item()  # which no version counter sees
        assert fingerprint(network) != before
        tensor.data.copy_(kept)
        assert fingerprint(network) == before


# Copies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_monitor_knows_what_its_copy_measured(copied: Any, tmp_path: Path) -> None:
    monitor = ComplexityMonitor("fast")
    twin = copied(monitor)
    fitted(twin, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert [m.step for m in monitor.history] == [0, 6, 12, 18, 24]
    assert read_record(monitor.record_path) == monitor.history
    assert monitor.curve("stable_rank") == twin.curve("stable_rank")
    fitted(monitor, max_epochs=1)
    assert [m.step for m in monitor.history] == [0, 6]
    assert len(twin.history) == 5


def test_callbacks_can_be_pickled_before_and_after_a_fit() -> None:
    for make in (*makers(), lambda: ComplexityMonitor("standard", name="a")):
        callback = make()
        assert pickle.loads(pickle.dumps(callback)).state_dict()["name"] == callback.name
        fitted(callback, max_epochs=1)
        pickle.loads(pickle.dumps(callback))
