"""What a LightningModule's own step gives for a batch, without a trace in the training."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torchmetrics import Metric

from lightning_complexity.callbacks.base import LightningModule
from lightning_complexity.callbacks.summing import own_method
from lightning_complexity.network import MeasureError
from lightning_complexity.recording.measuring import unsynchronized

StepName = Literal["training_step", "validation_step"]
_PLAIN = (str, bytes, int, float, bool, type(None), os.PathLike)
_DIFFER_IN_TRAINING = (
    *(nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RNNBase, nn.MultiheadAttention),
    *(nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, nn.RReLU),
)
_NAMES_OF_LOSSES = ("val_loss", "valid_loss", "validation_loss", "val/loss", "valid/loss", "validation/loss", "loss")


@dataclass
class Step:
    """What one call of a step gave.

    Attributes:
        returned: Its result.
        logged: Numbers that it logged, by name.
        backwards: Losses that it called ``manual_backward`` with.
    """

    returned: Any = None
    logged: dict[str, Any] = field(default_factory=dict)
    backwards: list[Tensor] = field(default_factory=list)


def run_step(module: LightningModule, name: StepName, batch: Any, *, in_training_mode: bool = False) -> Step:
    """Call a module's own step, inside a run of a snapshot, which puts back what the module is.

    Penalties of callbacks are not added. Nothing is logged, by whatever way the ``Trainer`` knows; optimizers,
    schedulers and ``manual_backward`` do nothing; attributes of the ``Trainer`` are put back. The ``Trainer`` says that
    it is training, or validating.

    Args:
        module: In evaluation mode.
        name: Which step.
        batch: It may be written to.
        in_training_mode: Whether modules are in training mode, other than those of dropout and normalization.

    Raises:
        MeasureError: If the step fetches batches itself, or steps an optimizer that the ``Trainer`` does not know.
    """
    step = Step()
    function = own_method(module, name)
    with ExitStack() as stack:
        stack.enter_context(_trainer_kept(module, name))
        stack.enter_context(_noted(module, step))
        stack.enter_context(_no_optimizer_steps(module, name))
        stack.enter_context(torch.set_grad_enabled(name == "training_step"))
        if in_training_mode:
            stack.enter_context(_in_training_mode(module))
        try:
            step.returned = function(batch, *_further_arguments(function, name))
        except MeasureError:
            raise
        except Exception:
            # After its one backward pass a step may look for gradients, which are not there.
            if len(step.backwards) != 1 or len(_optimizers(module)) != 1:
                raise
    return step


def _further_arguments(function: Callable[..., Any], name: str) -> list[int]:
    """Zeros for what a step takes beside the batch: the number of the batch, and that of the loader."""
    parameters = list(inspect.signature(function).parameters.values())
    if any(p.name == "dataloader_iter" for p in parameters):
        raise MeasureError(
            f"{name} takes dataloader_iter and fetches batches itself, so that it cannot be run on the probe. Give "
            "loss=lambda module, batch: ...."
        )
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
    if not by_position and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return [0]
    wanted = [p for p in by_position if p.default is p.empty or p.name in ("batch_idx", "batch_nb")]
    return [0] * len(wanted)


@contextmanager
def unheard(module: LightningModule) -> Iterator[None]:
    """Let what a step logs inside, and what it does to the ``Trainer``, be forgotten."""
    with _trainer_kept(module, "training_step"), _noted(module, Step()):
        yield


@contextmanager
def _trainer_kept(module: LightningModule, name: StepName) -> Iterator[None]:
    trainer: Any = module.__dict__.get("_trainer")
    if trainer is None:
        yield
        return
    attributes = trainer.__dict__
    before, stage = dict(attributes), trainer.state.stage
    try:
        if name == "training_step":
            trainer.training = True
        else:
            trainer.validating = True
        trainer._loggers = [_MutedLogger(logger) for logger in trainer.loggers]
        yield
    finally:
        trainer.state.stage = stage
        attributes.clear()
        attributes.update(before)


@contextmanager
def _in_training_mode(module: nn.Module) -> Iterator[None]:
    parts = [part for part in module.modules() if not isinstance(part, _DIFFER_IN_TRAINING)]
    before = [part.training for part in parts]
    try:
        for part in parts:
            part.training = True
        yield
    finally:
        for part, training in zip(parts, before, strict=True):
            part.training = training


class _Nothing:
    """Takes any call, and does nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> _Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: Any) -> _Nothing:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def _closure_only(closure: Any = None, *_: Any, **__: Any) -> Any:
    """A step of an optimizer that evaluates the loss, and changes nothing."""
    if not callable(closure):
        return None
    with torch.enable_grad():
        return closure()


class _MutedLogger:
    """A logger that says where it writes, and writes nothing."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = None if name == "experiment" else getattr(self._logger, name)
        return value if name != "experiment" and isinstance(value, _PLAIN) else _Nothing()


@contextmanager
def _noted(module: LightningModule, step: Step) -> Iterator[None]:
    """Let what a step does to the outside be noted only."""

    def log(name: str, value: Any, *_: Any, **__: Any) -> None:
        step.logged[name] = _number(value)

    def log_dict(values: Mapping[str, Any], *_: Any, **__: Any) -> None:
        step.logged.update({name: _number(value) for name, value in values.items()})

    def manual_backward(loss: Tensor, *_: Any, **__: Any) -> None:
        step.backwards.append(loss)

    stand_ins: dict[str, Callable[..., Any]] = {
        "log": log,
        "log_dict": log_dict,
        "manual_backward": manual_backward,
        "print": _Nothing(),
        "toggle_optimizer": _Nothing(),
        "untoggle_optimizer": _Nothing(),
        "clip_gradients": _Nothing(),
        "optimizers": _idle_of(module, "optimizers"),
        "lr_schedulers": _idle_of(module, "lr_schedulers"),
    }
    before = {name: module.__dict__[name] for name in stand_ins if name in module.__dict__}
    try:
        module.__dict__.update(stand_ins)
        yield
    finally:
        for name in stand_ins:
            module.__dict__.pop(name, None)
        module.__dict__.update(before)


def _number(value: Any) -> Any:
    """What is logged; of a metric, the value of this batch."""
    if not isinstance(value, Metric):
        return value
    cached: Any = value._forward_cache
    if cached is not None:
        return cached
    with unsynchronized(value):
        return value.compute()


def _idle_of(module: LightningModule, name: str) -> Callable[..., Any]:
    method = getattr(type(module), name)

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        found = method(module, *args, **kwargs)
        return [_idle(entry) for entry in found] if isinstance(found, (list, tuple)) else _idle(found)

    return stand_in


def _idle(optimizer: Any) -> Any:
    """An optimizer or scheduler that looks like another and does nothing."""
    if optimizer is None:
        return None
    twin = object.__new__(type(optimizer))
    twin.__dict__.update(optimizer.__dict__)
    twin.__dict__.update(step=_closure_only, zero_grad=_Nothing(), toggle_model=lambda *_, **__: nullcontext())
    groups = getattr(optimizer, "param_groups", None)
    if groups is not None:
        twin.__dict__["param_groups"] = [dict(group) for group in groups]
    return twin


@contextmanager
def _no_optimizer_steps(module: LightningModule, name: str) -> Iterator[None]:
    """Stop an optimizer that a step takes from elsewhere before it changes anything; put gradients back."""

    def stop(optimizer: Any, *_: Any) -> None:
        raise MeasureError(
            f"{name} steps {type(optimizer).__name__} itself, other than by self.optimizers(), and cannot be run "
            "without changing the training. Give loss=lambda module, batch: ...."
        )

    # The optimizers have the real parameters, not those that stand in for them during a run.
    parameters = [p for optimizer in _optimizers(module) for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters]
    handle = register_optimizer_step_pre_hook(stop)
    try:
        yield
    finally:
        handle.remove()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def _optimizers(module: LightningModule) -> list[Any]:
    trainer = module.__dict__.get("_trainer")
    return [] if trainer is None else list(trainer.optimizers)


@dataclass(frozen=True)
class StepLoss:
    """The loss that a module's own step gives for a batch.

    With manual optimization it is what the step calls ``manual_backward`` with.

    Args:
        step: ``"training_step"`` or ``"validation_step"``.
        logged: Name under which the step logs its loss, where it does not return it.
        in_training_mode: Whether modules are in training mode, as some have a loss in that alone; dropout and
            normalization never are.
    """

    step: StepName = "training_step"
    logged: str | None = None
    in_training_mode: bool = False

    def __call__(self, module: LightningModule, batch: Any) -> Tensor:
        """The loss, with its graph."""
        done = run_step(module, self.step, batch, in_training_mode=self.in_training_mode)
        if self.logged is not None:
            return torch.as_tensor(done.logged[self.logged])
        if self.step == "training_step" and not module.automatic_optimization:
            return self._of_backward(done)
        loss = returned_loss(done.returned)
        if loss is None:
            raise MeasureError(
                f"{self.step} returned {type(done.returned).__name__} and no loss for the probe. Give the loss with "
                "loss=lambda module, batch: ...."
            )
        return loss

    def _of_backward(self, done: Step) -> Tensor:
        if done.backwards and len({loss.item() for loss in done.backwards}) == 1:
            return done.backwards[0]
        raise MeasureError(
            f"this module optimizes manually, and its {self.step} calls manual_backward with {len(done.backwards)} "
            "losses, so that there is not one. Say which counts with loss=lambda module, batch: ...."
        )

    def __str__(self) -> str:
        """In words."""
        name = self.step if self.logged is None else f"{self.logged!r} of {self.step}"
        return f"{name} in training mode, but for dropout and normalization" if self.in_training_mode else name


def returned_loss(returned: Any) -> Tensor | None:
    """The loss in the result of a step, if there is one."""
    loss = returned.get("loss") if isinstance(returned, Mapping) else returned
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point() else None


def logged_loss(logged: Mapping[str, Any]) -> str | None:
    """The name under which a step logs its loss, if that can be told."""
    numbers = [name for name, value in logged.items() if _is_number(value)]
    for name in _NAMES_OF_LOSSES:
        if name in numbers:
            return name
    found = [name for name in numbers if "loss" in name.lower()]
    return found[0] if len(found) == 1 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point())


@dataclass(frozen=True)
class OutputsInStep:
    """What a part of the module gives when its own ``training_step`` first calls it.

    Args:
        name: The part's name, ``""`` for the module itself.
    """

    name: str

    def __call__(self, module: LightningModule, batch: Any) -> Any:
        """The outputs, with their graph."""
        found: list[Any] = []

        def note(_: nn.Module, __: Any, outputs: Any) -> None:
            found.append(outputs)

        handle = module.get_submodule(self.name).register_forward_hook(note)
        try:
            run_step(module, "training_step", batch)
        finally:
            handle.remove()
        if not found:
            part = f"module {self.name!r}" if self.name else "the module"
            raise MeasureError(
                f"training_step did not call {part} for this batch. Give forward=lambda module, batch: ...."
            )
        return first_tensor(found[0])

    def __str__(self) -> str:
        """In words."""
        return f"what {repr(self.name) if self.name else 'forward'} gives within training_step"


@dataclass(frozen=True)
class OutputsOfPart:
    """What a part of the module gives for the inputs of a pair.

    Args:
        name: The part's name.
    """

    name: str

    def __call__(self, module: LightningModule, inputs: Any) -> Any:
        """The outputs, with their graph."""
        return first_tensor(module.get_submodule(self.name)(inputs))

    def __str__(self) -> str:
        """In words."""
        return f"what {self.name!r} gives for the inputs, as within training_step"


def first_tensor(outputs: Any) -> Any:
    """The logits, or the first tensor of floating-point numbers."""
    from lightning_complexity.network.running.batches import tensors_in

    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    return next((t for t in tensors_in(outputs) if t.is_floating_point() and t.ndim > 0), outputs)
