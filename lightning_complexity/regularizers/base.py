"""A penalty: a strength times what a metric measures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import ForwardFunction, LayerChoice, LossFunction, Snapshot, Task, initial_state
from lightning_complexity.network.running.sharding import is_sharded
from lightning_complexity.network.weights.choice import owners
from lightning_complexity.regularizers.measure import TrainedMeasure, snapshot_for


class Regularizer(nn.Module):
    """``strength`` times what ``metric`` measures, differentiable, to be added to a loss.

    The network is seen as the metric sees it: in evaluation mode, without dropout, with running statistics.
    Calling it changes nothing but the gradients of what is computed from the result: not the network's
    buffers, modes or random state. It has no parameters and no buffers, so that a checkpoint of a module that holds
    one loads without it. It is computed in at least single precision, also under autocast. Spectral norms after the
    first call start from the singular vectors of the call before, see
    :func:`lightning_complexity.functional.warm_started_spectral_norm`. A callback keeps them in its checkpoints; a run
    that is resumed without a callback computes them anew, unless it keeps :meth:`progress`.

    Args:
        strength: Factor, finite; may be changed between calls. With 0 nothing is computed.
        metric: What is penalised.

    Attributes:
        measure: What is penalised, without the strength, and what its next value goes on from.
        example_strength: A strength at which it lowers the measure in a short training on digits, at about the same
            accuracy; each class of penalty has one.

    Example:
        >>> from lightning_complexity import metrics
        >>> net = nn.Linear(3, 2)
        >>> penalty = Regularizer(0.1, metrics.ParameterNorm())
        >>> penalty(net).backward()
        >>> net.weight.grad.shape
        torch.Size([2, 3])
    """

    example_strength: ClassVar[float]

    def __init__(self, strength: float, metric: ComplexityMetric) -> None:
        if not math.isfinite(strength):
            raise ValueError(f"strength must be finite, got {strength!r}.")
        super().__init__()
        self.strength = strength
        self.measure = TrainedMeasure(metric)
        self._warned = False

    def progress(self) -> dict[str, Any]:
        """What a continued run needs to go on as if it had not been interrupted: tensors on the CPU, and numbers."""
        return self.measure.progress()

    def resume(self, progress: Mapping[str, Any]) -> None:
        """Continue from what :meth:`progress` gave."""
        self.measure.resume(progress)

    @property
    def metric(self) -> ComplexityMetric:
        """What is penalised."""
        return self.measure.metric

    @property
    def layers(self) -> LayerChoice | None:
        """Which layers are penalised, see :meth:`on`; ``None`` for all."""
        return self.metric.layers_chosen

    @property
    def initial(self) -> Mapping[str, Tensor] | None:
        """Parameters that distances are measured from, where the metric needs them.

        Those of the first call, unless set before (see :func:`lightning_complexity.network.initial_state`).
        """
        return self.measure.initial

    @initial.setter
    def initial(self, state: Mapping[str, Tensor] | None) -> None:
        self.measure.initial = state

    @property
    def name(self) -> str:
        """The log key, ``penalty/<name>``."""
        return self.metric.name

    def on(self, *layers: str | type[nn.Module]) -> Self:
        """Penalise some layers only.

        Args:
            layers: Module types, or patterns with ``*`` of the names of modules or parameters. A layer counts that
                fits any of them. The gradient of the penalty reaches the parameters of these layers alone.

        Returns:
            This regularizer.

        Raises:
            TypeError: If a layer is given as something else.
            ValueError: Without layers, or if the measure has none to choose.

        Example:
            >>> from lightning_complexity import regularizers
            >>> penalty = regularizers.ParameterNorm(0.1).on("encoder.*", nn.Conv2d)
        """
        self.metric.on(*layers)
        return self

    def _nothing_chosen(self, model: nn.Module) -> bool:
        if self.layers is None or any(self.layers(name, module) for name, module in owners(model).items()):
            return False
        if not self._warned:
            warnings.warn(f"{type(self).__name__} penalises nothing: no layer fits {self.layers}.", stacklevel=3)
            self._warned = True
        return True

    def forward(
        self,
        model: nn.Module | Snapshot,
        inputs: Any = None,
        targets: Any = None,
        *,
        outputs: Any = None,
        task: Task | None = None,
        loss: LossFunction | None = None,
        forward: ForwardFunction | None = None,
        class_dim: int | None = None,
        wrt: str | None = None,
    ) -> Tensor:
        """The penalty.

        Args:
            model: The network that is trained; or a differentiable snapshot of it that several penalties share, which
                brings the rest with it, see :func:`lightning_complexity.regularizers.snapshot_for`.
            inputs: The batch, where the metric needs it.
            targets: Its targets, where the metric needs them, or a function of the batch that gives them.
            outputs: What ``model`` gave for ``inputs``, to save the second forward pass; for a Jacobian ``inputs`` must
                have required grad then, and attention must have run under ``torch.nn.attention.sdpa_kernel`` with
                ``SDPBackend.MATH``. The penalty is then that of the network as it ran, dropout included.
            task: How the batch becomes outputs and a loss, see :class:`lightning_complexity.network.Task`.
            loss: Loss of the batch from outputs and targets, or from module and batch; default cross-entropy.
            forward: Outputs from model and inputs, or from module and batch; default ``model(inputs)``.
            class_dim: Dimension of the outputs along which classes lie, where shapes do not tell.
            wrt: Name of a submodule: Jacobians are those for what enters it.

        Returns:
            0-d.

        Raises:
            MissingInputError: If something that the metric needs is missing.
            MeasureError: If the metric has no value on this network.
            ValueError: If ``outputs`` are given of a network that ``fully_shard`` has sharded.
        """
        network = model.model if isinstance(model, Snapshot) else model
        if self.strength == 0 or self._nothing_chosen(network):
            return torch.zeros((), dtype=_dtype(network), device=_device(network))
        if outputs is not None and is_sharded(network):
            raise ValueError(
                "outputs= cannot be used with a network that fully_shard has sharded: it frees the parameters that "
                "outputs were computed from. Leave it out."
            )
        if isinstance(model, Snapshot):
            return self._penalty(model)
        if "initial" in self.metric.needs and self.initial is None:
            self.initial = initial_state(model)
        task = (task or Task()).updated(loss=loss, forward=forward, class_dim=class_dim, wrt=wrt)
        options: dict[str, Any] = {"task": task, "initial": self.initial, "outputs": outputs}
        return self._penalty(snapshot_for([self.measure], model, inputs, targets, **options))

    def _penalty(self, snapshot: Snapshot) -> Tensor:
        value = (self.strength * self.measure(snapshot)).to(_dtype(snapshot.model))
        return value if torch.is_grad_enabled() else value.detach()

    def __repr__(self) -> str:
        """How it is written, such as ``PathNorm(0.1, q=1)``."""
        name, metric = type(self).__name__, repr(self.metric)
        if name != type(self.metric).__name__:
            return f"{name}({self.strength!r}, {metric})"
        arguments = metric.removeprefix(f"{name}(")
        return f"{name}({self.strength!r}{'' if arguments.startswith(')') else ', '}{arguments}"


def _dtype(model: nn.Module) -> torch.dtype:
    """At least single precision, as the measures have, and not more than the network's."""
    double = any(p.dtype == torch.float64 for p in model.parameters())
    return torch.float64 if double else torch.float32


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
