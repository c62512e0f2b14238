"""A monitor under a budget, on a clock that only what is slow here lets pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_complexity import ComplexityMonitor
from lightning_complexity.callbacks.monitoring.training_length import expected_length
from lightning_complexity.metrics import ComplexityMetric, HessianTrace
from lightning_complexity.network import Context, Snapshot
from lightning_complexity.recording.budget import Length
from tests.networks import mlp
from tests.training import Classifier, trainer

pytestmark = pytest.mark.usefixtures("budgeted")

NUM_SAMPLES = 24
X = torch.randn(NUM_SAMPLES, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


class Slow(ComplexityMetric):
    """Takes some time for all samples."""

    needs = frozenset({"inputs"})
    cost = "sampling"

    def __init__(self, clock: Clock, name: str, seconds: float) -> None:
        super().__init__()
        self.name, self.seconds, self.calls = name, seconds, []
        self._clock = clock

    def __deepcopy__(self, memo: dict[int, Any]) -> Slow:
        copied = Slow(self._clock, self.name, self.seconds)
        copied.calls = self.calls
        return copied

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        self.calls.append(snapshot.num_samples)
        self._clock.pass_by(self.seconds * snapshot.num_samples / NUM_SAMPLES)
        return torch.tensor(1.0)


class Module(Classifier):
    """Each step takes a second; a forward pass alone takes none."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(mlp(4, 6, 3))
        self.clock = clock

    def training_step(self, batch: Any) -> Tensor:
        self.clock.pass_by(1.0)
        return super().training_step(batch)


def data(n: int = 24) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X[:n], Y[:n]), batch_size=1)


def steps(monitor: ComplexityMonitor, name: str) -> list[int]:
    return [m.step for m in monitor.history if f"complexity/{name}" in m.values]


def outside(clock: Clock, monitor: ComplexityMonitor) -> list[float]:
    """Seconds in the hooks of a monitor, by a clock around them."""
    total = [0.0]

    def timed(hook: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            started = clock.now
            try:
                return hook(*args, **kwargs)
            finally:
                total[0] += clock.now - started

        return wrapped

    for name in dir(type(monitor)):
        if name.startswith("on_") or name in {"setup", "teardown", "state_dict"}:
            setattr(monitor, name, timed(getattr(monitor, name)))
    return total


class SlowLogger(CSVLogger):
    clock: Clock

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.clock.pass_by(0.25)
        super().log_metrics(metrics, step)


@pytest.mark.parametrize("budget", [0.01, 0.05, 0.2])
def test_the_share_holds_and_is_that_of_a_clock_outside(clock: Clock, tmp_path: Path, budget: float) -> None:
    metrics = [Slow(clock, f"m{i}", 10.0 ** (i - 3)) for i in range(5)]
    monitor = ComplexityMonitor(metrics, every_n_steps=5, every_n_epochs=None, budget=budget)
    measuring, logger = outside(clock, monitor), SlowLogger(tmp_path)
    logger.clock = clock
    started = clock.now
    trainer(callbacks=[monitor], max_epochs=40, logger=logger, log_every_n_steps=10**6).fit(Module(clock), data())
    rest = clock.now - started - measuring[0]
    assert monitor.overhead == pytest.approx(measuring[0] / rest, rel=1e-9)
    assert monitor.overhead <= 1.1 * budget
    assert steps(monitor, "m0")[-1] == 960


def test_overhead_that_is_logged_is_that_of_the_time_before(clock: Clock) -> None:
    monitor = ComplexityMonitor([Slow(clock, "m", 3.0)], every_n_epochs=1, budget=None)
    trainer(callbacks=[monitor], max_epochs=2).fit(Module(clock), data(4))
    # Half a second at the start, one at the end of each epoch of four seconds.
    assert [m.values.get("complexity/overhead") for m in monitor.history] == [None, 1.0 / 4, 1.5 / 8]
    assert monitor.history[-1].seconds == {"m": 0.5}


def test_dear_ones_are_thinned_and_told_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    metrics = [Slow(clock, "cheap", 0.001), Slow(clock, "dear", 3.0), Slow(clock, "never", 60.0)]
    monitor = ComplexityMonitor(metrics, every_n_steps=4, every_n_epochs=None, budget=0.05)
    with caplog.at_level(logging.INFO, "lightning_complexity"):
        trainer(callbacks=[monitor], max_epochs=30).fit(Module(clock), data())
    assert len(steps(monitor, "cheap")) > 170
    assert 4 <= len(steps(monitor, "dear")) <= 12
    assert steps(monitor, "dear")[-1] == 720
    ours = [record for record in caplog.records if record.name.startswith("lightning_complexity")]
    ours = [record for record in ours if record.name.endswith("budgeting")]
    assert "dear" in ours[0].message
    assert [r.levelname for r in ours[-2:]] == ["INFO", "WARNING"]
    assert f"dear {len(steps(monitor, 'dear'))} times of" in ours[-2].message
    assert "never measured never (60 s" in ours[-1].message


def test_a_piece_decides_before_a_dear_one_starts(clock: Clock) -> None:
    dear = Slow(clock, "dear", 480.0)
    monitor = ComplexityMonitor([dear], every_n_steps=5, every_n_epochs=None, budget=0.2)
    trainer(callbacks=[monitor], max_epochs=40).fit(Module(clock), data())
    assert dear.calls
    assert set(dear.calls) <= {1, 4}  # all 24 would have taken 480 seconds of 960
    assert monitor.overhead <= 1.1 * 0.2


def test_the_last_moment_completes_what_was_thinned_at_the_same_step(clock: Clock) -> None:
    metrics = [Slow(clock, "cheap", 0.001), Slow(clock, "dear", 12.0)]
    monitor = ComplexityMonitor(metrics, every_n_epochs=1, budget=0.1)
    trainer(callbacks=[monitor], max_epochs=20).fit(Module(clock), data())
    assert monitor.history[-1].step == 480
    assert [m.step for m in monitor.history] == sorted({m.step for m in monitor.history})
    assert steps(monitor, "dear")[-1] == steps(monitor, "cheap")[-1] == 480


def test_estimates_take_fewer_probes_and_say_so(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    plain = HessianTrace.probe

    def probe(self: HessianTrace, snapshot: Snapshot, context: Context) -> Any:
        used.append(self.num_probes)
        clock.pass_by(self.num_probes * snapshot.num_samples / NUM_SAMPLES)
        return plain(self, snapshot, context)

    monkeypatch.setattr(HessianTrace, "probe", probe)
    metric = HessianTrace(num_probes=16)
    monitor = ComplexityMonitor([metric], every_n_steps=24, every_n_epochs=None, budget=0.1)
    trainer(callbacks=[monitor], max_epochs=20).fit(Module(clock), data())
    whole = [n for n in used if n > 1]
    assert {2, 4} & set(whole)
    assert metric.num_probes == 16
    assert all(
        "complexity/hessian_trace/standard_error" in m.values
        for m in monitor.history
        if "complexity/hessian_trace" in m.values
    )
    assert monitor.overhead <= 0.11


def test_what_others_monitor_is_measured_every_time(clock: Clock, tmp_path: Path) -> None:
    stopping = pl.callbacks.EarlyStopping("complexity/dear", mode="max", patience=100)
    monitor = ComplexityMonitor([Slow(clock, "dear", 5.0)], budget=0.01)
    trainer(callbacks=[monitor, stopping], max_epochs=4).fit(Module(clock), data(4))
    assert steps(monitor, "dear") == [0, 4, 8, 12, 16]


def test_a_budget_does_not_change_the_training(clock: Clock) -> None:
    def weights(budget: float | None) -> list[Tensor]:
        torch.manual_seed(0)
        module = Module(clock)
        monitor = ComplexityMonitor(["GradientNorm", "JacobianNorm", HessianTrace()], every_n_steps=3, budget=budget)
        trainer(callbacks=[monitor], max_epochs=3).fit(module, data())
        return [*module.state_dict().values()]

    for free, thinned in zip(weights(None), weights(0.01), strict=True):
        assert torch.equal(free, thinned)


def test_decisions_and_seconds_survive_a_checkpoint(clock: Clock, tmp_path: Path) -> None:
    def fit(epochs: int, checkpoint: str | None) -> ComplexityMonitor:
        metrics = [Slow(clock, "cheap", 0.001), Slow(clock, "dear", 3.0)]
        monitor = ComplexityMonitor(metrics, every_n_steps=4, every_n_epochs=None, budget=0.05)
        run = trainer(callbacks=[monitor], max_epochs=epochs)
        run.fit(Module(clock), data(), ckpt_path=checkpoint)
        run.save_checkpoint(tmp_path / "a.ckpt")
        return monitor

    first = fit(10, None)
    second = fit(20, str(tmp_path / "a.ckpt"))
    watch = second.spending.stopwatch
    assert watch.rest == pytest.approx(480)
    assert second.overhead <= 0.055
    assert steps(second, "dear")[: len(steps(first, "dear"))] == steps(first, "dear")
    assert second.spending.due["dear"] > first.spending.due["dear"]
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"][second.state_key]["spending"]
    assert stored["due"] == second.spending.due


# How long a training will be --------------------------------------------------------------------


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Any:
        return iter(zip(X, Y, strict=True))


@pytest.mark.parametrize(
    ("options", "loader", "expected"),
    [
        ({"max_epochs": 5}, data(), Length(48, 120)),
        ({"max_epochs": 10}, data(), Length(96, 240)),
        ({"max_epochs": 5, "min_epochs": 3}, data(), Length(72, 120)),
        ({"max_epochs": 5, "accumulate_grad_batches": 5}, data(), Length(10, 25)),
        ({"max_epochs": -1, "max_steps": 60}, data(), Length(24, 60)),
        ({"max_epochs": 1, "max_steps": 10}, data(), Length(10, 10)),
        ({"max_epochs": 1}, DataLoader(Stream()), Length(32, float("inf"))),
        ({"max_epochs": 100, "max_time": {"seconds": 50}}, data(), Length(50, 50)),
    ],
    ids=lambda value: "stream" if isinstance(value, DataLoader) else str(value),
)
def test_length_of_a_training(clock: Clock, options: dict[str, Any], loader: DataLoader[Any], expected: Length) -> None:
    found = []

    class Asking(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            found.append(expected_length(trainer, 1.0))
            trainer.should_stop = True

    fit = trainer(**options, callbacks=[Asking()])
    fit.fit(Module(clock), loader)
    assert found == [expected]
    assert time.perf_counter() == clock.now
