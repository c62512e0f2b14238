"""Add terms to the loss of a training step, whatever else Lightning does with it."""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.callbacks.base import LightningModule, Trainer, accumulating, completed_batches
from lightning_complexity.callbacks.finding import find_task
from lightning_complexity.callbacks.keys import KeyedCallback, check_name
from lightning_complexity.callbacks.loggers import log_scalars, tell_callbacks
from lightning_complexity.callbacks.summing import Step, Term, add_terms, remove_terms
from lightning_complexity.network import Snapshot, Task, initial_state
from lightning_complexity.regularizers import TrainedMeasure

ManualBackwardIndex = int | Sequence[int]


class LossCallback(KeyedCallback):
    """A callback that adds terms to the loss, and logs the parts.

    ``training_step`` is wrapped while ``fit`` runs, so that gradients are exactly those of the sum. The network that
    is penalised is the ``LightningModule``, whose ``forward`` takes the inputs of a batch ``(inputs, targets)``.
    """

    def __init__(
        self,
        measures: list[TrainedMeasure],
        task: Task,
        manual_backward_index: ManualBackwardIndex | None,
        name: str | None = None,
    ) -> None:
        names = [measure.name for measure in measures]
        if len(set(names)) < len(names):
            raise ValueError(f"two penalties would be logged under the same name: {', '.join(names)}.")
        check_name(name)
        self.measures, self.task, self.manual_backward_index = measures, task, manual_backward_index
        self._found: Task | None = None
        self._computed: set[str] = set()
        self._skipped: set[str] = set()
        _check_indices(self._indices, manual_backward_index)
        self.name = name
        self._key_part = "" if name is None else f"{name}/"
        self._latest: dict[str, Tensor] = {}
        self._parts: dict[str, Tensor] = {}
        self._reached: set[int] = set()
        self._given_initial: list[TrainedMeasure] = []

    @property
    def _indices(self) -> tuple[Any, ...]:
        index = self.manual_backward_index
        return tuple(index) if isinstance(index, Sequence) else () if index is None else (index,)

    @abstractmethod
    def terms(self, step: Step) -> dict[str, Term]:
        """What is added to the loss of a training step, by log key."""

    def identity(self) -> dict[str, Any]:
        """What tells penalties of the same kind and name apart."""
        identity: dict[str, Any] = {"penalties": [measure.name for measure in self.measures]}
        return identity | ({"manual_backward_index": list(self._indices)} if self._indices else {})

    def log_key(self, kind: str, measure: str) -> str:
        """Log key of something of a measure, such as ``penalty/path_norm``, or ``penalty/backward_1/path_norm``."""
        return f"{kind}/{self._key_part}{measure}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh, unless this continues a fit; wrap ``training_step``, before a learning rate finder uses it.

        Raises:
            ValueError: At what cannot be penalised, or if another callback would log the same keys.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if not pl_module.automatic_optimization and not self._indices:
            raise ValueError(
                f"{type(self).__name__} must know which loss it belongs to, as this module optimizes manually: say "
                "manual_backward_index=0 for the first call of manual_backward in training_step, 1 for the second, "
                "[0, 1] for both."
            )
        self._check_that_batches_are_given(pl_module)
        self._found = None
        self._computed, self._skipped = set(), set()
        self._choose_keys(trainer)
        if trainer.global_step == 0:
            self.start_afresh()
        self._latest, self._parts, self._reached = {}, {}, set()
        add_terms(pl_module, self)

    def start_afresh(self) -> None:
        """Forget what belongs to a training that is over."""
        for measure in self.measures:
            measure.start_afresh()
        for measure in self._given_initial:
            measure.initial = None
        self._given_initial = []

    def _choose_keys(self, trainer: Trainer) -> None:
        """Tell the keys of penalties apart that belong to different losses of one training step."""
        self._key_part = "" if self.name is None else f"{self.name}/"
        others = [c for c in trainer.callbacks if isinstance(c, LossCallback) and c.name == self.name]
        before = others[: others.index(self)]
        names = {measure.name for measure in self.measures}
        for other in before:
            shared = names & {measure.name for measure in other.measures}
            if shared and other._indices == self._indices:
                raise ValueError(
                    f"two callbacks would log {self.log_key('penalty', min(shared))}: give one of them a name, "
                    f"{type(self).__name__}(..., name='second'), which then logs penalty/second/{min(shared)}."
                )
            if shared and not self._key_part.startswith("backward_"):
                self._key_part += f"backward_{'_'.join(map(str, self._indices))}/"

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
        self._given_initial += missing

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

    def _publish(self, trainer: Trainer) -> None:
        """Let callbacks have the parts of the last loss of the epoch, whether it was logged or not."""
        if self._parts:
            values = torch.stack([value.double() for value in self._parts.values()]).tolist()
            tell_callbacks(trainer, dict(zip(self._parts, values, strict=True)))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let callbacks have the parts of the loss; stop where no loss was the one that was asked for.

        Raises:
            ValueError: If ``manual_backward`` was never called so often that the loss at an index was reached.
        """
        self._publish(trainer)
        missed = set(self._indices) - self._reached
        if pl_module.automatic_optimization or not missed or not trainer.global_step:
            return
        raise ValueError(
            f"{type(self).__name__} was never added to a loss: no training_step called manual_backward "
            f"{max(missed) + 1} times, as manual_backward_index={self.manual_backward_index} needs. The index counts "
            "the calls in one training_step from 0."
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the module its own ``training_step`` back."""
        remove_terms(pl_module, self)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the module its own ``training_step`` back."""
        remove_terms(pl_module, self)

    def state_dict(self) -> dict[str, Any]:
        """Keep what the penalties go on from."""
        progress = {measure.name: measure.progress() for measure in self.measures}
        return {**super().state_dict(), "measures": progress}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint; measures that it does not have start afresh."""
        for measure in (m for m in self.measures if m.name in state_dict["measures"]):
            if measure.initial is None:
                self._given_initial.append(measure)
            measure.resume(state_dict["measures"][measure.name])

    def is_added_to(self, index: int) -> bool:
        """Whether the terms are added to this call of ``manual_backward`` in a training step, from 0."""
        if index in self._indices:
            self._reached.add(index)
        return index in self._indices

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
        self._latest = self._parts = {key: value.detach().reshape(()) for key, value in parts.items()}


def _check_indices(indices: tuple[Any, ...], given: Any) -> None:
    counts = [isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in indices]
    if not all(counts) or len(set(indices)) < len(indices) or (given is not None and not indices):
        raise ValueError(
            f"manual_backward_index counts calls from 0, got {given!r}; several are a list such as [0, 1]."
        )
