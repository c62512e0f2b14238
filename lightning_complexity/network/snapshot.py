"""One network, on one batch, at one moment, and a memo of what was computed from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from lightning_complexity.network.errors import MeasureError, MissingInputError
from lightning_complexity.network.running.batches import (
    Batches,
    can_be_cut,
    chunks,
    map_tensors,
    num_samples,
    tensors_in,
)
from lightning_complexity.network.running.called import called
from lightning_complexity.network.running.execution import Execution
from lightning_complexity.network.running.guard import hooked_weights
from lightning_complexity.network.running.layout import check_dense, time_first_modules
from lightning_complexity.network.running.memory import at_least_single, lazily_cloned, recordable
from lightning_complexity.network.running.task import Data, ForwardFunction, LossFunction, Task
from lightning_complexity.network.running.tensors import Gathered, Tensors, plain_name
from lightning_complexity.network.tracing.decompositions import FrozenStatistics

if TYPE_CHECKING:
    from lightning_complexity.network.optimization.live import LiveSteps

Result = TypeVar("Result")


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
        initial: Parameters and buffers at the start of training by name, as ``initial_state`` gives them.
        live: What follows the optimizers while they train.
        buffers: What is measured in the place of the model's buffers of these names, such as another process's.
        differentiable: Whether to work on the real parameters.
        order: Of a differentiable snapshot, the highest derivative of the network that will be taken: with 3,
            operations whose third derivatives torch gets wrong are made from others from the start.
        differentiate_inputs: Of a differentiable snapshot, whether derivatives for the inputs will be taken.
        outputs: What the network gave for ``inputs``, to save a forward pass. ``inputs`` must have required grad when
            it was computed if a Jacobian is to be taken.
        chunk_size: How many samples are computed at once. A differentiable snapshot computes all at once.
        optimizers: What trains the network, for measures of the next step; only read.

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
        live: LiveSteps | None = None,
        buffers: Mapping[str, Tensor] | None = None,
        differentiable: bool = False,
        order: int = 1,
        differentiate_inputs: bool = False,
        outputs: Any = None,
        chunk_size: int = 256,
        optimizers: Optimizer | Iterable[Optimizer] = (),
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
        self._initial, self._live, self._outputs, self._chunk_size = initial, live, outputs, chunk_size
        self.optimizers = (optimizers,) if isinstance(optimizers, Optimizer) else tuple(optimizers)
        self._tensors = Tensors(Gathered(model, self.optimizers), buffers or {}, differentiable=differentiable)
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
        """Whether ``"inputs"``, ``"targets"``, ``"initial"``, ``"live"`` or ``"loss"`` can be used."""
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
    def live(self) -> LiveSteps:
        """What follows the optimizers of the training."""
        live: LiveSteps = self._given("live", self._live)
        return live

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

    def keeping(self) -> AbstractContextManager[None]:
        """Let checkpointed functions keep what they compute inside the block, where the graph's tensors are read."""
        return self._execution.keeping()

    def observe(self) -> None:
        """Observe the network before a backward pass through a graph that may be of an earlier block."""
        self._execution.observe()

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters by name, tied ones once: the real ones, or detached leaves of the same numbers.

        In at least single precision.
        """
        return self._tensors.parameters

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, as they are in this snapshot."""
        return self._tensors.state

    @property
    def optimizer_state(self) -> tuple[dict[Any, Any], ...]:
        """The state of each optimizer by what it belongs to, whole where it is sharded; not to be changed."""
        return self._tensors.optimizer_state

    def gather(self, *, optimizer_state: bool = False) -> None:
        """Take in parameters and buffers now; where they are sharded all processes must do that together.

        What is measured afterwards needs no other process.

        Args:
            optimizer_state: Whether to take in the optimizers' state, too.
        """
        self._tensors.gather()
        if optimizer_state:
            _ = self.optimizer_state

    def on(self, batches: Batches | None, task: Task | None = None) -> Snapshot:
        """The same network at the same moment, on other data; for snapshots that observe.

        Args:
            batches: The data.
            task: How the network is run and judged on them; by default as here.
        """
        other = Snapshot(
            self.model,
            batches,
            task=task or self.task,
            initial=self._initial,
            live=self._live,
            chunk_size=self._chunk_size,
            optimizers=self.optimizers,
        )
        self.gather()
        other._tensors, other._execution = self._tensors, self._execution
        return other

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Snapshot:
        """The same network on the same batch, with others in the place of some parameters and buffers.

        Nothing computed is shared with it. Of a differentiable snapshot it is differentiable in these tensors.

        Args:
            tensors: By the names of the parameters and buffers.
        """
        other = copy.copy(self)
        other._memo, other._outputs, other.on_asked = {}, None, None
        other.__dict__.pop("at_initialization", None)
        other._tensors = self._tensors.replacing(tensors, differentiable=self.differentiable)
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
            tensors = self._tensors.stand_ins(records=False, dtype=None, is_mixed=False)
            try:
                self._execution.run(lambda model: called(model, self.task)(sample), tensors)
            except MeasureError:
                return False
        return True

    @cached_property
    def _time_first(self) -> dict[str, nn.Module]:
        return time_first_modules(self.model)

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
            return function(self.model, self._tensors.stand_in_of)
        return self._run(
            lambda model: function(model, lambda tensor: tensor),
            records=self.differentiable,
            dtype=None,
            is_mixed=False,
        )

    def run(
        self,
        function: Callable[[nn.Module], Result],
        *,
        records: bool = False,
        dtype: torch.dtype | None = None,
        once: bool = False,
    ) -> Result:
        """Call ``function(model)`` with copies of this snapshot's parameters and of the rest in the model.

        Args:
            function: Anything that reads or calls the model, ``model(inputs)`` being what the snapshot's ``forward``
                gives.
            records: Whether an observing snapshot records gradients for its parameters.
            dtype: Precision of parameters and buffers, if not their own.
            once: Whether an observing snapshot takes no second derivative of what the function returns: attention then
                uses the kernels of training.

        Returns:
            What the function returns.
        """
        records = self.differentiable or records
        return self._run(function, records=records, dtype=dtype, is_mixed=self.is_mixed, once=once)

    def _run(
        self,
        function: Callable[[nn.Module], Result],
        *,
        records: bool,
        dtype: torch.dtype | None,
        is_mixed: bool,
        once: bool = False,
    ) -> Result:
        with self.opened(), torch.set_grad_enabled(records):
            tensors = self._tensors.stand_ins(records=records, dtype=dtype, is_mixed=is_mixed)
            model = called(self.model, self.task, self._time_first)
            return self._execution.run(lambda _: function(model), tensors, once=once and not self.differentiable)

    def run_one(self, function: Callable[[nn.Module, Any], Result]) -> Result:
        """Call ``function(model, inputs)`` with one sample, where numbers do not matter.

        BatchNorm that would take its statistics from this sample runs with others.
        """
        sample = next(chunks(self.inputs, 1))
        with FrozenStatistics():
            return self.run(lambda model: function(model, sample))

    def run_chunks(
        self, function: Callable[[nn.Module, Any], Result], inputs: Any = None, *, once: bool = False
    ) -> Iterator[Result]:
        """Call ``function(model, inputs)`` on each chunk of the batch, or of other inputs, see :meth:`run`."""
        for (x,) in self.chunks(self.inputs if inputs is None else inputs):
            yield self.run(partial(_called_with, function, x), once=once)

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
        return self.at(self.initial)

    def at(self, state: Mapping[str, Tensor]) -> Snapshot:
        """The same network on the same data with other parameters and buffers, for snapshots that observe.

        Args:
            state: Some or all of them, by name. They are shared until something writes to them.
        """
        return self._at(state, differentiable=False)

    def _at(self, state: Mapping[str, Tensor], *, differentiable: bool) -> Snapshot:
        other = self._on(self._inputs if self.batches is None else self.batches, self._targets)
        other._initial, other.differentiable = self._initial, differentiable
        other.__dict__.update(is_mixed=self.is_mixed)
        other._tensors = self._tensors.replacing(state, differentiable=differentiable)
        return other

    def moved(self, parameters: Mapping[str, Tensor], *, differentiable: bool = False) -> Snapshot:
        """The same network on the same batch with other parameters.

        Args:
            parameters: By name; those that are not named stay.
            differentiable: Whether what is computed there is a function of these tensors.
        """
        other = self._at(parameters, differentiable=differentiable)
        other.order = self.order
        return other

    def pieces(self, count: int) -> Iterator[Snapshot]:
        """The same network at the same moment on some samples at a time; nothing computed is shared with them.

        Args:
            count: At most how many samples in each; batches that cannot be cut stay whole.
        """
        if self.batches is None:
            found = (self._on(*piece) for piece in chunks((self._inputs, self._targets), count))
        else:
            cut = replace(self.batches, at_once=count).pieces()
            found = (self._on(Batches((batch,), (size,)), None) for batch, size in cut)
        for piece in found:
            piece._initial = self._initial
            yield piece

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
        piece._initial, piece._live = self._initial, self._live
        return piece

    def _on(self, inputs: Any, targets: Any) -> Snapshot:
        targets = None if isinstance(inputs, Batches) else targets
        snapshot = Snapshot(
            self.model, inputs, targets, task=self.task, chunk_size=self._chunk_size, optimizers=self.optimizers
        )
        snapshot._execution = self._execution
        snapshot._tensors = self._tensors.replacing({}, differentiable=False)
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


def _called_with(function: Callable[[nn.Module, Any], Result], inputs: Any, model: nn.Module) -> Result:
    return function(model, inputs)
