"""Watch a training: judge the network on all samples, stop at the criterion, choose when to measure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.callbacks import ComplexityMonitor
from lightning_complexity.callbacks.base import Callback, LightningModule, Trainer
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.studies.training.settings import Moments, Stop

Ended = Literal["criterion", "max_steps", "diverged", "training itself"]
_NEAR = 1.5  # how far above the next loss that matters a mean over some batches makes it worth looking exactly
_CHECKS_PER_EPOCH = 10
_CHUNK = 4096
GLANCE = 2000
"""Of so many samples a judgement costs next to nothing."""
_ALMOST = 1.1  # how near such a judgement has to come, for one of all samples to be worth its time


class Fit(NamedTuple):
    """Mean loss and share of right classes; ``None`` where there is none."""

    loss: float | None
    accuracy: float | None


Judge = Callable[[LightningModule], Fit]


def judge_of_tensors(x: Tensor, y: Tensor) -> Judge:
    """Judge networks by cross-entropy on samples in memory, in evaluation mode."""

    def judge(module: LightningModule) -> Fit:
        modes = [(part, part.training) for part in module.modules()]
        try:
            for part, _ in modes:
                part.training = False
            return fit_of(module, x, y)
        finally:
            for part, mode in modes:
                part.training = mode

    return judge


def fit_of(network: nn.Module, x: Tensor, y: Tensor) -> Fit:
    """Mean cross-entropy and accuracy of a network, in the mode that it is in."""
    loss, right = 0.0, 0
    with torch.no_grad():
        for inputs, targets in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
            logits = network(inputs)
            loss += float(F.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(1) == targets).sum())
    return Fit(loss / len(y), right / len(y))


@dataclass(frozen=True)
class Judged:
    """How a network does at one moment, on all samples.

    Attributes:
        names: Of the moment, such as ``"initialization"``, ``"step 100"``, ``"loss 0.1"``, ``"end"``.
        step: Completed optimizer steps.
        seconds: Of training until then, without those of judging and measuring.
        train: On the samples that it is trained on.
        test: On those that it is not.
    """

    names: tuple[str, ...]
    step: int
    seconds: float
    train: Fit
    test: Fit


class Watch(Callback):
    """End the training at its criterion; judge the network at chosen moments.

    Args:
        stop: The criterion.
        moments: When to judge.
        train: Judges on all training samples.
        test: Judges on samples that are not trained on; ``None`` where there are none.
        steps_per_epoch: How many optimizer steps a pass through the training samples takes.
        glance: Judges on a few training samples, where all are many: whether it is worth to judge on all. The criterion
            is then looked at every half epoch at most.

    Attributes:
        judged: What was found, in the order of steps.
        ended: Why training ended.
        is_due: Whether the network, as it is now, is to be measured.
        measuring: Gives the seconds that measuring has taken, which are not those of training.
    """

    def __init__(
        self,
        stop: Stop,
        moments: Moments,
        train: Judge,
        test: Judge | None,
        steps_per_epoch: int,
        glance: Judge | None = None,
    ) -> None:
        self.stop, self.moments = stop, moments
        self._train, self._test, self._glance = train, test, glance
        self._last_look = -steps_per_epoch
        self._losses = sorted({loss for loss in moments.losses if loss > stop.loss}, reverse=True)
        self._every = max(steps_per_epoch // _CHECKS_PER_EPOCH, 1)
        self._epoch = max(steps_per_epoch, 1)
        self.judged: list[Judged] = []
        self.ended: Ended = "training itself"
        self.is_due = False
        self.measuring: Callable[[], float] = float
        self._step = self._global_step = 0
        self._mean: float | None = None
        self._spent = 0.0
        self._last_names: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the network as it begins."""
        self._started = time.perf_counter()
        self._judge(pl_module, ["initialization"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look whether this step is one of the moments, or the last."""
        self.is_due = False
        if trainer.global_step == self._global_step:  # gradients are still accumulating
            return
        self._global_step = trainer.global_step
        self._step += 1
        loss = _loss_of(outputs)
        self._follow(loss)
        names = self.moments.at_step(self._step, self.stop.max_steps)
        fit = self._timed(self._train, pl_module) if names or self._is_worth_it(pl_module) else None
        names += self._losses_passed(fit)
        ended = self._end(loss, fit)
        if ended is not None:
            self.ended, trainer.should_stop, self._last_names = ended, True, names
        elif names:
            self._judge(pl_module, names, fit)
            self.is_due = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the network as it ends."""
        self._judge(pl_module, [*self._last_names, "end"])

    def _follow(self, loss: float | None) -> None:
        """Follow the mean over about a tenth of an epoch, and ten batches."""
        if loss is not None:
            weight = 1 / max(self._every, 10)
            self._mean = loss if self._mean is None else self._mean + weight * (loss - self._mean)

    def _is_worth_it(self, module: LightningModule) -> bool:
        """Whether the loss on all samples may be one that matters."""
        wanted = self._losses[0] if self._losses else self.stop.loss
        is_near = self._step % self._every == 0 and self._mean is not None and self._mean < _NEAR * wanted
        if not is_near and self._step % self._epoch:
            return False
        if self._glance is None:
            return True
        is_for_stop = not self._losses
        if is_for_stop and self._step - self._last_look < self._epoch / 2:
            return False
        few = self._timed(self._glance, module)
        if few.loss is not None and few.loss > _ALMOST * wanted:
            return False
        if is_for_stop:
            if self.stop.zero_error and few.accuracy is not None and few.accuracy < 1:
                return False
            self._last_look = self._step
        return True

    def _losses_passed(self, fit: Fit | None) -> list[str]:
        passed: list[str] = []
        while fit is not None and fit.loss is not None and self._losses and fit.loss <= self._losses[0]:
            passed.append(f"loss {self._losses.pop(0):g}")
        return passed

    def _end(self, loss: float | None, fit: Fit | None) -> Ended | None:
        if _is_lost(loss) or (fit is not None and _is_lost(fit.loss)):
            return "diverged"
        if fit is not None and fit.loss is not None and self.stop.is_reached(fit.loss, fit.accuracy):
            return "criterion"
        return "max_steps" if self._step >= self.stop.max_steps else None

    def _judge(self, module: LightningModule, names: list[str], train: Fit | None = None) -> None:
        if self.judged and self.judged[-1].step == self._step:  # training ended by itself at a moment
            last = self.judged.pop()
            names, train = [*last.names, *names], last.train
        seconds = max(time.perf_counter() - self._started - self._spent - self.measuring(), 0.0)
        train = train or self._timed(self._train, module)
        test = Fit(None, None) if self._test is None else self._timed(self._test, module)
        self.judged.append(Judged(tuple(names), self._step, seconds, train, test))

    def _timed(self, judge: Judge, module: LightningModule) -> Fit:
        started = time.perf_counter()
        fit = judge(module)
        self._spent += time.perf_counter() - started
        return fit


def _is_lost(loss: float | None) -> bool:
    return loss is not None and not math.isfinite(loss)


def _loss_of(outputs: Any) -> float | None:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else None


class MonitorAtMoments(ComplexityMonitor):
    """Measure at initialization, when a watch says so, and at the end.

    Args:
        metrics: As those of :class:`~lightning_complexity.callbacks.ComplexityMonitor`.
        watch: A callback that comes before this one.
        options: Further ones of the monitor.
    """

    def __init__(self, metrics: list[ComplexityMetric], watch: Watch, **options: Any) -> None:
        super().__init__(metrics, every_n_epochs=None, budget=None, **options)
        self._watch = watch
        watch.measuring = lambda: self.spending.stopwatch.spent

    def is_scheduled(self, step: int) -> bool:
        """Whether the watch has just judged the network."""
        return self._watch.is_due
