"""Two passes by hand, and by the callback on two processes; run as ``python -m tests.sharpness_aware FOLDER``."""

from __future__ import annotations

import faulthandler
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor
from lightning_complexity.callbacks import SharpnessAwareMinimization

WATCHDOG = 400
"""Seconds after which a process that waits for another prints where, and ends."""
EPOCHS = 2
RHO = 0.3


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Linear(4, 8, dtype=torch.float32), nn.Linear(8, 3, dtype=torch.float32)
    return nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), last).to(dtype)


def data(dtype: torch.dtype = torch.float64) -> TensorDataset:
    x = torch.randn(22, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return TensorDataset(x.to(dtype), torch.arange(22) % 3)


class Trained(pl.LightningModule):
    """A module that knows nothing of two passes."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.net = network(dtype)
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(100 * self.current_epoch + batch_idx)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self.net)


def optimizer_of(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def by_hand(
    nets: list[nn.Sequential],
    batches: list[list[tuple[Tensor, Tensor]]],
    *,
    adaptive: bool = False,
    accumulated: int = 1,
    clip: float | None = None,
    autocast: Callable[[], Any] = nullcontext,
    scaler: Any = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
) -> None:
    """Train one network, or replicas of it, by the two passes of the paper.

    Args:
        nets: One for each process.
        batches: Those of each process in an epoch.
    """
    optimizers = [optimizer_of(net) for net in nets]
    parameters = [list(net.parameters()) for net in nets]

    def gradients(window: range, epoch: int) -> list[Tensor]:
        """The mean over processes of the gradients of a window of batches."""
        for net, own, optimizer in zip(nets, batches, optimizers, strict=True):
            optimizer.zero_grad()
            for i in window:
                torch.manual_seed(100 * epoch + i)
                x, y = own[i]
                with autocast():
                    loss = F.cross_entropy(net(x), y) + (0 if penalty is None else penalty(net))
                loss = loss / accumulated
                (loss if scaler is None else scaler.scale(loss)).backward()
        return [torch.stack([p.grad for p in column]).mean(0) for column in zip(*parameters, strict=True)]

    for epoch in range(EPOCHS):
        count = len(batches[0])
        for start in range(0, count, accumulated):
            window = range(start, min(start + accumulated, count))
            g = gradients(window, epoch)
            before = [[p.detach().clone() for p in own] for own in parameters]
            statistics = [{n: b.clone() for n, b in net.named_buffers()} for net in nets]
            w = before[0]
            scaled = [p.abs() * t for p, t in zip(w, g, strict=True)] if adaptive else g
            norm = torch.cat([t.flatten() for t in scaled]).norm()
            with torch.no_grad():
                for own in parameters:
                    for p, t, value in zip(own, g, w, strict=True):
                        p.add_(RHO * (value**2 * t if adaptive else t) / norm)
            g = gradients(window, epoch)
            for net, own, optimizer, values, buffers in zip(
                nets, parameters, optimizers, before, statistics, strict=True
            ):
                with torch.no_grad():
                    for p, value, gradient in zip(own, values, g, strict=True):
                        p.copy_(value)
                        p.grad = gradient.clone()
                    for name, buffer in net.named_buffers():
                        buffer.copy_(buffers[name])
                if scaler is not None:
                    scaler.unscale_(optimizer)
                if clip is not None:
                    nn.utils.clip_grad_norm_(own, clip)
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update()


def batches_of(dataset: TensorDataset, batch_size: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [tuple(batch) for batch in DataLoader(dataset, batch_size=batch_size)]


def of_rank(rank: int) -> TensorDataset:
    return TensorDataset(*data()[rank::2])


def fitted(
    module: pl.LightningModule,
    *callbacks: Any,
    dtype: torch.dtype = torch.float64,
    dataset: TensorDataset | None = None,
    **options: Any,
) -> Any:
    trainer = pl.Trainer(
        **{"max_epochs": EPOCHS, "accelerator": "cpu", "logger": False, **options},
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data(dtype) if dataset is None else dataset, batch_size=4))
    return trainer


STRATEGIES: dict[str, dict[str, Any]] = {
    "default": {},
    "find_unused": {"find_unused_parameters": True},
    "static_graph": {"static_graph": True},
    "bucket views": {"gradient_as_bucket_view": True},
}


class Sharded(Trained):
    """The same, whose parameters are spread over processes; one of them has no part of some."""

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        fully_shard(self.net[0], mesh=mesh)
        fully_shard(self.net[4], mesh=mesh, reshard_after_forward=False)
        fully_shard(self, mesh=mesh)


class ByAdam(Trained):
    """With an optimizer that has a state for each parameter, and groups of different rates."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"params": self.net[:2].parameters(), "lr": 0.02}, {"params": self.net[4].parameters()}]
        return torch.optim.Adam(groups, lr=0.01)


class ShardedByAdam(ByAdam, Sharded):
    """The same, sharded."""


SHARDED_CASES: dict[str, dict[str, Any]] = {
    "sharded": {},
    "sharded accumulating": {"accumulated": 2},
    "sharded adaptive": {"adaptive": True},
    "sharded clipped": {"clip": 0.1},
}


# torch takes no graph for static whose first backward pass is not synchronized.
CASES = [(name, n) for name in STRATEGIES for n in (1, 2) if (name, n) != ("static_graph", 2)]


def replicating(**options: Any) -> DDPStrategy:
    return DDPStrategy(process_group_backend="gloo", broadcast_buffers=False, **options)


def sharding() -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")


def main() -> None:
    """Write what this rank has after each training."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(WATCHDOG, exit=True)
    dataset = of_rank(int(os.environ.get("LOCAL_RANK", "0")))
    both: dict[str, Any] = {"dataset": dataset, "devices": 2, "use_distributed_sampler": False}
    results: dict[str, Any] = {}
    for name, accumulated in CASES:
        module, sam = Trained(), SharpnessAwareMinimization(RHO)
        fitted(module, sam, strategy=replicating(**STRATEGIES[name]), accumulate_grad_batches=accumulated, **both)
        results[f"{name} {accumulated}"] = module.net.state_dict()
    for name, case in SHARDED_CASES.items():
        module, sam = Sharded(), SharpnessAwareMinimization(RHO, adaptive=case.get("adaptive", False))
        options = {"accumulate_grad_batches": case.get("accumulated", 1), "gradient_clip_val": case.get("clip")}
        fitted(module, sam, strategy=sharding(), **options, **both)
        results[name] = {n: getattr(v, "full_tensor", lambda v=v: v)() for n, v in module.net.state_dict().items()}
    for name, module, strategy in (
        ("replicated Adam", ByAdam(), replicating()),
        ("sharded Adam", ShardedByAdam(), sharding()),
    ):
        monitor = ComplexityMonitor(["CriticalSharpness", "PreconditionedSharpness"], probe=data().tensors, budget=None)
        fitted(module, monitor, strategy=strategy, **both)
        results[name] = [measured.values for measured in monitor.history]
    torch.save(results, Path(sys.argv[1]) / f"{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main()
