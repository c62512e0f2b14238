"""A penalty: a strength times what a metric measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.network import LossFunction, Snapshot, initial_state


class Regularizer(nn.Module):
    """``strength`` times what ``metric`` measures, differentiable, to be added to a loss.

    The network is seen as the metric sees it: in evaluation mode, without dropout, with running statistics.
    Calling it changes nothing but the gradients of what is computed from the result: not the network's
    buffers, modes or random state. It has no parameters and no buffers, so that a checkpoint of a module that holds
    one loads without it. It is computed in at least single precision, also under autocast.

    Args:
        strength: Factor, finite; may be changed between calls. With 0 nothing is computed.
        metric: What is penalised.

    Attributes:
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
        self._calls = 0
        self._vectors: dict[str, Tensor] = {}  # of the last call, so that the next need not start anew

    @property
    def name(self) -> str:
        """The log key, ``penalty/<name>``."""
        return self.metric.name

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
            outputs: What ``model`` gave for ``inputs``, to save the second forward pass; ``inputs`` must have required
                grad then. The penalty is then that of the network as it ran, dropout included.
            loss: Mean loss from outputs and targets, where the metric needs it; default cross-entropy.

        Returns:
            0-d.

        Raises:
            MissingInputError: If something that the metric needs is missing.
        """
        if self.strength == 0:
            return next((p.new_zeros(()) for p in model.parameters()), torch.zeros(()))
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
        )
        self.metric.check(snapshot)
        with torch.inference_mode(False), torch.autocast(_device_type(model), enabled=False):
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


def _device_type(model: nn.Module) -> str:
    return next((p.device.type for p in model.parameters()), "cpu")
