"""Hold the optimizers' steps below a share of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from lightning_complexity.callbacks.base import Callback, LightningModule, Trainer
from lightning_complexity.callbacks.order import put_in_order
from lightning_complexity.network.running.sharding import local_part, norms_over_parts


class UpdateRatioLimit(Callback):
    r"""Shorten each step of the optimizers for each weight matrix, so that it changes no more than a share of it.

    .. math:: \theta_{t+1} = \theta_t + \min\!\Big(1,\ \lambda \frac{\|\theta_t\|}{\|\Delta\|}\Big) \Delta

    for the update :math:`\Delta` that the optimizer makes, weight decay included. This is what
    :class:`lightning_complexity.metrics.UpdateRatio` measures by layer. It changes the step and not the loss: an update
    is no function of the network that a penalty could have a gradient of. It acts as a smaller learning rate for
    those layers alone for which it is too large, after clipping, with any optimizer, several of them, accumulation,
    mixed precision and manual optimization; on several processes each does the same, and where parameters are sharded
    (FSDP2) norms are those of whole ones. An optimizer's own state, such as
    momentum, does not see it. Limited are parameters with two dimensions or more that are not zero; biases and scales
    are not, as they may start at zero.

    Args:
        limit: Largest ratio of the norms of update and weights, above 0.

    Attributes:
        shortened: Share of the steps of single parameters that were shortened, ``nan`` before the first. It is in
            checkpoints, and goes on after a resume.

    Raises:
        ValueError: If the limit is not above 0 and finite.

    Example:
        >>> limit = UpdateRatioLimit(1e-2)
        >>> # Trainer(callbacks=[limit]).fit(model)
    """

    order_among_callbacks = 1

    def __init__(self, limit: float = 1e-2) -> None:
        if not 0 < limit < math.inf:
            raise ValueError(f"limit must be above 0 and finite, got {limit!r}.")
        self.limit = limit
        self._handles: list[Any] = []
        self._before: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._lazy: set[int] = set()
        self._steps, self._shortened = 0, torch.zeros((), dtype=torch.long)

    @property
    def shortened(self) -> float:
        """Share of the steps of single parameters that were shortened."""
        return float(self._shortened) / self._steps if self._steps else math.nan

    def state_dict(self) -> dict[str, int]:
        """How many steps of single parameters there were, and how many were shortened."""
        return {"steps": self._steps, "shortened": int(self._shortened)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on counting."""
        self._steps, self._shortened = state_dict["steps"], torch.tensor(state_dict["shortened"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come before monitors, which then see the steps as they are taken."""
        if stage == "fit":
            put_in_order(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the optimizers' steps."""
        self._release()
        for optimizer in trainer.optimizers:
            self._handles += [
                optimizer.register_step_pre_hook(self._keep),
                optimizer.register_step_post_hook(self._shorten),
            ]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch them no longer."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Watch them no longer."""
        self._release()

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._before, self._lazy = [], {}, set()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Keep the weights of lazy layers, which have none before the first forward pass, that a step may run."""
        if id(optimizer) in self._lazy:
            self._keep(optimizer)

    @torch.no_grad()
    def _keep(self, optimizer: Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        there = [p for p in parameters if not isinstance(p, UninitializedParameter)]
        self._before[id(optimizer)] = [(p, local_part(p).clone()) for p in there if p.ndim > 1]
        self._lazy = self._lazy - {id(optimizer)} if len(there) == len(parameters) else self._lazy | {id(optimizer)}

    @torch.no_grad()
    def _shorten(self, optimizer: Optimizer, *_: Any) -> None:
        for parameter, before in self._before.pop(id(optimizer), []):
            start = before.to(torch.promote_types(before.dtype, torch.float32))  # in which norms do not overflow
            part = local_part(parameter)
            update = part - start
            norms = torch.stack([torch.linalg.vector_norm(update), torch.linalg.vector_norm(start)])
            size, of_weights = norms_over_parts(norms, [parameter, parameter])
            room = self.limit * of_weights
            is_long = (size > room) & (room > 0)
            part.copy_(torch.where(is_long, start + update * (room / size), part))
            self._shortened = self._shortened.to(is_long.device) + is_long
            self._steps += 1
