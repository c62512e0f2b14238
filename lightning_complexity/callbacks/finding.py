"""Find out how a LightningModule is run on a batch and judged on it, where its user does not say."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.callbacks.base import LightningModule
from lightning_complexity.callbacks.step import (
    OutputsInStep,
    Step,
    StepLoss,
    first_tensor,
    logged_loss,
    returned_loss,
    run_step,
)
from lightning_complexity.network import Batches, MeasureError, Snapshot, Task
from lightning_complexity.network.derivatives import gradients, input_output_chunks
from lightning_complexity.network.leaves import check_leaf, entered_by_floats
from lightning_complexity.network.losses import mean_loss
from lightning_complexity.network.outputs import classified, predictions
from lightning_complexity.network.running.batches import can_be_cut, chunks, map_tensors, owned
from lightning_complexity.network.running.reading import readings
from lightning_complexity.network.running.task import main_tensor, structure
from lightning_complexity.network.tracing.interpreter import hooks_on_all_modules


def find_task(module: LightningModule, batch: Any, task: Task) -> Task:
    """Complete a task by what fits the module.

    Outputs, unless the task says how: of ``module(inputs)`` for pairs; of the module called with the entries of the
    batch that its ``forward`` names; else what ``forward``, or a part with most of the parameters, gives when the
    module's own ``training_step`` calls it. The loss, unless the task has one, is that of ``training_step``.
    Derivatives are for the inputs if these are one tensor of floating-point numbers, else for what enters the first
    submodule that has a row for each output.

    Args:
        module: What is trained.
        batch: One of those that it will be measured on.
        task: What its user says.
    """
    few = _few(batch)
    if task.loss is None and _has_step(module, "training_step"):
        task = dataclasses.replace(task, loss=StepLoss())
    if task.forward is None:
        task = _with_outputs(module, few, task)
    if task.targets is None and isinstance(task.loss, StepLoss):
        task = _with_targets(module, _spread(batch, 16), task)
    return task if task.wrt is not None else _with_leaf(module, few, task)


def find_validation_task(module: LightningModule, batch: Any, training_batch: Any, task: Task) -> Task:
    """The task for validation: by ``validation_step``, where that returns or logs a loss, else the same.

    Args:
        module: What is trained.
        batch: Of the validation.
        training_batch: Of the training, on which the same loss must be there as well.
        task: For training.
    """
    if not isinstance(task.loss, StepLoss) or not _has_step(module, "validation_step"):
        return task

    def run(batch: Any) -> Step:
        return Snapshot(module).run(lambda _: run_step(module, "validation_step", owned(batch)))

    try:
        steps = [run(_few(batch)), run(_few(training_batch))]
    except Exception:  # it needs what there is during a validation only
        return task
    if all(returned_loss(step.returned) is not None for step in steps):
        return dataclasses.replace(task, loss=StepLoss("validation_step"))
    names = {logged_loss(step.logged) for step in steps}
    name = names.pop() if len(names) == 1 else None
    return task if name is None else dataclasses.replace(task, loss=StepLoss("validation_step", name))


def explained(module: LightningModule, batch: Any, task: Task) -> str:
    """How a task runs and judges a module, in lines for its user.

    Args:
        module: What is trained.
        batch: As the loader yields it.
        task: As found.
    """
    inputs, targets = _attempt(lambda: task.split(batch), (None, None))
    outputs = _attempt(lambda: structure(Snapshot(module, Batches.of(_few(batch)), task=task).run_one(_called)), None)
    lines = {
        "batch": structure(batch),
        "outputs": f"{_outputs_in_words(task)}: {outputs or 'does not run; say forward=lambda module, batch: ...'}",
        "inputs": "the whole batch" if inputs is batch else structure(inputs),
        "targets": _targets_in_words(task, targets),
        "loss": _loss_in_words(task),
        "derivatives": _leaf_in_words(task),
    }
    return "\n".join(f"{name + ':':13}{text}" for name, text in lines.items())


def summary(task: Task) -> str:
    """How a task runs and judges a module, in one line."""
    return f"outputs: {_outputs_in_words(task)}; loss: {_loss_in_words(task)}; derivatives: {_leaf_in_words(task)}"


def _leaf_in_words(task: Task) -> str:
    return f"for what enters {task.wrt!r}" if task.wrt else "for the inputs, where these are one tensor"


def _outputs_in_words(task: Task) -> str:
    if isinstance(task.forward, OutputsInStep):
        return str(task.forward)
    if task.forward is not None:
        return "forward(module, batch)" if task.runs_on_batches else "forward(model, inputs)"
    return "model(inputs)" if task.reading is None else str(task.reading)


def _loss_in_words(task: Task) -> str:
    if isinstance(task.loss, StepLoss):
        return f"that of {task.loss}"
    if task.loss is None:
        return "cross-entropy"
    return "loss(module, batch)" if task.judges_batches else "loss(outputs, targets)"


def _targets_in_words(task: Task, targets: Any) -> str:
    if task.targets is no_targets:
        return "none, as the loss does not depend on them"
    if targets is None:
        return "none found; say targets=lambda batch: ..."
    shifted = ", each for the outputs at the position before" if task.reading and task.reading.next_token else ""
    return f"{structure(targets)}{shifted}"


def _called(model: nn.Module, inputs: Any) -> Any:
    return model(inputs)


def _attempt(function: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return function()
    except MeasureError:
        return otherwise


def _has_step(module: LightningModule, name: str) -> bool:
    """Whether a module has a step of its own, other than the empty one that it inherits."""
    method = getattr(type(module), name, None)
    return method is not None and not method.__module__.startswith(("pytorch_lightning.core", "lightning.pytorch.core"))


def _few(batch: Any) -> Any:
    return next(chunks(batch, 2)) if can_be_cut(batch) else batch


def _spread(batch: Any, count: int) -> Any:
    """About so many samples from all over a batch, where it can be cut: several of its classes, if it is sorted."""
    return map_tensors(lambda t: t[:: max(len(t) // count, 1)], batch) if can_be_cut(batch) else batch


def _with_outputs(module: LightningModule, batch: Any, task: Task) -> Task:
    for candidate in _candidates(module, batch, task):
        try:
            Snapshot(module, Batches.of(batch), task=candidate).run_one(lambda model, x: main_tensor(model(x)))
        except Exception:  # whatever a forward that is not meant for this batch raises
            continue
        return candidate
    return task


def _candidates(module: LightningModule, batch: Any, task: Task) -> Iterator[Task]:
    for reading in readings(module, batch):
        yield dataclasses.replace(task, reading=reading)
    if _has_step(module, "training_step"):
        for name in _called_parts(module, batch):
            yield dataclasses.replace(task, forward=OutputsInStep(name))


def _called_parts(module: LightningModule, batch: Any) -> list[str]:
    """Parts that ``training_step`` calls and that have at least half of the parameters, the largest first."""
    names = {id(part): name for name, part in module.named_modules()}
    found: dict[str, int] = {}

    def note(part: nn.Module, _: Any, outputs: Any) -> None:
        name = names.get(id(part))
        if name is not None and name not in found and isinstance(first_tensor(outputs), Tensor):
            found[name] = sum(p.numel() for p in part.parameters())

    def run(_: nn.Module) -> None:
        with hooks_on_all_modules(lambda *_: None, note):
            run_step(module, "training_step", owned(batch))

    try:
        Snapshot(module).run(run)
    except Exception:  # the loss says why
        return []
    half = sum(p.numel() for p in module.parameters()) / 2
    sizes = sorted(found.items(), key=lambda item: (-item[1], len(item[0])))
    return [name for name, size in sizes if size >= half]


def _with_leaf(module: LightningModule, batch: Any, task: Task) -> Task:
    """Differentiate for what enters a submodule, where the inputs are not one tensor of floating-point numbers.

    For the first that has a row for each of the outputs, which depend on it.
    """
    snapshot = Snapshot(module, Batches.of(batch), task=task)
    try:
        check_leaf(snapshot)
        return task
    except MeasureError:
        names = entered_by_floats(snapshot)
    for name in names:
        candidate = dataclasses.replace(task, wrt=name)
        try:
            leaf, outputs = next(input_output_chunks(Snapshot(module, Batches.of(batch), task=candidate)))
        except Exception:  # another may do
            continue
        if outputs.requires_grad and torch.autograd.grad(outputs.sum(), leaf, allow_unused=True)[0] is not None:
            return candidate
    return task


def no_targets(batch: Any) -> None:
    """What stands for targets where the loss does not depend on them."""


def _with_targets(module: LightningModule, batch: Any, task: Task) -> Task:
    """Take class targets only if the module's own loss depends on them, and as it takes them.

    A contrastive loss on labelled data does not. That of a language model is for the token at the next position.
    """
    try:
        task = _with_target_among(module, batch, task)
        targets = task.split(batch)[1]
    except MeasureError:
        return task
    if not isinstance(targets, Tensor) or targets.is_floating_point() or (targets == targets.flatten()[0]).all():
        return task
    loss = _loss(module, batch, task)
    turned = targets.flatten().roll(1).view_as(targets)
    other = copy.deepcopy(batch, {id(targets): turned})  # with others in their place, wherever they are
    if loss is None or (_loss(module, other, task) == loss and _have_equal_gradients(module, batch, other, task)):
        return dataclasses.replace(task, targets=no_targets)
    if task.reading is not None and _is_for_the_next_token(module, batch, task, loss):
        return dataclasses.replace(task, reading=dataclasses.replace(task.reading, next_token=True))
    return task


def _loss(module: LightningModule, batch: Any, task: Task) -> float | None:
    """The loss of a batch; ``None`` where there is none, which is told when it is measured."""
    try:
        return float(mean_loss(Snapshot(module, Batches.of(batch), task=task)))
    except Exception:
        return None


def _have_equal_gradients(module: LightningModule, batch: Any, other: Any, task: Task) -> bool:
    """Whether the loss has the same gradient on two batches; the loss itself is the same where outputs are constant."""
    try:
        found, others = (gradients(Snapshot(module, Batches.of(b), task=task)) for b in (batch, other))
    except MeasureError:
        return True
    return all(torch.equal(gradient, others[name]) for name, gradient in found.items())


def _is_for_the_next_token(module: LightningModule, batch: Any, task: Task, loss: float) -> bool:
    try:
        logits = predictions(Snapshot(module, Batches.of(batch), task=task))
        targets = task.split(batch)[1]
        if targets.ndim != 2 or logits.ndim != 3 or logits.shape[:2] != targets.shape:
            return False
        return _distance(loss, logits[:, :-1], targets[:, 1:]) < _distance(loss, logits, targets)
    except Exception:  # of outputs that are no logits for these targets
        return False


def _with_target_among(module: LightningModule, batch: Any, task: Task) -> Task:
    """Of several entries beside the inputs take that as target whose cross-entropy the loss is."""
    reading = task.reading
    if reading is None or not reading.positions or reading.split(batch)[1] is not None:
        return task
    for position in range(reading.positions, len(batch)):
        if isinstance(batch[position], Tensor) and not batch[position].is_floating_point():
            candidate = dataclasses.replace(task, reading=dataclasses.replace(reading, target=position))
            snapshot = Snapshot(module, Batches.of(batch), task=candidate)
            try:
                entropy = F.cross_entropy(*classified(snapshot))
                if torch.isclose(entropy, mean_loss(snapshot), rtol=1e-3):
                    return candidate
            except ValueError:  # they are no classes of these outputs
                continue
    return task


def _distance(loss: float, logits: Tensor, targets: Tensor) -> float:
    entropy = float(F.cross_entropy(logits.flatten(0, 1), targets.flatten().long()))
    return math.inf if math.isnan(entropy) else abs(loss - entropy)
