"""Train on two processes, with callbacks and with penalties by hand; run as ``python -m tests.distributed FOLDER``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, ComplexityPenalty
from lightning_complexity.regularizers import JacobianNorm, ParameterNorm, PathNorm, Regularizer

STRATEGIES: dict[str, dict[str, Any]] = {
    "default": {},
    "find_unused": {"find_unused_parameters": True},
    "static_graph": {"static_graph": True},
}


class Module(pl.LightningModule):
    """A network with dropout and BatchNorm, and a parameter that only a penalty reaches."""

    def __init__(self, spare: bool, penalties: tuple[Regularizer, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        if spare:
            self.spare = nn.Parameter(torch.ones(3))
        self.penalties = penalties

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        return sum((penalty(self, x, y) for penalty in self.penalties), start=loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def penalties() -> tuple[Regularizer, ...]:
    return ParameterNorm(0.05), PathNorm(0.02), JacobianNorm(0.05, num_projections=1)


def fitted(module: Module, strategy: str, *callbacks: Any) -> dict[str, Tensor]:
    data = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(data, torch.arange(32) % 3), batch_size=4)
    torch.manual_seed(2)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo", **STRATEGIES[strategy]),
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def main() -> None:
    """Write what this rank has after each training."""
    output = Path(sys.argv[1])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    results = {}
    for strategy in STRATEGIES:
        # Without finding unused parameters, every parameter must be reached in every step.
        results[f"callback {strategy}"] = fitted(Module(True), strategy, ComplexityPenalty(*penalties()))
        results[f"by hand {strategy}"] = fitted(Module(True, penalties()), strategy)
    results["strength 0"] = fitted(Module(False), "default", ComplexityPenalty(JacobianNorm(0.0), PathNorm(0.0)))
    results["without"] = fitted(Module(False), "default")
    constraint, monitor = ComplexityConstraint(PathNorm(), at_most=-2.0, every_n_steps=2), ComplexityMonitor()
    results["constraint"] = fitted(Module(False), "default", constraint, monitor)
    results["controller"] = {"multiplier": torch.tensor(constraint.lagrangians["log_path_norm"].multiplier)}
    results["monitor"] = {k: torch.tensor(v) for k, v in monitor.history[-1].values.items() if "overhead" not in k}
    rank = torch.distributed.get_rank()
    torch.save(results, output / f"{rank}.pt")


if __name__ == "__main__":
    main()
