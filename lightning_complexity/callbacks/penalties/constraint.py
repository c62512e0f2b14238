"""Hold complexity under limits: learn the strength of penalties."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from lightning_complexity.callbacks.base import LightningModule, Trainer, completed_batches, double_precision
from lightning_complexity.callbacks.finding import find_task
from lightning_complexity.callbacks.loggers import log_scalars
from lightning_complexity.callbacks.order import put_in_order
from lightning_complexity.callbacks.penalties.lagrangian import AugmentedLagrangian
from lightning_complexity.callbacks.penalties.loss import LossCallback, ManualBackwardIndex
from lightning_complexity.callbacks.probe import (
    Probe,
    ProbeSource,
    check_probe,
    copied,
    from_checkpoint,
    kept,
    training_probe,
)
from lightning_complexity.callbacks.ranks import ranks_of, snapshot_of_all
from lightning_complexity.callbacks.summing import Step, Term
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.metrics.base.written import written
from lightning_complexity.network import ForwardFunction, LossFunction, Snapshot, TargetFunction, Task
from lightning_complexity.recording.measuring import unsynchronized
from lightning_complexity.regularizers import Regularizer, TrainedMeasure

Limits = float | Sequence[float]


class ComplexityConstraint(LossCallback):
    r"""Hold measures under limits by an augmented Lagrangian; this changes training.

    For each measure this is added to the loss:

    .. math:: \frac{1}{2 \rho} \Big( \max(0, \lambda + \rho\, g)^2 - \lambda^2 \Big), \quad
              g = (\text{measure} - \text{limit}) / s

    with :math:`s` the limit's size, or 1 for a logarithm. Every ``every_n_steps`` optimizer steps the metric of the
    same name is computed on a fixed probe: the multiplier :math:`\lambda` becomes
    :math:`\max(0, \lambda + \rho\, g)`, so that it rises while the limit is exceeded and falls while there is slack,
    and :math:`\rho` grows from 1 to 10 at most while the violation does not fall. At a limit that cannot be met the
    multiplier stops at ``max_multiplier``, with one warning, and training goes on.

    Logs ``constraint/<name>/value``, ``/violation`` (``g`` where positive) and ``/multiplier`` at each update, and
    ``loss/task``, ``penalty/<name>`` and ``loss/total`` as :class:`lightning_complexity.ComplexityPenalty`.
    Multipliers, limits and probe are in checkpoints. A second fit starts afresh, unless it continues the first.

    Args:
        limited: What is limited, one or more: metrics, such as ``metrics.StableRank().on("encoder.*")``, or
            regularizers, of which the measure counts and the strength does not.
        measures: The same as a list, which configuration files of ``LightningCLI`` can have.
        at_most: The limit in the measure's units, or one for each measure.
        at_most_relative_to_init: Instead, the limit as a multiple of the measure at initialization, or one for each;
            of a logarithm, of what the logarithm is taken of.
        every_n_steps: How often the multipliers are updated.
        probe: What the metrics are computed on, as for :class:`lightning_complexity.ComplexityMonitor`.
        forward: How the network is run, as for :class:`lightning_complexity.ComplexityMonitor`, like the next four.
        loss: How it is judged.
        targets: Targets of a batch.
        class_dim: Dimension of the outputs along which classes lie, where shapes do not tell.
        wrt: Name of a submodule that Jacobians are taken at.
        max_multiplier: Where multipliers stop.
        manual_backward_index: As for :class:`lightning_complexity.ComplexityPenalty`.
        name: As for :class:`lightning_complexity.ComplexityPenalty`, of all keys.

    Attributes:
        lagrangians: Limit and multiplier of each measure by name, once the limits are known.

    Raises:
        TypeError: If an argument is no measure.
        ValueError: Unless there is one limit for each measure; before training, as for
            :class:`lightning_complexity.ComplexityPenalty`.

    Example:
        >>> from lightning_complexity import metrics
        >>> constraint = ComplexityConstraint(metrics.JacobianNorm(), at_most=0.2)
        >>> both = ComplexityConstraint(metrics.JacobianNorm(), metrics.PathNorm(), at_most=[0.2, 3.0])
        >>> # Trainer(callbacks=[constraint]).fit(model)
    """

    order_among_callbacks = 2

    def __init__(
        self,
        *limited: ComplexityMetric | Regularizer,
        measures: Sequence[ComplexityMetric | Regularizer] = (),
        at_most: Limits | None = None,
        at_most_relative_to_init: Limits | None = None,
        every_n_steps: int = 20,
        probe: ProbeSource = 256,
        forward: ForwardFunction | None = None,
        loss: LossFunction | None = None,
        targets: TargetFunction | None = None,
        class_dim: int | None = None,
        wrt: str | None = None,
        max_multiplier: float = 1e3,
        manual_backward_index: ManualBackwardIndex | None = None,
        name: str | None = None,
    ) -> None:
        measures = (*limited, *measures)
        if not measures:
            raise ValueError("ComplexityConstraint needs a measure, such as metrics.JacobianNorm().")
        super().__init__(
            [_trained(measure) for measure in measures],
            Task(forward, loss, targets, class_dim, wrt),
            manual_backward_index,
            name,
        )
        self._limits = _checked_limits(len(measures), at_most, at_most_relative_to_init)
        self._relative = at_most is None
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps!r}.")
        if not 0 < max_multiplier < math.inf:
            raise ValueError(f"max_multiplier must be positive and finite, got {max_multiplier!r}.")
        check_probe(probe)
        self.every_n_steps, self.probe, self.max_multiplier = every_n_steps, probe, max_multiplier
        self._forget()

    def __repr__(self) -> str:
        """How it is written, such as ``ComplexityConstraint(JacobianNorm(), at_most=0.2)``."""
        kind = "at_most_relative_to_init" if self._relative else "at_most"
        limits = self._limits[0] if len(self._limits) == 1 else self._limits
        given = *(repr(measure.metric) for measure in self.measures), f"{kind}={limits!r}"
        return written(self, LossCallback, *given, without=("measures", "at_most", "at_most_relative_to_init"))

    def _forget(self) -> None:
        self.lagrangians: dict[str, AugmentedLagrangian] = {}
        self._probe: Probe | None = None
        self._probe_is_ready, self._steps, self._global_step = False, 0, 0
        self._warned: set[str] = set()

    def start_afresh(self) -> None:
        """Forget limits, multipliers and probe of a training that is over."""
        super().start_afresh()
        self._forget()

    # Hooks ---------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare as every penalty; come after callbacks that change the network."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            put_in_order(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where this fit starts."""
        self._global_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw the probe, and know the limits, before the first step."""
        if not self._probe_is_ready:
            if any(m.needs_batch for m in self.measures):
                self._draw_probe(trainer, pl_module, batch)
            self._probe_is_ready = True
        if not self.lagrangians:
            limits = self._limits_from(self._measured(trainer, pl_module)) if self._relative else self._limits
            self.lagrangians = {
                m.name: AugmentedLagrangian(limit, not m.metric.is_logarithm, self.max_multiplier)
                for m, limit in zip(self.measures, limits, strict=True)
            }

    def _draw_probe(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        known = self._probe
        drawn = training_probe(self.probe, trainer, pl_module, batch) if known is None else known.batches

        def found() -> Probe:
            here = copied(drawn, pl_module.device)
            return Probe(here, find_task(pl_module, here.batches[0], self.task))

        self._probe = ranks_of(trainer).agreed(found)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the multipliers every so many steps."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self._global_step:  # gradients are still accumulating
            return
        self._global_step = trainer.global_step
        self._steps += 1
        if self._steps % self.every_n_steps == 0:
            logged: dict[str, float] = {}
            for name, value in self._measured(trainer, pl_module).items():
                self._update_multiplier(name, value)
                logged |= self._report(name, value)
            log_scalars(trainer, logged, completed_batches(trainer) + 1)

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs: the controllers with their limits, the probe, and the initial state."""
        return {
            **super().state_dict(),
            "lagrangians": {name: dict(vars(lagrangian)) for name, lagrangian in self.lagrangians.items()},
            "steps": self._steps,
            "probe": kept(None if self._probe is None else self._probe.batches),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        super().load_state_dict(state_dict)
        self.lagrangians = {name: AugmentedLagrangian(**kept) for name, kept in state_dict["lagrangians"].items()}
        self._steps = state_dict["steps"]
        batches = from_checkpoint(state_dict["probe"])
        self._probe = None if batches is None else Probe(batches, self.task)

    # The controllers -----------------------------------------------------------------------------

    def terms(self, step: Step) -> dict[str, Term]:
        """The augmented Lagrangians' terms for a batch; none before the limits are known."""
        return {
            self.log_key("penalty", m.name): self._term(m, step) for m in self.measures if m.name in self.lagrangians
        }

    def _term(self, measure: TrainedMeasure, step: Step) -> Term:
        value = self.computed(measure, measure, step)
        if value.isfinite():
            lagrangian = self.lagrangians[measure.name]
            # With a gradient of zero an optimizer would let parameters decay that otherwise have none.
            return Term(lagrangian.term(value if lagrangian.pushed(value) > 0 else value.detach()))
        self._warn(measure.name, f"the measure is {float(value):g} on a batch, which is left without penalty")
        return Term(torch.zeros_like(value.detach()))

    def _update_multiplier(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            self._warn(name, f"the measure is {value:g} on the probe, and the multiplier stays as it is")
            return
        lagrangian = self.lagrangians[name]
        lagrangian.update_multiplier(value)
        if lagrangian.is_saturated:
            self._warn(
                name,
                f"the limit {lagrangian.limit:g} is not met at the largest multiplier, {self.max_multiplier:g}; it "
                "may be out of reach. Raise the limit or max_multiplier",
            )

    def _report(self, name: str, value: float) -> dict[str, float]:
        lagrangian = self.lagrangians[name]
        parts = {"value": value, "violation": max(lagrangian.violation, 0.0), "multiplier": lagrangian.multiplier}
        return {f"{self.log_key('constraint', name)}/{part}": number for part, number in parts.items()}

    def _warn(self, name: str, what: str) -> None:
        if name not in self._warned:
            warnings.warn(f"ComplexityConstraint of {name}: {what}. Training goes on.", stacklevel=3)
            self._warned.add(name)

    def _limits_from(self, initially: dict[str, float]) -> list[float]:
        return [
            value + math.log(ratio) if m.metric.is_logarithm else ratio * value
            for m, ratio, value in zip(self.measures, self._limits, initially.values(), strict=True)
        ]

    def _measured(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Every measure on the probe, by name.

        Raises:
            Exception: On all processes, if a measure cannot be computed on one.
        """
        ranks = ranks_of(trainer)
        batches, task = self._probe or (None, None)
        networks: dict[int, Snapshot] = {}
        for initial in (measure.initial for measure in self.measures):
            if id(initial) not in networks:
                networks[id(initial)] = snapshot_of_all(pl_module, initial, ranks)

        def computed() -> dict[str, float]:
            snapshots = {key: network.on(batches, task) for key, network in networks.items()}
            with double_precision(trainer):
                return {m.name: _value(m.metric, snapshots[id(m.initial)]) for m in self.measures}

        # All must decide alike, to the last bit.
        known: dict[str, float] = trainer.strategy.broadcast(ranks.agreed(computed))
        return known


def _value(metric: ComplexityMetric, snapshot: Snapshot) -> float:
    metric.reset()
    with unsynchronized(metric):
        metric.update(snapshot)
        return float(torch.as_tensor(metric.compute()))


def _trained(measure: ComplexityMetric | Regularizer) -> TrainedMeasure:
    """A measure of the constraint's own, so that it shares no state with others of the same object."""
    metric = measure.metric if isinstance(measure, Regularizer) else measure
    if not isinstance(metric, ComplexityMetric):
        raise TypeError(f"ComplexityConstraint takes measures such as metrics.JacobianNorm(), got {measure!r}.")
    if metric.no_penalty_reason is not None:
        raise TypeError(
            f"ComplexityConstraint needs a measure that can be trained with; {type(metric).__name__}: "
            f"{metric.no_penalty_reason}."
        )
    trained = TrainedMeasure(copy.deepcopy(metric))
    trained.initial = measure.initial if isinstance(measure, Regularizer) else None
    return trained


def _checked_limits(count: int, at_most: Limits | None, relative: Limits | None) -> list[float]:
    if (at_most is None) == (relative is None):
        raise ValueError("ComplexityConstraint needs one kind of limit: at_most=... or at_most_relative_to_init=....")
    given: Any = relative if at_most is None else at_most
    limits = list(given) if isinstance(given, Sequence) else [given]
    if len(limits) != count:
        raise ValueError(f"ComplexityConstraint needs a limit for each of its {count} measures, got {len(limits)}.")
    if at_most is not None and not all(map(math.isfinite, limits)):
        raise ValueError(f"at_most must be finite, got {at_most!r}.")
    if relative is not None and not all(0 < ratio < math.inf for ratio in limits):
        raise ValueError(f"at_most_relative_to_init must be positive and finite, got {relative!r}.")
    return limits
