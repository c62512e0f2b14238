"""Everything can be written into a configuration file of ``LightningCLI``, of either Lightning."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, ComplexityPenalty, callbacks, metrics
from lightning_complexity import regularizers as penalties
from lightning_complexity.callbacks import Anneal, NeuronPruning, SharpnessAwareMinimization, UpdateRatioLimit, Warmup

PACKAGES = ["pytorch_lightning", "lightning.pytorch"]


def exported(package: Any, base: type) -> list[str]:
    found = {name: getattr(package, name) for name in package.__all__}
    return [n for n, c in found.items() if isinstance(c, type) and issubclass(c, base) and not inspect.isabstract(c)]


METRICS = exported(metrics, metrics.ComplexityMetric)
REGULARIZERS = exported(penalties, penalties.Regularizer)


def described(cls: type, **options: Any) -> dict[str, Any]:
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": options}


PATH_NORM = described(metrics.PathNorm)
NEEDED: dict[str, dict[str, Any]] = {
    "CapacityOverMargin": {"capacity": PATH_NORM},
    "Regularizer": {"strength": 0.1, "metric": PATH_NORM},
}


def built(package: str, folder: Path, *described_callbacks: Any, **options: Any) -> list[Any]:
    """The callbacks of a file, and the trainer's run with them if ``run``."""
    lightning = importlib.import_module(package)
    cli = importlib.import_module(f"{package}.cli")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def train_dataloader(self) -> Any:
            return DataLoader(TensorDataset(torch.randn(8, 4), torch.arange(8) % 3), batch_size=4)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    switched_off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    settings = {**dict.fromkeys(switched_off, False), "accelerator": "cpu", "max_epochs": 1, **options}
    (folder / "config.yaml").write_text(
        json.dumps({"seed_everything": 0, "trainer": {**settings, "callbacks": described_callbacks}})
    )
    interface = cli.LightningCLI(
        Module, args=["--config", str(folder / "config.yaml")], run=False, save_config_callback=None
    )
    interface.trainer.fit(interface.model)
    return [c for c in interface.trainer.callbacks if type(c).__module__.startswith("lightning_complexity")]


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of how Lightning uses jsonargparse
@pytest.mark.parametrize("package", PACKAGES)
class TestFiles:
    """Of each package."""

    def test_every_callback(self, package: str, tmp_path: Path) -> None:
        found = built(
            package,
            tmp_path,
            described(ComplexityMonitor, metrics="fast", name="quick", every_n_steps=2, probe=4),
            described(ComplexityMonitor, metrics=["PathNorm", described(metrics.StableRank, per_layer=True)]),
            described(
                ComplexityPenalty,
                regularizers=[described(penalties.PathNorm, strength=1e-4), described(penalties.StableRank)],
                schedule=described(Warmup, num_steps=10),
                loss="torch.nn.functional.cross_entropy",
            ),
            described(
                ComplexityPenalty,
                regularizers=[described(penalties.PathNorm)],
                schedule=described(Anneal, num_steps=5),
                name="second",
            ),
            described(
                ComplexityConstraint,
                measures=[described(metrics.JacobianNorm), described(penalties.ParameterNorm)],
                at_most=[0.2, 1.0],
                every_n_steps=1,
            ),
            described(ComplexityConstraint, measures=[described(metrics.StableRank)], at_most=3, name="c"),
            described(NeuronPruning, at_epochs=[1]),
            described(SharpnessAwareMinimization, rho=0.02),
            described(UpdateRatioLimit),
        )
        assert {type(c).__name__ for c in found} == {n for n in callbacks.__all__ if n not in ("Anneal", "Warmup")}
        monitors = [c for c in found if isinstance(c, ComplexityMonitor)]
        assert all(len(monitor.history) == 2 for monitor in monitors)

    @pytest.mark.slow
    def test_every_metric(self, package: str, tmp_path: Path) -> None:
        listed = [described(getattr(metrics, n), **NEEDED.get(n, {})) for n in METRICS]
        (monitor,) = built(package, tmp_path, described(ComplexityMonitor, metrics=listed), limit_train_batches=0)
        assert [type(metric).__name__ for metric in monitor.metrics] == METRICS

    def test_every_regularizer(self, package: str, tmp_path: Path) -> None:
        listed = [described(getattr(penalties, n), **{"strength": 0.1, **NEEDED.get(n, {})}) for n in REGULARIZERS]
        listed = [entry for entry, name in zip(listed, REGULARIZERS, strict=True) if name != "Regularizer"]
        (penalty,) = built(package, tmp_path, described(ComplexityPenalty, regularizers=listed), limit_train_batches=0)
        assert [type(r).__name__ for r in penalty.regularizers] == [n for n in REGULARIZERS if n != "Regularizer"]
        general = described(penalties.Regularizer, **NEEDED["Regularizer"])
        (penalty,) = built(package, tmp_path, described(ComplexityPenalty, regularizers=[general]))
        assert penalty.measures[0].calls == 2
