"""Select networks by error and size, as Laredo et al. did: ``python -m benchmarks.automatic_selection mnist-folder``.

The folder has the four IDX files of MNIST. Regression is done on data that come with scikit-learn. It takes about ten
minutes on one core. What the CSV file beside the report has is not done again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes, make_friedman1
from torch import Tensor, nn

from benchmarks.report import table
from lightning_complexity.metrics import ParameterCount
from lightning_complexity.selection.samplers.genetic import MicroGeneticSampler
from lightning_complexity.selection.spaces.base import Structure
from lightning_complexity.selection.spaces.dense import DenseSpace
from lightning_complexity.studies.training.data import load_data

RESULTS = Path(__file__).with_name("automatic_selection.md")
NUM_MODELS = 50
BATCH = 64
PUBLISHED = {0.3: (97.4, 63370), 0.5: (97.0, 40522), 0.7: (95.4, 13218)}
PAPER = DenseSpace(
    max_layers=5,
    units=range(8, 1025, 8),
    activations=("sigmoid", "tanh", "relu"),
    dropouts=(0.0, 0.2),
    same_activation=True,
)
INTRODUCTION = """\
# Automatic model selection

Written by `python -m benchmarks.automatic_selection`: at most 50 trainings a search, with the published numbers for all
else (population 10, tournament 4, mutation 0.4, more than 3 similar pairs). A search sees training and validation
samples only; the network that it chose is trained anew on all of them, and then tested once. For MNIST a search
trains 5 epochs on 12,000 samples (the paper: 48,000), validates on 10,000 (12,000), and the chosen network is trained
10 epochs on 60,000. Networks have up to 4 hidden layers of 8 to 256 units (1024).
"""


@dataclass(frozen=True)
class Task:
    """Data in three parts, and how a network is trained in a search and at its end."""

    name: str
    samples: dict[str, tuple[Tensor, Tensor]]
    is_regression: bool
    alphas: tuple[float, ...]
    max_layers: int
    more_layers: float
    rate: float
    epochs: int
    last_epochs: int
    num_outputs: int = 1
    known: dict[tuple[Structure, int], tuple[float, int]] = field(default_factory=dict)

    @property
    def space(self) -> DenseSpace:
        """Smaller than the paper's, which has up to 1024 units and more layers, so that a CPU will do."""
        return DenseSpace(
            max_layers=self.max_layers,
            units=range(8, 257, 8),
            activations=("sigmoid", "tanh", "relu"),
            dropouts=(0.0, 0.2),
            same_activation=True,
            more_layers=self.more_layers,
        )

    def network(self, structure: Structure, seed: int) -> nn.Module:
        """A network with weights of a seed."""
        torch.manual_seed(seed)
        return self.space.build(structure, self.samples["train"][0].shape[1:], self.num_outputs)

    def fit(self, network: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
        """Train by Adam."""
        optimizer = torch.optim.Adam(network.parameters(), lr=self.rate, fused=True)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(BATCH):
                optimizer.zero_grad()
                outputs = network(x[rows])
                loss = F.mse_loss(outputs[:, 0], y[rows]) if self.is_regression else F.cross_entropy(outputs, y[rows])
                loss.backward()
                optimizer.step()

    @torch.no_grad()
    def error(self, network: nn.Module, x: Tensor, y: Tensor) -> float:
        """RMSE, or the share of wrong classes."""
        outputs = network.eval()(x)
        if self.is_regression:
            return F.mse_loss(outputs[:, 0], y).sqrt().item()
        return (outputs.argmax(1) != y).double().mean().item()

    def tried(self, structure: Structure, seed: int) -> tuple[float, int]:
        """Validation error after few epochs, and size; a network that two searches ask for is trained once."""
        if (structure, seed) not in self.known:
            network = self.network(structure, seed)
            self.fit(network, *self.samples["train"], self.epochs)
            size = int(ParameterCount()(network))
            self.known[structure, seed] = self.error(network, *self.samples["validation"]), size
        return self.known[structure, seed]

    def tested(self, structure: Structure, seed: int) -> float:
        """Test error of a network that is trained longer, on all other samples."""
        network = self.network(structure, seed)
        parts = zip(*(part for name, part in self.samples.items() if name != "test"), strict=True)
        self.fit(network, *map(torch.cat, parts), self.last_epochs)
        return self.error(network, *self.samples["test"])


def split(x: Tensor, y: Tensor, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Parts of some sizes, by an order that is the same every time."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return [(x[rows], y[rows]) for rows in order.split([*sizes, len(x) - sum(sizes)])]


def mnist(folder: str) -> Task:
    """Of the training samples, 12,000 for searches and 10,000 for validation; the paper took 48,000 and 12,000."""
    data = load_data(folder)
    train, validation, rest = split(data.x_train, data.y_train, [12_000, 10_000])
    samples = {"train": train, "validation": validation, "rest": rest, "test": (data.x_test, data.y_test)}
    return Task("MNIST", samples, False, (0.1, 0.3, 0.5, 0.7), 4, 0.4, 1e-3, 5, 10, num_outputs=10)


def regression(name: str, x: np.ndarray, y: np.ndarray) -> Task:
    """Three fifths for training, a fifth each for validation and testing; standardised by those for training."""
    inputs, targets = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    parts = split(inputs, targets, [len(x) * 3 // 5, len(x) // 5])
    means, scales = parts[0][0].mean(0), parts[0][0].std(0)
    mean, scale = parts[0][1].mean(), parts[0][1].std()
    samples = {
        part: ((inputs - means) / scales, (targets - mean) / scale)
        for part, (inputs, targets) in zip(("train", "validation", "test"), parts, strict=True)
    }
    return Task(f"{name}, RMSE in standard deviations", samples, True, (0.4, 0.5, 0.6), 3, 0.7, 1e-2, 20, 50)


def search(task: Task, alpha: float, seed: int) -> list[str]:
    """A row of the table: what a search chose."""
    sampler = MicroGeneticSampler(task.space, alpha=alpha, relative=task.is_regression, seed=seed)
    study = optuna.create_study(sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        error, size = task.tried(task.space.suggest(trial), seed)
        trial.set_user_attr("parameters", size)
        return error

    study.optimize(objective, n_trials=NUM_MODELS)
    best = sampler.best(study)
    error, size = task.tried(best.structure, seed)
    test = task.tested(best.structure, seed)
    shown = [f"{value:.3f}" if task.is_regression else f"{100 * (1 - value):.1f} %" for value in (error, test)]
    runs = 1 + sampler.history(study)[-1].run
    row = [f"{alpha:g}", str(seed), f"{size:,}", *shown, task.space.describe(best.structure), f"{best.fitness:.4f}"]
    return [*row, f"{best.trial + 1} of {len(study.trials)}", str(runs)]


def report(task: Task, rows: Sequence[Sequence[str]]) -> str:
    """The table of a task."""
    score = "RMSE" if task.is_regression else "accuracy"
    header = ["alpha", "seed", "parameters", f"validation {score}", f"test {score}", "network", "fitness"]
    parts = [f"## {task.name}", table([*header, "found at", "runs"], sorted(rows))]
    if not task.is_regression:
        published = [[f"{alpha:g}", f"{size:,}", f"{accuracy} %"] for alpha, (accuracy, size) in PUBLISHED.items()]
        parts.append("Published:\n\n" + table(["alpha", "parameters", "test accuracy"], published))
    for seed in sorted({row[1] for row in rows}):
        sizes = [int(row[2].replace(",", "")) for row in sorted(rows) if row[1] == seed]
        least = min(larger - smaller for larger, smaller in itertools.pairwise(sizes))
        word = "fall" if least > 0 else "fall or stay" if least == 0 else "do not always fall"
        parts.append(f"Seed {seed}: sizes {word} with alpha: {', '.join(map(str, sizes))}.")
    return "\n\n".join(parts)


def ended_at_once(space: DenseSpace, count: int = 1000) -> float:
    """Share of random populations of ten that the authors' code calls converged.

    There a pair is similar if its distance is less than 0.9 of the largest in the population.
    """
    ended = 0
    for seed in range(count):
        generator = np.random.default_rng(seed)
        drawn = [space.draw(generator) for _ in range(10)]
        distances = sorted(space.distance(*pair) for pair in itertools.combinations(drawn, 2))
        similar = sum(distance < 0.9 * distances[-1] for distance in distances[:-1])
        ended += math.isclose(distances[-1], 0) or similar > 3
    return ended / count


def main() -> None:
    """Run the searches and write the report after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mnist", help="folder with the four IDX files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=["mnist", "friedman", "diabetes"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    x, y = make_friedman1(2000, noise=1.0, random_state=0)
    tasks = {
        "mnist": mnist(options.mnist),
        "friedman": regression("Friedman's first function", x, y),
        "diabetes": regression("diabetes", *load_diabetes(return_X_y=True)),
    }
    table_file = options.output.with_suffix(".csv")
    done = list(csv.reader(table_file.open())) if table_file.exists() else []
    ends = (
        "## When a run ends\n\n"
        f"Of 1000 random populations, {100 * ended_at_once(PAPER):.1f} % have more than three pairs whose "
        "distance is less than 0.9 of the largest, which ends a run in the authors' code. Five runs that end with "
        "their first ten networks are 50 models."
    )
    for seed, name in itertools.product(range(options.seeds), options.tasks):
        for alpha in tasks[name].alphas:
            if [name, f"{alpha:g}", str(seed)] not in [row[:3] for row in done]:
                done.append([name, *search(tasks[name], alpha, seed)])
                with table_file.open("w", newline="") as file:
                    csv.writer(file).writerows(done)
    parts = [report(task, [row[1:] for row in done if row[0] == name]) for name, task in tasks.items()]
    options.output.write_text("\n\n".join([INTRODUCTION.rstrip(), *parts, ends]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
