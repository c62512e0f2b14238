"""How long a training will be, as far as its ``Trainer`` tells."""

from __future__ import annotations

import math
from typing import Any

from lightning_complexity.callbacks.base import Trainer
from lightning_complexity.recording.budget import Length

_UNKNOWN = 32  # optimizer steps that a training of unknown length is taken to have at least
_SURE = 0.4  # of a training that nothing is known to stop


def expected_length(trainer: Trainer, step_seconds: float) -> Length:
    """How long a training will be.

    Nothing is known to stop it before its first epoch, or before ``min_epochs`` and ``min_steps``; without
    ``EarlyStopping``, and with a given number of steps or epochs, most likely a good part of it comes as well.
    """
    batches = trainer.num_training_batches
    an_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else math.inf
    epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else math.inf
    steps = trainer.max_steps if trainer.max_steps != -1 else math.inf
    # An epoch of unknown length times no known number of them is not known either.
    expected = min(steps, an_epoch * epochs if an_epoch and epochs else 0)
    sure = max(an_epoch * max(trainer.min_epochs or 1, 1), trainer.min_steps or 0)
    sure = sure if math.isfinite(sure) else _UNKNOWN
    if math.isfinite(expected) and not any(type(c).__name__ == "EarlyStopping" for c in trainer.callbacks):
        sure = max(sure, _SURE * expected)
    longest = _max_seconds(trainer)
    return Length(min(min(sure, expected) * step_seconds, longest), min(expected * step_seconds, longest))


def _max_seconds(trainer: Trainer) -> float:
    """``max_time``, which Lightning's timer keeps."""
    durations = [getattr(c, "_duration", None) for c in trainer.callbacks if type(c).__name__ == "Timer"]
    return min([float(d) for d in durations if d is not None], default=math.inf)


def samples_of_a_step(trainer: Trainer) -> int:
    """How many samples an optimizer step takes, where that is known; else as if batches had one."""
    loader: Any = trainer.train_dataloader
    while isinstance(loader, (list, tuple)) and loader:
        loader = loader[0]
    return int(getattr(loader, "batch_size", None) or 1) * int(trainer.accumulate_grad_batches)
