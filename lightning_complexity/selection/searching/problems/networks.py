"""Networks of a space, trained on data in memory; scores are those of samples that are held out of training."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.callbacks.probe import evenly_spaced
from lightning_complexity.network import Snapshot
from lightning_complexity.selection.searching.description import Search
from lightning_complexity.selection.searching.problems.base import Problem, Values
from lightning_complexity.selection.searching.pruning import Watch
from lightning_complexity.selection.searching.quantities import TrialError, measured, named_values
from lightning_complexity.selection.simplest import mean_and_standard_error
from lightning_complexity.selection.spaces.base import NetworkSpace, Structure
from lightning_complexity.studies.training.data import Data, load_data
from lightning_complexity.studies.training.optimizers import OPTIMIZERS, build_optimizer

OUTCOMES = ["error", "accuracy", "val_loss"]
_MIN_FOLDS = 5
_EVALUATED_AT_ONCE = 1024


@dataclass(frozen=True)
class Samples:
    """Inputs as networks take them, and classes."""

    x: Tensor
    y: Tensor

    def __getitem__(self, rows: Tensor) -> Samples:
        return Samples(self.x[rows], self.y[rows])


@lru_cache(maxsize=1)
def _data(source: str) -> Data:
    """Read once by each worker."""
    return load_data(source)


def as_images(x: Tensor) -> Tensor:
    """Flattened square images as images of one channel; other inputs as they are.

    Args:
        x: Shape ``(n, d)``.

    Example:
        >>> as_images(torch.zeros(2, 64)).shape, as_images(torch.zeros(2, 6)).shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 6]))
    """
    side = math.isqrt(x.shape[1])
    return x.reshape(len(x), 1, side, side) if side * side == x.shape[1] and side > 1 else x


class NetworkProblem(Problem):
    """Trains a network of a structure once for each fold.

    A repeat holds one fold of the training samples out, a fifth of them or less, trains on the others, with weights and
    order of its own, and is scored on the fold. All structures have the same folds. Test samples are seen by the model
    that was chosen alone.

    Args:
        search: The search.
        space: Of networks.

    Raises:
        ValueError: If there are too few samples, or an option is out of range.
    """

    def __init__(self, search: Search, space: NetworkSpace) -> None:
        self.search, self.space, self.networks, self.outcomes = search, space, space, OUTCOMES
        self.data = data = _data(search.data)
        if search.optimizer not in OPTIMIZERS[:4]:
            raise ValueError(f"--optimizer must be one of {', '.join(OPTIMIZERS[:4])}, got {search.optimizer!r}.")
        size = len(data) if search.num_samples is None else search.num_samples
        folds = max(search.repeats, _MIN_FOLDS)
        if not folds <= size <= len(data):
            raise ValueError(f"{data.name} has {len(data)} samples to train on; {size} cannot be had in {folds} folds.")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(search.seed))[:size]
        self.train = Samples(as_images(data.x_train)[order], data.y_train[order])
        self.folds = torch.arange(size) % folds

    def values(self, structure: Structure, watch: Watch | None, folder: Path) -> Values:
        """Scores on folds, and measures on samples of the others."""
        found: Values = {name: [] for name in self.search.names}
        for repeat in range(self.search.repeats):
            train, held_out = self.train[self.folds != repeat], self.train[self.folds == repeat]
            seen = None if watch is None or repeat else watch.epoch
            network, initial = self.trained(structure, train, held_out, repeat, seen)
            scores = evaluated(network, held_out) | self._measured(network, train, initial)
            for name, values in found.items():
                values.append(scores[name])
        return named_values(found)

    def _measured(self, network: nn.Module, train: Samples, initial: dict[str, Tensor]) -> dict[str, float]:
        chosen = torch.tensor(evenly_spaced(range(len(train.y)), self.search.probe))
        x, y = train.x[chosen], train.y[chosen]
        return measured(self.search.names, network, Snapshot(network, x, y, initial=initial), x[:1])

    def trained(
        self,
        structure: Structure,
        train: Samples,
        held_out: Samples | None,
        repeat: int,
        seen: Callable[[int, dict[str, float], nn.Module], None] | None = None,
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """A trained network, and the parameters that it began with.

        Args:
            structure: Of the space.
            train: What it is trained on.
            held_out: What ``seen`` has its scores on.
            repeat: Which one; gives its random numbers.
            seen: Is called after each epoch.

        Raises:
            TrialError: If it cannot be built or run, or diverges.
        """
        search = self.search
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(search.seed * 1000 + repeat)
            network = self._built(structure, train)
            initial = {name: p.detach().clone() for name, p in network.named_parameters()}
            optimizer = build_optimizer(
                search.optimizer,  # type: ignore[arg-type]
                network,
                train.x[:1],
                learning_rate=search.learning_rate,
                weight_decay=search.weight_decay,
            )
            for epoch in range(1, search.max_epochs + 1):
                loss = one_epoch(network, optimizer, train, search.batch_size)
                if not math.isfinite(loss):
                    raise TrialError(f"training diverged: the loss is {loss} in epoch {epoch} of repeat {repeat}")
                if seen is not None and held_out is not None:
                    seen(epoch, evaluated(network, held_out), network)
        return network, initial

    def _built(self, structure: Structure, train: Samples) -> nn.Module:
        num_classes = self.data.num_classes
        try:
            network = self.networks.build(structure, tuple(train.x.shape[1:]), num_classes)
        except Exception as error:
            raise TrialError(f"its network cannot be built: {type(error).__name__}: {error}") from error
        if not any(p.requires_grad for p in network.parameters()):
            raise TrialError("its network has no parameter to train")
        network.to(train.x.dtype)
        try:
            with torch.no_grad():
                outputs = network.eval()(train.x[:2])
        except Exception as error:
            raise TrialError(f"its network cannot be run: {type(error).__name__}: {error}") from error
        if not isinstance(outputs, Tensor) or outputs.shape != (len(train.x[:2]), num_classes):
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise TrialError(f"its network must give {num_classes} outputs for each sample, got {got} for two")
        return network

    def finished(self, structure: Structure, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """Its error on the test samples, trained on all training samples; the first network is kept."""
        test = Samples(as_images(self.data.x_test), self.data.y_test)
        errors = []
        for repeat in range(self.search.repeats):
            network, _ = self.trained(structure, self.train, None, repeat)
            errors.append(evaluated(network, test)["error"])
            if repeat == 0:
                torch.save(copy.deepcopy(network.state_dict()), folder / "chosen.pt")
        mean, spread = mean_and_standard_error(errors)
        parameters = json.dumps(self.space.parameters(structure))
        about = f", standard error {spread:.2g}" if len(errors) > 1 else ""
        lines = [
            f"Trained on all {len(self.train.y):,} training samples, it has an error of {mean:.4g} on the test samples "
            f"(mean of {len(errors)}{about}).",
            f"Weights of the first: {folder / 'chosen.pt'}; network: space.build(space.read({parameters}), "
            f"{tuple(self.train.x.shape[1:])}, {self.data.num_classes})",
        ]
        return {"test_errors": errors}, lines


def one_epoch(network: nn.Module, optimizer: torch.optim.Optimizer, samples: Samples, batch_size: int) -> float:
    """Train on all samples in random order; returns the mean loss."""
    network.train()
    total = torch.zeros(())
    for rows in torch.randperm(len(samples.y)).split(batch_size):
        if len(rows) == 1 and len(samples.y) > 1:
            continue  # BatchNorm has no statistics of one sample
        optimizer.zero_grad()
        loss = F.cross_entropy(network(samples.x[rows]), samples.y[rows])
        loss.backward()
        optimizer.step()
        total = total + loss.detach()
    return float(total)


def evaluated(network: nn.Module, samples: Samples) -> dict[str, float]:
    """Error, accuracy and mean loss."""
    network.eval()
    with torch.no_grad():
        outputs = torch.cat([network(x) for x in samples.x.split(_EVALUATED_AT_ONCE)])
    error = float((outputs.argmax(1) != samples.y).double().mean())
    return {"error": error, "accuracy": 1 - error, "val_loss": float(F.cross_entropy(outputs, samples.y))}
