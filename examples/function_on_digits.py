"""How complex does the function become? A ReLU and a tanh network on digits, with curves and pictures in TensorBoard.

Run ``python examples/function_on_digits.py``, then ``tensorboard --logdir function_on_digits``: under IMAGES are the
linear regions of the ReLU network in the plane through three digits, after every epoch. ``--quick`` trains for two.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor, metrics

OF_ANY_NETWORK = [
    "JacobianNorm",
    "GeometricComplexity",
    "LocalLipschitzConstant",
    "InputGradientNorm",
    "NoiseSensitivity",
    "TrajectoryLength",
    "LANNComplexity",
    "DaviesBouldinIndex",
    "FeatureEffectiveRank",
    "IntrinsicDimension",
    "LabelVariation",
    "MixupMargin",
]
OF_RELU_NETWORKS = ["Transitions", "LocalComplexity", "RegionBoundaryDistance", "DeadUnits", "PatternEntropy"]


class Digits(pl.LightningModule):
    """Two hidden layers of 32 units."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Give logits."""
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """Gradient descent with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def watched(name: str, activation: type[nn.Module], epochs: int, output: str) -> ComplexityMonitor:
    """Train one network and measure it after every epoch."""
    pl.seed_everything(0, verbose=False)
    data = load_digits()
    samples = TensorDataset(torch.tensor(data.data).float() / 16, torch.tensor(data.target))
    measured: list[Any] = list(OF_ANY_NETWORK)
    if activation is nn.ReLU:
        measured += [metrics.LinearRegions(along="plane"), *OF_RELU_NETWORKS]
    monitor = ComplexityMonitor(measured)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[monitor],
        logger=TensorBoardLogger(output, name="", version=name),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(activation), DataLoader(samples, batch_size=50, shuffle=True))
    return monitor


def main() -> None:
    """Train both and print where each measure started and ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two epochs instead of eight")
    parser.add_argument("--output", default="function_on_digits", help="folder for TensorBoard")
    options = parser.parse_args()
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.set_num_threads(1)
    for name, activation in (("relu", nn.ReLU), ("tanh", nn.Tanh)):
        monitor = watched(name, activation, 2 if options.quick else 8, options.output)
        start, end = monitor.history[0].values, monitor.history[-1].values
        print(f"\n{name:<32} {'at start':>12} {'at end':>12}")
        for metric in monitor.metrics:
            key = f"complexity/{metric.name}"
            print(f"{metric.name:<32} {start[key]:>12.4g} {end[key]:>12.4g}")
        print(f"{'training accuracy':<32} {start['probe/train_accuracy']:>12.1%} {end['probe/train_accuracy']:>12.1%}")
    print(f"\nCurves and pictures: tensorboard --logdir {options.output}")


if __name__ == "__main__":
    main()
