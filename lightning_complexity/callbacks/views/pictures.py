"""Distributions and pictures, for the loggers that can show them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_complexity.callbacks.base import Trainer
from lightning_complexity.callbacks.views.boards import Board, attempt, board_of, boards, experiment
from lightning_complexity.recording.tags import in_single_precision, tags_of_spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PERCENTILES = 10, 50, 90


def shows_figures(trainer: Trainer) -> bool:
    """Whether some logger has a place for figures."""
    return not trainer.fast_dev_run and any(
        board_of(trainer, logger) or _takes_images(logger) or _takes_artifacts(trainer, logger)
        for logger in trainer.loggers
    )


def log_histograms(trainer: Trainer, histograms: dict[str, Tensor], step: int) -> None:
    """Give distributions to TensorBoard, and a band from their 10th to their 90th percentile around the median."""
    if not (found := boards(trainer)):
        return
    for key, values in histograms.items():
        finite = values[values.isfinite()].detach().cpu().numpy()
        for board in found if finite.size else ():
            attempt(trainer, board.writer, "distributions", partial(_add_distribution, board, key, finite, step))


def _add_distribution(board: Board, key: str, values: NDArray[Any], step: int) -> None:
    board.writer.add_histogram(key, values, step)
    edges = np.percentile(values.astype(np.float64), _PERCENTILES)
    spread = dict(zip(tags_of_spread(key), edges.tolist(), strict=True))
    for tag, value in in_single_precision(spread).items():
        board.writer.add_scalar(board.tag(tag), value, step)


def log_figures(trainer: Trainer, figures: dict[str, Figure], step: int) -> None:
    """Give pictures to TensorBoard, to loggers with W&B's ``log_image`` and to those with MLflow's ``log_figure``."""
    for logger in trainer.loggers if figures else ():
        for key, figure in figures.items():
            attempt(trainer, logger, "pictures", partial(_add_figure, trainer, logger, key, figure, step))


def _add_figure(trainer: Trainer, logger: Any, key: str, figure: Figure, step: int) -> None:
    board = board_of(trainer, logger)
    if board is not None:
        board.writer.add_image(key, _pixels(figure), step, dataformats="HWC")
    elif _takes_images(logger):
        logger.log_image(key=key, images=[_pixels(figure)], step=step)
    elif _takes_artifacts(trainer, logger):
        logger.experiment.log_figure(logger.run_id, figure, f"{key}/{step}.png")


def log_text(trainer: Trainer, key: str, text: str, step: int) -> None:
    """Give text in Markdown to the loggers that have a place for it."""
    for logger in trainer.loggers:
        attempt(trainer, logger, "text", partial(_add_text, trainer, logger, key, text, step))


def _add_text(trainer: Trainer, logger: Any, key: str, text: str, step: int) -> None:
    board = board_of(trainer, logger)
    if board is not None:
        board.writer.add_text(key, text, step)
    elif callable(getattr(logger, "log_text", None)):
        logger.log_text(key=key, columns=["text"], data=[[text]], step=step)
    elif _takes_artifacts(trainer, logger):
        logger.experiment.log_text(logger.run_id, text, f"{key}.md")


def _takes_images(logger: Any) -> bool:
    return callable(getattr(logger, "log_image", None))


def _takes_artifacts(trainer: Trainer, logger: Any) -> bool:
    """Whether this is MLflow's, whose client is told the run."""
    if not isinstance(getattr(logger, "run_id", None), str):
        return False
    return callable(getattr(experiment(trainer, logger), "log_figure", None))


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    # The writer's own `add_figure` would set matplotlib's back end for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
