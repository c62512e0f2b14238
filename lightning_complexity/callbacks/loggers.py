"""Send measurements to whatever loggers a ``Trainer`` has."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from lightning_complexity.callbacks.base import Trainer


def log_scalars(trainer: Trainer, values: dict[str, float], step: int) -> None:
    """Give all values to every logger in one call each, and to callbacks that monitor them."""
    for logger in trainer.loggers:
        logger.log_metrics(values, step=step)
    trainer.callback_metrics.update({key: torch.tensor(value) for key, value in values.items()})


def log_histograms(trainer: Trainer, histograms: dict[str, Tensor], step: int) -> None:
    """Give distributions to the loggers that can draw them; those of them that are TensorBoard writers."""
    from torch.utils.tensorboard import SummaryWriter

    writers = [logger.experiment for logger in trainer.loggers]
    for writer in writers:
        if isinstance(writer, SummaryWriter):
            for key, values in histograms.items():
                finite = values[values.isfinite()]
                if finite.numel():
                    writer.add_histogram(key, finite, step)


def log_directory(trainer: Trainer) -> Path | None:
    """Where the first logger that writes files writes them; ``None`` if there is none."""
    for logger in trainer.loggers:
        for attribute in ("log_dir", "save_dir"):
            directory = getattr(logger, attribute, None)
            if isinstance(directory, (str, os.PathLike)):
                return Path(directory)
    return None
