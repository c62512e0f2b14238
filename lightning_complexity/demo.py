"""The demonstration: the same network on true and on random labels, and how its complexity differs."""

from __future__ import annotations

import logging
import math
import shutil
import subprocess
import sys
import time
import warnings
import webbrowser
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from lightning_complexity.callbacks import ComplexityMonitor
from lightning_complexity.callbacks.base import pytorch_lightning as pl
from lightning_complexity.metrics import HessianTrace, catalogue
from lightning_complexity.plots import plot_histories
from lightning_complexity.recording import Measurement, read_record

RUNS = {"true_labels": "true labels", "random_labels": "random labels"}
# What docs/demo.md and the table claim, on the four seeds that were tried; a test holds it for the first.
HIGHER_FOR_RANDOM_LABELS = (
    "distance_from_initialization",
    "parameter_norm",
    "log_spectral_product",
    "log_path_norm",
    "jacobian_norm",
    "hessian_trace",
)
# And at most of the moments at which both are still training, norms are higher for true labels.
HIGHER_FOR_TRUE_LABELS_AT_EQUAL_STEPS = (
    "distance_from_initialization",
    "parameter_norm",
    "log_spectral_product",
    "log_path_norm",
)
_CLEARLY = 1.2
_MEANING = (
    "Both networks fit their training labels, but only the one with true labels has learned anything that\n"
    "carries over to new data. A measure that explains generalization should be much higher for random labels."
)
_MATCHED = (
    "Random labels take longer, and norms grow on the way. So the networks are compared at the end; when both have\n"
    "the same training loss, after {true:,} steps for true and {random:,} for random labels; and after equal steps,\n"
    "at {shared} measurements. Over most of these the norms are higher for true labels, which are learned faster."
)


@dataclass(frozen=True)
class DemoSize:
    """How large the demonstration is."""

    num_train: int
    width: int
    max_epochs: int
    batch_size: int = 32
    every_n_epochs: int = 2


FULL = DemoSize(num_train=1437, width=256, max_epochs=300)
QUICK = DemoSize(num_train=300, width=256, max_epochs=400, every_n_epochs=3)


class DigitsClassifier(pl.LightningModule):
    """A network with two hidden layers; stops when an epoch passes without a training error."""

    def __init__(self, width: int = FULL.width) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )
        self.errors = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images, shape ``(n, 64)``."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy."""
        x, y = batch
        logits = self(x)
        self.errors += int((logits.argmax(1) != y).sum())
        return F.cross_entropy(logits, y)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Log the test accuracy."""
        x, y = batch
        self.log("test_accuracy", (self(x).argmax(1) == y).double().mean())

    def on_train_epoch_end(self) -> None:
        """Stop at zero training error."""
        self.trainer.should_stop = self.errors == 0
        self.errors = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class FittedBar(pl.Callback):
    """A progress bar of how many training samples the network gets right."""

    def __init__(self, title: str, num_train: int) -> None:
        self._bar = tqdm(
            total=num_train, desc=title, bar_format="{desc}: {percentage:3.0f} % fitted |{bar:30}| {postfix}"
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch that has just ended."""
        self._bar.n = self._bar.total - cast(DigitsClassifier, pl_module).errors
        accuracy = 100 * float(trainer.callback_metrics["test_accuracy"])
        self._bar.set_postfix_str(f"epoch {trainer.current_epoch + 1}, test accuracy {accuracy:.0f} %")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Leave the bar as it is."""
        self._bar.close()


def load_digits(num_train: int = FULL.num_train, seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """Scikit-learn's 1,797 handwritten digits, 8 x 8, split at random.

    Raises:
        ImportError: Without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError("the demo needs scikit-learn: pip install lightning-complexity[examples]") from error
    images, labels = load(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    train, test = order[:num_train], order[num_train:]
    return TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test])


def _with_random_labels(data: TensorDataset, seed: int) -> TensorDataset:
    x, y = data.tensors
    return TensorDataset(x, torch.randint(0, 10, y.shape, generator=torch.Generator().manual_seed(seed)))


def _train(run: str, train: TensorDataset, test: TensorDataset, size: DemoSize, seed: int, output: Path) -> float:
    """Train one network; return the overhead of the standard monitor."""
    pl.seed_everything(seed, verbose=False)
    shutil.rmtree(output / run, ignore_errors=True)
    monitor = ComplexityMonitor(every_n_epochs=size.every_n_epochs, budget=None)
    trainer = pl.Trainer(
        max_epochs=size.max_epochs,
        accelerator="cpu",
        logger=pl.loggers.TensorBoardLogger(output, name="", version=run),
        callbacks=[
            monitor,
            ComplexityMonitor(
                ["ParameterCount", HessianTrace(num_probes=32)], every_n_epochs=size.every_n_epochs, budget=None
            ),
            FittedBar(RUNS[run], size.num_train),
        ],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    loader = DataLoader(train, batch_size=size.batch_size, shuffle=True)
    trainer.fit(DigitsClassifier(size.width), loader, DataLoader(test, batch_size=len(test)))
    return monitor.overhead


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def ratio(name: str, true: float, random: float) -> float:
    """Ratio of random to true labels; of what the logarithm is taken of, for a measure that is a logarithm."""
    if name.startswith("log_"):
        return math.exp(min(random - true, 700.0))
    return random / true if true else math.nan


class Comparison(NamedTuple):
    """One measure of the two runs.

    Attributes:
        name: Of the measure.
        at_end: Its ratio of random to true labels, of the networks as they end.
        at_equal_loss: When both have the training loss of the one that ends with the higher one.
        higher_for_true: At how many of the measurements after equal steps it is higher for true labels.
    """

    name: str
    at_end: float
    at_equal_loss: float
    higher_for_true: int


def shared_moments(true: list[Measurement], random: list[Measurement]) -> list[tuple[Measurement, Measurement]]:
    """Measurements of both runs after equal numbers of steps, the initialization left out."""
    by_step = {measurement.step: measurement for measurement in random}
    return [(m, by_step[m.step]) for m in true if m.step in by_step and m.step > 0]


def at_loss(history: list[Measurement], loss: float) -> Measurement:
    """What a run measured when its loss on the training probe first was so low, by its logarithm between two moments.

    Args:
        history: Of the run.
        loss: Where to look; the last moment counts for one that it did not reach.
    """
    key = "probe/train_loss"
    reached = next((i for i, m in enumerate(history) if m.values[key] <= loss), len(history) - 1)
    before, after = history[max(reached - 1, 0)], history[reached]
    losses = [math.log(m.values[key]) for m in (before, after)]
    share = (losses[0] - math.log(loss)) / (losses[0] - losses[1]) if losses[0] > losses[1] else 1.0
    share = min(max(share, 0.0), 1.0)

    def between(first: float, second: float) -> float:
        return first + share * (second - first)

    values = {k: between(before.values[k], v) for k, v in after.values.items() if k in before.values}
    return Measurement(round(between(before.step, after.step)), after.epoch, after.time, values)


def at_equal_loss(true: list[Measurement], random: list[Measurement]) -> tuple[Measurement, Measurement]:
    """Both runs at the training loss of the one that ends with the higher one."""
    loss = max(history[-1].values["probe/train_loss"] for history in (true, random))
    return at_loss(true, loss), at_loss(random, loss)


def comparison(true: list[Measurement], random: list[Measurement]) -> list[Comparison]:
    """Compare the runs in each measure, at matched points."""
    rows, shared, equal = [], shared_moments(true, random), at_equal_loss(true, random)
    for name in [entry.name for entry in catalogue()]:
        key = f"complexity/{name}"
        if key in true[-1].values and key in random[-1].values:
            ratios = [ratio(name, a.values[key], b.values[key]) for a, b in ((true[-1], random[-1]), equal)]
            rows.append(Comparison(name, ratios[0], ratios[1], sum(a.values[key] > b.values[key] for a, b in shared)))
    return rows


def _cell(name: str, measurement: Measurement) -> str:
    key = f"complexity/{name}"
    error = measurement.values.get(f"{key}/standard_error")
    return _number(measurement.values[key]) + (f" ± {error:.2g}" if error else "")  # nothing where it is exact


def _print_table(true: list[Measurement], random: list[Measurement]) -> None:
    rows, shared = comparison(true, random), shared_moments(true, random)
    header = ("", "at start", *RUNS.values(), "random / true", "at equal loss", "true higher at")
    moments = (true[0], true[-1], random[-1])
    equal = at_equal_loss(true, random)
    steps = " / ".join(f"{m.step:,}" for m in equal)
    lines = [("optimizer steps", *(f"{m.step:,}" for m in moments), "", steps, "equal steps")]
    for row in rows:
        ratios = (f"x {_number(value)}" for value in (row.at_end, row.at_equal_loss))
        cells = (_cell(row.name, m) for m in moments)
        lines.append((row.name, *cells, *ratios, f"{row.higher_for_true} of {len(shared)}"))
    for key in ("probe/train_accuracy", "probe/val_accuracy", "probe/accuracy_gap"):
        start, end, other, *both = (f"{100 * m.values[key]:.1f} %" for m in (*moments, *equal))
        lines.append((key, start, end, other, "", " / ".join(both), ""))
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    print()
    for line in (header, *lines):
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join([line[0].ljust(len(first)), *others]).rstrip())
    print(f"\n(a ratio of a log_ measure is that of what the logarithm is taken of)\n\n{_MEANING}")
    for where, column in (("at the end", "at_end"), ("at equal training loss", "at_equal_loss")):
        higher = [row.name for row in rows if getattr(row, column) > _CLEARLY]
        others = [row.name for row in rows if row.name not in higher]
        print(f"  more than {_CLEARLY} times as high {where}: {', '.join(higher)}")
        print(f"  not so: {', '.join(others)}")
    print(f"\n{_MATCHED.format(true=equal[0].step, random=equal[1].step, shared=len(shared))}")


def _drawn(history: list[Measurement]) -> list[Measurement]:
    """Without what is the same all the time, and with one gap of two."""
    left_out = "complexity/parameter_count", "probe/generalization_gap"
    return [replace(m, values={k: v for k, v in m.values.items() if k not in left_out}) for m in history]


def _print_overhead(overhead: float, size: DemoSize) -> None:
    steps = -(-size.num_train // size.batch_size)
    print(
        f"\nMeasuring took {overhead:.2f} times the time of training: the standard metrics, every "
        f"{size.every_n_epochs} epochs of only {steps} steps of {size.batch_size} samples."
    )


def run_demo(*, quick: bool = False, seed: int = 0, output: Path = Path("complexity_demo"), open: bool = False) -> None:  # noqa: A002
    """Train one network on true and on random labels of handwritten digits, and compare its complexity.

    Trains twice to zero training error, with a ComplexityMonitor attached. Prints a table, and writes
    TensorBoard logs, a record of all measurements and a picture of the curves. Nothing is downloaded.

    Args:
        quick: Fewer samples and a smaller network, for a check that everything works.
        seed: Of the data split, the random labels, the initialization and the order of samples.
        output: Folder for logs and curves; the logs of an earlier demo in it are replaced.
        open: Start TensorBoard at the end and open it in a browser.
    """
    size = QUICK if quick else FULL
    torch.set_num_threads(1)  # so small a network gains nothing from more, and loses much on a busy machine
    started = time.perf_counter()
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    train, test = load_digits(size.num_train, seed)
    data = {"true_labels": train, "random_labels": _with_random_labels(train, seed)}
    print(
        f"Training a network 64-{size.width}-{size.width}-10 on {size.num_train} handwritten digits, "
        "until it makes no error on them.\n"
    )
    with warnings.catch_warnings():
        for advice in (".*does not have many workers.*", ".*smaller than the logging interval.*", ".*LeafSpec.*"):
            warnings.filterwarnings("ignore", message=advice)
        overhead = {run: _train(run, data[run], test, size, seed, output) for run in RUNS}
    histories = {run: read_record(output / run) for run in RUNS}
    _print_table(histories["true_labels"], histories["random_labels"])
    _print_overhead(overhead["true_labels"], size)
    curves = output / "curves.png"
    plot_histories({RUNS[run]: _drawn(history) for run, history in histories.items()}).savefig(curves, dpi=120)
    print(f"\nCurves: {curves}   (took {time.perf_counter() - started:.0f} s)")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(output)]
    print(f"\nLook at them in TensorBoard:\n\n    {' '.join(command)}\n")
    if open:
        _open_tensorboard(command)


def _open_tensorboard(command: list[str]) -> Any:
    print("Starting TensorBoard; press Ctrl-C to stop it.")
    with subprocess.Popen([*command, "--port", "6006"]) as server:
        time.sleep(5)
        webbrowser.open("http://localhost:6006")
        try:
            server.wait()
        except KeyboardInterrupt:
            server.terminate()
