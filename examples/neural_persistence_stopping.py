"""End training when neural persistence stops rising, as its authors proposed, and compare with the validation loss.

Neural persistence needs no validation data. Which of the two stops at the better moment is for your problem to
say; weight variance, printed beside it, rises in much the same way.
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import EarlyStopping
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor

EPOCHS = 60


class Classifier(pl.LightningModule):
    """A network with one hidden layer for the digits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Log loss and accuracy."""
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def loaders() -> tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]:
    """Training and validation digits."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    parts = torch.utils.data.random_split(data, [1297, 500], torch.Generator().manual_seed(0))
    return DataLoader(parts[0], batch_size=32, shuffle=True), DataLoader(parts[1], batch_size=500)


def stopped(monitored: str, mode: str) -> None:
    """Train until a quantity has not improved for five epochs, and print where that was."""
    pl.seed_everything(0, verbose=False)
    monitor = ComplexityMonitor(["NeuralPersistence", "WeightVariance"], budget=None)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        callbacks=[monitor, EarlyStopping(monitored, mode=mode, patience=5, check_on_train_epoch_end=True)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), *loaders())
    last = monitor.history[-1].values
    print(
        f"{monitored:32} epoch {trainer.current_epoch:3}"
        f"  validation accuracy {trainer.callback_metrics['val_accuracy']:.3f}"
        f"  neural persistence {last['complexity/neural_persistence']:.3f}"
        f"  weight variance {last['complexity/weight_variance']:.4f}"
    )


if __name__ == "__main__":
    stopped("complexity/neural_persistence", "max")
    stopped("val_loss", "min")
