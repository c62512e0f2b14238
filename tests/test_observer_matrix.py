"""Training is the same to the last bit with an observer, whatever is trained and measured; memory does not grow."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_complexity import ComplexityMonitor, ComplexityPenalty, regularizers
from tests.observer_matrix.comparing import first_difference
from tests.observer_matrix.design import FACTORS, NETWORKS, Case, Setting, covering
from tests.observer_matrix.memory import measured_many_times, plain
from tests.observer_matrix.networks import Checkpointed
from tests.observer_matrix.observers import compared, compared_with_penalties
from tests.observer_matrix.processes import on_two_processes
from tests.observer_matrix.training import Watched, trained
from tests.quick import quick_suite
from tests.training import Classifier, loader, trainer

PATIENCE = 600
"""Seconds for what takes one minute on a machine with nothing else to do."""
PLAIN = Setting("adamw", "32-true", 3, "own_generator", 1, 0)


@pytest.fixture(autouse=True)
def single_precision(seeded_double_precision: None) -> None:
    torch.set_default_dtype(torch.float32)


def assert_none(found: dict[str, str]) -> None:
    assert not found, "\n" + "\n".join(f"{case}: {what}" for case, what in found.items())


# The design --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [2, 3])
def test_cases_cover_all_combinations(strength: int) -> None:
    for names in itertools.combinations(FACTORS, strength):
        wanted = set(itertools.product(*(FACTORS[name] for name in names)))
        assert {tuple(getattr(case, name) for name in names) for case in covering(strength)} == wanted


def test_chance_and_order_do_not_matter_to_the_plain_training() -> None:
    first = trained(PLAIN)
    trained(PLAIN._replace(network="lstm"))
    assert first_difference(first, trained(PLAIN)) is None


class Intruder(pl.Callback):
    """Does something once, after the second batch of the first epoch."""

    def __init__(self, act: Callable[[pl.Trainer, Watched], Any]) -> None:
        self.act = act

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 0 and batch_idx == 1:
            self.act(trainer, pl_module)


@torch.no_grad()
def last_bit(tensor: Tensor) -> None:
    first = tensor.view(-1)[:1]
    first.copy_(torch.nextafter(first, first + 1))


INTRUDERS: dict[str, tuple[Callable[[pl.Trainer, Watched], Any], str]] = {
    "torch": (lambda t, m: torch.randn(1), "random state/torch"),
    "numpy": (lambda t, m: np.random.rand(), "random state/numpy"),
    "python": (lambda t, m: random.random(), "random state/python"),
    "data": (lambda t, m: m.loaders[0].dataset[0], "random state/torch"),
    "generator": (lambda t, m: m.loaders[0].dataset.python.random(), "dataset/0/python"),
    "mode": (lambda t, m: m.net.eval(), "mode/net"),
    "weight": (lambda t, m: last_bit(m.net[0].weight), "weight/net.0.weight differs"),
    "gradient": (lambda t, m: m.zero_grad(set_to_none=True), "gradient/net.0.weight is a Tensor and a NoneType"),
    "sign of zero": (lambda t, m: m.net[0].bias.grad.mul_(0.0).neg_(), "gradient/net.0.bias differs"),
    "frozen": (lambda t, m: m.net[0].requires_grad_(False), "requires_grad/net.0.weight is True and False"),
    "metric": (lambda t, m: m.mean_loss.update(1.0), "torchmetrics/mean_loss"),
    "computed": (lambda t, m: m.mean_loss.compute(), "torchmetrics/mean_loss/computed"),
    "buffer": (lambda t, m: m.net.register_buffer("spare", torch.ones(1)), "buffer has"),
    "hook": (lambda t, m: m.net.register_forward_hook(lambda *_: None), "hooks/net"),
    "logged": (lambda t, m: t.callback_metrics.update(other=torch.ones(1)), "logged has"),
    "logger": (lambda t, m: t.logger.log_metrics({"other": 1.0}, 1), "logger/rows has"),
    "attribute": (lambda t, m: m.seen.pop(), "batches and losses/seen has 2 and 1 entries"),
    "grad mode": (lambda t, m: torch.set_grad_enabled(False), "switches/grad mode is True and False"),
}


@pytest.mark.parametrize("name", INTRUDERS)
def test_what_an_intruder_changed_is_named_first(name: str) -> None:
    act, expected = INTRUDERS[name]
    plain = trained(PLAIN)
    try:
        found = first_difference(plain, trained(PLAIN, Intruder(act)))
    except RuntimeError:
        assert name == "grad mode"  # there is no backward pass without gradients
        return
    finally:
        torch.set_grad_enabled(True)
    assert found is not None
    assert found.startswith("epoch 0, after batch 1: " + expected), found


def test_an_intruder_into_the_optimizer_is_named() -> None:
    setting = PLAIN._replace(accumulate=1)
    act = Intruder(lambda t, m: last_bit(t.optimizers[0].state[m.net[0].weight]["exp_avg"]))
    found = first_difference(trained(setting), trained(setting, act))
    assert found is not None
    assert found.startswith("epoch 0, after batch 1: optimizer/0/state/0/exp_avg differs"), found


# The matrix --------------------------------------------------------------------------------------


def alone(strength: int, network: str) -> list[Case]:
    return [case for case in covering(strength) if case.network == network and case.processes == 1]


@pytest.mark.parametrize("network", NETWORKS)
def test_monitor_changes_nothing(network: str) -> None:
    assert_none(compared(alone(2, network)[::2]))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_monitor_changes_nothing_either(network: str) -> None:
    assert_none(compared(alone(2, network)[1::2]))


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("optimizer", FACTORS["optimizer"])
@pytest.mark.parametrize("network", NETWORKS)
def test_monitor_changes_nothing_of_any_four(network: str, optimizer: str) -> None:
    cases = [case for case in alone(4, network) if case.optimizer == optimizer]
    assert len(cases) > 3
    assert_none(compared(cases))


def test_monitor_changes_nothing_on_two_processes(tmp_path: Path) -> None:
    assert_none(on_two_processes("2", tmp_path, shard=1, shards=6))


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize(("shard", "shards"), [(0, 3), (2, 3), (4, 6)])  # all but the one above
def test_monitor_changes_nothing_on_two_processes_either(shard: int, shards: int, tmp_path: Path) -> None:
    assert_none(on_two_processes("2", tmp_path, shard, shards=shards, seconds=PATIENCE))


def settings_alone(network: str) -> list[Setting]:
    return list(dict.fromkeys(case.setting for case in alone(3, network)))


def test_penalty_of_strength_0_and_far_constraint_change_nothing() -> None:
    lbfgs = Setting("lbfgs", "bf16-mixed", 3, "checkpointed", 1, 0)
    assert_none(compared_with_penalties([PLAIN._replace(network="cnn"), lbfgs]))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_penalty_of_strength_0_and_far_constraint_change_nothing_of_any_three(network: str) -> None:
    assert_none(compared_with_penalties(settings_alone(network)))


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 60)
def test_penalty_of_strength_0_and_far_constraint_change_nothing_on_two_processes(tmp_path: Path) -> None:
    assert_none(on_two_processes("penalties", tmp_path, seconds=PATIENCE))


# What the matrix found ---------------------------------------------------------------------------


class UpdatesLate(Classifier):
    """Logs a metric that it goes on updating at the end of the epoch, after callbacks were called."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32, 3)))
        self.accuracy = MulticlassAccuracy(3, average="micro")

    def training_step(self, batch: Any) -> Tensor:
        self.accuracy.update(self(batch[0]), batch[1])
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return super().training_step(batch)

    def on_train_epoch_end(self) -> None:
        self.accuracy.update(torch.eye(3), (torch.arange(3) + 1) % 3)  # three that are wrong


@pytest.mark.parametrize("observer", ["monitor", "penalty"])
def test_metrics_are_not_computed_before_their_time(observer: str) -> None:
    def accuracy(callbacks: list[pl.Callback]) -> Tensor:
        pl.seed_everything(5, verbose=False)
        fit = trainer(callbacks=callbacks, max_epochs=1)
        fit.fit(UpdatesLate(), loader())
        return fit.callback_metrics["accuracy"]

    observers = {
        "monitor": lambda: ComplexityMonitor("fast"),
        "penalty": lambda: ComplexityPenalty(regularizers.ParameterNorm(0.0)),
    }
    assert torch.equal(accuracy([]), accuracy([observers[observer]()]))


def test_forward_hooks_of_others_see_measurements_as_the_docstring_says() -> None:
    module, modes = UpdatesLate(), []
    module.net.register_forward_hook(lambda net, *_: modes.append(net.training))
    trainer(callbacks=[ComplexityMonitor(["JacobianNorm"])], max_epochs=1).fit(module, loader())
    assert modes.count(True) == 2 * 3  # twice a batch
    assert modes.count(False) > 0  # told from them by the mode
    assert "forward hooks" in " ".join(ComplexityMonitor.__doc__.split())


# Memory ------------------------------------------------------------------------------------------

OBJECTS, BYTES = 5, 50_000
"""What the history may take for one measurement, besides what memory managers keep at the start."""


def assert_does_not_grow(network: nn.Module, chosen: Any, *moments: int) -> None:
    first, last = measured_many_times(network, chosen, moments)
    assert (first.measurements, last.measurements) == moments
    assert last.tensors == first.tensors
    count = last.measurements - first.measurements
    assert last.objects - first.objects < OBJECTS * count
    assert last.process_bytes - first.process_bytes < BYTES * count + 8 * 2**20


def test_memory_does_not_grow() -> None:
    assert_does_not_grow(Checkpointed(), "fast", 20, 40)


def test_graphs_of_checkpointed_networks_go_with_their_measures() -> None:
    chosen = ["HessianTrace", "EmpiricalFisherTrace", "TakeuchiCriterion"]
    first, last = measured_many_times(Checkpointed(), chosen, (4, 8))
    assert last.tensors == first.tensors


@pytest.mark.slow
def test_graphs_of_checkpointed_networks_go_with_all_measures() -> None:
    first, last = measured_many_times(Checkpointed(), quick_suite("full"), (4, 12))
    assert last.tensors == first.tensors


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.timeout(3 * PATIENCE)  # "full" takes more than half a second each time
@pytest.mark.parametrize("suite", FACTORS["suite"])
def test_memory_does_not_grow_over_300_measurements(suite: str) -> None:
    network = plain() if suite == "full" else Checkpointed()  # all measures take twice as long with it
    assert_does_not_grow(network, quick_suite(suite), 20, 300)
