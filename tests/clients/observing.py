"""Train a client and look at everything that a monitor could have changed, and at what it logged."""

from __future__ import annotations

import copy
import logging
import os
import random
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch
import numpy as np
import pytorch_lightning
import torch

from lightning_complexity import ComplexityMonitor
from lightning_complexity.callbacks.base import Callback
from tests.clients.client import Client

OURS = ("complexity/", "probe/", "penalty/", "constraint/")
RAW_ERROR = re.compile(
    r"\b(Assertion|Attribute|Index|Key|Lookup|Name|NotImplemented|Runtime|Type|UnboundLocal)Error\b"
    r"|missing \d+ required|unexpected keyword|takes \d+ positional|has no attribute|is not subscriptable"
    r"|not callable|mat1 and mat2|Expected all tensors|size mismatch|does not require grad"
)


class MemoryLogger(lightning.pytorch.loggers.logger.Logger, pytorch_lightning.loggers.logger.Logger):
    """Keeps what it is given, for a ``Trainer`` of either Lightning package."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> int:
        return 0

    @property
    def experiment(self) -> None:
        """There is none."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        values = {key: float(value) for key, value in metrics.items() if not key.startswith(OURS)}
        if values:
            self.rows.append((step, values))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """They are not looked at."""

    def __deepcopy__(self, memo: dict[int, Any]) -> MemoryLogger:
        return self  # some packages copy what they are given


class Recorder(Callback):
    """Takes down the state of a training after every batch and at its end; last in the list of callbacks."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.end: dict[str, Any] = {}
        self.monitors: list[ComplexityMonitor] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorder:
        return self  # some packages copy what they are given

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        self.steps.append([random_states(), copy.deepcopy(outputs), logged(trainer)])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.monitors = [callback for callback in trainer.callbacks if isinstance(callback, ComplexityMonitor)]
        self.end = {
            "weights": copied(dict(pl_module.named_parameters())),
            "buffers": copied(dict(pl_module.named_buffers())),
            "gradients": copied({name: p.grad for name, p in pl_module.named_parameters()}),
            "modes": [module.training for module in pl_module.modules()],
            "optimizers": [copy.deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers],
            "schedulers": [copy.deepcopy(c.scheduler.state_dict()) for c in trainer.lr_scheduler_configs],
            "random": random_states(),
            "logged": logged(trainer),
        }


def random_states() -> list[Any]:
    return [torch.get_rng_state(), random.getstate(), list(np.random.get_state())]  # the legacy state is what matters


def logged(trainer: Any) -> dict[str, Any]:
    values = {**trainer.callback_metrics, **trainer.logged_metrics}
    return {key: copy.deepcopy(value) for key, value in values.items() if not key.startswith(OURS)}


def copied(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: None if tensor is None else tensor.detach().clone() for name, tensor in tensors.items()}


@dataclass
class Training:
    """What was seen of one training.

    Attributes:
        state: All that must not depend on a monitor.
        history: Values of each measurement, of the monitor that the trainer had.
        own_history: The same, of the monitor that was given to the client, which may have copied it.
        warnings: Lines of warnings, and of log messages of that level, that were shown.
    """

    state: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    own_history: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += record.getMessage().splitlines()


@contextmanager
def _lines() -> Iterator[list[str]]:
    """All lines of warnings that a user would see, each text once."""
    handler = _Lines()
    logger = logging.getLogger("lightning_complexity")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield handler.lines
    finally:
        logger.removeHandler(handler)
        handler.lines += [line for text in dict.fromkeys(str(w.message) for w in caught) for line in text.splitlines()]


@contextmanager
def _own_directory() -> Iterator[None]:
    """Some packages write where they are."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        try:
            yield
        finally:
            os.chdir(before)


def train(client: Client, monitor: ComplexityMonitor | None = None) -> Training:
    """Train a client from a fixed seed."""
    torch.set_num_threads(1)
    pytorch_lightning.seed_everything(1, verbose=False)
    recorder, logger = Recorder(), MemoryLogger()
    with _own_directory(), _lines() as lines:
        client.train([*([] if monitor is None else [monitor]), recorder], logger)
        own_history = [] if monitor is None else [measurement.values for measurement in monitor.history]
    if not recorder.steps or not recorder.end:
        raise RuntimeError("The client did not train to its end.")
    history = [measurement.values for seen in recorder.monitors for measurement in seen.history]
    state = {"steps": recorder.steps, **recorder.end, "rows": logger.rows}
    return Training(state, history, own_history, [line for line in lines if line.strip()])


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested structures of tensors, arrays and plain values are not the same to the last bit."""
    if type(a) is not type(b):
        return [f"{path}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
        return [] if same else [path]
    if isinstance(a, np.ndarray):
        return [] if np.array_equal(a, b, equal_nan=a.dtype.kind == "f") else [path]
    if isinstance(a, dict):
        if list(a) != list(b):
            return [f"{path}: keys {list(a)} and {list(b)}"]
        return [found for key in a for found in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f"{path}: {len(a)} and {len(b)} entries"]
        return [f for k, (x, y) in enumerate(zip(a, b, strict=True)) for f in differences(x, y, f"{path}.{k}")]
    same = a == b or a != a
    return [] if same else [f"{path}: {a!r} and {b!r}"]
