"""Drawing the probe leaves the dataset alone, whatever it holds; the probe is converted as batches are."""

from __future__ import annotations

import itertools
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset, get_worker_info

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, regularizers
from lightning_complexity.callbacks import NeuronPruning
from lightning_complexity.recording import draw_samples, drawing
from tests.networks import mlp
from tests.training import Classifier, trainer

X = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
MODULE_GENERATOR = np.random.default_rng(3)


class Changed(Dataset[Any]):
    """Samples times a number that each look at the dataset changes."""

    def __init__(self, number: Callable[[], float]) -> None:
        self.number = number

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index] * self.number(), Y[index]


class Counting(Changed):
    def __init__(self) -> None:
        self.count = 0
        super().__init__(self.counted)

    def counted(self) -> float:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.count += 1
        return super().__getitem__(index)


class Caching(Changed):
    """Augments a sample once, from the global generators, and keeps it."""

    def __init__(self) -> None:
        super().__init__(lambda: torch.rand(()).item() + random.random())
        self.cache: dict[int, Any] = {}

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index not in self.cache:
            self.cache[index] = super().__getitem__(index)
        return self.cache[index]


class Batched(Counting):
    """Gives many samples at once, and counts those calls."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.count += 1
        return [(X[i] * (1 + self.count), Y[i]) for i in indices]


class ReadingOn(Changed):
    """Reads the file that it opened at the start, or opens at the first look, on and on."""

    def __init__(self, path: Path, *, at_once: bool, buffering: int = -1) -> None:
        super().__init__(lambda: self.read())
        self.path, self.buffering = path, buffering
        self.file = path.open("rb", buffering) if at_once else None

    def __del__(self) -> None:
        if self.file is not None:
            self.file.close()

    def read(self) -> float:
        self.file = self.file or self.path.open("rb", self.buffering)
        return self.file.read(1)[0] / 100


class Seeking(ReadingOn):
    """Reads the place of each sample in the file, through a buffer that is smaller than a sample."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.file = self.file or self.path.open("rb", 16)
        self.file.seek(32 * index)
        return torch.tensor(list(self.file.read(32)))[:4].double() / 100, Y[index]


class Wrapper(Dataset[Any]):
    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


class Stream(IterableDataset[Any]):
    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __iter__(self) -> Iterator[Any]:
        for i in range(24):
            yield X[i] * self.generator.normal(), Y[i]


class Collate:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, samples: list[Any]) -> list[Tensor]:
        self.calls += 1
        x, y = torch.utils.data.default_collate(samples)
        return [x * self.calls, y]


def with_generator(make: Callable[[], Any]) -> Changed:
    generator = make()
    dataset = Changed(lambda: generator())
    dataset.generator = generator
    return dataset


def torch_generator() -> Changed:
    generator = torch.Generator().manual_seed(0)
    return Changed(lambda: torch.rand((), generator=generator).item())


def of_the_module() -> Changed:
    global MODULE_GENERATOR
    MODULE_GENERATOR = np.random.default_rng(3)
    return Changed(lambda: MODULE_GENERATOR.normal())


def python_generator() -> Changed:
    numbers = (i % 7 / 7 for i in itertools.count())
    return Changed(lambda: next(numbers))


def opened_by_worker(worker_id: int) -> None:
    info = get_worker_info()
    info.dataset.file = info.dataset.path.open("rb")


DATASETS: dict[str, Callable[[Path], Dataset[Any]]] = {
    "numpy": lambda _: Changed(np.random.default_rng(0).normal),
    "torch": lambda _: torch_generator(),
    "python": lambda _: Changed(random.Random(0).random),
    "partial": lambda _: Changed(partial(np.random.RandomState(0).uniform, 1, 2)),
    "module": lambda _: of_the_module(),
    "iterator": lambda _: Changed(iter(np.linspace(0, 1, 999)).__next__),
    "generator": lambda _: python_generator(),
    "counter": lambda _: Counting(),
    "cache": lambda _: Caching(),
    "batched": lambda _: Batched(),
    "file at first look": lambda path: ReadingOn(path, at_once=False),
    "file at once": lambda path: ReadingOn(path, at_once=True, buffering=0),
    "seeking": lambda path: Seeking(path, at_once=True, buffering=16),
    "seeking at first look": lambda path: Seeking(path, at_once=False),
    "subset": lambda _: Subset(Counting(), range(23, -1, -1)),
    "concatenation": lambda _: ConcatDataset([Counting(), Caching()]),
    "wrapper": lambda _: Wrapper(Subset(Wrapper(Counting()), range(24))),
    "stream": lambda _: Stream(),
}


class Seen(Classifier):
    """Keeps what it was trained on."""

    def __init__(self) -> None:
        super().__init__(mlp(4, 6, 3))
        self.seen: list[Tensor] = []

    def training_step(self, batch: Any) -> Tensor:
        self.seen.append(batch[0].clone())
        return super().training_step(batch)


def fitted(loader: DataLoader[Any], *callbacks: Any, validation: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
    pl.seed_everything(1, verbose=False)
    module = Seen()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(does not have many workers|IterableDataset|multi-threaded).*")
        trainer(callbacks=list(callbacks), num_sanity_val_steps=0).fit(module, loader, validation)
    return torch.cat(module.seen), module.state_dict()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(range(1, 200)) * 50)
    return path


WORKERS = {
    "no workers": {},
    "one worker": {"num_workers": 1},
    "workers": {"num_workers": 2},
    "persistent": {"num_workers": 2, "persistent_workers": True},
}


def assert_training_is_the_same(make: Callable[[], DataLoader[Any]]) -> ComplexityMonitor:
    monitor = ComplexityMonitor(["ParameterNorm"], probe=6)
    plain = fitted(make(), validation=make())
    watched = fitted(make(), monitor, validation=make())
    torch.testing.assert_close(watched, plain, rtol=0, atol=0)
    return monitor


@pytest.mark.parametrize("workers", ["no workers", "workers"])
@pytest.mark.parametrize("kind", DATASETS)
def test_training_is_bit_identical(kind: str, workers: str, file: Path) -> None:
    if kind in ("file at once", "seeking") and workers == "workers":
        pytest.skip("two workers that share a position race with each other")
    if kind == "stream" and workers == "workers":
        pytest.skip("each worker gives the whole stream")
    monitor = assert_training_is_the_same(lambda: DataLoader(DATASETS[kind](file), batch_size=8, **WORKERS[workers]))
    assert len(monitor._probes.train.inputs) == 6


@pytest.mark.parametrize("kind", ["numpy", "file at first look", "seeking"])
@pytest.mark.parametrize("workers", ["one worker", "persistent"])
def test_training_is_bit_identical_with_other_workers(kind: str, workers: str, file: Path) -> None:
    if kind == "seeking" and workers == "persistent":
        pytest.skip("two workers that share a position race with each other")
    assert_training_is_the_same(lambda: DataLoader(DATASETS[kind](file), batch_size=8, **WORKERS[workers]))


def test_training_is_bit_identical_with_a_collate_function_that_counts() -> None:
    monitor = assert_training_is_the_same(lambda: DataLoader(TensorDataset(X, Y), batch_size=8, collate_fn=Collate()))
    assert len(monitor._probes.train.inputs) == 6


def test_what_workers_open_is_open_for_the_probe(file: Path) -> None:
    monitor = assert_training_is_the_same(
        lambda: DataLoader(ReadingOn(file, at_once=False), batch_size=8, num_workers=2, worker_init_fn=opened_by_worker)
    )
    # The first worker-like process reads 1, 2, ... from the start.
    numbers = torch.arange(1, 7).double()[:, None] / 100
    torch.testing.assert_close(monitor._probes.train.inputs, X[[0, 5, 9, 14, 18, 23]] * numbers)


def test_training_is_bit_identical_with_a_loader_of_the_same_stream_as_probe() -> None:
    stream = DataLoader(Stream(), batch_size=8)
    plain = fitted(DataLoader(Stream(), batch_size=8))
    monitor = ComplexityMonitor(["ParameterNorm"], probe=stream)
    torch.testing.assert_close(fitted(stream, monitor), plain, rtol=0, atol=0)
    assert len(monitor._probes.train.inputs) == 8


@pytest.mark.parametrize("kind", DATASETS)
def test_two_draws_are_equal(kind: str, file: Path) -> None:
    loader = DataLoader(DATASETS[kind](file), batch_size=4)
    indices = None if kind == "stream" else [0, 7, 13, 23]
    first, second = (draw_samples(loader, indices, 4).batches[0] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first[0].isfinite().all()
    assert not torch.equal(first[0], X[indices or range(4)])


# Where nothing can be forked --------------------------------------------------------------------

COPYABLE = ("numpy", "partial", "counter", "iterator", "subset", "wrapper", "cache", "batched", "stream")


@pytest.mark.parametrize("kind", COPYABLE)
def test_a_copy_leaves_the_dataset_alone(kind: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing.sys, "platform", "win32")
    monkeypatch.setattr(drawing.os, "fork", lambda: pytest.fail("forked"))
    loader = DataLoader(DATASETS[kind](file), batch_size=4)
    indices = None if kind == "stream" else [0, 7, 13, 23]
    with torch.random.fork_rng():
        first, second = (draw_samples(loader, indices, 4).batches[0] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_copy_shares_large_arrays_and_memory_maps(tmp_path: Path) -> None:
    large, small = np.zeros(2**18), torch.zeros(3)
    mapped = np.memmap(tmp_path / "map", dtype=np.uint8, mode="w+", shape=(5,))
    memo = drawing._large_arrays({"nested": [Wrapper(TensorDataset(small)), {"a": (large, mapped)}]})
    assert memo == {id(large): large, id(mapped): mapped}


# What goes wrong ----------------------------------------------------------------------------------


class Broken(Changed):
    def __init__(self) -> None:
        super().__init__(float)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 23:
            raise LookupError("no such picture:\n  23.png")
        return X[index], Y[index]


class First(torch.utils.data.Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(16))

    def __len__(self) -> int:
        return 16


@pytest.mark.parametrize(
    "callback",
    [
        lambda: ComplexityMonitor(["JacobianNorm"], probe=6),
        lambda: ComplexityConstraint(regularizers.JacobianNorm(), at_most=1.0, probe=6),
        lambda: NeuronPruning(at_epochs=[1], probe=6),
    ],
    ids=["monitor", "constraint", "pruning"],
)
def test_an_error_of_the_dataset_is_one_line_and_the_first_batch_is_taken(callback: Callable[[], Any]) -> None:
    loader = DataLoader(Broken(), batch_size=8, sampler=First())
    made = callback()
    with pytest.warns(UserWarning, match="The probe is taken from the first training batch") as caught:
        fitted(loader, made)
    (message,) = {str(w.message) for w in caught if "The probe" in str(w.message)}
    assert "drawn from the dataset: LookupError: no such picture: 23.png Give" in message
    assert "\n" not in message
    probe = made._probes.train if isinstance(made, ComplexityMonitor) else vars(made).get("_probe") or made._drawn
    torch.testing.assert_close(probe.inputs, X[:6])


def test_an_error_of_the_validation_dataset_leaves_its_probe_out() -> None:
    monitor = ComplexityMonitor(["ParameterNorm"])
    with pytest.warns(UserWarning, match="ComplexityMonitor leaves out the validation probe .* no such picture"):
        fitted(DataLoader(TensorDataset(X, Y), batch_size=8), monitor, validation=DataLoader(Broken(), sampler=First()))
    assert {"complexity/parameter_norm", "probe/train_loss"} <= monitor.history[-1].values.keys()


class Dying(Changed):
    def __init__(self) -> None:
        super().__init__(float)
        self.kept = (i for i in range(3))  # cannot be copied

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        drawing.os._exit(3)


class Hanging(Dying):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        drawing.select.select([], [], [], 60)
        raise AssertionError


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked")
@pytest.mark.parametrize("dataset", [Dying, Hanging])
def test_a_process_that_dies_or_hangs_is_given_up(dataset: type[Dying], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_PATIENCE", 0.5)
    with pytest.raises(drawing.DrawingError, match=r"cannot be copied\. TypeError: cannot pickle 'generator' object"):
        draw_samples(DataLoader(dataset()), [0, 1])
    with pytest.raises(ChildProcessError):
        drawing.os.waitpid(-1, drawing.os.WNOHANG)  # no process is left


def test_a_batch_that_no_process_can_send_is_drawn_from_a_copy() -> None:
    class Local(NamedTuple):
        x: Tensor

    loader = DataLoader(Counting(), collate_fn=lambda samples: Local(torch.stack([x for x, _ in samples])))
    assert torch.equal(draw_samples(loader, [0, 1]).batches[0].x, torch.stack([X[0], 2 * X[1]]))
    assert loader.dataset.count == 0


# Precision ------------------------------------------------------------------------------------------


class Creating(nn.Module):
    """Creates a tensor in each forward pass, of the default precision."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, 6, 3).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x @ torch.eye(4))


SINGLE = TensorDataset(X.float(), Y)
PROBES: dict[str, Any] = {"drawn": 6, "given": (X[:6].float(), Y[:6]), "loader": DataLoader(SINGLE)}


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("64-true", torch.float64),
        ("32-true", torch.float32),
        ("bf16-true", torch.bfloat16),
        ("bf16-mixed", torch.float32),
    ],
)
def test_the_probe_is_converted_as_batches_are(precision: str, dtype: torch.dtype, probe: str) -> None:
    torch.set_default_dtype(torch.float32)
    monitor = ComplexityMonitor(["JacobianNorm", "GradientNorm"], probe=PROBES[probe], on_error="raise")
    constraint = ComplexityConstraint(regularizers.JacobianNorm(), at_most=1.0, probe=PROBES[probe], every_n_steps=2)
    pruning = NeuronPruning(0.2, at_epochs=[1], probe=PROBES[probe])
    module = Classifier(Creating() if precision == "64-true" else mlp(4, 6, 3).float())
    trainer(callbacks=[monitor, constraint, pruning], precision=precision).fit(module, DataLoader(SINGLE, batch_size=8))
    assert {"complexity/jacobian_norm", "complexity/gradient_norm", "probe/train_loss"} <= monitor.history[
        0
    ].values.keys()
    for drawn in (monitor._probes.train, constraint._probe, pruning._drawn):
        assert drawn.inputs.dtype == dtype
    assert torch.get_default_dtype() == torch.float32


def test_transfer_hooks_are_applied_to_a_given_probe_and_leave_it_as_it_is() -> None:
    class Shifted(Classifier):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0].add_(1), batch[1]

    given = X[:6].clone(), Y[:6]
    monitor = ComplexityMonitor("fast", probe=given)
    trainer(callbacks=[monitor], max_epochs=1).fit(Shifted(mlp(4, 3)), DataLoader(TensorDataset(X, Y), batch_size=8))
    torch.testing.assert_close(monitor._probes.train.inputs, X[:6] + 1)
    torch.testing.assert_close(given[0], X[:6])
