"""The loss of each sample alone, from the outputs of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.network.running.batches import chunks, map_tensors
from lightning_complexity.network.running.memory import at_least_single
from lightning_complexity.network.running.task import Task, main_tensor


def sample_losses(task: Task, outputs: Any, targets: Any) -> Tensor:
    """Loss of each sample by a loss of outputs and targets, shape ``(n,)``.

    Args:
        task: With the loss.
        outputs: Of a batch.
        targets: Its targets.
    """
    if _is_plain_cross_entropy(task.loss) and _are_classes(outputs, targets):
        return F.cross_entropy(main_tensor(outputs), targets, reduction="none")
    try:
        return torch.vmap(lambda o, t: task.loss_of(map_tensors(_as_batch, o), map_tensors(_as_batch, t)))(
            outputs, targets
        )
    except Exception:  # many losses look at numbers, which vmap cannot
        return torch.stack([task.loss_of(o, t) for o, t in chunks((outputs, targets), 1)])


def has_sample_losses(task: Task, outputs: Any, targets: Any) -> bool:
    """Whether the loss of a batch is the mean of those that its samples have alone."""
    if task.judges_batches:
        return False
    try:
        found = sample_losses(task, outputs, targets)
    except Exception:  # whatever the loss does with a single sample
        return False
    return torch.allclose(found.mean(), task.loss_of(outputs, targets), rtol=1e-4)


def _as_batch(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(0)


def _is_plain_cross_entropy(loss: Callable[..., Any] | None) -> bool:
    if isinstance(loss, nn.CrossEntropyLoss):
        return loss.reduction == "mean" and loss.weight is None and loss.label_smoothing == 0
    return loss is None or loss is F.cross_entropy


def _are_classes(outputs: Any, targets: Any) -> bool:
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return False
    return outputs.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point() and bool((targets >= 0).all())


def detached(outputs: Any) -> Any:
    """Outputs without their graph, in at least single precision."""
    return map_tensors(lambda t: at_least_single(t.detach()), outputs)
