"""The training and the validation probe of a run, and how the module is run and judged on each."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.callbacks.base import LightningModule, Trainer, validation_loaders
from lightning_complexity.callbacks.finding import find_task, find_validation_task, summary
from lightning_complexity.callbacks.probe import (
    Probe,
    ProbeSource,
    copied,
    first_loader,
    from_checkpoint,
    kept,
    training_probe,
    unchanged,
    validation_probe,
)
from lightning_complexity.network import Batches, MeasureError, Task
from lightning_complexity.network.running.ranks import Ranks
from lightning_complexity.recording.measuring import FailureReport

_LOGGER = logging.getLogger(__name__)


class Probes:
    """The two probes of a monitor.

    Args:
        source: What the training probe is, see :func:`lightning_complexity.callbacks.probe.check_probe`.
        task: What the user says of the module.

    Attributes:
        train: The training probe, once it is drawn.
        validation: The validation probe, where there is one.
    """

    def __init__(self, source: ProbeSource, task: Task) -> None:
        self._source, self._task = source, task
        self.train: Probe | None = None
        self.validation: Probe | None = None

    def draw(
        self, trainer: Trainer, module: LightningModule, batch: Any, failures: FailureReport, ranks: Ranks
    ) -> None:
        """Draw the probes where a checkpoint did not bring them, and find out how the module is run on them.

        All processes come here, and have either all a probe or none.

        Args:
            trainer: In training.
            module: What is trained.
            batch: The first batch.
            failures: Remembers what could not be drawn.
            ranks: The processes.
        """
        failures.attempt("the probe", lambda: self._draw_training_probe(trainer, module, batch, ranks))
        if self.train is not None:
            failures.attempt("the validation probe", lambda: self._draw_validation_probe(trainer, module, ranks))

    def _draw_training_probe(
        self, trainer: Trainer, module: LightningModule, batch: Any, ranks: Ranks
    ) -> dict[str, Tensor]:
        known, self.train = self.train, None
        # What came with a checkpoint came to all.
        drawn = training_probe(self._source, trainer, module, batch) if known is None else known.batches

        def found() -> Probe:
            here = copied(drawn, module.device)
            return Probe(here, find_task(module, here.batches[0], self._task))

        self.train = _of_one_kind(ranks.agreed(found), ranks)
        if trainer.is_global_zero:
            _LOGGER.info("ComplexityMonitor measures %s.", summary(self.train.task))
        return {}

    def _draw_validation_probe(self, trainer: Trainer, module: LightningModule, ranks: Ranks) -> dict[str, Tensor]:
        assert self.train is not None
        known, self.validation = self.validation, None
        train = self.train

        def loader() -> Any:
            with unchanged(module, trainer):  # a hook makes the loader
                return first_loader(validation_loaders(trainer))

        loaded = ranks.agreed(loader)
        if known is not None:
            drawn = known.batches
        elif ranks.from_first(loaded is not None):
            size = self._source if isinstance(self._source, int) else train.batches.num_samples
            drawn = validation_probe(loaded, size, trainer, module)
        else:
            return {}

        def found() -> Probe:
            here = copied(drawn, module.device)
            return Probe(here, find_validation_task(module, here.batches[0], train.task, self._task))

        self.validation = _of_one_kind(ranks.agreed(found), ranks)
        return {}

    @property
    def train_as_validated(self) -> Probe | None:
        """The training probe, to be judged as in validation, where that is another loss than in training."""
        if self.train is None or self.validation is None or self.validation.task.loss == self.train.task.loss:
            return None
        return Probe(self.train.batches, replace(self.train.task, loss=self.validation.task.loss))

    def to(self, device: torch.device) -> None:
        """Move the probes to a device."""
        self.train, self.validation = (
            None if probe is None else Probe(copied(probe.batches, device), probe.task)
            for probe in (self.train, self.validation)
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of them."""
        probes = {"train_probe": self.train, "validation_probe": self.validation}
        return {name: kept(None if probe is None else probe.batches) for name, probe in probes.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have what a checkpoint kept."""
        drawn: list[Batches | None] = [from_checkpoint(state_dict[n]) for n in ("train_probe", "validation_probe")]
        self.train, self.validation = (None if batches is None else Probe(batches, self._task) for batches in drawn)


def _of_one_kind(probe: Probe, ranks: Ranks) -> Probe:
    """A probe, if all processes run and judge the module on it alike.

    Raises:
        MeasureError: On all of them, if not.
    """
    found = set(ranks.gathered(summary(probe.task)))
    if len(found) > 1:
        raise MeasureError(
            f"processes run the module in different ways: {' / '.join(sorted(found))}. Say how to run and judge it, "
            "with forward=lambda module, batch: ... and loss=lambda module, batch: ...."
        )
    return probe
