"""One training, and everything that there is after each of its moments."""

from __future__ import annotations

import copy
import random
import tempfile
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from tests.observer_matrix.design import Setting
from tests.observer_matrix.networks import CLASSES, NETWORKS

BATCH_SIZE, EPOCHS = 4, 2
OURS = "complexity/", "probe/", "penalty/", "loss/", "constraint/"


class Moment(NamedTuple):
    """All that there is in a training at one time, by what it is and by name."""

    name: str
    state: dict[str, dict[str, Any]]


class Trace:
    """Keeps moments where no module's state is looked for."""

    __slots__ = ("moments",)

    def __init__(self) -> None:
        self.moments: list[Moment] = []


class MemoryLogger(Logger):
    """Keeps the rows that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        own = not_ours(metrics)
        self.rows += [(step, own)] if own else []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """There are none."""


def not_ours(values: dict[str, Any]) -> dict[str, Any]:
    return {key: copy.deepcopy(value) for key, value in values.items() if not key.startswith(OURS)}


class Watched(pl.LightningModule):
    """A classifier that takes down its own state after all callbacks were called."""

    def __init__(self, setting: Setting, trace: Trace, train: DataLoader[Any], val: DataLoader[Any]) -> None:
        super().__init__()
        self.setting, self.trace, self.loaders = setting, trace, (train, val)
        self.net = NETWORKS[setting.network][0]()
        self.accuracy, self.val_accuracy = MulticlassAccuracy(CLASSES), MulticlassAccuracy(CLASSES)
        self.mean_loss = MeanMetric()  # never reset
        self.seen: list[tuple[float, float]] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.seen.append((x.double().sum().item(), loss.item()))
        self.accuracy(logits.detach(), y)
        self.mean_loss.update(loss.detach())
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("train_accuracy", self.accuracy, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.val_accuracy(logits, y)
        self.log("val_loss", F.cross_entropy(logits, y), sync_dist=True)
        self.log("val_accuracy", self.val_accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        match self.setting.optimizer:
            case "sgd":
                return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
            case "adamw":
                return torch.optim.AdamW(self.parameters(), lr=1e-2)
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3, history_size=3)

    # Moments -------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        self.take_down("before the first batch")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.take_down(f"epoch {self.current_epoch}, before batch {batch_idx}")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.take_down(f"epoch {self.current_epoch}, before step {self.global_step}")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.take_down(f"epoch {self.current_epoch}, after batch {batch_idx}")

    def on_validation_epoch_end(self) -> None:
        self.take_down(f"epoch {self.current_epoch}, after validation")

    def on_train_epoch_end(self) -> None:
        self.take_down(f"epoch {self.current_epoch}, at its end")

    def on_fit_end(self) -> None:
        self.take_down("after the training")

    def take_down(self, name: str) -> None:
        self.trace.moments.append(Moment(name, state_of(self)))


def logged(trainer: Any) -> dict[str, Any]:
    """What callbacks see, without the computing of metrics that asking for it would cause."""
    connector = trainer._logger_connector
    return {**not_ours(connector._callback_metrics), **not_ours(connector._logged_metrics)}


def state_of(module: Watched) -> dict[str, dict[str, Any]]:
    """What must not depend on an observer; causes come before what follows from them."""
    trainer = module.trainer
    return {
        "switches": switches(),
        "random state": {
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": np.random.get_state(),
        },
        "dataset": {str(i): loader.dataset.states() for i, loader in enumerate(module.loaders)},
        "batches and losses": {"seen": list(module.seen)},
        "mode": {name: m.training for name, m in module.named_modules()},
        "weight": tensors(module.named_parameters()),
        "buffer": tensors(module.named_buffers()),
        "requires_grad": {name: p.requires_grad for name, p in module.named_parameters()},
        "gradient": tensors((name, p.grad) for name, p in module.named_parameters()),
        "optimizer": {str(i): copy.deepcopy(o.state_dict()) for i, o in enumerate(trainer.optimizers)},
        "torchmetrics": {name: of_metric(m) for name, m in module.named_modules() if isinstance(m, Metric)},
        "hooks": {name: hooks(m) for name, m in module.named_modules()},
        "logged": logged(trainer),
        "logger": {"rows": list(trainer.logger.rows)},
        "progress": {"step": trainer.global_step, "epoch": trainer.current_epoch},
    }


def switches() -> dict[str, Any]:
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


def tensors(named: Any) -> dict[str, Any]:
    return {name: None if tensor is None else tensor.detach().clone() for name, tensor in named}


def of_metric(metric: Metric) -> dict[str, Any]:
    states = {name: copy.deepcopy(getattr(metric, name)) for name in metric._defaults}
    return {**states, "updates": metric._update_count, "computed": copy.deepcopy(metric._computed)}


def hooks(module: torch.nn.Module) -> list[int]:
    kinds = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks"
    return [len(getattr(module, kind)) for kind in kinds]


def loaders(setting: Setting) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Four optimizer steps in all; an epoch with accumulated gradients ends within a window."""
    _, dataset, shape = NETWORKS[setting.network]
    batches = 2 if setting.accumulate == 1 else setting.accumulate + 1
    sizes = batches * BATCH_SIZE * setting.processes, BATCH_SIZE * setting.processes
    train, val = (dataset(size, shape) for size in sizes)
    options: dict[str, Any] = {"batch_size": BATCH_SIZE, "num_workers": setting.workers}
    return DataLoader(train, shuffle=True, **options), DataLoader(val, **options)


def trained(setting: Setting, *callbacks: pl.Callback) -> list[Moment]:
    """Train from a fixed seed, and return all moments of it."""
    pl.seed_everything(5, verbose=False)
    trace, (train, val) = Trace(), loaders(setting)
    module = Watched(setting, trace, train, val)
    parallel = {"devices": setting.processes, "strategy": DDPStrategy(process_group_backend="gloo")}
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is left out, and advice on workers, other tests look at
        pl.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            precision=setting.precision,
            accumulate_grad_batches=setting.accumulate,
            log_every_n_steps=1,
            logger=MemoryLogger(),
            callbacks=list(callbacks),
            default_root_dir=directory,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **(parallel if setting.processes > 1 else {}),
        ).fit(module, train, val)
    return trace.moments
