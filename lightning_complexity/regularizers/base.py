"""A penalty: a strength times what a metric measures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_complexity.metrics.base import ComplexityMetric, LayerMetric
from lightning_complexity.network import LayerChoice, LossFunction, Snapshot, initial_state
from lightning_complexity.network.choice import owners
from lightning_complexity.network.running.sharding import is_sharded


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
        layers: Which layers are penalised, see :meth:`on`; ``None`` for all.
        initial: Parameters that distances are measured from, where the metric needs them: those of the first
            call, unless set before (see :func:`lightning_complexity.network.initial_state`).

    Example:
        >>> from lightning_complexity import metrics
        >>> net = nn.Linear(3, 2)
        >>> penalty = Regularizer(0.1, metrics.ParameterNorm())
        >>> penalty(net).backward()
        >>> net.weight.grad.shape
        torch.Size([2, 3])
    """

    def __init__(self, strength: float, metric: ComplexityMetric) -> None:
        if not math.isfinite(strength):
            raise ValueError(f"strength must be finite, got {strength!r}.")
        super().__init__()
        self.strength = strength
        self.metric = metric
        self.initial: Mapping[str, Tensor] | None = None
        self.layers: LayerChoice | None = None
        self._warned, self._calls = False, 0
        self._vectors: dict[str, Tensor] = {}  # of the last call, so that the next need not start anew

    def progress(self) -> dict[str, Any]:
        """What a continued run needs to go on as if it had not been interrupted: tensors on the CPU, and numbers."""
        initial = None if self.initial is None else {name: t.cpu() for name, t in self.initial.items()}
        vectors = {name: t.cpu() for name, t in self._vectors.items()}
        return {"initial": initial, "vectors": vectors, "calls": self._calls}

    def resume(self, progress: Mapping[str, Any]) -> None:
        """Continue from what :meth:`progress` gave."""
        self.initial, self._vectors = progress["initial"], dict(progress["vectors"])
        self._calls = progress["calls"]

    @property
    def name(self) -> str:
        """The log key, ``penalty/<name>``."""
        return self.metric.name

    def on(self, *layers: str | type[nn.Module]) -> Self:
        """Penalise some layers only.

        Args:
            layers: Module types, or patterns with ``*`` of the names of modules or parameters. A layer counts that
                fits any of them.

        Returns:
            This regularizer.

        Raises:
            TypeError: If a layer is given as something else.
            ValueError: Without layers, or if the measure has no value for a layer.

        Example:
            >>> from lightning_complexity import regularizers
            >>> penalty = regularizers.ParameterNorm(0.1).on("encoder.*", nn.Conv2d)
        """
        if not isinstance(self.metric, LayerMetric):
            raise ValueError(f"{type(self).__name__} belongs to the network as a whole and has no layers to choose.")
        if not layers:
            raise ValueError('needs layers, such as "encoder.*" or torch.nn.Conv2d.')
        for layer in layers:
            if not isinstance(layer, str) and not (isinstance(layer, type) and issubclass(layer, nn.Module)):
                raise TypeError(f"a layer is chosen by a name pattern or a module type, got {layer!r}.")
        patterns = tuple(layer for layer in layers if isinstance(layer, str))
        self.layers = LayerChoice(patterns, tuple(layer for layer in layers if not isinstance(layer, str)))
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
        model: nn.Module,
        inputs: Any = None,
        targets: Any = None,
        *,
        outputs: Tensor | None = None,
        loss: LossFunction | None = None,
    ) -> Tensor:
        """The penalty.

        Args:
            model: The network that is trained.
            inputs: The batch, where the metric needs it.
            targets: Its targets, where the metric needs them.
            outputs: What ``model`` gave for ``inputs``, to save the second forward pass; for a Jacobian ``inputs`` must
                have required grad then, and attention must have run under ``torch.nn.attention.sdpa_kernel`` with
                ``SDPBackend.MATH``. The penalty is then that of the network as it ran, dropout included.
            loss: Mean loss from outputs and targets, where the metric needs it; default cross-entropy.

        Returns:
            0-d.

        Raises:
            MissingInputError: If something that the metric needs is missing.
            ValueError: If ``outputs`` are given of a network that ``fully_shard`` has sharded.
        """
        if self.strength == 0 or self._nothing_chosen(model):
            return torch.zeros((), dtype=_dtype(model), device=_device(model))
        if outputs is not None and is_sharded(model):
            raise ValueError(
                "outputs= cannot be used with a network that fully_shard has sharded: it frees the parameters that "
                "outputs were computed from. Leave it out."
            )
        if "initial" in self.metric.needs and self.initial is None:
            self.initial = initial_state(model)
        snapshot = Snapshot(
            model,
            inputs,
            targets,
            loss=loss,
            initial=self.initial,
            live=True,
            outputs=outputs,
            seed=self._calls,
            vectors=self._vectors,
            layers=self.layers,
        )
        self.metric.check(snapshot)
        with torch.inference_mode(False), torch.autocast(_device(model).type, enabled=False):
            value = self.strength * self.metric.measure(snapshot)
        self._calls += 1
        value = value.to(_dtype(model))
        return value if torch.is_grad_enabled() else value.detach()

    def extra_repr(self) -> str:
        """Show the strength."""
        return f"strength={self.strength}"


def _dtype(model: nn.Module) -> torch.dtype:
    """At least single precision, as the measures have, and not more than the network's."""
    double = any(p.dtype == torch.float64 for p in model.parameters())
    return torch.float64 if double else torch.float32


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
