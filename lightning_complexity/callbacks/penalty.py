"""Hold complexity down: add penalties to the loss of a training step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_complexity.callbacks.base import LightningModule
from lightning_complexity.callbacks.loss import LossCallback
from lightning_complexity.network import LossFunction
from lightning_complexity.regularizers import Regularizer


class ComplexityPenalty(LossCallback):
    """Add penalties to the loss that ``training_step`` returns; this changes training.

    ``training_step`` is wrapped while ``fit`` runs, so that gradients are exactly those of the sum, whatever is done
    with the loss afterwards. The network that is penalised is the ``LightningModule``, whose ``forward`` takes the
    inputs of a batch ``(inputs, targets)``. Needs automatic optimization. With all strengths 0 training is
    bit-identical to training without the callback.

    Logs ``loss/task``, ``penalty/<name>`` and ``loss/total`` to all loggers every ``trainer.log_every_n_steps`` and
    to ``trainer.callback_metrics`` at the same steps. What a user's ``training_step`` logs is without penalties.

    Args:
        regularizers: One or more; those of the same measure must differ in ``name``.
        schedule: Factor of all strengths by the number of optimizer steps done, such as
            ``callbacks.Warmup(1000)``; with the factor 0 nothing is computed.
        loss: Mean loss from outputs and targets, for penalties that need one.

    Raises:
        TypeError: If an argument is no regularizer.
        ValueError: Without regularizers; in ``setup``, with manual optimization.

    Example:
        >>> from lightning_complexity import regularizers
        >>> penalty = ComplexityPenalty(regularizers.PathNorm(1e-4))
        >>> # Trainer(callbacks=[penalty]).fit(model)
    """

    def __init__(
        self,
        *regularizers: Regularizer,
        schedule: Callable[[int], float] | None = None,
        loss: LossFunction | None = None,
    ) -> None:
        if not regularizers:
            raise ValueError("ComplexityPenalty needs a regularizer, such as regularizers.PathNorm(1e-4).")
        super().__init__(regularizers, loss)
        if schedule is not None and not callable(schedule):
            raise TypeError(
                f"schedule must be a function of the step, such as callbacks.Warmup(1000), got {schedule!r}."
            )
        self.schedule = schedule

    def terms(self, pl_module: LightningModule, batch: Any) -> dict[str, Tensor]:
        """Each penalty by log key."""
        factor = 1.0 if self.schedule is None else float(self.schedule(pl_module.trainer.global_step))
        if not math.isfinite(factor):
            raise ValueError(f"the schedule must give finite factors, got {factor!r}.")
        if factor == 0:
            return {}
        return {f"penalty/{r.name}": factor * self.penalty(r, pl_module, batch) for r in self.regularizers}
