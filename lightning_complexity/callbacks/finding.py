"""Find out how a LightningModule is run on a batch and judged on it, where its user does not say."""

from __future__ import annotations

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
    OutputsOfPart,
    StepLoss,
    first_tensor,
    logged_loss,
    returned_loss,
    run_step,
)
from lightning_complexity.network import Batches, MeasureError, Snapshot, Task
from lightning_complexity.network.derivatives import gradients, input_output_chunks
from lightning_complexity.network.leaves import entered_by_floats
from lightning_complexity.network.losses import mean_loss
from lightning_complexity.network.outputs import classified, predictions
from lightning_complexity.network.running.batches import can_be_cut, chunks, copied, map_tensors, owned
from lightning_complexity.network.running.reading import readings
from lightning_complexity.network.running.task import main_tensor, structure
from lightning_complexity.network.tracing.interpreter import hooks_on_all_modules


def find_task(module: LightningModule, batch: Any, task: Task) -> Task:
    """Complete a task by what fits the module.

    Outputs, unless the task says how: of ``module(inputs)`` for pairs; of the module called with the entries of the
    batch that its ``forward`` names; else what ``forward``, or a part with most of the parameters, gives when the
    module's own ``training_step`` calls it, by itself where that calls it with the inputs of a pair. The loss, unless
    the task has one, is that of ``training_step``. Derivatives are for the inputs if these are one tensor of
    floating-point numbers, else for what enters the first submodule that has a row for each output.

    Args:
        module: What is trained.
        batch: One of those that it will be measured on.
        task: What its user says.
    """
    few = _few(batch)
    if task.loss is None and _has_step(module, "training_step"):
        task = _with_loss(module, few, task)
    if task.forward is None:
        task = _with_outputs(module, few, task)
    if task.targets is None and isinstance(task.loss, StepLoss):
        task = _with_targets(module, _spread(batch, 16), task)
    return task if task.wrt is not None else _with_leaf(module, few, task)


def find_validation_task(module: LightningModule, batch: Any, training_task: Task, task: Task) -> Task:
    """The task for validation: by ``validation_step``, where that returns or logs a loss, else as in training.

    Args:
        module: What is trained.
        batch: Of the validation, which may have another form than those of the training.
        training_task: As found for training.
        task: What the user says.
    """
    loss = training_task.loss
    if isinstance(loss, StepLoss) and _has_step(module, "validation_step"):
        loss = _validation_loss(module, batch) or loss
    if _runs(module, _few(batch), training_task):
        return dataclasses.replace(training_task, loss=loss)
    return find_task(module, batch, dataclasses.replace(task, loss=loss))


def _validation_loss(module: LightningModule, batch: Any) -> StepLoss | None:
    """That of ``validation_step``, where it returns or logs one."""
    try:
        step = Snapshot(module).run(lambda _: run_step(module, "validation_step", owned(_few(batch))))
    except Exception:  # it needs what there is during a validation only
        return None
    if returned_loss(step.returned) is not None:
        return StepLoss("validation_step")
    name = logged_loss(step.logged)
    return None if name is None else StepLoss("validation_step", name)


def _runs(module: LightningModule, batch: Any, task: Task) -> bool:
    """Whether a task gives outputs for a batch."""
    try:
        _outputs(module, batch, task)
    except Exception:  # whatever a forward that is not meant for this batch raises
        return False
    return True


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
    if isinstance(task.forward, OutputsInStep | OutputsOfPart):
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
    if not can_be_cut(batch):
        return batch
    return map_tensors(lambda t: t[:: max(len(t) // count, 1)] if t.ndim else t, batch)


def _with_loss(module: LightningModule, batch: Any, task: Task) -> Task:
    """Judge by ``training_step``; in training mode, where a module has a loss in that alone, as detectors do."""
    in_evaluation_mode, in_training_mode = (
        dataclasses.replace(task, loss=StepLoss(in_training_mode=mode)) for mode in (False, True)
    )
    if _loss(module, batch, in_evaluation_mode) is None and _loss(module, batch, in_training_mode) is not None:
        return in_training_mode
    return in_evaluation_mode


def _with_outputs(module: LightningModule, batch: Any, task: Task) -> Task:
    fitting = (candidate for candidate in _candidates(module, batch, task) if _runs(module, batch, candidate))
    return next(fitting, task)


def _candidates(module: LightningModule, batch: Any, task: Task) -> Iterator[Task]:
    for reading in readings(module, batch):
        yield dataclasses.replace(task, reading=reading)
    if _has_step(module, "training_step"):
        for name in _called_parts(module, batch):
            within_step = dataclasses.replace(task, forward=OutputsInStep(name))
            by_itself = dataclasses.replace(task, forward=OutputsOfPart(name))
            if name and _give_the_same(module, batch, within_step, by_itself):
                yield by_itself
            yield within_step


def _give_the_same(module: LightningModule, batch: Any, *tasks: Task) -> bool:
    """Whether tasks give the same outputs for a batch, to the last bit."""
    try:
        outputs = [_outputs(module, batch, task) for task in tasks]
    except Exception:  # the part is called with something else than the inputs
        return False
    return all(isinstance(o, Tensor) and torch.equal(o, outputs[0]) for o in outputs)


def _outputs(module: LightningModule, batch: Any, task: Task) -> Any:
    return Snapshot(module, Batches.of(batch), task=task).run_one(lambda model, x: main_tensor(model(x)))


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
    names = entered_by_floats(Snapshot(module, Batches.of(batch), task=task))
    for candidate in (task, *(dataclasses.replace(task, wrt=name) for name in names)):
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
    if not isinstance(targets, Tensor) or targets.numel() == 0 or (targets == targets.flatten()[0]).all():
        return task
    loss = _loss(module, batch, task)
    if targets.is_floating_point():
        threshold = None if loss is None else _threshold(module, batch, task, loss)
        return task if threshold is None else dataclasses.replace(task, threshold=threshold)
    turned = targets.flatten().roll(1).view_as(targets)
    other = copied(batch, {id(targets): turned})  # with others in their place, wherever they are
    if loss is None or (_loss(module, other, task) == loss and _have_equal_gradients(module, batch, other, task)):
        return dataclasses.replace(task, targets=no_targets)
    threshold = _threshold(module, batch, task, loss)
    if threshold is not None:
        return dataclasses.replace(task, threshold=threshold)
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


def _threshold(module: LightningModule, batch: Any, task: Task, loss: float) -> float | None:
    """Where a single output tells two classes apart: 0 for a logit, 0.5 for a probability, as the loss shows."""
    try:
        outputs = predictions(Snapshot(module, Batches.of(batch), task=task)).double().squeeze(1)
        targets = task.split(batch)[1].double().reshape(outputs.shape)
    except Exception:  # of outputs that are no single numbers for these targets
        return None
    if outputs.ndim != 1 or not ((targets == 0) | (targets == 1)).all():
        return None
    if math.isclose(float(F.binary_cross_entropy_with_logits(outputs, targets)), loss, rel_tol=1e-3):
        return 0.0
    is_probability = bool(((outputs >= 0) & (outputs <= 1)).all())
    if is_probability and math.isclose(float(F.binary_cross_entropy(outputs, targets)), loss, rel_tol=1e-3):
        return 0.5
    return None


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
    for position in range(1, len(batch)):
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
