"""One network, on one batch, at one moment, and a memo of what was computed from it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from lightning_complexity.network.errors import MeasureError, MissingInputError
from lightning_complexity.network.running.batches import (
    Batches,
    can_be_cut,
    chunks,
    joined,
    map_tensors,
    num_samples,
    owned,
    tensors_in,
)
from lightning_complexity.network.running.execution import Execution
from lightning_complexity.network.running.guard import hooked_weights
from lightning_complexity.network.running.layout import check_dense, time_first_modules, time_first_refused
from lightning_complexity.network.running.memory import at_least_single, lazily_cloned, recordable
from lightning_complexity.network.running.sharding import whole, whole_parameters
from lightning_complexity.network.running.task import Data, ForwardFunction, LossFunction, Task
from lightning_complexity.network.tracing.decompositions import FrozenStatistics

Result = TypeVar("Result")


def plain_name(name: str) -> str:
    """Name of a parameter without the module that ``torch.compile`` puts around another."""
    return name.replace("_orig_mod.", "")


def initial_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters to the CPU, to measure distances from them later, and the running statistics with them.

    Returns:
        Parameters, and buffers of floating-point numbers, by name; tied parameters once. A network and its compiled
        form have the same names.
    """
    buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    tensors = {**whole_parameters(model), **buffers}
    return {plain_name(name): t.detach().to("cpu", copy=True) for name, t in tensors.items()}


class Snapshot:
    """One network on one batch at one moment, and what was computed from it.

    Quantities are functions of a snapshot, decorated with :func:`shared`, so that each is computed once however many
    measures ask; anyone can add one.

    An observing snapshot works on copies: parameters, buffers and attributes of the network, inputs and targets stay as
    they are, whatever a forward pass writes, and so do gradients, hooks, modes and random states. A
    differentiable one reads the real parameters, so that what is computed from it can be trained with. Both see the
    network in evaluation mode: no dropout, running statistics. A network of half-precision parameters is computed in
    single precision where it runs so; one that mixes precisions runs as it is. It holds until the parameters change.

    Args:
        model: Any module.
        inputs: A batch, first dimension samples; a tensor, or mappings, tuples, lists and dataclasses of tensors.
        targets: What the loss takes beside the outputs; class indices for margins. Or a function of the batch that
            gives them.
        task: How the batch becomes outputs and a loss. If one of its functions takes batches, ``inputs`` is the batch,
            or the pair of ``inputs`` and ``targets`` where targets are given; also several :class:`Batches`.
        loss: Loss of a batch, as for :class:`Task`, like the others; default cross-entropy.
        forward: How the network is run; default ``model(inputs)``.
        class_dim: Dimension of the outputs along which classes lie; by default found from the targets' shape, or else
            1.
        wrt: Submodule whose inputs Jacobians are taken for.
        initial: Parameters and buffers at the start of training by name, see :func:`initial_state`.
        buffers: What is measured in the place of the model's buffers of these names, such as another process's.
        differentiable: Whether to work on the real parameters.
        order: Of a differentiable snapshot, the highest derivative of the network that will be taken: with 3,
            operations whose third derivatives torch gets wrong are made from others from the start.
        differentiate_inputs: Of a differentiable snapshot, whether derivatives for the inputs will be taken.
        outputs: What the network gave for ``inputs``, to save a forward pass. ``inputs`` must have required grad when
            it was computed if a Jacobian is to be taken.
        chunk_size: How many samples are computed at once. A differentiable snapshot computes all at once.

    Raises:
        ValueError: If the inputs are empty, or the model has parameters without a shape yet.

    Example:
        >>> import torch
        >>> from lightning_complexity.network import margins, predictions
        >>> net = torch.nn.Linear(2, 3)
        >>> snapshot = Snapshot(net, torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))
        >>> predictions(snapshot).shape, margins(snapshot).shape
        (torch.Size([4, 3]), torch.Size([4]))
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any = None,
        targets: Any = None,
        *,
        task: Task | None = None,
        loss: LossFunction | None = None,
        forward: ForwardFunction | None = None,
        class_dim: int | None = None,
        wrt: str | None = None,
        initial: Mapping[str, Tensor] | None = None,
        buffers: Mapping[str, Tensor] | None = None,
        differentiable: bool = False,
        order: int = 1,
        differentiate_inputs: bool = False,
        outputs: Any = None,
        chunk_size: int = 256,
    ) -> None:
        for name, parameter in model.named_parameters():
            if isinstance(parameter, UninitializedParameter):
                raise MeasureError(f"parameter {name!r} has no shape yet; call the model once before measuring it.")
        self.model = model
        self.task = (task or Task()).updated(forward=forward, loss=loss, class_dim=class_dim, wrt=wrt)
        if callable(targets):
            self.task, targets = self.task.updated(targets=targets), None
        inputs, targets, self.batches = self._read(inputs, targets)
        if inputs is not None and num_samples(inputs) == 0:
            raise MeasureError("inputs are empty; a measure needs at least one sample.")
        self.differentiable, self.order, self.differentiate_inputs = differentiable, order, differentiate_inputs
        self._inputs, self._targets = map_tensors(recordable, inputs), map_tensors(recordable, targets)
        self._initial, self._outputs, self._chunk_size = initial, outputs, chunk_size
        self._replaced: Mapping[str, Tensor] = {plain_name(name): t for name, t in (buffers or {}).items()}
        self._execution = Execution(model)
        self._memo: dict[Hashable, Any] = {}
        self.on_asked: Callable[[Hashable, Callable[[], Any]], Callable[[], Any]] | None = None

    def _read(self, inputs: Any, targets: Any) -> Data:
        if isinstance(inputs, Batches):
            return self.task.read(inputs)
        if inputs is None or not self.task.reads_batches:
            return Data(inputs, targets, None)
        return self.task.read(Batches.of(inputs if targets is None else (inputs, targets)))

    # What was given ------------------------------------------------------------------------------

    def has(self, what: str) -> bool:
        """Whether ``"inputs"``, ``"targets"``, ``"initial"`` or ``"loss"`` can be used."""
        return what == "loss" or getattr(self, f"_{what}") is not None

    @property
    def inputs(self) -> Any:
        """The batch, in at least single precision unless the network mixes precisions."""
        given = self._given("inputs", self._inputs)
        check_dense(given)
        return given if self.is_mixed else map_tensors(at_least_single, given)

    @property
    def targets(self) -> Any:
        """The targets of the batch; the loss may write to them."""
        return map_tensors(lazily_cloned, self._given("targets", self._targets))

    @property
    def initial(self) -> Mapping[str, Tensor]:
        """Parameters, and the buffers that were kept with them, at the start of training."""
        initial: Mapping[str, Tensor] = self._given("initial", self._initial)
        return {plain_name(name): tensor for name, tensor in initial.items()}

    @property
    def given_outputs(self) -> Any:
        """The outputs that the snapshot was given, ``None`` if it was not."""
        return self._outputs

    @property
    def num_samples(self) -> int:
        """Number of samples in the batch."""
        return num_samples(self._given("inputs", self._inputs))

    @cached_property
    def float_inputs(self) -> Tensor:
        """The batch, where a measure needs it to be one floating-point tensor.

        Raises:
            MissingInputError: If it is something else, such as token indices or a mapping.
        """
        inputs = self.inputs
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            return inputs
        name = "whole batches" if self.is_whole else type(inputs).__name__
        got = inputs.dtype if isinstance(inputs, Tensor) else name
        raise MissingInputError(
            f"needs inputs that are one floating-point tensor, got {got}. Measure the part of the "
            "network behind the embedding, on its inputs."
        )

    @property
    def is_whole(self) -> bool:
        """Whether the network runs on whole batches, which cannot be cut into samples."""
        return isinstance(self._inputs, Batches)

    @staticmethod
    def _given(name: str, value: Any) -> Any:
        if value is None:
            raise MissingInputError(f"needs {name}, which this snapshot was not given.")
        return value

    # The memo ------------------------------------------------------------------------------------

    def remembers(self, key: Hashable) -> bool:
        """Whether something was computed for the key."""
        return key in self._memo

    def remember(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """What ``compute`` gives, called once for each key."""
        if self.on_asked is not None:
            compute = self.on_asked(key, compute)
        if key not in self._memo:
            self._memo[key] = compute()
        result: Result = self._memo[key]
        return result

    # Running the network -------------------------------------------------------------------------

    def opened(self) -> AbstractContextManager[None]:
        """Observe the network inside the block, backward passes through it included; blocks may be nested."""
        return self._execution.opened()

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters by name, tied ones once: the real ones, or detached leaves of the same numbers.

        In at least single precision.
        """
        named = {n: self._at_start(n, p) for n, p in self._gathered.items()}
        if self.differentiable:
            with torch.enable_grad():  # whoever asks first
                return {n: at_least_single(p) for n, p in named.items()}
        with torch.inference_mode(False):
            leaves = {n: lazily_cloned(at_least_single(p.detach())) for n, p in named.items()}
            return {n: leaf.requires_grad_(named[n].requires_grad) for n, leaf in leaves.items()}

    @cached_property
    def _gathered(self) -> dict[str, Tensor]:
        with torch.enable_grad():  # whoever asks first: what is gathered without would pass for not trained
            return whole_parameters(self.model)

    @cached_property
    def _gathered_buffers(self) -> list[tuple[str, Tensor, Tensor]]:
        return [(name, buffer, whole(buffer).detach()) for name, buffer in self.model.named_buffers()]

    def gather(self) -> None:
        """Take in parameters and buffers now; where they are sharded all processes must do that together.

        What is measured afterwards needs no other process.
        """
        _ = self.parameters, self._buffers

    def on(self, batches: Batches | None, task: Task | None = None) -> Snapshot:
        """The same network at the same moment, on other data; for snapshots that observe.

        Args:
            batches: The data.
            task: How the network is run and judged on them; by default as here.
        """
        other = Snapshot(
            self.model, batches, task=task or self.task, initial=self._initial, chunk_size=self._chunk_size
        )
        other._replaced, other._execution = self._replaced, self._execution
        other.__dict__.update(parameters=self.parameters, _gathered=self._gathered, _buffers=self._buffers)
        other.__dict__.update(_gathered_buffers=self._gathered_buffers)
        return other

    @cached_property
    def is_mixed(self) -> bool:
        """Whether the network runs in the precisions of its parameters, half ones included.

        It does if they differ, and where a network of half-precision parameters does not run in single precision.
        """
        kinds = {p.dtype for p in self.model.parameters() if p.is_floating_point()}
        if all(kind.itemsize >= 4 for kind in kinds):
            return False
        return len(kinds) > 1 or not self._runs_in_single_precision()

    def _runs_in_single_precision(self) -> bool:
        if self._inputs is None:
            return True
        check_dense(self._inputs)
        sample = map_tensors(at_least_single, next(chunks(self._inputs, 1)))
        with self.opened(), torch.no_grad(), FrozenStatistics():
            tensors = self._stand_ins(records=False, dtype=None, is_mixed=False)
            try:
                self._execution.run(lambda model: called(model, self.task)(sample), tensors)
            except MeasureError:
                return False
        return True

    def _stand_ins(self, *, records: bool, dtype: torch.dtype | None, is_mixed: bool) -> dict[int, Tensor]:
        """What takes the place of each parameter and buffer in a run, by the ``id`` of these."""

        def stand_in(original: Tensor, tensor: Tensor) -> Tensor:
            kind = dtype or (original.dtype if is_mixed else None)
            if kind is not None and tensor.is_floating_point() and tensor.dtype != kind:
                return tensor.to(kind)
            return lazily_cloned(tensor)

        tensors = {}
        for name, parameter in self._named_parameters.items():
            leaf = self.parameters[name]
            tensors[id(parameter)] = stand_in(parameter, leaf if records else leaf.detach())
        for buffer, value in self._buffers:
            tensors[id(buffer)] = stand_in(buffer, value if is_mixed else at_least_single(value))
        return tensors

    @cached_property
    def _named_parameters(self) -> dict[str, nn.Parameter]:
        _ = self.parameters  # gathers those that are sharded, which gives the module others
        return dict(self.model.named_parameters())

    @cached_property
    def _buffers(self) -> list[tuple[Tensor, Tensor]]:
        """The buffers, and what they are in this snapshot."""
        return [(b, self._at_start(name, value)) for name, b, value in self._gathered_buffers]

    @cached_property
    def _time_first(self) -> dict[str, nn.Module]:
        return time_first_modules(self.model)

    def _at_start(self, name: str, tensor: Tensor) -> Tensor:
        replaced = self._replaced.get(plain_name(name))
        return tensor if replaced is None else replaced.to(at_least_single(tensor))

    @cached_property
    def _has_plain_weights(self) -> bool:
        """Whether weights are what the modules' attributes say, and reading them changes nothing."""
        return not any(parametrize.is_parametrized(m) or any(hooked_weights(m)) for m in self.model.modules())

    def read(self, function: Callable[[nn.Module, Callable[[Tensor], Tensor]], Result]) -> Result:
        """Call ``function(model, stand_in)``, which reads weights and does not call the model.

        In at least single precision.

        Args:
            function: Reads the model's attributes; ``stand_in`` gives this snapshot's tensor for one of these.
        """
        if self._has_plain_weights:
            return function(self.model, self._stand_in_of_parameter)
        return self._run(
            lambda model: function(model, lambda tensor: tensor),
            records=self.differentiable,
            dtype=None,
            is_mixed=False,
        )

    def _stand_in_of_parameter(self, tensor: Tensor) -> Tensor:
        name = self._names.get(id(tensor))
        leaf = at_least_single(tensor) if name is None else self.parameters[name]
        return leaf if self.differentiable else leaf.detach()

    @cached_property
    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self._named_parameters.items()}

    def run(
        self,
        function: Callable[[nn.Module], Result],
        *,
        records: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Result:
        """Call ``function(model)`` with copies of this snapshot's parameters and of the rest in the model.

        Args:
            function: Anything that reads or calls the model, ``model(inputs)`` being what the snapshot's ``forward``
                gives.
            records: Whether an observing snapshot records gradients for its parameters.
            dtype: Precision of parameters and buffers, if not their own.

        Returns:
            What the function returns.
        """
        return self._run(function, records=self.differentiable or records, dtype=dtype, is_mixed=self.is_mixed)

    def _run(
        self, function: Callable[[nn.Module], Result], *, records: bool, dtype: torch.dtype | None, is_mixed: bool
    ) -> Result:
        with self.opened(), torch.set_grad_enabled(records):
            tensors = self._stand_ins(records=records, dtype=dtype, is_mixed=is_mixed)
            model = called(self.model, self.task, self._time_first)
            return self._execution.run(lambda _: function(model), tensors)

    def run_one(self, function: Callable[[nn.Module, Any], Result]) -> Result:
        """Call ``function(model, inputs)`` with one sample, where numbers do not matter.

        BatchNorm that would take its statistics from this sample runs with others.
        """
        sample = next(chunks(self.inputs, 1))
        with FrozenStatistics():
            return self.run(lambda model: function(model, sample))

    def run_chunks(self, function: Callable[[nn.Module, Any], Result], inputs: Any = None) -> Iterator[Result]:
        """Call ``function(model, inputs)`` on each chunk of the batch, or of other inputs, see :meth:`run`."""
        for (x,) in self.chunks(self.inputs if inputs is None else inputs):
            yield self.run(partial(_called_with, function, x))

    def chunks(self, *data: Any) -> Iterator[Any]:
        """Data that have samples in the first dimension, some samples at a time; or whole batches, one at a time."""
        if isinstance(data[0], Batches):
            yield from ((batch,) for batch in chunks(data[0], 1))
        else:
            yield from chunks(data, self.chunk_size)

    @property
    def chunk_size(self) -> int:
        """How many samples are computed at once: all where they are not apart."""
        whole_batch = self.differentiable or self.is_whole or self._outputs is not None or self._coupling is not None
        return max(self.num_samples, 1) if whole_batch else self._chunk_size

    @cached_property
    def _coupling(self) -> str | None:
        """Name of a module through which a sample's outputs depend on the other samples, if there is any."""
        for name, module in self.model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
                return name
        return None

    @property
    def samples_are_apart(self) -> bool:
        """Whether a sample's outputs depend on that sample alone, as far as can be told."""
        return self._coupling is None

    def check_samples_apart(self, measure: str) -> None:
        """Raise an error where a sample's outputs depend on the other samples.

        Raises:
            MeasureError: Naming the module.
        """
        if self._coupling is not None:
            raise MeasureError(
                f"{measure} needs outputs that depend on their own sample alone, but BatchNorm {self._coupling!r} has "
                "no running statistics. Build it with track_running_stats=True, or leave this measure out."
            )

    @cached_property
    def device(self) -> torch.device:
        """Where the network is, or the batch if it has no parameters."""
        found = [*self.model.parameters(), *tensors_in(self._inputs)]
        return found[0].device if found else torch.device("cpu")

    @cached_property
    def at_initialization(self) -> Snapshot:
        """The network as it was at the start of training, on the same batch.

        Raises:
            MeasureError: If the initial state does not fit the network.
        """
        self.check_initial(dict(self.model.named_parameters()))
        start = self._on(self._inputs if self.batches is None else self.batches, self._targets)
        start._replaced = {**self._replaced, **self.initial}
        return start

    def first(self, count: int) -> Snapshot:
        """The same network at the same moment on its first samples; nothing computed is shared with it.

        Args:
            count: How many samples; where batches are whole, the first one is taken.
        """
        if self.batches is not None and (self.is_whole or not can_be_cut(self.batches.batches[0])):
            piece = self._on(next(self.batches.single()), None)
        elif self.batches is not None:
            cut = next(chunks(self.batches.batches[0], count))
            piece = self._on(Batches((cut,), (min(count, self.batches.sizes[0]),), self.batches.at_once), None)
        else:
            piece = self._on(*next(chunks((self._inputs, self._targets), count)))
        piece._initial, piece._replaced = self._initial, self._replaced
        return piece

    def _on(self, inputs: Any, targets: Any) -> Snapshot:
        targets = None if isinstance(inputs, Batches) else targets
        snapshot = Snapshot(self.model, inputs, targets, task=self.task, chunk_size=self._chunk_size)
        snapshot._execution = self._execution
        snapshot.__dict__.update(_gathered=self._gathered, _gathered_buffers=self._gathered_buffers)
        return snapshot

    def check_initial(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise an error unless the initial state has tensors of these names and shapes.

        Raises:
            MeasureError: Naming one that it has not.
        """
        initial = self.initial
        unlike = [
            n for n, t in tensors.items() if plain_name(n) not in initial or initial[plain_name(n)].shape != t.shape
        ]
        if unlike:
            raise MeasureError(
                f"the initial state does not fit the network: {unlike[0]!r} was not there, or had another shape. "
                "Take it with network.initial_state(model) before training."
            )


class _Called:
    """A module that is called as a task says, on inputs that it may write to."""

    def __init__(self, model: nn.Module, task: Task, time_first: Mapping[str, nn.Module]) -> None:
        self._model, self._task, self._time_first = model, task, time_first

    def __call__(self, inputs: Any) -> Any:
        if isinstance(inputs, Batches):
            return joined_outputs([self(batch) for batch in inputs.batches])
        own = owned(inputs)
        with time_first_refused(self._time_first, own):
            return self._task.run(self._model, own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def joined_outputs(parts: list[Any]) -> Any:
    """What the network gave for parts of the batch, as one.

    Raises:
        MeasureError: If the parts do not fit.
    """
    try:
        return joined(parts)
    except ValueError as error:
        raise MeasureError(
            f"needs outputs of all batches that can be put together, but {error} Give outputs of one shape with "
            "forward=lambda module, batch: ...."
        ) from error


def called(model: nn.Module, task: Task, time_first: Mapping[str, nn.Module] | None = None) -> nn.Module:
    """A module that is called as a task says.

    Args:
        model: It has all that functions of a model read off one.
        task: How it is called.
        time_first: Its modules that take time in the first dimension, by name, to be refused where samples are there.
    """
    module: Any = _Called(model, task, time_first or {})
    return module


def _called_with(function: Callable[[nn.Module, Any], Result], inputs: Any, model: nn.Module) -> Result:
    return function(model, inputs)
