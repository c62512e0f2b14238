"""How a network is run on a batch and judged on it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional.margins import positions_as_samples
from lightning_complexity.network.errors import MeasureError, MissingInputError, NetworkError
from lightning_complexity.network.running.batches import (
    Batches,
    can_be_cut,
    joined_if_possible,
    map_tensors,
    tensors_in,
)
from lightning_complexity.network.running.memory import at_least_single, lazily_cloned
from lightning_complexity.network.running.reading import IGNORED, Reading, default_reading

LossFunction = Callable[[Any, Any], Tensor]
ForwardFunction = Callable[[Any, Any], Any]
TargetFunction = Callable[[Any], Any]

_NAMES_OF_MODULES = frozenset({"module", "model", "pl_module", "net", "network", "m"})


class Data(NamedTuple):
    """What measures read off batches.

    Attributes:
        inputs: What the network is called with; all batches as one where they can be joined, else as they are.
        targets: What the loss takes beside the outputs, and classes for margins; ``None`` where there are none.
        batches: The batches, for a loss that takes them.
    """

    inputs: Any
    targets: Any
    batches: Batches | None


@dataclass(frozen=True)
class Task:
    """How a batch becomes outputs, and how it becomes a loss.

    Functions with a parameter called ``batch`` are given the batch as a loader yields it; others what is inputs and
    targets in it.

    Args:
        forward: ``forward(module, batch)`` or ``forward(model, inputs)`` gives the outputs; default ``model(inputs)``.
        loss: ``loss(module, batch)`` or ``loss(outputs, targets)`` gives one number for the batch; default the
            cross-entropy of classes. A function whose first parameter is called ``module``, ``model``, ``net`` or the
            like takes the batch as well.
        targets: ``targets(batch)`` gives the targets, where they are hidden in the batch.
        class_dim: Dimension of the outputs along which classes lie, where shapes do not tell.
        wrt: Name of a submodule: Jacobians are those for the first tensor that enters it, not for the inputs.
        reading: Which part of a batch goes in and which are targets, where ``forward`` does not say.
        threshold: Above which a single output says that the target is 1, where it tells two classes apart.

    Example:
        >>> task = Task(forward=lambda module, batch: module(batch["x"]), targets=lambda batch: batch["y"])
        >>> task.read(Batches.of({"x": torch.zeros(4, 2), "y": torch.ones(4)})).targets
        tensor([1., 1., 1., 1.])
    """

    forward: ForwardFunction | None = None
    loss: LossFunction | None = None
    targets: TargetFunction | None = None
    class_dim: int | None = None
    wrt: str | None = None
    reading: Reading | None = None
    threshold: float | None = None

    def updated(self, **options: Any) -> Task:
        """The same task with those of some options that are not ``None``."""
        given = {name: value for name, value in options.items() if value is not None}
        return dataclasses.replace(self, **given) if given else self

    @property
    def runs_on_batches(self) -> bool:
        """Whether ``forward`` takes batches."""
        return self.forward is not None and _parameter(self.forward, 1) in ("batch", "b")

    @property
    def judges_batches(self) -> bool:
        """Whether ``loss`` takes the module and a batch, not outputs and targets."""
        return self.loss is not None and (
            _parameter(self.loss, 1) == "batch" or _parameter(self.loss, 0) in _NAMES_OF_MODULES
        )

    @property
    def reads_batches(self) -> bool:
        """Whether any of its functions takes batches."""
        return self.runs_on_batches or self.judges_batches or self.targets is not None

    def split(self, batch: Any) -> tuple[Any, Any]:
        """What the network is called with, and the targets.

        Raises:
            NetworkError: If ``targets`` raises an error.
        """
        if self.reading is None and self.runs_on_batches:
            inputs, targets = batch, _targets_of(batch)
        else:
            reading = default_reading(batch) if self.reading is None else self.reading
            inputs, targets = reading.split(batch)
            inputs = batch if self.runs_on_batches else inputs
        if self.targets is None:
            return inputs, targets
        try:
            return inputs, self.targets(batch)
        except Exception as error:
            raise NetworkError(
                f"targets(batch) could not be computed for a batch that is {structure(batch)}: {_said(error)}"
            ) from error

    def read(self, batches: Batches) -> Data:
        """Inputs, targets and batches, joined where they can be."""
        pairs = [self.split(batch) for batch in batches.batches]
        inputs, targets = zip(*pairs, strict=True)
        together = joined_if_possible(inputs)
        if together is None or (len(pairs) == 1 and not can_be_cut(together)):
            together = Batches(inputs, batches.sizes)
        with_targets = all(target is not None for target in targets)
        return Data(together, joined_if_possible(targets) if with_targets else None, batches)

    def run(self, model: nn.Module, inputs: Any) -> Any:
        """The outputs of a model.

        Raises:
            NetworkError: If the network raises an error.
        """
        reading = Reading() if self.reading is None else self.reading
        try:
            return reading.call(model, inputs) if self.forward is None else self.forward(model, inputs)
        except (MeasureError, ArithmeticError):
            raise
        except Exception as error:
            called = str(reading).replace("batch", "inputs") if self.forward is None else "forward(model, inputs)"
            raise NetworkError(
                f"the network could not be run in evaluation mode as {called}: {_said(error)} "
                f"{_other_precision(model, inputs) or _OTHER_WAY}"
            ) from error

    def loss_of(self, outputs: Any, targets: Any) -> Tensor:
        """The loss of a batch, 0-d; a loss that writes to outputs writes to a copy.

        Raises:
            MissingInputError: If the default loss does not fit the targets.
            NetworkError: If the loss raises an error.
        """
        if self.loss is None:
            return self._cross_entropy(main_tensor(outputs), targets)
        _check_several_classes(self.loss, outputs)
        try:
            loss = self.loss(map_tensors(lazily_cloned, outputs), targets)
        except MeasureError:
            raise
        except Exception as error:
            raise NetworkError(
                f"the loss could not be computed from outputs of {_shapes(outputs)} and targets of {_shapes(targets)}: "
                f"{_said(error)} Give the loss that the network is trained on: loss=lambda outputs, targets: ...."
            ) from error
        return _one_number(loss)

    def loss_on(self, module: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch by a ``loss`` that takes it, 0-d.

        Raises:
            NetworkError: If the loss raises an error.
        """
        assert self.loss is not None
        try:
            loss = self.loss(module, batch)
        except (MeasureError, ArithmeticError):
            raise
        except Exception as error:
            raise NetworkError(
                f"loss(module, batch) could not be computed in evaluation mode for a batch that is {structure(batch)}: "
                f"{_said(error)} Give one that takes this batch by itself: loss=lambda module, batch: ...."
            ) from error
        return _one_number(loss)

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


def _one_number(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise NetworkError(f"the loss must be one number for the whole batch, such as a mean, got {got}.")
    if loss.is_complex():
        raise NetworkError(
            f"the loss must be a real number, got {loss.dtype}. Take its real part or its absolute value."
        )
    return at_least_single(loss.reshape(()))


def _parameter(function: Callable[..., Any], position: int) -> str | None:
    """Name of a parameter of a function, where that can be told."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return names[position] if position < len(names) else None


def _targets_of(batch: Any) -> Any:
    """Targets that can be told from the form of a batch: the second of a pair, or what a mapping calls so."""
    try:
        return default_reading(batch).split(batch)[1]
    except MeasureError:
        return None


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
