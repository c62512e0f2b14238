"""Stand in for a module's ``training_step``, or its ``manual_backward``, and add terms to the loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lightning_complexity.callbacks.base import LightningModule, Trainer, accumulated_batches, accumulating
from lightning_complexity.network import Batches, Snapshot, Task
from lightning_complexity.regularizers import TrainedMeasure, snapshot_for


class Term(NamedTuple):
    """Something that is added to a loss, ``times`` times."""

    value: Tensor
    times: int = 1


class Place(NamedTuple):
    """Where a batch is among those whose gradients one optimizer step takes.

    Attributes:
        is_last: Whether the optimizer step follows.
        number: Of the batch, from 1.
    """

    is_last: bool
    number: int

    @classmethod
    def now(cls, trainer: Trainer) -> Place:
        """That of the batch that is being trained on."""
        return cls(not accumulating(trainer), accumulated_batches(trainer))


class Step:
    """One batch that is trained on, with the snapshots that all penalties of it share.

    Args:
        pl_module: What is trained.
        batch: The batch.
        measures: All that will be measured on it.
        place: Where the batch is among those of an optimizer step; by default as the ``Trainer`` says.
    """

    def __init__(
        self, pl_module: LightningModule, batch: Any, measures: list[TrainedMeasure], place: Place | None = None
    ) -> None:
        self.pl_module, self.batch = pl_module, batch
        self._measures, self._place = measures, place
        self._snapshots: dict[Any, Snapshot] = {}

    def snapshot(self, measure: TrainedMeasure, task: Task) -> Snapshot:
        """The snapshot for a measure; one serves all of the same task and initial state."""
        initial = self._initial if measure.initial is None else measure.initial
        key = measure.needs_batch, task, id(initial)
        if key not in self._snapshots:
            batches = Batches.of(self.batch) if measure.needs_batch else None
            self._snapshots[key] = snapshot_for(self._measures, self.pl_module, batches, task=task, initial=initial)
        return self._snapshots[key]

    @property
    def place(self) -> Place:
        """Where the batch is among those of an optimizer step."""
        return self._place or Place.now(self.pl_module.trainer)

    @property
    def _initial(self) -> Mapping[str, Tensor] | None:
        return next((m.initial for m in self._measures if m.initial is not None), None)


class AddsTerms(Protocol):
    """A callback that adds terms to losses."""

    measures: list[TrainedMeasure]

    def is_added_to(self, index: int) -> bool:
        """Whether the terms are added to this call of ``manual_backward`` in a training step, from 0."""

    def terms(self, step: Step) -> dict[str, Term]:
        """What is added to the loss of a training step, by log key."""

    def note(self, parts: dict[str, Tensor]) -> None:
        """Take the parts of the loss."""


class _StandIn:
    """Stands in for a method of a module; a copy of the module gets the method itself."""

    def __init__(self, method: Callable[..., Any], function: Callable[..., Any], summed: SummedLoss) -> None:
        self.method, self.function, self.summed = method, function, summed
        functools.update_wrapper(self, method)
        # Lightning looks through one wrapper only to learn the arguments of the step.
        self.__wrapped__ = getattr(method, "__wrapped__", method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.method,)


def own_method(pl_module: LightningModule, name: str) -> Callable[..., Any]:
    """A method of a module, without what callbacks add to it."""
    method = getattr(pl_module, name)
    return method.method if isinstance(method, _StandIn) else method


def _itself(method: Callable[..., Any]) -> Callable[..., Any]:
    return method


class SummedLoss:
    """Takes the place of the methods of a module that give or take its loss, and adds the terms of all callbacks.

    One serves all callbacks, so that they can come and go in any order. With automatic optimization the loss is what
    ``training_step`` returns; with manual optimization, what ``manual_backward`` is called with.
    """

    def __init__(self, pl_module: LightningModule) -> None:
        self.callbacks: list[AddsTerms] = []
        self._module, self._batch, self._num_backwards = pl_module, None, 0
        self._is_checked = False
        self.repeated_at: Place | None = None
        self._step, self._backward = pl_module.training_step, pl_module.manual_backward
        names = "training_step", "manual_backward"
        self._own = {name: pl_module.__dict__[name] for name in names if name in pl_module.__dict__}
        pl_module.training_step = _StandIn(self._step, self.training_step, self)
        pl_module.manual_backward = _StandIn(self._backward, self.manual_backward, self)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The training step."""
        self._batch, self._num_backwards = args[0] if args else kwargs.get("batch"), 0
        try:
            result = self._step(*args, **kwargs)
            if result is None or not self._module.automatic_optimization:
                return result
            if isinstance(result, Mapping):
                return {**result, "loss": self._total(result["loss"], self.callbacks)}
            return self._total(result, self.callbacks)
        finally:
            self._batch = None

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass of a training step that optimizes by itself."""
        index, self._num_backwards = self._num_backwards, self._num_backwards + 1
        callbacks = [c for c in self.callbacks if c.is_added_to(index)]
        self._backward(self._total(loss, callbacks), *args, **kwargs)

    def _total(self, task: Tensor, callbacks: list[AddsTerms]) -> Tensor:
        if callbacks and not self._is_checked:
            self._is_checked = True
            _check_replicas(self._module, task, type(callbacks[0]).__name__)
        measures = [m for callback in callbacks for m in callback.measures]
        step = Step(self._module, self._batch, measures, self.repeated_at)
        terms = [callback.terms(step) for callback in callbacks]
        total, logged = task, task.detach()
        for term in (term for named in terms for term in named.values()):
            total = total + (term.value if term.times == 1 else term.times * term.value)
            logged = logged + term.value.detach()
        for callback, named in zip(callbacks if self.repeated_at is None else (), terms, strict=False):
            parts = {key: term.value for key, term in named.items()}
            # What callbacks share is logged once.
            shares = callback is self.callbacks[0]
            callback.note({"loss/task": task, **parts, "loss/total": logged} if shares else parts)
        return total

    def remove(self) -> None:
        """Give the module back what it had."""
        for name in ("training_step", "manual_backward"):
            del self._module.__dict__[name]
        self._module.__dict__.update(self._own)


def _check_replicas(pl_module: LightningModule, loss: Tensor, speaker: str) -> None:
    """See that replicas can be trained with another use of the parameters beside checkpoints.

    Raises:
        ValueError: With reentrant checkpoints, unless ``DistributedDataParallel`` takes the graph for static.
    """
    model = pl_module.trainer.strategy.model
    if not isinstance(model, DistributedDataParallel) or model.static_graph or not _has_reentry(loss):
        return
    raise ValueError(
        f"{speaker} needs checkpoints without reentry on several processes: DistributedDataParallel cannot train "
        "parameters that a reentrant checkpoint uses and a penalty as well. Say checkpoint(..., use_reentrant=False), "
        "or Trainer(strategy=DDPStrategy(static_graph=True))."
    )


def _has_reentry(loss: Tensor) -> bool:
    """Whether a reentrant checkpoint is in the graph of a loss."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


class Repeatable:
    """What the terms of a training step depend on beside the network and the batch, so that it can be repeated.

    Args:
        pl_module: What is trained, before the step.
    """

    def __init__(self, pl_module: LightningModule) -> None:
        summed = _summed(pl_module)
        measures = [m for callback in summed.callbacks for m in callback.measures] if summed else []
        self._calls = [(measure, measure.calls) for measure in measures]
        self._module, self._place = pl_module, Place.now(pl_module.trainer)

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Let the training step inside have the terms of the one before, with the same random numbers, unnoted."""
        summed = _summed(self._module)
        if summed is None:
            yield
            return
        after = [(measure, measure.calls) for measure, _ in self._calls]
        _put_back(self._calls)
        summed.repeated_at = self._place
        try:
            yield
        finally:
            summed.repeated_at = None
            _put_back(after)


def _put_back(calls: list[tuple[TrainedMeasure, int]]) -> None:
    for measure, count in calls:
        measure.calls = count


def _summed(pl_module: LightningModule) -> SummedLoss | None:
    step = pl_module.training_step
    return step.summed if isinstance(step, _StandIn) else None


def add_terms(pl_module: LightningModule, callback: AddsTerms) -> None:
    """Let a callback add its terms."""
    summed = _summed(pl_module) or SummedLoss(pl_module)
    summed.callbacks.append(callback)


def remove_terms(pl_module: LightningModule, callback: AddsTerms) -> None:
    """Let a callback, if it does, not add terms any longer."""
    summed = _summed(pl_module)
    if summed is not None and callback in summed.callbacks:
        summed.callbacks.remove(callback)
        if not summed.callbacks:
            summed.remove()
