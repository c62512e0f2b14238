"""What a client is: a training that some package, or its tutorial, would have its users run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch
import pytorch_lightning

EPOCHS = 2
LOADERS = dict[str, Any]
TRAINER: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "log_every_n_steps": 1,
}


@dataclass(frozen=True)
class Client:
    """One training, and what its user adds to ``ComplexityMonitor(...)`` for measures of the function.

    Args:
        package: Name of the distribution.
        train: Trains for a few steps with these callbacks and this logger.
        line: Arguments of the monitor as they are written in a program, evaluated with ``torch`` at hand.
        automatic: Whether Lightning calls the optimizer, rather than the module itself.
        validates: Whether the training has a validation loop.
    """

    package: str
    train: Callable[[list[Any], Any], None]
    line: str = ""
    automatic: bool = True
    validates: bool = True


def fitted(build: Callable[[], tuple[Any, ...]], **options: Any) -> Callable[[list[Any], Any], None]:
    """Train what ``build`` makes, a module and its loaders, with the ``Trainer`` of the module's own package."""

    def train(callbacks: list[Any], logger: Any) -> None:
        module, *loaders = build()
        package = lightning.pytorch if isinstance(module, lightning.pytorch.LightningModule) else pytorch_lightning
        trainer = package.Trainer(**{"max_epochs": EPOCHS, **TRAINER, **options}, callbacks=callbacks, logger=logger)
        trainer.fit(module, *loaders)

    return train
