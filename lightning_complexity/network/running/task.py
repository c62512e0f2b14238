"""How a network is run on a batch and judged on it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional.margins import positions_as_samples
from lightning_complexity.network.errors import MeasureError, MissingInputError, NetworkError
from lightning_complexity.network.running.batches import tensors_in
from lightning_complexity.network.running.memory import at_least_single

LossFunction = Callable[[Any, Any], Tensor]
ForwardFunction = Callable[[nn.Module, Any], Any]

IGNORED = -100
"""The class index that torch's losses leave out, unless they are told another."""


@dataclass(frozen=True)
class Task:
    """How a batch becomes outputs, and how these become a loss.

    Args:
        forward: Outputs from the network and the inputs; default ``model(inputs)``.
        loss: Loss from outputs and targets; default the cross-entropy of classes.
        class_dim: Dimension of the outputs along which classes lie, where shapes do not tell.
    """

    forward: ForwardFunction | None = None
    loss: LossFunction | None = None
    class_dim: int | None = None

    def run(self, model: nn.Module, inputs: Any) -> Any:
        """The outputs of a model.

        Raises:
            NetworkError: If the network raises an error.
        """
        try:
            return model(inputs) if self.forward is None else self.forward(model, inputs)
        except (MeasureError, ArithmeticError):
            raise
        except Exception as error:
            called = "model(inputs)" if self.forward is None else "forward(model, inputs)"
            raise NetworkError(
                f"the network could not be run in evaluation mode as {called}: {_said(error)} "
                f"{_other_precision(model, inputs) or _OTHER_WAY}"
            ) from error

    def loss_of(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of a batch, 0-d.

        Raises:
            MissingInputError: If the default loss does not fit the targets.
            NetworkError: If the loss raises an error.
        """
        if self.loss is None:
            return self._cross_entropy(main_tensor(outputs), targets)
        _check_several_classes(self.loss, outputs)
        try:
            loss = self.loss(outputs, targets)
        except MeasureError:
            raise
        except Exception as error:
            raise NetworkError(
                f"the loss could not be computed from outputs of {_shapes(outputs)} and targets of {_shapes(targets)}: "
                f"{_said(error)} Give the loss that the network is trained on: loss=lambda outputs, targets: ...."
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise NetworkError(f"the loss must be one number for the whole batch, such as a mean, got {got}.")
        return at_least_single(loss.reshape(()))

    def _cross_entropy(self, logits: Tensor, targets: Any) -> Tensor:
        if not logits.is_floating_point():
            raise MeasureError(
                f"needs outputs that are floating-point numbers for the cross-entropy loss, got {logits.dtype}. Say "
                "what the outputs are with forward=lambda model, inputs: ...."
            )
        if isinstance(targets, Tensor) and targets.is_floating_point() and self.is_distribution(logits.shape, targets):
            return F.cross_entropy(logits, targets.to(logits.dtype))
        if not isinstance(targets, Tensor) or targets.is_floating_point() or logits.ndim < 2:
            raise MissingInputError(
                "needs class targets for the cross-entropy loss (integers of shape (n,), or probabilities that sum "
                f"to 1), got {_shapes(targets)} for outputs of {_shapes(logits)}. For other targets pass your loss, as "
                "in loss=torch.nn.functional.mse_loss."
            )
        at_positions, classes, _ = positions_as_samples(logits, targets, class_dim=self.class_dim)
        return F.cross_entropy(at_positions, classes)

    @staticmethod
    def is_distribution(shape: torch.Size, targets: Tensor) -> bool:
        """Whether targets are probabilities of classes, one distribution a sample, for outputs of a shape."""
        if targets.shape != shape or targets.ndim < 2 or shape[1] < 2 or (targets < 0).any():
            return False
        sums = targets.sum(1)
        return torch.allclose(sums, torch.ones_like(sums), atol=1e-3)

    @property
    def ignore_index(self) -> int:
        """The class index that the loss leaves out."""
        loss = self.loss.keywords if isinstance(self.loss, functools.partial) else self.loss
        index = loss.get("ignore_index") if isinstance(loss, Mapping) else getattr(loss, "ignore_index", None)
        return index if isinstance(index, int) else IGNORED


_OTHER_WAY = "If it takes its inputs in another way, say how with forward=lambda model, inputs: ...."


def _other_precision(model: nn.Module, inputs: Any) -> str | None:
    """What to do where the inputs have another precision than all parameters; ``None`` where they have not."""
    given = {t.dtype for t in tensors_in(inputs) if t.is_floating_point()}
    taken = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(given) != 1 or len(taken) != 1 or given == taken:
        return None
    (of_inputs,), (of_parameters,) = given, taken
    return f"The inputs are {of_inputs} and the parameters {of_parameters}: convert the inputs, or the network."


def _check_several_classes(loss: LossFunction, outputs: Any) -> None:
    """Raise an error where a cross-entropy is asked for with a single class, over which it is 0 whatever happens."""
    function = loss.func if isinstance(loss, functools.partial) else loss
    if function is not F.cross_entropy and not isinstance(function, nn.CrossEntropyLoss):
        return
    if isinstance(outputs, Tensor) and outputs.ndim > 1 and outputs.shape[1] == 1:
        raise MeasureError(
            f"the cross-entropy over a single class is always 0, and the outputs have shape {tuple(outputs.shape)}. "
            "For one logit a sample pass loss=torch.nn.functional.binary_cross_entropy_with_logits."
        )


def main_tensor(outputs: Any) -> Tensor:
    """The tensor that measures of the function look at: the only one, or the logits.

    Raises:
        MeasureError: If there is no such tensor.
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    found = [logits] if isinstance(logits, Tensor) else [t for t in tensors_in(outputs) if t.is_floating_point()]
    if len(found) == 1:
        return found[0]
    raise MeasureError(
        f"needs outputs that are one tensor, or have logits; the network returns {structure(outputs)}. Say which "
        "counts with forward=lambda model, inputs: ...."
    )


def structure(outputs: Any) -> str:
    """What outputs are, in words."""
    if isinstance(outputs, Tensor):
        return f"a tensor of {outputs.dtype}"
    if isinstance(outputs, Mapping):
        return f"a {type(outputs).__name__} of {', '.join(map(str, outputs))}"
    if isinstance(outputs, (tuple, list)):
        return f"a {type(outputs).__name__} of {', '.join(type(value).__name__ for value in outputs) or 'nothing'}"
    return (
        f"a dataclass {type(outputs).__name__}" if is_dataclass(outputs) else f"an object of {type(outputs).__name__}"
    )


def _shapes(data: Any) -> str:
    if isinstance(data, Tensor):
        return f"{data.dtype} of shape {tuple(data.shape)}"
    return f"{type(data).__name__} of shapes {[tuple(t.shape) for t in tensors_in(data)]}"


def _said(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:300].rstrip('.')}."
