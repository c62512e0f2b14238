"""Add terms to the loss that ``training_step`` returns, whatever else Lightning does with it."""

from __future__ import annotations

import functools
import itertools
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.callbacks.base import Callback, LightningModule, Trainer, completed_batches
from lightning_complexity.callbacks.loggers import log_scalars
from lightning_complexity.network import LossFunction, initial_state, split_batch
from lightning_complexity.regularizers import Regularizer

_NEEDS_BATCH = {"inputs", "targets", "loss"}


class LossCallback(Callback):
    """A callback that adds terms to the loss, and logs the parts.

    ``training_step`` is wrapped while ``fit`` runs, so that gradients are exactly those of the sum. The network that
    is penalised is the ``LightningModule``, whose ``forward`` takes the inputs of a batch ``(inputs, targets)``.
    """

    def __init__(self, regularizers: tuple[Regularizer, ...], loss: LossFunction | None) -> None:
        for regularizer in regularizers:
            if not isinstance(regularizer, Regularizer):
                raise TypeError(
                    f"{type(self).__name__} takes regularizers such as regularizers.PathNorm(1e-4), "
                    f"got {regularizer!r}."
                )
        names = [regularizer.name for regularizer in regularizers]
        if len(set(names)) < len(names):
            raise ValueError(f"two penalties would be logged under the same name: {', '.join(names)}.")
        self.regularizers, self.loss = regularizers, loss
        self._latest: dict[str, Tensor] = {}

    @abstractmethod
    def terms(self, pl_module: LightningModule, batch: Any) -> dict[str, Tensor]:
        """What is added to the loss of a batch, by log key."""

    @property
    def state_key(self) -> str:
        """Distinguishes the checkpointed state of different penalties."""
        return self._generate_state_key(penalties=[regularizer.name for regularizer in self.regularizers])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be penalised; wrap ``training_step``, before a learning rate finder uses it."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"{type(self).__name__} needs automatic optimization: with manual optimization the loss that "
                "training_step returns is ignored. Add the regularizer to the loss yourself: "
                "loss + penalty(self.net, x)."
            )
        _wrap(pl_module, self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the initial state where a penalty needs it."""
        for regularizer in self.regularizers:
            regularizer.to(pl_module.device)
            if "initial" in regularizer.metric.needs and regularizer.initial is None:
                regularizer.initial = initial_state(pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log the parts of the loss."""
        step = completed_batches(trainer) + 1
        if self._latest and trainer.log_every_n_steps and step % trainer.log_every_n_steps == 0:
            values = torch.stack([value.double() for value in self._latest.values()]).tolist()
            log_scalars(trainer, dict(zip(self._latest, values, strict=True)), step)
            self._latest = {}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the module its own ``training_step`` back."""
        _unwrap(pl_module, self)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the module its own ``training_step`` back."""
        _unwrap(pl_module, self)

    def state_dict(self) -> dict[str, Any]:
        """Keep the state that distances are measured from."""
        return {"initial": [None if r.initial is None else dict(r.initial) for r in self.regularizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        for regularizer, initial in zip(self.regularizers, state_dict["initial"], strict=True):
            regularizer.initial = initial

    def penalty(self, regularizer: Regularizer, pl_module: LightningModule, batch: Any) -> Tensor:
        """One regularizer's penalty of a batch."""
        if not _NEEDS_BATCH & regularizer.metric.needs or regularizer.strength == 0:
            return regularizer(pl_module)
        inputs, targets = split_batch(batch)
        return regularizer(pl_module, inputs, targets, loss=self.loss)

    def note(self, parts: dict[str, Tensor]) -> None:
        """Keep the parts of the loss of this step until they are logged."""
        self._latest = {key: value.detach() for key, value in parts.items()}


class _SummedStep:
    """Stands in for a module's ``training_step`` and adds the terms of all callbacks.

    One stand-in serves all callbacks, so that they can come and go in any order.
    """

    def __init__(self, pl_module: LightningModule) -> None:
        self.callbacks: list[LossCallback] = []
        self._module, self._step = pl_module, pl_module.training_step
        self._replaced = pl_module.__dict__.get("training_step")
        functools.update_wrapper(self, self._step)
        # Lightning looks through one wrapper only to learn the arguments of the step.
        self.__wrapped__ = getattr(self._step, "__wrapped__", self._step)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._step(*args, **kwargs)
        if result is None:
            return None
        batch = args[0] if args else kwargs.get("batch")
        if isinstance(result, Mapping):
            return {**result, "loss": self._total(result["loss"], batch)}
        return self._total(result, batch)

    def _total(self, task: Tensor, batch: Any) -> Tensor:
        terms = [callback.terms(self._module, batch) for callback in self.callbacks]
        total = task
        for term in itertools.chain(*(named.values() for named in terms)):
            total = total + term
        for callback, named in zip(self.callbacks, terms, strict=True):
            callback.note({"loss/task": task, **named, "loss/total": total})
        return total

    def restore(self) -> None:
        """Give the module back what it had."""
        if self._replaced is None:
            del self._module.__dict__["training_step"]
        else:
            self._module.training_step = self._replaced


def _wrap(pl_module: LightningModule, callback: LossCallback) -> None:
    if not isinstance(pl_module.training_step, _SummedStep):
        pl_module.training_step = _SummedStep(pl_module)
    pl_module.training_step.callbacks.append(callback)


def _unwrap(pl_module: LightningModule, callback: LossCallback) -> None:
    step = pl_module.training_step
    if isinstance(step, _SummedStep) and callback in step.callbacks:
        step.callbacks.remove(callback)
        if not step.callbacks:
            step.restore()
