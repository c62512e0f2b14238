"""Which callbacks look at our values, and when: a value must be there, and be that of the weights it is taken for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from lightning_complexity.callbacks.base import Trainer
from lightning_complexity.callbacks.keys import plain_key
from lightning_complexity.callbacks.loggers import tell_callbacks
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.recording.record import Measurement


class Watchers:
    """The callbacks, and learning rate schedulers, of a ``Trainer`` that monitor one of some keys.

    Args:
        trainer: Which is about to train.
        owns: Whether a log key is one of them.
    """

    def __init__(self, trainer: Trainer, owns: Callable[[str], bool]) -> None:
        self.callbacks = [c for c in trainer.callbacks if _monitors(c, owns)]
        self.schedulers = [s for s in trainer.lr_scheduler_configs if s.reduce_on_plateau and _monitors(s, owns)]

    @property
    def keys(self) -> set[str]:
        """The keys that are monitored: their values must not be thinned out."""
        return {watcher.monitor for watcher in [*self.callbacks, *self.schedulers]}

    def __bool__(self) -> bool:
        return bool(self.callbacks or self.schedulers)

    def look_after(self, trainer: Trainer, batch_idx: int) -> bool:
        """Whether one of them looks at the values once this batch, with its optimizer step, is done."""
        after_step = any(
            every and trainer.global_step % every == 0 for every in (_every_n_steps(c) for c in self.callbacks)
        )
        after_batch = any(s.interval == "step" and (batch_idx + 1) % s.frequency == 0 for s in self.schedulers)
        return after_step or after_batch

    def check(self, trainer: Trainer, every_n_steps: int | None) -> None:
        """Say what cannot be ranked by the value of the weights that are saved.

        Raises:
            ValueError: For a callback that saves at times, when not every step is measured.
        """
        for callback in self.callbacks:
            if getattr(callback, "_train_time_interval", None) is not None and every_n_steps != 1:
                raise ValueError(
                    f"{type(callback).__name__}(monitor={callback.monitor!r}, train_time_interval=...) saves after "
                    "steps that are not known before, so that each must be measured: set "
                    "ComplexityMonitor(every_n_steps=1), or every_n_train_steps instead of train_time_interval."
                )
        saving = [c for c in self.callbacks if hasattr(c, "best_model_path")]
        if saving and any(_averages(c) for c in trainer.callbacks) and trainer.is_global_zero:
            warnings.warn(
                f"{type(saving[0]).__name__} saves averaged weights, but {saving[0].monitor!r} is measured on the "
                "weights that are trained. Rank checkpoints by a value that validation_step logs.",
                stacklevel=2,
            )


def _monitors(watcher: Any, owns: Callable[[str], bool]) -> bool:
    key = getattr(watcher, "monitor", None)
    return isinstance(key, str) and owns(key)


def _every_n_steps(callback: Any) -> int:
    every = getattr(callback, "_every_n_train_steps", 0)
    return every if isinstance(every, int) else 0


def _averages(callback: Any) -> bool:
    return any(cls.__name__ == "WeightAveraging" for cls in type(callback).__mro__)


class WatchedValues:
    """What a monitor does for callbacks that look at its values."""

    name: str | None
    metrics: list[ComplexityMetric]
    _history: list[Measurement]

    def owns(self, key: str) -> bool:
        """Whether a log key is one of this monitor's."""
        first, _, rest = (plain_key(key, self.name) or "").partition("/")
        return first == "probe" or (first == "complexity" and rest.split("/")[0] in {m.name for m in self.metrics})

    def watchers(self, trainer: Trainer) -> Watchers:
        """Who looks at them."""
        return Watchers(trainer, self.owns)

    def publish(self, trainer: Trainer) -> None:
        """Let callbacks that monitor a key have its last value, before anything new is measured."""
        latest = {key: value for measurement in self._history for key, value in measurement.values.items()}
        tell_callbacks(trainer, latest)
