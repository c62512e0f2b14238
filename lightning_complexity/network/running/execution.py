"""Run one network on one batch with parameters of its own, and leave no trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize
from typing_extensions import Self

from lightning_complexity.network.choice import LayerChoice, owners
from lightning_complexity.network.errors import MissingInputError
from lightning_complexity.network.running.batches import chunks, map_tensors, num_samples
from lightning_complexity.network.running.guard import hooked_weights, observe
from lightning_complexity.network.running.sharding import sharding_suspended, whole_parameters

LossFunction = Callable[[Tensor, Tensor], Tensor]
Result = TypeVar("Result")


class _Call(nn.Module):
    """Lets ``functional_call`` run any function of a module instead of its ``forward``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Result]) -> Result:
        with parametrize.cached():
            return function(self.model)


def forward(inputs: Any, model: nn.Module) -> Any:
    """Call the model; the model comes last, so that the inputs can be bound."""
    return model(inputs)


def _called_with(function: Callable[[nn.Module, Any], Result], inputs: Any, model: nn.Module) -> Result:
    return function(model, inputs)


def at_least_single(tensor: Tensor) -> Tensor:
    """The tensor, in single precision where it has half."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor


def _recordable(tensor: Tensor) -> Tensor:
    """A tensor that a graph may keep: one made in inference mode is copied."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


def initial_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters to the CPU, to measure distances from them later, and the running statistics with them.

    Returns:
        Parameters, and buffers of floating-point numbers, by name; tied parameters once.
    """
    buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    tensors = {**whole_parameters(model), **buffers}
    return {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}


class RunningNetwork:
    """What a :class:`Snapshot` was given, and how it runs the network."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Any = None,
        targets: Any = None,
        *,
        loss: LossFunction | None = None,
        initial: Mapping[str, Tensor] | None = None,
        live: bool = False,
        outputs: Tensor | None = None,
        chunk_size: int = 256,
        seed: int = 0,
        vectors: dict[str, Tensor] | None = None,
        layers: LayerChoice | None = None,
    ) -> None:
        for name, parameter in model.named_parameters():
            if isinstance(parameter, UninitializedParameter):
                raise ValueError(f"parameter {name!r} has no shape yet; call the model once before measuring it.")
        if inputs is not None and num_samples(inputs) == 0:
            raise ValueError("inputs are empty; a measure needs at least one sample.")
        self.model, self.live, self.chunk_size, self.seed = model, live, chunk_size, seed
        self._inputs, self._targets = map_tensors(_recordable, inputs), map_tensors(_recordable, targets)
        self._initial, self._outputs = initial, outputs
        self.loss_function: LossFunction = F.cross_entropy if loss is None else loss
        self._vectors, self.layers = vectors, layers
        self._replaced: Mapping[str, Tensor] = {}

    # What was given ------------------------------------------------------------------------------

    def has(self, what: str) -> bool:
        """Whether ``"inputs"``, ``"targets"``, ``"initial"`` or ``"loss"`` can be used."""
        return what == "loss" or getattr(self, f"_{what}") is not None

    @property
    def inputs(self) -> Any:
        """The batch, in at least single precision."""
        return map_tensors(at_least_single, self._given("inputs", self._inputs))

    @property
    def targets(self) -> Any:
        """The targets of the batch."""
        return self._given("targets", self._targets)

    @property
    def initial(self) -> Mapping[str, Tensor]:
        """Parameters, and the buffers that were kept with them, at the start of training."""
        initial: Mapping[str, Tensor] = self._given("initial", self._initial)
        return initial

    @property
    def num_samples(self) -> int:
        """Number of samples in the batch."""
        return num_samples(self.inputs)

    @cached_property
    def float_inputs(self) -> Tensor:
        """The batch, where a measure needs it to be one floating-point tensor.

        Raises:
            MissingInputError: If it is something else, such as token indices or a mapping.
        """
        inputs = self.inputs
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            return inputs
        got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise MissingInputError(
            f"needs inputs that are one floating-point tensor, got {got}. Measure the part of the "
            "network behind the embedding, on its inputs."
        )

    @staticmethod
    def _given(name: str, value: Any) -> Any:
        if value is None:
            raise MissingInputError(f"needs {name}, which this snapshot was not given.")
        return value

    def generator(self) -> torch.Generator:
        """A fresh CPU generator with the snapshot's seed."""
        return torch.Generator().manual_seed(self.seed)

    # Running the network -------------------------------------------------------------------------

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters by name, tied ones once: the real ones, or detached leaves of the same numbers."""
        named = {n: self._at_start(n, p) for n, p in whole_parameters(self.model).items()}
        if self.live:
            return {n: at_least_single(p) for n, p in named.items()}
        with torch.inference_mode(False):
            return {n: at_least_single(p.detach()).requires_grad_(p.requires_grad) for n, p in named.items()}

    @cached_property
    def chosen_parameters(self) -> dict[str, Tensor]:
        """The parameters of the chosen layers by name; all where none were chosen."""
        if self.layers is None:
            return self.parameters
        modules = owners(self.model)
        return {n: p for n, p in self.parameters.items() if self.layers(n, modules[n])}

    @cached_property
    def _constants(self) -> dict[str, Tensor]:
        return {n: p.detach() for n, p in self.parameters.items()}

    @cached_property
    def _has_plain_weights(self) -> bool:
        """Whether the modules' own attributes are this snapshot's parameters, and reading them changes nothing."""
        own = dict(self.model.named_parameters())
        if any(own[name] is not p for name, p in self.parameters.items()):
            return False
        return not any(parametrize.is_parametrized(m) or any(hooked_weights(m)) for m in self.model.modules())

    def read(self, function: Callable[[nn.Module], Result]) -> Result:
        """Call ``function(model)``, which reads weights and does not call the model, see :meth:`run`."""
        return function(self.model) if self._has_plain_weights else self.run(function)

    def run(
        self,
        function: Callable[[nn.Module], Result],
        *,
        differentiable: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Result:
        """Call ``function(model)`` with this snapshot's parameters and throw-away buffers in the model.

        Args:
            function: Anything that reads or calls the model.
            differentiable: Whether an observing snapshot records gradients for its parameters.
            dtype: Precision of parameters and buffers, if not their own.

        Returns:
            What the function returns.
        """
        records = self.live or differentiable
        with observe(self.model), sharding_suspended(self.model), torch.set_grad_enabled(records):
            named_buffers = self.model.named_buffers()
            buffers = {n: at_least_single(self._at_start(n, b).detach().clone()) for n, b in named_buffers}
            tensors = {**(self.parameters if records else self._constants), **buffers}
            if dtype is not None:
                tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
            result: Result = functional_call(
                _Call(self.model), {f"model.{n}": t for n, t in tensors.items()}, (function,)
            )
            return result

    def _at_start(self, name: str, tensor: Tensor) -> Tensor:
        replaced = self._replaced.get(name)
        return tensor if replaced is None else replaced.to(at_least_single(tensor))

    @cached_property
    def start(self) -> Self:
        """The network as it was at the start of training, on the same batch.

        Raises:
            ValueError: If the initial state does not fit the network.
        """
        self._check_start(dict(self.model.named_parameters()))
        start = type(self)(
            self.model,
            self._inputs,
            self._targets,
            loss=self.loss_function,
            chunk_size=self.chunk_size,
            seed=self.seed,
            layers=self.layers,
        )
        start._replaced = self.initial
        return start

    def _check_start(self, tensors: Mapping[str, Tensor]) -> None:
        unlike = [n for n, t in tensors.items() if n not in self.initial or self.initial[n].shape != t.shape]
        if unlike:
            raise ValueError(
                f"the initial state does not fit the network: {unlike[0]!r} was not there, or had another shape. "
                "Take it with network.initial_state(model) before training."
            )

    def run_chunks(self, function: Callable[[nn.Module, Any], Result], inputs: Any = None) -> Iterator[Result]:
        """Call ``function(model, inputs)`` on each chunk of the batch, or of other inputs, see :meth:`run`."""
        for (x,) in self._chunks(self.inputs if inputs is None else inputs):
            yield self.run(partial(_called_with, function, x))

    def _chunks(self, *data: Any) -> Iterator[Any]:
        size = self.num_samples if self._outputs is not None else self.chunk_size
        yield from chunks(data, size)

    def _one_sample(self) -> Any:
        return next(chunks(self.inputs, 1))


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that BatchNorm folding reads."""
    normalizations = (m for m in model.named_modules() if isinstance(m[1], nn.modules.batchnorm._NormBase))
    return {
        f"{path}.{name}".removeprefix("."): buffer
        for path, module in normalizations
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
    }
