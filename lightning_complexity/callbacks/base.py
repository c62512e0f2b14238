"""The one place that knows which Lightning is installed.

``pytorch_lightning`` and ``lightning.pytorch`` are two copies of the same code with different classes. A
callback that inherits from both works in either ``Trainer`` and either ``LightningCLI``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytorch_lightning

__all__ = [
    "Callback",
    "LightningModule",
    "Trainer",
    "accumulated_batches",
    "accumulating",
    "completed_batches",
    "move_batch",
    "pytorch_lightning",
    "validating",
]

if TYPE_CHECKING:
    from pytorch_lightning import Callback
elif find_spec("lightning") is not None and find_spec("lightning.pytorch") is not None:
    import lightning.pytorch

    class Callback(lightning.pytorch.Callback, pytorch_lightning.Callback):
        """A callback for both Lightning packages."""

else:
    Callback = pytorch_lightning.Callback

# Objects of either package reach a callback, so their types cannot be named more exactly.
Trainer = Any
LightningModule = Any


def completed_batches(trainer: Trainer) -> int:
    """Batches after which the optimizers have stepped: the x axis that Lightning logs losses against."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def accumulating(trainer: Trainer) -> bool:
    """Whether no optimizer step follows the batch that is being trained on."""
    return bool(trainer.fit_loop.epoch_loop._should_accumulate())


def accumulated_batches(trainer: Trainer) -> int:
    """Batches whose gradients the next optimizer step takes, up to the one that is being trained on."""
    return int((trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1) % trainer.accumulate_grad_batches + 1)


@contextmanager
def validating(trainer: Trainer) -> Iterator[None]:
    """Let transfer hooks that ask the trainer see that this is validation, not training."""
    stage = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage


def move_batch(trainer: Trainer, batch: Any) -> Any:
    """Move a batch to the training device as the fit loop does, the module's transfer hooks included."""
    return trainer.strategy.batch_to_device(batch)
