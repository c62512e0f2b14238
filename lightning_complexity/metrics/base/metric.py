"""What every complexity metric has in common: how a value is read off a network and accumulated."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors
from typing_extensions import Self

from lightning_complexity.metrics.base.curves import Curve, draw_curve
from lightning_complexity.metrics.base.shares import synchronize
from lightning_complexity.metrics.base.written import written
from lightning_complexity.network import (
    Context,
    ForwardFunction,
    LayerChoice,
    LiveSteps,
    LossFunction,
    MissingInputError,
    NothingMeasuredError,
    Snapshot,
    Task,
)
from lightning_complexity.network.errors import errors_of
from lightning_complexity.network.running.ranks import Ranks, in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Need = Literal["inputs", "targets", "loss", "initial", "live"]
Cost = Literal["weights", "forward", "backward", "hessian", "sampling"]
Suite = Literal["fast", "standard", "full"]


def latest(gathered: Tensor) -> Tensor:
    """Reduce equal values from all ranks to one."""
    return gathered[-1]


class ComplexityMetric(Metric, ABC):
    """A number that says how complex a network is.

    A subclass says what the number is by :meth:`measure`. ``update`` takes a network (or a
    :class:`lightning_complexity.network.Snapshot`), measures it without changing it, and keeps the value;
    ``compute`` returns it. A metric that does not depend on samples keeps the last value. Calling the metric
    updates it and returns the value of this batch alone. A ``MetricCollection`` must be built with
    ``compute_groups=False``, since it otherwise merges metrics that happen to have equal values at first.
    Several updates count by their samples: where the loss is no mean over samples (class weights, ignored targets in
    unequal numbers, a sum) they do not give the value of one big batch; give all samples at once then.

    Args:
        per_layer: Whether ``compute`` returns a dictionary of the layers' values.

    Attributes:
        name: The log key, ``complexity/<name>``.
        needs: What ``update`` must be given beside the network.
        cost: The most expensive thing that measuring takes.
        order: Highest derivative of the network that measuring takes.
        differentiates_inputs: Whether that is a derivative for the inputs.
        reads_samples: Whether the value depends on the samples, and not on their shape alone.
        reads_optimizers: Whether it depends on the optimizers' state, which is gathered for it where it is sharded.
        increases_with_complexity: ``True``, ``False``, or ``None`` where there is no such direction.
        units: What the value counts or is measured in, of a logarithm what it is taken of: ``"output / input"``,
            ``"bytes / sample"``, ``"pure number"``. See :meth:`in_units`.
        has_layers: Whether the metric has a value for each layer.
        chooses_layers: Whether :meth:`on` can choose among the layers.
        is_logarithm: Whether the value is a logarithm; its name then starts with ``log_``.
        single_update_reason: Why the values of several batches say nothing about that of all of them, for a metric
            that therefore refuses a second ``update`` before ``reset``; ``None`` for all others.
        no_penalty_reason: Why there is no regularizer of this name; ``None`` where there is one.
        suite: The smallest suite that it is part of, ``None`` for none.
        formula: The formula in LaTeX.
        reference: Where the measure comes from.
        misleads_when: Where its value says something else than how the network generalizes.
        layers_chosen: Which layers count, see :meth:`on`; ``None`` for all.
        has_measured: Whether something was measured since ``reset``.
        failure: Why an update since ``reset`` has failed, which other processes must know; ``None`` if none has.
    """

    name: str
    needs: frozenset[Need] = frozenset()
    cost: Cost = "weights"
    order: int = 0
    differentiates_inputs: ClassVar[bool] = False
    reads_samples: bool = True
    reads_optimizers: bool = False
    increases_with_complexity: ClassVar[bool | None] = True
    units: str = ""
    has_layers: ClassVar[bool] = False
    chooses_layers: ClassVar[bool] = False
    is_logarithm: bool = False
    single_update_reason: str | None = None
    no_penalty_reason: ClassVar[str | None] = None
    suite: ClassVar[Suite | None] = "full"
    formula: ClassVar[str]
    reference: ClassVar[str]
    misleads_when: ClassVar[str]

    has_measured: bool
    failure: str | None

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    def __init__(self, *, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if per_layer and not self.has_layers:
            raise ValueError(
                f"{type(self).__name__}(per_layer=True): this measure belongs to the network as a whole "
                "and has no value for a layer. Leave per_layer out."
            )
        self.per_layer = per_layer
        self.layers_chosen: LayerChoice | None = None
        self._notes: dict[str, Any] = {}
        self.has_measured, self.failure = False, None
        self._others_have_measured = False
        self._prepare_state()

    # What a subclass says ------------------------------------------------------------------------

    @abstractmethod
    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The value on one snapshot, 0-d, differentiable where the snapshot is."""

    value: Tensor

    def _prepare_state(self) -> None:
        self.add_state("value", torch.tensor(torch.nan), dist_reduce_fx=latest)

    def add_note(self, name: str, default: Any) -> None:
        """Add an attribute that is no tensor and that ``reset`` sets back, such as names of layers."""
        self._notes[name] = default
        setattr(self, name, copy.copy(default))

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add a snapshot to the state."""
        self.value = self.measure(snapshot, context).detach()

    def samples_used(self, available: int) -> int:
        """How many of the samples measuring takes time for; forecasts of its time grow with them."""
        return available

    def total(self) -> Tensor:
        """The value of all that was measured, 0-d."""
        return self.value

    def parts(self) -> dict[str, Tensor]:
        """What the value splits into, by name; empty where it does not."""
        return {}

    def details(self) -> dict[str, Tensor]:
        """What is logged beside the value, such as its standard error, by name; vectors are shown as distributions."""
        return {}

    @property
    def splits(self) -> bool:
        """Whether ``compute`` returns the parts."""
        return self.per_layer

    def histograms(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Distributions behind the value, for loggers that can draw them; cheap after ``update``."""
        return {}

    def figures(self, snapshot: Snapshot) -> dict[str, Figure]:
        """Pictures of what was measured, for loggers that can show them; needs matplotlib, cheap after ``update``.

        Those of :meth:`curves`, unless a subclass draws others. Their keys are others than those of :meth:`report`.
        """
        return {f"{self.name}/{key}": draw_curve(*curve) for key, curve in self.curves(snapshot).items()}

    def curves(self, snapshot: Snapshot) -> dict[str, Curve]:
        """Curves behind the value, such as a density over a grid, by name; cheap after ``update``."""
        return {}

    # What a user calls ---------------------------------------------------------------------------

    def on(self, *layers: str | type[nn.Module]) -> Self:
        """Measure some layers only.

        Args:
            layers: Module types, or patterns with ``*`` of the names of modules or parameters. A layer counts that
                fits any of them.

        Returns:
            This metric.

        Raises:
            TypeError: If a layer is given as something else.
            ValueError: Without layers, or if there are none to choose.

        Example:
            >>> from lightning_complexity import metrics
            >>> metric = metrics.ParameterNorm().on("encoder.*", nn.Conv2d)
        """
        if not self.chooses_layers:
            why = (
                "its layers are those of the data's way through the network; see them with per_layer=True"
                if self.has_layers
                else "it belongs to the network as a whole"
            )
            raise ValueError(f"{type(self).__name__} has no layers to choose: {why}.")
        self.layers_chosen = LayerChoice.of(layers)
        return self

    def update(
        self,
        model: nn.Module | Snapshot,
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
        optimizer: Optimizer | Iterable[Optimizer] = (),
    ) -> None:
        """Measure a network.

        Args:
            model: The network, or a snapshot that other metrics share; the snapshot brings the rest with it.
            inputs: A batch of inputs, where the metric ``needs`` them; a batch as a loader gives it, where ``forward``
                or ``loss`` takes one.
            targets: Their targets, or a function of the batch that gives them.
            task: How the batch becomes outputs and a loss, see :class:`lightning_complexity.network.Task`.
            loss: Loss of a batch from outputs and targets, or from module and batch; default cross-entropy.
            forward: Outputs from model and inputs, or from module and batch; default ``model(inputs)``.
            class_dim: Dimension of the outputs along which classes lie, where shapes do not tell.
            wrt: Name of a submodule: Jacobians are those for what enters it.
            initial: State at the start, see :func:`lightning_complexity.network.initial_state`.
            live: What follows the optimizers, see :class:`lightning_complexity.network.LiveSteps`.
            optimizer: What trains the network, one or several, for measures of its next step; only read.

        Raises:
            MissingInputError: If something that the metric needs is missing.
            MeasureError: If the metric has no value on this network.
            ValueError: At a second call, if the metric takes one snapshot.
        """
        if self.single_update_reason is not None and self.has_measured:
            raise ValueError(
                f"{type(self).__name__} takes one snapshot, since {self.single_update_reason}. "
                "Give it all samples at once, or call reset() before the next."
            )
        options: dict[str, Any] = {"loss": loss, "forward": forward, "class_dim": class_dim, "wrt": wrt}
        try:
            snapshot = (
                model
                if isinstance(model, Snapshot)
                else Snapshot(
                    model, inputs, targets, task=task, initial=initial, live=live, optimizers=optimizer, **options
                )
            )
            self.check(snapshot)
            with snapshot.opened(), self.explained():
                self.accumulate(snapshot, Context(layers=self.layers_chosen))
        except Exception as error:
            self.failure = in_words(error)
            raise
        self.has_measured = True

    def check(self, snapshot: Snapshot) -> None:
        """Raise an error if the snapshot lacks what this metric needs."""
        needs = self.needs - {"targets"} if self.needs_loss_alone(snapshot) else self.needs
        missing = sorted(need for need in needs if not snapshot.has(need))
        if missing:
            raise MissingInputError(
                f"{type(self).__name__} needs {' and '.join(missing)}; pass {', '.join(f'{m}=...' for m in missing)}.",
                missing,
            )

    def needs_loss_alone(self, snapshot: Snapshot) -> bool:
        """Whether targets are needed for the loss alone, which takes whole batches itself."""
        return "loss" in self.needs and snapshot.task.judges_batches

    def explained(self) -> AbstractContextManager[None]:
        """Let errors inside name this metric, and be none of torch's or Python's own."""
        return errors_of(type(self).__name__, self.order)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Update, and return the value of this batch alone."""
        if self.single_update_reason is None:
            return super().forward(*args, **kwargs)
        self.update(*args, **kwargs)
        self._to_sync = self.dist_sync_on_step
        try:
            value: Any = self.compute()
        finally:
            self._to_sync, self._computed = True, None
        self._forward_cache = value
        return value

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None) -> None:
        if dist_sync_fn is not gather_all_tensors:
            super()._sync_dist(dist_sync_fn, process_group)
            return
        try:
            self._others_have_measured = synchronize(self, Ranks.of(process_group or self.process_group))
        except Exception:
            self._cache = None
            raise

    @contextmanager
    def sync_context(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Have the states of all processes inside the block; also after an error, those of this one behind it."""
        context = super().sync_context(*args, **kwargs)
        with context:
            try:
                yield
            except Exception:
                self.unsync(should_unsync=self._is_synced)
                raise

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        # torchmetrics stacks the old state and the new one, which may have another shape.
        kept = {name: getattr(self, name) for name, reduction in self._reductions.items() if reduction is latest}
        super()._reduce_states({**incoming_state, **kept})

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The value, 0-d; with ``per_layer=True`` a dictionary of the layers' values.

        Raises:
            NothingMeasuredError: Before ``update``.
            MeasureError: If an update has failed on any of several processes.
        """
        self._check_measured()
        return self.parts() if self.splits else self.total()

    def report(self) -> dict[str, Tensor]:
        """Everything there is to log, by log key without prefix: the value, its parts, its standard error.

        Raises:
            NothingMeasuredError: Before ``update``.
        """
        total, details, parts = self._everything()
        return {self.name: total, **{f"{self.name}/{key}": value for key, value in {**details, **parts}.items()}}

    def _everything(self) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The value, its details and, where ``compute`` returns them, its parts, of all processes."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        ):
            self._check_measured()
            return self.total(), self.details(), self.parts() if self.splits else {}

    def plot(self, val: Any = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw the value, with a bar of one standard error where it has one.

        A number is a point, the layers of a network are points from top to bottom, a list is a curve or one for each
        layer. Vectors, such as what :meth:`histograms` returns, are drawn from their largest entry to their smallest.
        What is not finite is written as such, or left out of a curve.

        Args:
            val: What ``compute``, ``forward``, ``report`` or ``histograms`` has returned, or a list of that, in the
                order of time; only ``report`` has standard errors. Default: what was measured.
            ax: Axes to draw into; default new ones, in a figure of ``matplotlib.pyplot``.

        Returns:
            Figure and axes.

        Raises:
            NothingMeasuredError: Before ``update``, without ``val``.
            ImportError: Without matplotlib.
            TypeError: If ``val`` is something else.
            ValueError: If it is an empty list or a list of vectors.

        Example:
            >>> from lightning_complexity.metrics import StableRank
            >>> metric = StableRank(per_layer=True)
            >>> metric.update(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
            >>> figure, axes = metric.plot()
            >>> axes.get_xlabel()
            'stable_rank [directions]'
        """
        from lightning_complexity.metrics.base.drawing import draw, new_axes, of_parts

        if val is None:
            val = of_parts(*self._everything())
        axes = new_axes() if ax is None else ax
        draw(self, val, axes)
        return cast("Figure", axes.figure), axes

    def _repr_html_(self) -> str:
        """In a notebook: how it is written, and what was measured on this process."""
        from lightning_complexity.metrics.base.drawing import in_notebook

        measured = (self.total(), self.details(), self.parts() if self.splits else {}) if self.has_measured else None
        return in_notebook(self, measured)

    def _check_measured(self) -> None:
        if not (self.has_measured or (self._is_synced and self._others_have_measured)):
            raise NothingMeasuredError(f"{type(self).__name__}: nothing measured yet; call update(model, ...) first.")

    def __repr__(self) -> str:
        """How it is written, such as ``PathNorm(q=1).on('encoder.*')``."""
        return written(self, Metric) + ("" if self.layers_chosen is None else f".on({self.layers_chosen!r})")

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        for name, default in self._notes.items():
            setattr(self, name, copy.copy(default))
        self.has_measured, self.failure = False, None
