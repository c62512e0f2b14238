"""The one place that knows which Lightning is installed.

``pytorch_lightning`` and ``lightning.pytorch`` are two copies of the same code with different classes. A
callback that inherits from both works in either ``Trainer`` and either ``LightningCLI``.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
    "double_precision",
    "from_rank_zero",
    "lightning_of",
    "move_batch",
    "pytorch_lightning",
    "validating",
    "validation_loaders",
    "will_validate",
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


def lightning_of(module: LightningModule) -> Any:
    """The Lightning package that a module comes from, ``pytorch_lightning`` or ``lightning.pytorch``.

    Each has a ``Trainer`` that takes modules of its own alone.
    """
    if any(cls.__module__.startswith("lightning.pytorch.") for cls in type(module).__mro__):
        import lightning.pytorch

        return lightning.pytorch
    return pytorch_lightning


def completed_batches(trainer: Trainer) -> int:
    """Batches after which the optimizers have stepped: the x axis that Lightning logs losses against."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def accumulating(trainer: Trainer) -> bool:
    """Whether no optimizer step follows the batch that is being trained on."""
    return bool(trainer.fit_loop.epoch_loop._should_accumulate())


def accumulated_batches(trainer: Trainer) -> int:
    """Batches whose gradients the next optimizer step takes, up to the one that is being trained on."""
    return int((trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1) % trainer.accumulate_grad_batches + 1)


def validation_loaders(trainer: Trainer) -> Any:
    """The validation loaders, also before the first validation has asked for them; ``None`` if there are none.

    Those of the fit loop stay unset: it asks for its own when it validates, as without this callback. A hook
    ``val_dataloader`` is called once more then; random states that it changes must be put back by the caller.
    """
    if trainer.val_dataloaders is not None or not trainer.enable_validation:
        return trainer.val_dataloaders
    source = trainer.fit_loop.epoch_loop.val_loop._data_source
    return source.dataloader() if source.is_defined() else None


def will_validate(trainer: Trainer) -> bool:
    """Whether a fit that begins has validation loaders."""
    return bool(trainer.enable_validation and trainer.fit_loop.epoch_loop.val_loop._data_source.is_defined())


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
    """Convert a batch to the training's precision and move it to its device, with the module's transfer hooks.

    That is what the fit loop does with every batch.
    """
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def double_precision(trainer: Trainer) -> AbstractContextManager[None]:
    """Let tensors that a ``forward`` creates be double under ``precision="64-true"``, as in training.

    Of half precision there is nothing to keep, since measures compute in single precision.
    """
    plugin = trainer.precision_plugin
    context: AbstractContextManager[None] = plugin.forward_context() if plugin.precision == "64-true" else nullcontext()
    return context


def from_rank_zero(trainer: Trainer, make: Callable[[], Any]) -> Any:
    """Make something on rank zero, and have it on all ranks.

    Args:
        trainer: Of which all ranks must come here.
        make: Makes an object that can be pickled.

    Raises:
        RuntimeError: On all other ranks, if ``make`` raises an error on rank zero, which passes it on.
    """
    if trainer.world_size == 1:
        return make()
    answer: tuple[bytes | None, str] = None, ""
    failure = None
    if trainer.is_global_zero:
        try:
            answer = pickle.dumps(make()), ""
        except Exception as error:
            failure, answer = error, (None, f"{type(error).__name__} on rank zero: {error}")
    made, message = trainer.strategy.broadcast(answer)
    if failure is not None:
        raise failure
    if made is None:
        raise RuntimeError(message)
    return pickle.loads(made)
