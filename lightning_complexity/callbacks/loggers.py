"""Send measurements to whatever loggers a ``Trainer`` has; no logger can end a training by what it refuses."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_complexity.callbacks.base import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter


class _Form(NamedTuple):
    """A form in which values can be given to a logger."""

    description: str
    convert: Callable[[dict[str, float]], dict[str, float]]


def _with_dots(values: dict[str, float]) -> dict[str, float]:
    return {key.replace("/", "."): value for key, value in values.items()}


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if math.isfinite(value)}


_FORMS = (
    _Form("", dict),
    _Form("without values that are not finite", _finite),
    _Form("with dots for slashes in the keys", _with_dots),
    _Form("with dots for slashes in the keys and without values that are not finite", lambda v: _finite(_with_dots(v))),
)


@dataclass
class _Known:
    """What a run has found out about a logger: the form that it takes, and what was said about it."""

    form: int = 0
    said: set[str] = field(default_factory=set)


_known: WeakKeyDictionary[Trainer, dict[int, _Known]] = WeakKeyDictionary()


def _about(trainer: Trainer, logger: Any) -> _Known:
    # Loggers need not be hashable; a trainer holds its loggers, so that their numbers stay theirs.
    return _known.setdefault(trainer, {}).setdefault(id(logger), _Known())


def log_scalars(trainer: Trainer, values: dict[str, float], step: int) -> None:
    """Give all values to every logger in one call each, and to callbacks that monitor them.

    A logger that raises an error is given the values in other forms: without those that are not finite, with dots
    for slashes. What it takes, or that it takes none of them, is said in one warning, and training goes on.
    """
    tell_callbacks(trainer, values)
    for logger in trainer.loggers:
        _log(trainer, logger, values, step)


def tell_callbacks(trainer: Trainer, values: dict[str, float]) -> None:
    """Put values into ``trainer.callback_metrics``, without computing what the module logs.

    Asking for ``trainer.callback_metrics`` at the end of an epoch computes the module's own metrics and keeps their
    values, before hooks that come later have updated them.
    """
    connector = getattr(trainer, "_logger_connector", None)
    held = getattr(connector, "_callback_metrics", None)  # where the property, which computes, puts them
    (trainer.callback_metrics if held is None else held).update({k: torch.tensor(v) for k, v in values.items()})


def _log(trainer: Trainer, logger: Any, values: dict[str, float], step: int) -> None:
    first_error: Exception | None = None
    known = _about(trainer, logger)
    start = known.form
    for index in range(start, len(_FORMS)):
        form = _FORMS[index]
        converted = form.convert(values)
        if index > start and converted == _FORMS[start].convert(values):
            continue
        try:
            logger.log_metrics(converted, step=step)
        except Exception as error:
            first_error = first_error or error
            continue
        if index > start and first_error is not None:
            known.form = index
            _say(known, logger, f"takes complexity {form.description} only. {_one_line(first_error)}")
        return
    if first_error is not None:
        _say(
            known,
            logger,
            f"does not take complexity, which the record and callback_metrics have. {_one_line(first_error)}",
        )


def _say(known: _Known, logger: Any, what: str) -> None:
    if what.split(".")[0] not in known.said:
        known.said.add(what.split(".")[0])
        warnings.warn(f"{type(logger).__name__} {what} Training goes on.", stacklevel=2)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}."


def _writers(trainer: Trainer) -> list[SummaryWriter]:
    """TensorBoard writers; of a logger without an ``experiment``, or whose experiment does not open, none."""
    experiments = [_experiment(trainer, logger) for logger in trainer.loggers]
    if "torch.utils.tensorboard" not in sys.modules:  # no writer can exist, and to import it takes half a second
        return []
    from torch.utils.tensorboard import SummaryWriter

    return [experiment for experiment in experiments if isinstance(experiment, SummaryWriter)]


def _experiment(trainer: Trainer, logger: Any) -> Any:
    try:
        return getattr(logger, "experiment", None)
    except Exception as error:
        _say(_about(trainer, logger), logger, f"has an experiment that does not open. {_one_line(error)}")
        return None


def shows_figures(trainer: Trainer) -> bool:
    """Whether some logger has a place for figures; those that are TensorBoard writers do."""
    return bool(_writers(trainer))


def log_histograms(trainer: Trainer, histograms: dict[str, Tensor], step: int) -> None:
    """Give distributions to the loggers that can draw them; those of them that are TensorBoard writers."""
    for writer in _writers(trainer):
        for key, values in histograms.items():
            finite = values[values.isfinite()]
            if finite.numel():
                _write(trainer, writer, partial(writer.add_histogram, key, finite, step))


def log_figures(trainer: Trainer, figures: dict[str, Figure], step: int) -> None:
    """Give pictures to the loggers that can show them."""
    for writer in _writers(trainer):
        for key, figure in figures.items():
            pixels = _pixels(figure)
            _write(trainer, writer, partial(writer.add_image, key, pixels, step, dataformats="HWC"))


def _write(trainer: Trainer, writer: SummaryWriter, write: Callable[[], None]) -> None:
    try:
        write()
    except Exception as error:
        _say(_about(trainer, writer), writer, f"does not take histograms or pictures of complexity. {_one_line(error)}")


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    # The writer's own `add_figure` would set matplotlib's back end for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
