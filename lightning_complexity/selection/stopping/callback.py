"""A Lightning training that reports to a pruner on its way, and ends where it is told to."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

import optuna

from lightning_complexity.callbacks.base import Callback, LightningModule, Trainer, from_rank_zero
from lightning_complexity.selection.stopping.pruner import EarlyVerdictPruner
from lightning_complexity.selection.stopping.reports import REASON

if TYPE_CHECKING:
    from optuna import Trial


class EarlyVerdictCallback(Callback):
    """Report what is logged to an :class:`EarlyVerdictPruner`, and end the training where that prunes its trial.

    It reports after each validation inside an epoch and at the end of each epoch, and then asks. It only reads what
    Lightning has, so that a training that is not pruned is the same with and without it. One that is pruned ends as at
    any error in a hook: loggers and strategy are closed, other callbacks hear ``on_exception`` and no ``on_fit_end``,
    and ``optuna.TrialPruned`` comes out of ``Trainer.fit``, with the pruner's reason. Optuna catches it.

    With several processes, the trial is that of rank zero, which decides for all.

    Args:
        pruner: Of the study.
        trial: That is trained.
        losses: Names that are logged, such as ``["val_loss", "val_error"]``; a loss that is not finite prunes.
        measures: Other names that are logged, such as ``["complexity/path_norm"]``; passed over where they are not
            there, or not finite.

    Raises:
        ValueError: If no loss is named; during training, if none of a name was logged by the share of a verdict, or the
            length of the training is not known.
        optuna.TrialPruned: Out of ``Trainer.fit``, if the trial is pruned.

    Example:
        >>> def objective(trial):
        ...     verdict = EarlyVerdictCallback(study.pruner, trial, losses=["val_loss", "val_error"])
        ...     trainer = pl.Trainer(max_epochs=30, callbacks=[verdict])
        ...     ...
    """

    def __init__(
        self, pruner: EarlyVerdictPruner, trial: Trial, *, losses: Collection[str], measures: Collection[str] = ()
    ) -> None:
        for role, names in (("losses", losses), ("measures", measures)):
            if isinstance(names, str):
                raise TypeError(f"{role} must be a sequence of names, got {names!r}; write [{names!r}].")
        if not losses:
            raise ValueError('losses must name at least one logged value, such as ["val_loss"].')
        self.pruner, self.trial = pruner, trial
        self.losses, self.measures = list(losses), list(measures)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report inside an epoch; the validation at its end is reported with it."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch:
            self._report(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report at the end of an epoch."""
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        progress, logged = _progress(trainer), trainer.callback_metrics
        losses = {name: float(logged[name]) for name in self.losses if name in logged}
        measures = {name: float(logged[name]) for name in self.measures if name in logged}
        reason = from_rank_zero(trainer, lambda: self._verdict(progress, losses, measures, sorted(logged)))
        if reason is not None:
            raise optuna.TrialPruned(reason)

    def _verdict(
        self, progress: float, losses: dict[str, float], measures: dict[str, float], logged: list[str]
    ) -> str | None:
        if missing := [name for name in self.losses if name not in losses]:
            if progress < min(self.pruner.shares):
                return None
            raise ValueError(
                f"losses: nothing was logged as {missing[0]!r} after {progress:.0%} of the training; "
                f"there are {', '.join(logged) or 'no values'}."
            )
        self.pruner.report(self.trial, progress, losses, measures=measures)
        return self.trial.user_attrs[REASON] if self.pruner.should_prune(self.trial) else None


def _progress(trainer: Trainer) -> float:
    """The share of the training that is done: of its epochs, or of its steps where these end it before."""
    batches, shares = trainer.num_training_batches, []
    if trainer.max_epochs not in (None, -1) and 0 < batches < math.inf:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        shares.append(done / (batches * trainer.max_epochs))
    if trainer.max_steps != -1:
        shares.append(trainer.global_step / trainer.max_steps)
    if not shares:
        raise ValueError("an early verdict needs a training of known length: give the Trainer max_epochs or max_steps.")
    return min(max(shares), 1.0)
