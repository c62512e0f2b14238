"""Add terms to the loss of a training step, whatever else Lightning does with it."""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.callbacks.base import Callback, LightningModule, Trainer, accumulating, completed_batches
from lightning_complexity.callbacks.finding import find_task
from lightning_complexity.callbacks.loggers import log_scalars
from lightning_complexity.callbacks.summing import Step, Term, add_terms, remove_terms
from lightning_complexity.network import Snapshot, Task, initial_state
from lightning_complexity.regularizers import TrainedMeasure


class LossCallback(Callback):
    """A callback that adds terms to the loss, and logs the parts.

    ``training_step`` is wrapped while ``fit`` runs, so that gradients are exactly those of the sum. The network that
    is penalised is the ``LightningModule``, whose ``forward`` takes the inputs of a batch ``(inputs, targets)``.
    """

    def __init__(
        self,
        measures: list[TrainedMeasure],
        task: Task,
        manual_backward_index: int | None,
    ) -> None:
        names = [measure.name for measure in measures]
        if len(set(names)) < len(names):
            raise ValueError(f"two penalties would be logged under the same name: {', '.join(names)}.")
        if not (
            manual_backward_index is None or (isinstance(manual_backward_index, int) and manual_backward_index >= 0)
        ):
            raise ValueError(f"manual_backward_index counts calls from 0, got {manual_backward_index!r}.")
        self.measures, self.task, self.manual_backward_index = measures, task, manual_backward_index
        self._found: Task | None = None
        self._computed: set[str] = set()
        self._skipped: set[str] = set()
        self._latest: dict[str, Tensor] = {}
        self._was_added = False

    @abstractmethod
    def terms(self, step: Step) -> dict[str, Term]:
        """What is added to the loss of a training step, by log key."""

    @property
    def state_key(self) -> str:
        """Distinguishes the checkpointed state of different penalties."""
        return self._generate_state_key(penalties=[measure.name for measure in self.measures])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be penalised; wrap ``training_step``, before a learning rate finder uses it."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization and self.manual_backward_index is None:
            raise ValueError(
                f"{type(self).__name__} must know which loss it belongs to, as this module optimizes manually: say "
                "manual_backward_index=0 for the first call of manual_backward in training_step, 1 for the second."
            )
        self._check_that_batches_are_given(pl_module)
        self._was_added, self._found = False, None
        self._computed, self._skipped = set(), set()
        add_terms(pl_module, self)

    def _check_that_batches_are_given(self, pl_module: LightningModule) -> None:
        if "dataloader_iter" not in inspect.signature(pl_module.training_step).parameters:
            return
        for measure in (m for m in self.measures if m.needs_batch):
            raise ValueError(
                f"{type(self).__name__}: {measure.name} needs the batch, but training_step takes dataloader_iter "
                "and fetches batches itself. Let it take a batch, or add the regularizer to the loss yourself: "
                "loss + penalty(self.net, x)."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the initial state where a penalty needs it."""
        missing = [m for m in self.measures if "initial" in m.metric.needs and m.initial is None]
        initial = initial_state(pl_module) if missing else None
        for measure in missing:
            measure.initial = initial

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log the parts of the loss."""
        if accumulating(trainer):
            return
        step = completed_batches(trainer) + 1
        if self._latest and trainer.log_every_n_steps and step % trainer.log_every_n_steps == 0:
            values = torch.stack([value.double() for value in self._latest.values()]).tolist()
            log_scalars(trainer, dict(zip(self._latest, values, strict=True)), step)
            self._latest = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where no loss was the one that was asked for.

        Raises:
            ValueError: If ``manual_backward`` was never called so often that the loss at the index was reached.
        """
        index = self.manual_backward_index
        if pl_module.automatic_optimization or index is None or self._was_added or not trainer.global_step:
            return
        raise ValueError(
            f"{type(self).__name__} was never added to a loss: no training_step called manual_backward {index + 1} "
            f"times, as manual_backward_index={index} needs. The index counts the calls in one training_step from 0."
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the module its own ``training_step`` back."""
        remove_terms(pl_module, self)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the module its own ``training_step`` back."""
        remove_terms(pl_module, self)

    def state_dict(self) -> dict[str, Any]:
        """Keep what the penalties go on from."""
        return {"measures": [measure.progress() for measure in self.measures]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        for measure, progress in zip(self.measures, state_dict["measures"], strict=True):
            measure.resume(progress)

    def computed(self, measure: TrainedMeasure, compute: Callable[[Snapshot], Tensor], step: Step) -> Tensor:
        """What is computed from the snapshot for a measure.

        Raises:
            ValueError: If it has never been computed. Later in the run a batch on which it cannot be is left without
                penalty, and a warning says so once.
        """
        if self._found is None and measure.needs_batch:
            self._found = find_task(step.pl_module, step.batch, self.task)
        try:
            value = compute(step.snapshot(measure, self._found or self.task))
        except ValueError as error:
            if measure.name not in self._computed:
                raise
            self._skip(measure.name, error)
            return torch.zeros((), device=step.pl_module.device)
        self._computed.add(measure.name)
        return value

    def _skip(self, name: str, error: ValueError) -> None:
        if name not in self._skipped:
            self._skipped.add(name)
            warnings.warn(
                f"{type(self).__name__} of {name} leaves batches out on which it cannot be computed, such as one that "
                f"{error}",
                stacklevel=2,
            )

    def note(self, parts: dict[str, Tensor]) -> None:
        """Keep the parts of the loss of this step until they are logged."""
        self._was_added = True
        self._latest = {key: value.detach() for key, value in parts.items()}
