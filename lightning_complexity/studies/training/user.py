"""A user's own LightningModule and LightningDataModule in a study: labels permuted, optimizers replaced."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_complexity.callbacks.base import lightning_of, pytorch_lightning
from lightning_complexity.callbacks.finding import find_task, find_validation_task
from lightning_complexity.callbacks.probe import draw, first_loader
from lightning_complexity.metrics import resolve
from lightning_complexity.network import Batches, Snapshot, Task
from lightning_complexity.network.running.batches import TARGET_KEYS
from lightning_complexity.recording.measuring import FailureReport, measure_fit
from lightning_complexity.studies.importing import load_object
from lightning_complexity.studies.training.optimizers import OptimizerName, build_optimizer
from lightning_complexity.studies.training.runs import Metrics, Result, finish, finished_result, fit
from lightning_complexity.studies.training.settings import Moments, Stop, as_dict
from lightning_complexity.studies.training.watching import GLANCE, Fit, Judge, MonitorAtMoments, Watch


@dataclass(frozen=True)
class Problem:
    """A module and its data, by import paths of classes, or functions, that need no arguments.

    Attributes:
        module: Of a ``LightningModule``.
        datamodule: Of a ``LightningDataModule``. Its validation loader, or else its test loader, has the samples that
            are not trained on.
    """

    module: str
    datamodule: str

    def make_module(self) -> Any:
        """A new module.

        Raises:
            ValueError: If the path, or what it names, is none of a module.
        """
        return _made(self.module, "--module", ("training_step", "configure_optimizers"), "LightningModule")

    def make_datamodule(self) -> Any:
        """A new data module.

        Raises:
            ValueError: If the path, or what it names, is none of a data module.
        """
        return _made(self.datamodule, "--datamodule", ("train_dataloader", "setup"), "LightningDataModule")


def _made(path: str, option: str, methods: tuple[str, ...], kind: str) -> Any:
    factory = load_object(path, option)
    if not callable(factory):
        raise ValueError(f"{option} {path} must be a class or a function, got {type(factory).__name__}.")
    try:
        made = factory()
    except TypeError as error:
        raise ValueError(
            f"{option} {path} could not be called without arguments: {error}. Name a function that makes it."
        ) from error
    if not all(callable(getattr(made, method, None)) for method in methods):
        raise ValueError(f"{option} {path} must make a {kind}, got {type(made).__name__}.")
    return made


@dataclass(frozen=True)
class Change:
    """What a study changes about a user's training.

    Attributes:
        permute_labels: Whether each training sample has the target of another.
        optimizer: By which the module's own is replaced; ``None`` for not.
        learning_rate: Of that optimizer.
        seed: Of the permutation, and of all that the training draws.
    """

    permute_labels: bool = False
    optimizer: OptimizerName | None = None
    learning_rate: float = 0.1
    seed: int = 0


def train_user(
    problem: Problem,
    change: Change,
    folder: Path,
    *,
    metrics: Metrics = "standard",
    stop: Stop | None = None,
    moments: Moments | None = None,
    probe: int = 256,
) -> Result:
    """Train a user's module on a user's data to a stated criterion, with one thing changed.

    Loss and accuracy of the criterion are those that the monitor finds, on all training samples, in evaluation mode.

    Args:
        problem: Module and data.
        change: What is changed.
        folder: As for :func:`lightning_complexity.studies.training.runs.train`, like all that follows.
        metrics: What to measure.
        stop: When training is over.
        moments: When to measure.
        probe: How many samples to measure on.

    Raises:
        ValueError: If labels cannot be permuted, or the optimizer cannot be replaced, with the reason.
    """
    stop, moments, resolved = stop or Stop(), moments or Moments(), resolve(metrics)
    asked = {
        **asdict(problem),
        "setting": asdict(change),
        "stop": as_dict(stop),
        "moments": as_dict(moments),
        "metrics": [metric.name for metric in resolved],
        "probe": probe,
    }
    finished = finished_result(folder, asked)
    if finished is not None:
        return finished
    with seeded(change.seed):
        module, data = problem.make_module(), problem.make_datamodule()
        train_loader, test_loader = loaders(data)
        if change.permute_labels:
            train_loader = with_permuted_targets(train_loader, change.seed)
        if change.optimizer is not None:
            train_loader = _replace_optimizer(module, train_loader, change.optimizer, change.learning_rate)
        judges = _Judges(train_loader, test_loader)
        watch = Watch(
            stop, moments, judges.train, judges.test, _length(train_loader, default=100), glance=judges.glance
        )
        monitor = MonitorAtMoments(copy.deepcopy(resolved), watch, probe=probe)
        fit(lightning_of(module).Trainer, module, train_loader, test_loader, folder, watch, monitor, stop.max_steps)
    return finish(folder, asked, watch, monitor)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch, and put their states back."""
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")  # which Lightning leaves for processes that it starts
    before = {name: os.environ[name] for name in names if name in os.environ}
    with pytorch_lightning.utilities.seed.isolate_rng():
        pytorch_lightning.seed_everything(seed, verbose=False)
        try:
            yield
        finally:
            for name in names:
                os.environ.pop(name, None)
            os.environ.update(before)


def loaders(data: Any) -> tuple[Any, Any]:
    """The loader for training, and that of samples that are not trained on; ``None`` where there is none."""
    if callable(getattr(data, "prepare_data", None)):
        data.prepare_data()
    data.setup("fit")
    train = first_loader(data.train_dataloader())
    if train is None:
        raise ValueError(f"{type(data).__name__}.train_dataloader() gives no loader.")
    test = _loader(data, "val_dataloader")
    if test is None:
        data.setup("test")
        test = _loader(data, "test_dataloader")
    return train, test


def _loader(data: Any, name: str) -> Any:
    try:
        return first_loader(getattr(data, name)())
    except Exception:  # Lightning's own, and older ones', raise errors of several kinds where there is none
        return None


def _length(sized: Any, default: int) -> int:
    try:
        return len(sized)
    except TypeError:
        return default


class _PermutedTargets(Dataset[Any]):
    """Each sample with the target of another."""

    def __init__(self, dataset: Any, order: list[int]) -> None:
        self.dataset, self.order = dataset, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Any:
        return with_target(self.dataset[index], self.dataset[self.order[index]])


def with_target(sample: Any, other: Any) -> Any:
    """A sample with the target of another.

    Args:
        sample: A pair ``(inputs, target)``, or a mapping with ``targets``, ``target``, ``labels``, ``label`` or ``y``.
        other: Of the same kind.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> with_target(("image", 3), ("other image", 7))
        ('image', 7)
    """
    if isinstance(sample, Mapping):
        key = next((key for key in sample if isinstance(key, str) and key.lower() in TARGET_KEYS), None)
        if key is not None:
            return {**sample, key: other[key]}
    elif isinstance(sample, (tuple, list)) and len(sample) == 2:
        return [sample[0], other[1]] if isinstance(sample, list) else (sample[0], other[1])
    raise ValueError(
        "labels can be permuted where a sample is a pair (inputs, target) or a mapping with an entry "
        f"{', '.join(TARGET_KEYS)}; here it is a {type(sample).__name__}. Let the dataset give one of these."
    )


def with_permuted_targets(loader: Any, seed: int) -> DataLoader[Any]:
    """The same loader, of a dataset whose targets are permuted.

    Raises:
        ValueError: If it is none of a dataset that can be indexed.
    """
    dataset = _indexable(loader, "labels can be permuted")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    permuted = _PermutedTargets(dataset, order)
    shared = {"collate_fn": loader.collate_fn, "num_workers": loader.num_workers}
    if loader.batch_size is None:
        return DataLoader(permuted, batch_sampler=loader.batch_sampler, **shared)
    # A sampler gives indices, whatever the dataset is.
    return DataLoader(
        permuted, batch_size=loader.batch_size, sampler=loader.sampler, drop_last=loader.drop_last, **shared
    )


def _indexable(loader: Any, what: str) -> Any:
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        kind = type(loader.dataset if isinstance(loader, DataLoader) else loader).__name__
        raise ValueError(f"{what} where train_dataloader() is a DataLoader of a dataset with indices, got {kind}.")
    return loader.dataset


def _replace_optimizer(module: Any, loader: Any, name: OptimizerName, learning_rate: float) -> Any:
    """Let a module have another optimizer; return the loader that it needs."""
    if not getattr(module, "automatic_optimization", True):
        raise ValueError("optimizers cannot be replaced in a module with automatic_optimization = False.")
    if name == "lbfgs":
        if any(isinstance(part, nn.modules.dropout._DropoutNd) and part.p for part in module.modules()):
            raise ValueError("lbfgs needs a loss that does not change by itself, and this network has dropout.")
        dataset = _indexable(loader, "lbfgs takes all samples in each step,")
        loader = DataLoader(dataset, batch_size=len(dataset), collate_fn=loader.collate_fn)
    example = None
    if name == "path_sgd":
        batch = next(iter(loader))
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[0], Tensor)):
            raise ValueError(f"path_sgd needs batches that are a pair (inputs, targets), got {type(batch).__name__}.")
        example = batch[0][:1]

    def configure_optimizers() -> torch.optim.Optimizer:
        given = example if example is None else example.to(module.device)
        return build_optimizer(name, module, given, learning_rate=learning_rate)

    module.configure_optimizers = configure_optimizers
    return loader


class _Judges:
    """Judge a module as the monitor does, on samples of two loaders; they are drawn when first needed.

    Attributes:
        train: On all training samples.
        test: On all samples that are not trained on; ``None`` without such a loader.
        glance: On a few training samples; ``None`` where there are not many, or it is not known how many.
    """

    def __init__(self, train: Any, test: Any) -> None:
        self._loaders = train, test
        self._task: Task | None = None
        self.train: Judge = self._judge(partial(self._drawn_train, count=None))
        self.glance: Judge | None = None
        if _length(getattr(train, "dataset", None), default=0) > GLANCE:
            self.glance = self._judge(partial(self._drawn_train, count=GLANCE))
        self.test: Judge | None = None if test is None else self._judge(self._drawn_test)

    def _judge(self, drawn: Callable[[Any], tuple[Batches, Task]]) -> Judge:
        known: list[tuple[Batches, Task]] = []

        def judge(module: Any) -> Fit:
            if not known:
                known.append(drawn(module))
            batches, task = known[0]
            found = measure_fit(Snapshot(module, batches, task=task), "train", FailureReport())
            values = {key.rpartition("_")[2]: float(value) for key, value in found.items()}
            return Fit(values.get("loss"), values.get("accuracy"))

        return judge

    def _drawn_train(self, module: Any, count: int | None) -> tuple[Batches, Task]:
        batches = draw(self._loaders[0], count, module.trainer, module)
        if self._task is None:
            self._task = find_task(module, batches.batches[0], Task())
        return batches, self._task

    def _drawn_test(self, module: Any) -> tuple[Batches, Task]:
        batches = draw(self._loaders[1], None, module.trainer, module)
        assert self._task is not None  # training samples are judged first
        return batches, find_validation_task(module, batches.batches[0], self._task, Task())
