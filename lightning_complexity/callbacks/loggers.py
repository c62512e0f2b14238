"""Send measurements to whatever loggers a ``Trainer`` has; no logger can end a training by what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch

from lightning_complexity.callbacks.base import Trainer
from lightning_complexity.callbacks.views.boards import about, board_of, one_line, say
from lightning_complexity.recording.tags import tagged


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


def log_scalars(trainer: Trainer, values: dict[str, float], step: int, parts: Collection[str] = ()) -> None:
    """Give all values to every logger in one call each, and to callbacks that monitor them.

    A logger that raises an error is given the values in other forms: without those that are not finite, with dots
    for slashes. What it takes, or that it takes none of them, is said in one warning, and training goes on.
    TensorBoard gets them by tags, see :func:`lightning_complexity.recording.tags.tagged`.

    Args:
        trainer: Whose loggers these are.
        values: By log key.
        step: Completed optimizer steps.
        parts: Those of the keys that belong to a layer, a class or an output.
    """
    tell_callbacks(trainer, values)
    for logger in trainer.loggers:
        board = board_of(trainer, logger)
        _log(trainer, logger, values if board is None else tagged(values, parts), step)


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
    known = about(trainer, logger)
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
            say(known, logger, f"takes complexity {form.description} only. {one_line(first_error)}")
        return
    if first_error is not None:
        say(
            known,
            logger,
            f"does not take complexity, which the record and callback_metrics have. {one_line(first_error)}",
        )
