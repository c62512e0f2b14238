"""Send measurements to whatever loggers a ``Trainer`` has."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_complexity.callbacks.base import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter


def log_scalars(trainer: Trainer, values: dict[str, float], step: int) -> None:
    """Give all values to every logger in one call each, and to callbacks that monitor them."""
    for logger in trainer.loggers:
        logger.log_metrics(values, step=step)
    trainer.callback_metrics.update({key: torch.tensor(value) for key, value in values.items()})


def _writers(trainer: Trainer) -> list[SummaryWriter]:
    experiments = [logger.experiment for logger in trainer.loggers]
    if "torch.utils.tensorboard" not in sys.modules:  # no writer can exist, and to import it takes half a second
        return []
    from torch.utils.tensorboard import SummaryWriter

    return [experiment for experiment in experiments if isinstance(experiment, SummaryWriter)]


def shows_figures(trainer: Trainer) -> bool:
    """Whether some logger has a place for figures; those that are TensorBoard writers do."""
    return bool(_writers(trainer))


def log_histograms(trainer: Trainer, histograms: dict[str, Tensor], step: int) -> None:
    """Give distributions to the loggers that can draw them; those of them that are TensorBoard writers."""
    for writer in _writers(trainer):
        for key, values in histograms.items():
            finite = values[values.isfinite()]
            if finite.numel():
                writer.add_histogram(key, finite, step)


def log_figures(trainer: Trainer, figures: dict[str, Figure], step: int) -> None:
    """Give pictures to the loggers that can show them."""
    for writer in _writers(trainer):
        for key, figure in figures.items():
            writer.add_image(key, _pixels(figure), step, dataformats="HWC")


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    # The writer's own `add_figure` would set matplotlib's back end for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def log_directory(trainer: Trainer) -> Path | None:
    """Where the first logger that writes files writes them; ``None`` if there is none."""
    for logger in trainer.loggers:
        for attribute in ("log_dir", "save_dir"):
            directory = getattr(logger, attribute, None)
            if isinstance(directory, (str, os.PathLike)):
                return Path(directory)
    return None
