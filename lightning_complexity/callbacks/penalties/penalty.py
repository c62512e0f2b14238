"""Hold complexity down: add penalties to the loss of a training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_complexity.callbacks.base import Trainer, completed_batches
from lightning_complexity.callbacks.penalties.loss import LossCallback, ManualBackwardIndex
from lightning_complexity.callbacks.summing import Step, Term
from lightning_complexity.metrics.base.written import written
from lightning_complexity.network import ForwardFunction, LossFunction, TargetFunction, Task
from lightning_complexity.regularizers import Regularizer


class ComplexityPenalty(LossCallback):
    """Add penalties to the loss that ``training_step`` returns; this changes training.

    ``training_step`` is wrapped while ``fit`` runs, so that gradients are exactly those of the sum, whatever is done
    with the loss afterwards. The network that is penalised is the ``LightningModule``, whose ``forward`` takes the
    inputs of a batch ``(inputs, targets)``. With all strengths 0 training is bit-identical to training without the
    callback. With manual optimization the loss is what ``manual_backward`` is called with. On several processes each
    adds the penalty of its own batch, and gradients are averaged, as for losses; parameters may be replicated (DDP) or
    sharded (FSDP2).

    Logs ``loss/task``, ``penalty/<name>`` and ``loss/total`` to all loggers every ``trainer.log_every_n_steps`` and
    to ``trainer.callback_metrics`` at the same steps and at the end of each epoch. What a user's ``training_step`` logs
    is without penalties. A second fit starts afresh, unless it continues the first.

    Args:
        penalties: One or more regularizers; those of the same measure must differ in ``name``.
        regularizers: The same as a list, which configuration files of ``LightningCLI`` can have.
        schedule: Factor of all strengths by the number of optimizer steps done (batches after which optimizers
            stepped), such as ``callbacks.Warmup(1000)``; with the factor 0 nothing is computed.
        loss: Mean loss from outputs and targets, for penalties that need one.
        forward: Outputs from module and inputs, where they are not ``module(inputs)`` or not one tensor.
        class_dim: Dimension of the outputs along which classes lie, where shapes do not tell.
        once_per_step: Whether penalties that need no batch are computed once for each optimizer step instead of once
            for each batch whose gradients it accumulates. The gradient is the same, up to rounding.
        manual_backward_index: With manual optimization, which call of ``manual_backward`` in a ``training_step`` the
            penalties are added to, from 0; or several, such as ``[0, 1]`` for both passes of sharpness-aware
            minimization, of which the last is logged.
        name: Tells callbacks of equal penalties apart: keys are then ``penalty/<name of the callback>/<name>``.
            Callbacks of different calls of ``manual_backward`` need none: keys of the second are
            ``penalty/backward_1/<name>``.

    Raises:
        TypeError: If an argument is no regularizer.
        ValueError: Without regularizers; before training, with manual optimization and no index, or where a penalty
            needs the batch and ``training_step`` takes ``dataloader_iter``; after an epoch of manual optimization
            in which no ``training_step`` called ``manual_backward`` often enough.

    Example:
        >>> from lightning_complexity import regularizers
        >>> penalty = ComplexityPenalty(regularizers.PathNorm(1e-4))
        >>> # Trainer(callbacks=[penalty]).fit(model)
    """

    def __init__(
        self,
        *penalties: Regularizer,
        regularizers: Sequence[Regularizer] = (),
        schedule: Callable[[int], float] | None = None,
        forward: ForwardFunction | None = None,
        loss: LossFunction | None = None,
        targets: TargetFunction | None = None,
        class_dim: int | None = None,
        wrt: str | None = None,
        once_per_step: bool = False,
        manual_backward_index: ManualBackwardIndex | None = None,
        name: str | None = None,
    ) -> None:
        regularizers = (*penalties, *regularizers)
        if not regularizers:
            raise ValueError("ComplexityPenalty needs a regularizer, such as regularizers.PathNorm(1e-4).")
        for regularizer in regularizers:
            if not isinstance(regularizer, Regularizer):
                raise TypeError(
                    f"ComplexityPenalty takes regularizers such as regularizers.PathNorm(1e-4), got {regularizer!r}."
                )
        super().__init__(
            [regularizer.measure for regularizer in regularizers],
            Task(forward, loss, targets, class_dim, wrt),
            manual_backward_index,
            name,
        )
        self.regularizers = regularizers
        if schedule is not None and not callable(schedule):
            raise TypeError(
                f"schedule must be a function of the step, such as callbacks.Warmup(1000), got {schedule!r}."
            )
        self.schedule, self.once_per_step = schedule, once_per_step

    def __repr__(self) -> str:
        """How it is written, such as ``ComplexityPenalty(PathNorm(0.1), once_per_step=True)``."""
        return written(self, LossCallback, *map(repr, self.regularizers), without=("regularizers",))

    def terms(self, step: Step) -> dict[str, Term]:
        """Each penalty by log key."""
        trainer = step.pl_module.trainer
        factor = self._factor(trainer)
        if factor == 0:
            return {}
        times = {r: self._times(r, step) for r in self.regularizers}
        return {
            self.log_key("penalty", r.name): Term(factor * self._penalty(r, step), n) for r, n in times.items() if n
        }

    def _penalty(self, regularizer: Regularizer, step: Step) -> Tensor:
        if regularizer.strength == 0:
            return regularizer(step.pl_module)
        return self.computed(regularizer.measure, regularizer, step)

    def _factor(self, trainer: Trainer) -> float:
        factor = 1.0 if self.schedule is None else float(self.schedule(completed_batches(trainer)))
        if not math.isfinite(factor):
            raise ValueError(f"the schedule must give finite factors, got {factor!r}.")
        return factor

    def _times(self, regularizer: Regularizer, step: Step) -> int:
        """How many of the accumulated batches get their penalty with this one."""
        if not self.once_per_step or regularizer.measure.needs_batch:
            return 1
        return step.place.number if step.place.is_last else 0
