"""The optimizer steps and losses of a ``Trainer``, for metrics that are read off the training itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.callbacks.base import LightningModule, Trainer
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import LiveSteps, WeightTrajectory
from lightning_complexity.network.running.ranks import Ranks


class LiveTraining:
    """Follows a training, where a metric needs that.

    Args:
        metrics: Those of the monitor.

    Attributes:
        steps: What was read; ``None`` where no metric needs it, and before training starts.
    """

    def __init__(self, metrics: Iterable[ComplexityMetric]) -> None:
        needing = [metric for metric in metrics if "live" in metric.needs]
        steps = [getattr(metric, "every", 1) for metric in needing if not hasattr(metric, "window")]
        self._every = min(steps, default=8) if needing else None
        self._places = [(metric.window, metric.every) for metric in needing if hasattr(metric, "window")]
        self.steps: LiveSteps | None = None
        self._state: Mapping[str, Any] | None = None
        self._losses: list[Tensor] = []
        self._global_step = 0

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Follow the optimizers; go on from what was read before, or from the state that was loaded."""
        self.stop()
        if self._every is None:
            return
        state = self.state_dict()
        self.steps, self._losses = LiveSteps(module, self._every, trajectory=self._trajectory()), []
        if state is not None:
            self.steps.load_state_dict(state)
        self.steps.follow(trainer.optimizers)
        self._global_step = trainer.global_step

    def _trajectory(self) -> WeightTrajectory | None:
        if not self._places:
            return None
        windows, distances = zip(*self._places, strict=True)
        return WeightTrajectory(max(windows), every=min(distances))

    def stop(self) -> None:
        """Follow them no longer; what was read stays."""
        if self.steps is not None:
            self.steps.release()

    def add(self, trainer: Trainer, outputs: Any) -> None:
        """Take what a training step has returned; with the last batch of an optimizer step its loss is whole."""
        if self.steps is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach())
        if trainer.global_step == self._global_step:  # gradients are still accumulating
            return
        self._global_step = trainer.global_step
        # Lightning has divided each by the number that it accumulates.
        summed = torch.stack([loss.reshape(()) for loss in self._losses]).sum() if self._losses else None
        self.steps.losses.add(summed)
        self._losses = []

    def share(self, ranks: Ranks) -> None:
        """Count the mean losses of all processes, which must all come here."""
        if self.steps is None:
            return
        of_all = ranks.gathered(self.steps.losses.taken())
        count = min(map(len, of_all))
        self.steps.losses.settle([_mean([losses[i] for losses in of_all]) for i in range(count)])

    def state_dict(self) -> Mapping[str, Any] | None:
        """What a run that is continued needs."""
        return self._state if self.steps is None else self.steps.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from there when training starts; from nothing, where an earlier version has written it."""
        self.steps, self._state = None, state if state is not None and "optimizers" in state else None


def _mean(losses: list[float | None]) -> float | None:
    """Of the processes that have a loss; ``None`` if no one has."""
    given = [loss for loss in losses if loss is not None]
    return sum(given) / len(given) if given else None
