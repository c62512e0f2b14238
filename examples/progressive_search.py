"""Search networks for digits in the order of their complexity, and compare with random search and aging evolution.

``python examples/progressive_search.py`` takes about five minutes of one core; ``--quick`` ten seconds.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import optuna
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_complexity.selection.samplers.evolution import AgingEvolutionSampler
from lightning_complexity.selection.samplers.progressive import ProgressiveSampler
from lightning_complexity.selection.spaces.base import EvolvableSpace, NetworkSpace, ProgressiveSpace
from lightning_complexity.selection.spaces.cells import CellSpace
from lightning_complexity.selection.spaces.dense import DenseSpace

TRAIN, VALIDATION = 500, 600
WIDTHS = (16, 32, 64, 128, 256)


class Digits(NamedTuple):
    """Samples to train on, to choose by, and to say how good the chosen network is."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def digits(seed: int) -> Digits:
    """A random split."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    ends = (0, TRAIN, TRAIN + VALIDATION, len(y))
    return Digits(*((x[begin:end], y[begin:end]) for begin, end in itertools.pairwise(ends)))


def train(network: nn.Module, data: Digits, epochs: int) -> None:
    """A few epochs of Adam."""
    x, y = data.train
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    network.eval()


def error(network: nn.Module, samples: tuple[Tensor, Tensor]) -> float:
    """Share of samples that are classified wrongly."""
    with torch.no_grad():
        return (network(samples[0]).argmax(1) != samples[1]).double().mean().item()


def searched(space: NetworkSpace, sampler: optuna.samplers.BaseSampler, models: int, seed: int, epochs: int) -> str:
    """How many networks a search trained, what the best of them reach, and how long it took."""
    data = digits(seed)

    def objective(trial: optuna.Trial) -> float:
        torch.manual_seed(seed)
        network = space.build(space.suggest(trial), (64,), 10)
        train(network, data, epochs)
        trial.set_user_attr("test", error(network, data.test))
        return error(network, data.validation)

    begin = time.perf_counter()
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=models)
    trained = len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))
    best, seconds = study.best_trial, time.perf_counter() - begin
    assert best.value is not None
    chosen = space.describe(space.read(best.params))
    return f"{trained:6d}  {best.value:10.4f}  {best.user_attrs['test']:6.4f}  {seconds:7.0f}  {chosen}"


def compare(name: str, space: NetworkSpace, levels: int, beam: int, seeds: int, epochs: int) -> None:
    """All searches of a space, with as many networks each."""
    assert isinstance(space, ProgressiveSpace)
    models = len(space.first()) + beam * (levels - 1)
    samplers: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
        "progressive": lambda seed: ProgressiveSampler(space, beam=beam, seed=seed),
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    }
    if isinstance(space, EvolvableSpace):
        samplers["evolution"] = lambda seed: AgingEvolutionSampler(space, seed=seed)
    for seed in range(seeds):
        for search, sampler in samplers.items():
            found = searched(space, sampler(seed), models, seed, epochs)
            print(f"{name:6s}  {search:12s}  {seed:4d}  {found}", flush=True)


def main() -> None:
    """Print a line for each search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one split, fully connected networks and a few small cells"
    )
    quick = parser.parse_args().quick
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    print("space   search        seed  models  validation    test  seconds  chosen")
    seeds, epochs = (1 if quick else 3), 6
    compare("dense", DenseSpace(3, WIDTHS, ("relu", "tanh")), 3, 4 if quick else 16, seeds, epochs)
    operations, levels = (("identity", "conv_3x3"), 2) if quick else (("identity", "max_pool_3x3", "conv_3x3"), 3)
    cells = CellSpace(levels, operations, filters=8, repeats=1, stages=2)
    compare("cells", cells, levels, 4 if quick else 8, seeds, epochs)


if __name__ == "__main__":
    main()
