"""Measure on several processes; run as ``python -m tests.processes FOLDER STRATEGY NUMBER``."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
import torch.nn.functional as F
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, metrics
from lightning_complexity.callbacks.probe import Probe
from lightning_complexity.metrics.base import SampleMeanMetric, shares
from lightning_complexity.network import Context, MeasureError, Snapshot, mean_loss
from lightning_complexity.recording.measuring import FailureReport, gaps, measure_fit, measure_metrics
from tests.networks import conv_net, mlp
from tests.quick import quick_suite

WATCHDOG = 400
"""Seconds after which a process that waits for another prints where, and ends."""
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "two layers": (lambda: mlp(4, 6, 3), (4,)),
    "norm": (lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), (4,)),
    "conv": (conv_net, (2, 8, 8)),
}


class Trained(pl.LightningModule):
    def __init__(self, network: str, *, sharded: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.sharded = NETWORKS[network][0]().double(), sharded

    def configure_model(self) -> None:
        if self.sharded:
            fully_shard(self, mesh=self.device_mesh["data_parallel"])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def data(network: str, count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *NETWORKS[network][1], generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.arange(count) % 3)


class Stream(IterableDataset[Any]):
    """Other samples on each rank, and fewer of them; the first batch of the second rank is too short for a plane."""

    def __iter__(self) -> Any:
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        generator = torch.Generator().manual_seed(rank)
        for i in range(4 - min(rank, 1)):
            size = 2 if rank == 1 and i == 0 else 4
            yield torch.randn(size, 4, generator=generator, dtype=torch.float64), torch.arange(size) % 3


# Metrics that fail, or tell how they were measured -------------------------------------------------


class SamplesAtOnce(SampleMeanMetric):
    """How many samples there were in the part that a sample was measured in."""

    name = "samples_at_once"
    needs = frozenset({"inputs"})

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        return torch.full((snapshot.num_samples,), float(snapshot.num_samples))


class PiecesAtOnce(SamplesAtOnce):
    """The same of a measure of the loss."""

    name = "pieces_at_once"
    needs = frozenset({"inputs", "targets", "loss"})


class FailingOn(metrics.MeanMargin):
    """A measure that has no value on one rank, such as for lack of memory there."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.name = rank, f"failing_on_{rank}"

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        if torch.distributed.get_rank() == self.rank:
            raise MemoryError("too little")
        super().accumulate(snapshot, context)


class FailingAtTheEnd(metrics.MeanMargin):
    name = "failing_at_the_end"

    def total(self) -> Tensor:
        raise MeasureError("no value")


class NeedingMany(metrics.MeanMargin):
    """A measure that a part of the probe is too small for."""

    name = "needing_many"

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        if snapshot.num_samples < 32:
            raise MeasureError("needs 32 samples")
        super().accumulate(snapshot, context)


# Runs ------------------------------------------------------------------------------------------------


def fitted(module: pl.LightningModule, strategy: str, devices: int, *callbacks: Any, **options: Any) -> pl.Trainer:
    network = options.pop("network", "two layers")
    loader = options.pop("loader", None)
    loader = DataLoader(data(network, 32, 1), batch_size=4) if loader is None else loader
    chosen = (
        ModelParallelStrategy(data_parallel_size=devices, tensor_parallel_size=1, process_group_backend="gloo")
        if strategy == "fsdp2"
        else DDPStrategy(process_group_backend="gloo")
    )
    torch.manual_seed(2)
    trainer = pl.Trainer(
        **{"max_epochs": 1, "logger": False, **options},
        accelerator="cpu",
        devices=devices,
        strategy=chosen,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, DataLoader(data(network, 12, 3), batch_size=4) if "max_steps" not in options else None)
    return trainer


def alone(monitor: ComplexityMonitor, module: nn.Module, trainer: pl.Trainer) -> dict[str, float]:
    """What one process measures on a monitor's whole probes."""
    failures = FailureReport("warn")
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    for name in buffers:
        torch.distributed.broadcast(buffers[name], 0)

    def snapshot(probe: Probe | None) -> Snapshot:
        assert probe is not None
        options = {"initial": monitor._initial, "buffers": buffers, "optimizers": trainer.optimizers}
        return Snapshot(module, probe.batches, task=probe.task, **options)

    whole = snapshot(monitor._probes.train)
    measured = measure_metrics([metric.clone() for metric in monitor.metrics], whole, failures)
    fit = {
        **measure_fit(whole, "train", failures),
        **measure_fit(snapshot(monitor._probes.validation), "val", failures),
    }
    validated = monitor._probes.train_as_validated
    loss = None if validated is None else mean_loss(snapshot(validated))
    measured.values |= {**fit, **gaps(fit, fit.get("probe/train_loss") if loss is None else loss)}
    assert failures.left_out.keys() <= monitor._failures.left_out.keys(), failures.left_out
    return measured.floats()


def everything(strategy: str, devices: int, network: str) -> dict[str, Any]:
    """All metrics, with the loss of the step and with one that parts of the samples have."""
    own = ComplexityMonitor(quick_suite("full"), probe=32, budget=None)
    given = ComplexityMonitor(
        quick_suite("full", per_layer=True),
        probe=tuple(data(network, 36, 5).tensors),
        loss=F.cross_entropy,
        name="given",
        budget=None,
    )
    counts = ComplexityMonitor([SamplesAtOnce(), PiecesAtOnce()], probe=32, name="counts", budget=None)
    module = Trained(network, sharded=strategy == "fsdp2")
    trainer = fitted(module, strategy, devices, own, given, counts, network=network)
    return {
        "own": own.history[-1].values,
        "own alone": alone(own, module, trainer),
        "given": {key.replace("/given", ""): value for key, value in given.history[-1].values.items()},
        "given alone": alone(given, module, trainer),
        "counts": counts.history[-1].values,
        "left out": {**own._failures.left_out, **given._failures.left_out},
        "whole only": sorted(own._whole_only | given._whole_only),
    }


def failing(strategy: str, devices: int, folder: Path) -> dict[str, Any]:
    """What cannot be computed on one process only."""
    found: dict[str, Any] = {}
    failing = [FailingOn(1), FailingOn(0), FailingAtTheEnd(), NeedingMany(), metrics.MeanMargin()]
    monitor = ComplexityMonitor(failing, probe=32, budget=None)
    fitted(Trained("norm", sharded=strategy == "fsdp2"), strategy, devices, monitor, network="norm")
    found["left out"], found["values"] = monitor._failures.left_out, monitor.history[-1].values
    found["whole only"] = sorted(monitor._whole_only)
    for name, callback in {
        "raised": ComplexityMonitor([FailingOn(1)], probe=32, on_error="raise"),
        "raised by the constraint": ComplexityConstraint(Failing(1), at_most=1.0, every_n_steps=1),
    }.items():
        try:
            fitted(Trained("two layers", sharded=strategy == "fsdp2"), strategy, devices, callback)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


class Failing(metrics.SmoothMarginLoss):
    """One that can be trained with."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        if torch.distributed.get_rank() == self.rank:
            raise MemoryError("too little")
        super().accumulate(snapshot, context)


def streams(devices: int, folder: Path) -> dict[str, Any]:
    """Epochs of other lengths on each rank."""
    monitor = ComplexityMonitor(["MeanMargin", metrics.LinearRegions(along="plane")], budget=None)
    loader = DataLoader(Stream(), batch_size=None)
    fitted(Trained("two layers"), "ddp", devices, monitor, loader=loader, max_epochs=-1, max_steps=8)
    steps = ComplexityMonitor(["MeanMargin"], every_n_steps=3, every_n_epochs=None, budget=None)
    loggers = [CSVLogger(str(folder), name=name) for name in ("first", "second")]
    fitted(Trained("two layers"), "ddp", devices, steps, loader=loader, max_epochs=-1, max_steps=8, logger=loggers)
    return {
        "epochs": [m.step for m in monitor.history],
        "values": [m.values for m in monitor.history],
        "probe": len(monitor._probes.train.inputs),  # type: ignore[union-attr]
        "left out": monitor._failures.left_out,
        "steps": [m.step for m in steps.history],
    }


def stand_alone(devices: int) -> dict[str, Any]:
    """Metrics by themselves, in the processes of an earlier run; each rank has samples of its own."""
    rank, found = torch.distributed.get_rank(), {}
    torch.manual_seed(0)
    x, y = torch.randn(11, 4, dtype=torch.float64), torch.arange(11) % 3
    net = NETWORKS["norm"][0]().double().eval()
    initial = {name: p + 0.1 for name, p in net.named_parameters()}
    cuts = [*range(0, 2 * devices, 2), 11]
    mine = slice(cuts[rank], cuts[rank + 1])
    for metric in metrics.resolve("full"):
        if metric.single_update_reason is not None:
            continue
        for large in (shares.LARGE, 1):  # whether states travel with the rest
            shares.LARGE, before = large, shares.LARGE
            parted, whole = metric.clone(), metric.clone()
            try:
                parted.update(net, x[mine], y[mine], initial=initial)
                whole.update(Snapshot(net, x, y, initial=initial))
            except MeasureError:
                break
            finally:
                shares.LARGE = before
            shares.LARGE = large
            report = parted.report()
            shares.LARGE = before
            whole.distributed_available_fn = lambda: False
            found[f"{metric.name} {large}"] = report, whole.report()
    failing = FailingOn(1)
    for name, metric in {"failing": failing, "after": metrics.MeanMargin()}.items():
        with contextlib.suppress(MeasureError):
            metric.update(net, x[mine], y[mine])
        found[name] = outcome(metric.compute)
    failing.reset()
    found["after reset"] = outcome(failing.compute)
    one_has_none = metrics.GradientNorm(per_layer=True)
    if rank == 0:
        one_has_none.update(net, x, y)
    found["one has none"] = outcome(one_has_none.report)
    regions = metrics.LinearRegions()
    regions.update(net, x[mine.start : mine.start + 2])
    found["other samples"] = outcome(regions.compute)
    regions.reset()
    regions.update(net, x)
    found["same samples"] = outcome(regions.compute)
    return found


def outcome(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except MeasureError as error:
        return str(error)


def main() -> None:
    """Write what this rank has found."""
    folder, strategy, devices = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(WATCHDOG, exit=True)
    networks = ["norm"] if strategy == "fsdp2" or devices > 2 else list(NETWORKS)
    results = {network: everything(strategy, devices, network) for network in networks}
    results["failing"] = failing(strategy, devices, folder)
    if strategy == "ddp":
        results["streams"] = streams(devices, folder)
        results["stand-alone"] = stand_alone(devices)
    torch.save(results, folder / f"{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main()
