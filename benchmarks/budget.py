"""Train three networks under budgets, and say what measuring took: ``python -m benchmarks.budget``.

The time is that of a clock outside of the monitor, around all of its hooks.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import NUM_CLASSES, resnet18, transformer
from benchmarks.report import table
from lightning_complexity import ComplexityMonitor
from lightning_complexity.demo import DigitsClassifier, load_digits

LENGTHS = {0.2: 60.0, 0.05: 120.0, 0.01: 300.0}
LENGTH_OF_DEFAULT = 300.0
RESULTS = Path(__file__).with_name("budget.md")
INTRODUCTION = """\
# Whether a budget holds

Written by `python -m benchmarks.budget`: trainings with a `ComplexityMonitor(budget=...)`, and the time in all of its
hooks by a clock outside of it, divided by the rest of the training time. It is to stay within 1.1 times the budget. The
batches and the probe are small (32 and 256 samples for the demonstration's network, 4 and 16 for ResNet-18, 4 and 32
for the transformer), as so short a run sees few samples. A measurement is due every so many steps, 20 times in the run;
TensorBoard logs are written. Other programs ran on the machine meanwhile, two to four at a time on two cores.
The default is 2 %, but at least ten seconds.

`measured` says how many quantities were measured at all and at every moment, of those that the network has; losses on
the probes count as one each.
"""
HOOKS = [
    "setup",
    "on_fit_start",
    "on_train_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_start",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
    "state_dict",
]


@dataclass(frozen=True)
class Run:
    """A network, its data, and for how long it is trained."""

    name: str
    network: nn.Module
    data: TensorDataset
    batch_size: int
    probe: int


class Classifier(pl.LightningModule):
    """Cross-entropy and SGD."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Give the loss."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class OutsideClock:
    """Adds up the time in the hooks of a callback."""

    def __init__(self, callback: pl.Callback) -> None:
        self.seconds = 0.0
        for name in HOOKS:
            setattr(callback, name, self._timed(getattr(callback, name)))

    def _timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return hook(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def runs() -> Iterator[Run]:
    """The three networks."""
    torch.manual_seed(0)
    yield Run("demo", DigitsClassifier().net, load_digits()[0], 32, 256)
    yield Run("ResNet-18", resnet18().model, _random_data(3, 32, 32), 4, 16)
    yield Run("transformer", transformer().model, _random_data(64, 128), 4, 32)


def _random_data(*shape: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, *shape, generator=generator)
    return TensorDataset(x, torch.randint(NUM_CLASSES, (1024,), generator=generator))


def _trainer(max_steps: int, **options: Any) -> pl.Trainer:
    silent = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(max_steps=max_steps, accelerator="cpu", **silent, **options)


class Times(pl.Callback):
    """Notes when batches end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def seconds_of_a_step(run: Run, seconds: float = 6.0) -> float:
    """Train for a few seconds without measuring."""
    times = Times()
    trainer = _trainer(-1, logger=False, max_time={"seconds": seconds}, callbacks=[times])
    trainer.fit(Classifier(run.network), DataLoader(run.data, run.batch_size))
    return (times.ends[-1] - times.ends[0]) / (len(times.ends) - 1)


def row(run: Run, steps: int, **options: Any) -> list[str]:
    """Train under one budget, and say what measuring took."""
    every = max(steps // 20, 1)
    monitor = ComplexityMonitor(every_n_steps=every, every_n_epochs=None, probe=run.probe, **options)
    clock = OutsideClock(monitor)
    with TemporaryDirectory() as folder:
        trainer = _trainer(steps, logger=pl.loggers.TensorBoardLogger(folder), callbacks=[monitor])
        started = time.perf_counter()
        trainer.fit(Classifier(run.network), DataLoader(run.data, run.batch_size, shuffle=True))
        seconds = time.perf_counter() - started
    overhead = clock.seconds / (seconds - clock.seconds)
    spending = monitor.spending
    names = [name for name in spending.due if name not in monitor._failures.left_out]
    always = sum(spending.measured.get(name) == spending.due[name] for name in names)
    ever = sum(spending.measured.get(name, 0) > 0 for name in names)
    return [
        f"{run.name}, {options.get('metrics', 'default settings')}",
        str(options.get("budget", "auto")),
        f"{overhead:.4f}",
        f"{monitor.overhead:.4f}",
        f"{seconds:.0f} s",
        f"{ever}, {always} of {len(names)}",
    ]


def main() -> None:
    """Train, print a table and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the lengths of the runs")
    parser.add_argument("--only", default="", help="name of one network; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    header = ["network, metrics", "budget", "outside clock", "complexity/overhead", "length", "measured, each time"]
    rows = []
    for run in runs():
        if options.only not in run.name:
            continue
        step = seconds_of_a_step(run)
        settings: list[tuple[float, dict[str, Any]]] = [
            (seconds, {"metrics": "full", "budget": budget}) for budget, seconds in LENGTHS.items()
        ]
        for seconds, setting in [*settings, (LENGTH_OF_DEFAULT, {})]:
            rows.append(row(run, max(int(options.scale * seconds / step), 20), **setting))
            print(table(header, rows[-1:]).splitlines()[-1], flush=True)
    if not options.only:
        RESULTS.write_text(f"{INTRODUCTION}\n{table(header, rows)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
