"""Does overfitting go with complexity? Tanh networks on two noisy moons, watched by the number of linear pieces.

After the experiments of Hu et al. (KDD 2020): complexity rises while a network trains and overfits; L1, L2, customized
L1 and pruning slow it. Run ``python examples/lann_overfitting.py``; ``--quick`` trains one network of each kind.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_complexity import ComplexityPenalty
from lightning_complexity.callbacks import NeuronPruning
from lightning_complexity.metrics import LANNComplexity
from lightning_complexity.regularizers import CustomizedL1, ParameterNorm

STEPS_PER_EPOCH, EPOCHS = 50, 16


class Row(NamedTuple):
    """One network at one time."""

    step: int
    complexity: float
    train: float
    test: float

    @property
    def overfitting(self) -> float:
        """Difference of the accuracies."""
        return self.train - self.test


def moons(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two half circles that overlap."""
    x, y = make_moons(samples, noise=0.35, random_state=seed)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


class TanhNetwork(pl.LightningModule):
    """Two hidden layers of tanh."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(x)

    @torch.no_grad()
    def accuracy(self, data: tuple[Tensor, Tensor]) -> float:
        """Share of samples that it gets right."""
        return (self(data[0]).argmax(1) == data[1]).float().mean().item()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Watch(pl.Callback):
    """Note complexity and accuracies at the end of each epoch."""

    def __init__(self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> None:
        self.train, self.test = train, test
        self.rows: list[Row] = []

    def note(self, trainer: pl.Trainer, module: TanhNetwork) -> None:
        """Add a row."""
        metric = LANNComplexity()
        metric.update(module.net, self.train[0])
        accuracies = map(module.accuracy, (self.train, self.test))
        self.rows.append(Row(trainer.global_step, metric.compute().item(), *accuracies))

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """At initialization."""
        self.note(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """After every epoch."""
        self.note(trainer, pl_module)


def variants() -> dict[str, list[pl.Callback]]:
    """What holds complexity down. Strengths were set by hand, once, without a search."""
    return {
        "nothing": [],
        "L2": [ComplexityPenalty(ParameterNorm(3e-2))],
        "L1": [ComplexityPenalty(CustomizedL1(1e-3, "uniform"))],
        "customized L1": [ComplexityPenalty(CustomizedL1(2e-3, "slope"))],
        "pruning": [NeuronPruning(0.2, at_epochs=range(2, EPOCHS, 2))],
    }


def run(callbacks: list[pl.Callback], seed: int) -> list[Row]:
    """Train one network on 100 samples, all of them in every step."""
    pl.seed_everything(seed, verbose=False)
    train, test = moons(100, seed), moons(2000, 1000 + seed)
    watch = Watch(train, test)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        callbacks=[*callbacks, watch],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(TanhNetwork(), DataLoader([train] * STEPS_PER_EPOCH, batch_size=None))
    return watch.rows


def show_course(rows: list[Row]) -> None:
    """Print one run, and how complexity and overfitting go together in it."""
    print("One network, nothing holding it down:\n\n  step  complexity  train accuracy  test accuracy  overfitting")
    for row in [*rows[:5], *rows[6::2]]:
        print(f"{row.step:6d}  {row.complexity:10.2f}  {row.train:14.3f}  {row.test:13.3f}  {row.overfitting:11.3f}")
    correlation = np.corrcoef([row.complexity for row in rows], [row.overfitting for row in rows])[0, 1]
    print(
        f"\nCorrelation of complexity and overfitting in this run: {correlation:.2f}. It is confounded: both rise\n"
        "with time. The next table therefore compares networks at the same time.\n"
    )


def show_comparison(runs: dict[str, list[list[Row]]]) -> None:
    """Print means over seeds at the last step, and the rank correlation over all networks there."""
    last = {name: [rows[-1] for rows in of_name] for name, of_name in runs.items()}
    step, seeds = next(iter(last.values()))[0].step, len(next(iter(last.values())))
    print(f"After {step} steps, mean over {seeds} seed(s):\n")
    print(f"{'held down by':14s}  complexity  train accuracy  test accuracy  overfitting")
    for name, rows in last.items():
        means = [np.mean([value(row) for row in rows]) for value in COLUMNS]
        print(f"{name:14s}  {means[0]:10.2f}  {means[1]:14.3f}  {means[2]:13.3f}  {means[3]:11.3f}")
    held_down = [row for name, rows in last.items() if name != "nothing" for row in rows]
    everything = [*held_down, *last["nothing"]]
    print(
        f"\nRank correlation of complexity and overfitting over these {len(everything)} networks: "
        f"{rank_correlation(everything):.2f}; over the {len(held_down)} held down: {rank_correlation(held_down):.2f}.\n"
        "The strengths were set by hand, so that this does not say which of the ways is best."
    )


def rank_correlation(rows: list[Row]) -> float:
    """Spearman's, of complexity and overfitting."""
    return float(spearmanr([row.complexity for row in rows], [row.overfitting for row in rows]).statistic)


COLUMNS = (lambda r: r.complexity, lambda r: r.train, lambda r: r.test, lambda r: r.overfitting)


def main() -> None:
    """Train, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed instead of three")
    seeds = 1 if parser.parse_args().quick else 3
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    runs = {name: [run(variants()[name], seed) for seed in range(seeds)] for name in variants()}
    show_course(runs["nothing"][0])
    show_comparison(runs)


if __name__ == "__main__":
    main()
