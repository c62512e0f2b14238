"""Hold complexity under a limit: learn the strength of a penalty."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.callbacks.base import LightningModule, Trainer, completed_batches
from lightning_complexity.callbacks.loggers import log_scalars
from lightning_complexity.callbacks.loss import LossCallback
from lightning_complexity.callbacks.probe import Probe, ProbeSource, check_probe, copied, training_probe
from lightning_complexity.network import LossFunction, Snapshot
from lightning_complexity.regularizers import Regularizer

_GROWTH, _ENOUGH = 1.5, 0.8  # of the curvature, unless the violation has fallen to this share
_NEGLIGIBLE = 0.01  # violation
_STIFFEST = 10.0


class ComplexityConstraint(LossCallback):
    r"""Hold a measure under a limit by an augmented Lagrangian; this changes training.

    .. math:: \text{loss} + \frac{1}{2 \rho} \Big( \max(0, \lambda + \rho\, g)^2 - \lambda^2 \Big), \quad
              g = (\text{measure} - \text{limit}) / s

    with :math:`s` the limit's size, or 1 for a logarithm. Every ``every_n_steps`` optimizer steps the metric of the
    same name judges the network on a fixed probe: the multiplier :math:`\lambda` becomes
    :math:`\max(0, \lambda + \rho\, g)`, so that it rises while the limit is exceeded and falls while there is slack,
    and :math:`\rho` grows from 1 to 10 at most while the violation does not fall. At a limit that cannot be met the
    multiplier stops at ``max_multiplier``, with one warning, and training goes on.

    Needs automatic optimization. Logs ``constraint/<name>/value``, ``/violation`` (``g`` where positive) and
    ``/multiplier`` whenever it judges, and ``loss/task``, ``penalty/<name>`` and ``loss/total`` as
    :class:`lightning_complexity.ComplexityPenalty`. Multiplier, limit and probe are in checkpoints.

    Args:
        regularizer: What is limited; its strength does not matter.
        at_most: The limit, in the measure's units.
        at_most_relative_to_init: Instead, the limit as a multiple of the measure at initialization; of a logarithm,
            of what the logarithm is taken of.
        every_n_steps: How often the network is judged.
        probe: What it is judged on, as for :class:`lightning_complexity.ComplexityMonitor`.
        loss: Mean loss from outputs and targets, for measures that need one.
        max_multiplier: Where the multiplier stops.

    Attributes:
        limit: The limit, once it is known.
        multiplier: :math:`\lambda`.

    Raises:
        ValueError: Unless exactly one limit is given; in ``setup``, with manual optimization.

    Example:
        >>> from lightning_complexity import regularizers
        >>> constraint = ComplexityConstraint(regularizers.JacobianNorm(), at_most=0.2)
        >>> # Trainer(callbacks=[constraint]).fit(model)
    """

    def __init__(
        self,
        regularizer: Regularizer,
        *,
        at_most: float | None = None,
        at_most_relative_to_init: float | None = None,
        every_n_steps: int = 20,
        probe: ProbeSource = 256,
        loss: LossFunction | None = None,
        max_multiplier: float = 1e3,
    ) -> None:
        super().__init__((regularizer,), loss)
        _check_limits(at_most, at_most_relative_to_init)
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps!r}.")
        if not 0 < max_multiplier < math.inf:
            raise ValueError(f"max_multiplier must be positive and finite, got {max_multiplier!r}.")
        check_probe(probe)
        regularizer.strength = 1.0
        self.limit, self.at_most_relative_to_init = at_most, at_most_relative_to_init
        self.every_n_steps, self.probe, self.max_multiplier = every_n_steps, probe, max_multiplier
        self.multiplier, self.curvature, self.violation = 0.0, 1.0, math.inf
        self._probe: Probe | None = None
        self._probe_is_ready, self._warned, self._global_step = False, False, 0

    @property
    def _regularizer(self) -> Regularizer:
        return self.regularizers[0]

    # Hooks ---------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where this fit starts."""
        self._global_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw the probe, and know the limit, before the first step."""
        if self._probe_is_ready:
            return
        if self._probe is None:
            self._probe = training_probe(self.probe, trainer, pl_module, batch)
        self._probe, self._probe_is_ready = copied(self._probe, pl_module.device), True
        if self.limit is None:
            initially = self._measured(trainer, pl_module)
            ratio: float = self.at_most_relative_to_init  # type: ignore[assignment]
            self.limit = initially + math.log(ratio) if self._regularizer.metric.is_logarithm else ratio * initially

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Judge every so many steps."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self._global_step:  # gradients are still accumulating
            return
        self._global_step = trainer.global_step
        if self._global_step % self.every_n_steps == 0:
            value = self._measured(trainer, pl_module)
            self._judge(value)
            name = f"constraint/{self._regularizer.name}"
            parts = {"value": value, "violation": max(self.violation, 0.0), "multiplier": self.multiplier}
            log_scalars(trainer, {f"{name}/{k}": v for k, v in parts.items()}, completed_batches(trainer) + 1)

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs: the controller, the limit, the probe, and the initial state."""
        return {
            **super().state_dict(),
            "controller": (self.limit, self.multiplier, self.curvature, self.violation),
            "probe": None if self._probe is None else tuple(copied(self._probe, "cpu")),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        super().load_state_dict(state_dict)
        self.limit, self.multiplier, self.curvature, self.violation = state_dict["controller"]
        self._probe = None if state_dict["probe"] is None else Probe(*state_dict["probe"])

    # The controller ------------------------------------------------------------------------------

    def terms(self, pl_module: LightningModule, batch: Any) -> dict[str, Tensor]:
        """The augmented Lagrangian's term for a batch; nothing without a limit yet, or a measure that is not finite."""
        if self.limit is None:
            return {}
        value = self.penalty(self._regularizer, pl_module, batch)
        excess = (value - self._known_limit) / self._scale
        if not excess.isfinite():
            self._warn(f"the measure is {float(value):g} on a batch, which is left without penalty")
            return {f"penalty/{self._regularizer.name}": torch.zeros_like(value.detach())}
        pushed = (self.multiplier + self.curvature * excess).clamp(min=0)
        return {f"penalty/{self._regularizer.name}": (pushed.square() - self.multiplier**2) / (2 * self.curvature)}

    @property
    def _scale(self) -> float:
        limit = self._known_limit
        return 1.0 if self._regularizer.metric.is_logarithm or limit == 0 else abs(limit)

    @property
    def _known_limit(self) -> float:
        limit: float = self.limit  # type: ignore[assignment]
        return limit

    def _judge(self, value: float) -> None:
        violation = (value - self._known_limit) / self._scale
        if not math.isfinite(violation):
            self._warn(f"the measure is {value:g} on the probe, and the multiplier stays as it is")
            return
        if violation > max(_ENOUGH * self.violation, _NEGLIGIBLE):
            self.curvature = min(_GROWTH * self.curvature, _STIFFEST)
        self.violation = violation
        self.multiplier = min(max(0.0, self.multiplier + self.curvature * violation), self.max_multiplier)
        if self.multiplier == self.max_multiplier and violation > 0:
            self._warn(
                f"the limit {self.limit:g} is not met at the largest multiplier, {self.max_multiplier:g}; it may be "
                "out of reach. Raise the limit or max_multiplier"
            )

    def _warn(self, what: str) -> None:
        if not self._warned:
            warnings.warn(f"ComplexityConstraint of {self._regularizer.name}: {what}. Training goes on.", stacklevel=3)
            self._warned = True

    def _measured(self, trainer: Trainer, pl_module: LightningModule) -> float:
        inputs, targets = self._probe or (None, None)
        metric = self._regularizer.metric
        metric.reset()
        metric.update(Snapshot(pl_module, inputs, targets, loss=self.loss, initial=self._regularizer.initial))
        # Running statistics differ between ranks, which must all decide alike.
        value: float = trainer.strategy.broadcast(float(torch.as_tensor(metric.compute())))
        return value


def _check_limits(at_most: float | None, relative: float | None) -> None:
    if (at_most is None) == (relative is None):
        raise ValueError("ComplexityConstraint needs one limit: at_most=... or at_most_relative_to_init=....")
    if at_most is not None and not math.isfinite(at_most):
        raise ValueError(f"at_most must be finite, got {at_most!r}.")
    if relative is not None and not 0 < relative < math.inf:
        raise ValueError(f"at_most_relative_to_init must be positive and finite, got {relative!r}.")
