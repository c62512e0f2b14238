"""What checkpoints are measured on: samples of a data module, a loader or a batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_complexity.callbacks.base import lightning_of
from lightning_complexity.callbacks.finding import find_task, find_validation_task
from lightning_complexity.callbacks.probe import draw, first_samples
from lightning_complexity.commands.checkpoints import Checkpoint
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import Batches, Task
from lightning_complexity.recording.drawing import DrawingError
from lightning_complexity.recording.measuring import FailureReport
from lightning_complexity.recording.recorder import measure_network
from lightning_complexity.studies.training.runs import quiet
from lightning_complexity.studies.training.user import loaders

# What the batches are converted to.
_PRECISIONS = {torch.float64: "64-true", torch.bfloat16: "bf16-true", torch.float16: "16-true"}


class Samples(NamedTuple):
    """What checkpoints are measured on.

    Attributes:
        train: Batches of training samples; ``None`` where there are none.
        validation: Of samples that are not trained on.
    """

    train: Batches | None
    validation: Batches | None

    @classmethod
    def of(cls, data: Any, module: Any, count: int) -> Samples:
        """Draw samples of data as the monitor does.

        Args:
            data: As for :func:`measure_checkpoints`.
            module: Whose transfer hooks are run.
            count: How many of each kind.

        Raises:
            ValueError: If nothing can be drawn.
        """
        train, validation = _loaders(data, module)
        with quiet():
            trainer = lightning_of(module).Trainer(
                accelerator="cpu",
                precision=_PRECISIONS.get(next((p.dtype for p in module.parameters()), torch.float32)),
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
            )
            trainer.strategy.connect(module)

            def drawn(loader: Any) -> Any:
                if loader is None:
                    return None
                if not hasattr(loader, "__iter__") or isinstance(loader, (tuple, dict)) or hasattr(loader, "shape"):
                    return first_samples(loader, count)
                try:
                    return draw(loader, count, trainer, module)
                except DrawingError as error:
                    raise ValueError(f"no samples could be drawn: {error}") from error

            return cls(drawn(train), drawn(validation))

    def measured(
        self,
        checkpoint: Checkpoint,
        metrics: list[ComplexityMetric],
        initial: dict[str, Tensor] | None,
        failures: FailureReport,
    ) -> dict[str, float]:
        """Values by log key.

        Args:
            checkpoint: What is measured.
            metrics: Which metrics.
            initial: Parameters that distances are from.
            failures: Takes what cannot be computed.
        """
        module, task, validation_task = checkpoint.module, Task(), None
        if self.train is not None:
            task = find_task(module, self.train.batches[0], task)
        if self.validation is not None:
            validation_task = find_validation_task(module, self.validation.batches[0], task, Task())
        return measure_network(
            metrics,
            module,
            self.train,
            self.validation,
            task=task,
            validation_task=validation_task,
            initial=initial,
            failures=failures,
        ).floats()


def _loaders(data: Any, module: Any) -> tuple[Any, Any]:
    """For training and validation."""
    made = data() if callable(data) else data
    if made is None:
        try:
            return loaders(module)
        except Exception:  # Lightning's own, and older ones', raise errors of several kinds where there is none
            return None, None
    return loaders(made) if hasattr(made, "train_dataloader") else (made, None)
