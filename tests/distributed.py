"""Train on two processes, with callbacks and with penalties by hand; run as ``python -m tests.distributed FOLDER``."""

from __future__ import annotations

import faulthandler
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, ComplexityPenalty, metrics
from lightning_complexity.callbacks import UpdateRatioLimit
from lightning_complexity.network import Context, Snapshot
from lightning_complexity.regularizers import (
    DistanceFromInitialization,
    JacobianNorm,
    LogSpectralProduct,
    ParameterNorm,
    PathNorm,
    Regularizer,
)

STRATEGIES: dict[str, dict[str, Any]] = {
    "default": {},
    "find_unused": {"find_unused_parameters": True},
    "static_graph": {"static_graph": True},
    "own buffers": {"broadcast_buffers": False},  # as when sharded
}
CLIPPED = {"gradient_clip_val": 0.1}


class Module(pl.LightningModule):
    """A network with dropout and BatchNorm, and a parameter that only a penalty reaches."""

    def __init__(self, spare: bool, penalties: tuple[Regularizer, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
        ).double()
        if spare:
            self.spare = nn.Parameter(torch.ones(3).double())
        self.penalties = penalties

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        return sum((penalty(self, x, y) for penalty in self.penalties), start=loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Recomputed(Module):
    """With a reentrant checkpoint."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return checkpoint(super().forward, x.requires_grad_(), use_reentrant=True)


class Manual(Module):
    """The same, which optimizes by itself."""

    def __init__(self, penalties: tuple[Regularizer, ...] = ()) -> None:
        super().__init__(True, penalties)
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class Sharded(Module):
    """The same, with its parameters spread over processes: layers together, kept gathered, and in the root."""

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        fully_shard([self.net[0], self.net[1]], mesh=mesh)
        fully_shard(self.net[4], mesh=mesh, reshard_after_forward=False)
        fully_shard(self, mesh=mesh)


class Halved(Sharded):
    """The same, gathered in half precision, which writes down its norm before and after a forward pass."""

    norms: tuple[Tensor, Tensor]

    def configure_model(self) -> None:
        self.net[1] = nn.Identity()  # running statistics would be of another precision
        fully_shard(self, mesh=self.device_mesh["data_parallel"], mp_policy=MixedPrecisionPolicy(torch.bfloat16))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        before = ParameterNorm(1.0)(self)
        loss = super().training_step(batch, batch_idx).float()
        after = ParameterNorm(1.0)(self)
        self.norms = before.detach(), after.detach()
        return loss + 0.01 * (before + after)


class FromOutputs(Sharded):
    """The same, with a penalty from the outputs of its own forward pass."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x = batch[0].requires_grad_()
        return JacobianNorm(0.1)(self, x, outputs=self(x))


class Stream(IterableDataset[Any]):
    """Other samples on each rank, of which the first batch is too short for a plane on the second."""

    def __iter__(self) -> Any:
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        generator = torch.Generator().manual_seed(rank)
        size = 2 if rank == 1 else 4
        for _ in range(4):
            yield torch.randn(size, 4, generator=generator).double(), torch.arange(size) % 3


class FailingOnTheSecondRank(metrics.GradientNorm):
    """A measure that has no value on one rank, such as for lack of memory there."""

    name = "failing_there"

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        if torch.distributed.get_rank() == 1:
            raise MemoryError("too little on this rank")
        super().accumulate(snapshot, context)


LIVE = ["StepGradientNorm", "UpdateRatio", "UpdateCosine", "PathLength", "TrajectoryTreeLength"]


def of_samples() -> list[metrics.ComplexityMetric]:
    """Metrics whose values know how many samples there were, or are summed over them."""
    classes = metrics.MarginPercentile, metrics.GradientNorm, metrics.JacobianNorm, metrics.HessianTrace
    # Networks that are hardly trained have positive margins on the best samples only.
    return [metrics.MixedNormBound(percentile=90), *(cls() for cls in classes)]


def penalties() -> tuple[Regularizer, ...]:
    return ParameterNorm(0.05), PathNorm(0.02), JacobianNorm(0.05, num_projections=1)


def more_penalties() -> tuple[Regularizer, ...]:
    return *penalties(), LogSpectralProduct(0.02), DistanceFromInitialization(0.1)


def strategy_named(name: str) -> Strategy:
    if name == "fsdp2":
        return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
    return DDPStrategy(process_group_backend="gloo", **STRATEGIES[name])


DATA = TensorDataset(torch.randn(32, 4, generator=torch.Generator().manual_seed(1)).double(), torch.arange(32) % 3)


def fitted(module: Module, strategy: str, *callbacks: Any, data: Any = None, **options: Any) -> dict[str, Tensor]:
    loader = DataLoader(DATA, batch_size=4) if data is None else data
    torch.manual_seed(2)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy=strategy_named(strategy),
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, loader)
    return {
        name: getattr(t, "full_tensor", lambda t=t: t)().detach().clone() for name, t in module.state_dict().items()
    }


def values(monitor: ComplexityMonitor) -> dict[str, Tensor]:
    return {k: torch.tensor(v) for k, v in monitor.history[-1].values.items()}


def main() -> None:
    """Write what this rank has after each training."""
    output = Path(sys.argv[1])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(220, exit=True)
    results = {}
    for strategy in STRATEGIES:
        # Without finding unused parameters, every parameter must be reached in every step.
        results[f"callback {strategy}"] = fitted(Module(True), strategy, ComplexityPenalty(*penalties()))
        results[f"by hand {strategy}"] = fitted(Module(True, penalties()), strategy)
    results["strength 0"] = fitted(Module(False), "default", ComplexityPenalty(JacobianNorm(0.0), PathNorm(0.0)))
    results["without"] = fitted(Module(False), "default")
    constraint, monitor = (
        ComplexityConstraint(PathNorm(), at_most=-2.0, every_n_steps=2),
        ComplexityMonitor(budget=None),
    )
    results["constraint"] = fitted(Module(False), "own buffers", constraint, monitor)
    results["controller"] = {"multiplier": torch.tensor(constraint.lagrangians["log_path_norm"].multiplier)}
    results["monitor"] = values(monitor)
    monitor = ComplexityMonitor(of_samples(), probe=tuple(DATA.tensors), budget=None)
    results["samples"] = fitted(Module(False), "own buffers", monitor)
    results["monitor of samples"] = values(monitor)
    monitor = ComplexityMonitor(
        [metrics.LinearRegions(along="plane"), FailingOnTheSecondRank(), "GradientNorm"], budget=None
    )
    fitted(Module(False), "default", monitor, data=DataLoader(Stream(), batch_size=None))
    results["alone monitor"] = values(monitor)
    results["alone left out"] = {name: torch.ones(1) for name in monitor._failures.left_out}
    results["alone probe"] = {"inputs": monitor._probes.train.inputs}
    options: dict[str, Any]
    for name, options in {"": {}, " accumulating": {"accumulate_grad_batches": 2}, " clipped": CLIPPED}.items():
        results[f"sharded{name}"] = fitted(Sharded(True), "fsdp2", ComplexityPenalty(*more_penalties()), **options)
        results[f"replicated{name}"] = fitted(
            Module(True), "own buffers", ComplexityPenalty(*more_penalties()), **options
        )
    results["sharded strength 0"] = fitted(Sharded(True), "fsdp2", ComplexityPenalty(JacobianNorm(0.0), PathNorm(0.0)))
    results["sharded without"] = fitted(Sharded(True), "fsdp2")
    monitor = ComplexityMonitor(budget=None)
    constraint = ComplexityConstraint(PathNorm(), at_most=-2.0, every_n_steps=2)
    results["sharded constraint"] = fitted(Sharded(False), "fsdp2", constraint, monitor)
    results["sharded monitor"] = values(monitor)
    for name, module, strategy in (("replicated", Module(False), "own buffers"), ("sharded", Sharded(False), "fsdp2")):
        limit, monitor = UpdateRatioLimit(0.05), ComplexityMonitor(LIVE, budget=None, per_layer=True)
        results[f"{name} limited"] = fitted(module, strategy, limit, monitor)
        results[f"{name} live"] = values(monitor) | {"shortened": torch.tensor(limit.shortened)}
    halved = Halved(True)
    fitted(halved, "fsdp2")
    results["halved"] = dict(zip(("before", "after"), halved.norms, strict=True))
    try:
        fitted(FromOutputs(False), "fsdp2")
    except ValueError as error:
        results["refused"] = {str(error): torch.ones(1)}
    for strategy, recomputed in (("default", "refused reentry"), ("static_graph", "reentry")):
        try:
            results[recomputed] = fitted(Recomputed(False), strategy, ComplexityPenalty(PathNorm(0.1)))
        except ValueError as error:
            results[recomputed] = {str(error): torch.ones(1)}
    manual = ComplexityPenalty(*penalties(), manual_backward_index=0)
    results["callback manual"] = fitted(Manual(), "find_unused", manual)
    results["by hand manual"] = fitted(Manual(penalties()), "find_unused")
    rank = torch.distributed.get_rank()
    torch.save(results, output / f"{rank}.pt")


if __name__ == "__main__":
    main()
