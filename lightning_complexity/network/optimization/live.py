"""What a training does at each step, read off its optimizers while it trains, without a pass of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.optimization.weight_trajectory import WeightTrajectory
from lightning_complexity.network.running.sharding import local_part, norms_over_parts, reshard, sums_over_parts

_PENDING = 256
_MOMENTS = itertools.count(1)
_KEPT = (
    "_steps",
    "_counted",
    "_length",
    "_closed",
    "gradient_norms",
    "update_norms",
    "weight_norms",
    "update_products",
)


class LiveSteps:
    """Follows optimizers: norms of gradients, weights and updates, the length of the path, and the losses.

    Reads what is there anyway: gradients as the optimizer has used them (after accumulation, unscaling and clipping),
    weights before and after its step. Nothing of the training changes. One of ``every`` steps is looked at, and the one
    before it, for their angle; so a step costs ``2 / every`` copies of the parameters in time, and two in memory while
    it looks. Where parameters are sharded (FSDP2), processes add up the numbers of their parts.

    Args:
        model: What is trained.
        every: How many steps of an optimizer one that is looked at stands for; with 1 the path is exact.
        trajectory: Keeps places of the weights; none by default.

    Attributes:
        losses: The losses so far, see :class:`StepLosses`.
        trajectory: The last places of the weights, where they are kept.

    Raises:
        ValueError: If ``every`` is less than 1.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        >>> live = LiveSteps(net, every=1).follow([optimizer])
        >>> net.weight.grad = torch.tensor([[3.0]])
        >>> optimizer.step()
        >>> live.gradient_norms["weight"], live.path_length
        (tensor(3.), tensor(1.5000, dtype=torch.float64))
        >>> live.release()
    """

    def __init__(self, model: nn.Module, every: int = 8, *, trajectory: WeightTrajectory | None = None) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number of at least 1, got {every!r}.")
        self.model, self.every = model, every
        self.losses = StepLosses()
        self.trajectory = trajectory
        self._handles: list[Any] = []
        self._followed: list[_Followed] = []
        self._lengths_before = 0.0  # of the parts of a run that was continued with other optimizers
        self._states: list[Mapping[str, Any]] = []
        self._problem: str | None = None

    def follow(self, optimizers: Iterable[Any]) -> LiveSteps:
        """Read each step of these optimizers from now on, until :meth:`release`."""
        for optimizer in optimizers:
            if not isinstance(optimizer, Optimizer):
                self._problem = f"{type(optimizer).__name__} is no torch.optim.Optimizer"
                return self
            self._followed.append(_Followed(optimizer, self.model, self.every))
            self._keep_places(optimizer)
        if len(self._states) == len(self._followed):
            for followed, state in zip(self._followed, self._states, strict=True):
                followed.load_state_dict(state)
                self._lengths_before -= float(followed.path_length())
        return self

    def _keep_places(self, optimizer: Optimizer) -> None:
        if self.trajectory is None:
            return
        before, after = (partial(f, self.model) for f in (self.trajectory.before_step, self.trajectory.after_step))
        self._handles += [
            optimizer.register_step_pre_hook(lambda *_: before()),
            optimizer.register_step_post_hook(lambda *_: after()),
        ]

    def release(self) -> None:
        """Follow the optimizers no longer; what was read stays."""
        for followed in self._followed:
            followed.release()
        for handle in self._handles:
            handle.remove()

    def check(self) -> None:
        """Raise an error where steps cannot be read.

        Raises:
            MeasureError: With the reason.
        """
        if self._problem is not None:
            raise MeasureError(f"needs the steps of the optimizers, but {self._problem}. Leave this measure out.")

    def _of_all(self, what: str) -> dict[str, Any]:
        """By name; of a parameter that several optimizers train, that of the last step."""
        in_order = sorted(self._followed, key=lambda f: f.looked_at)
        return {name: value for f in in_order for name, value in getattr(f, what).items()}

    @property
    def gradient_norms(self) -> dict[str, Tensor]:
        """Norm of each parameter's gradient in the last step that was looked at; none before the first."""
        return self._of_all("gradient_norms")

    @property
    def update_norms(self) -> dict[str, Tensor]:
        """Norm of what that step has added to each parameter."""
        return self._of_all("update_norms")

    @property
    def weight_norms(self) -> dict[str, Tensor]:
        """Norm of each parameter before that step."""
        return self._of_all("weight_norms")

    @property
    def update_products(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Of the last two successive updates that were looked at, the product and both norms."""
        return self._of_all("update_products")

    @property
    def path_length(self) -> Tensor:
        """Sum of the norms of all updates, those that were not looked at counted as the next or last one that was."""
        lengths = [f.path_length() for f in self._followed]
        return torch.stack([torch.tensor(self._lengths_before, dtype=torch.float64), *(t.cpu() for t in lengths)]).sum()

    def state_dict(self) -> dict[str, Any]:
        """What a run that is continued needs, without the last update, which is as large as the network."""
        return {
            "path_length": float(self.path_length),
            "optimizers": [followed.state_dict() for followed in self._followed],
            "losses": self.losses.state_dict(),
            "trajectory": None if self.trajectory is None else self.trajectory.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there with the optimizers that are followed next."""
        self._lengths_before, self._states = float(state["path_length"]), state.get("optimizers", [])
        self.losses.load_state_dict(state["losses"])
        if self.trajectory is not None and state["trajectory"] is not None:
            self.trajectory.load_state_dict(state["trajectory"])

    def __deepcopy__(self, memo: dict[int, Any]) -> LiveSteps:
        """Itself: what follows a training is not copied with the callback that made it."""
        return self


class _Followed:
    """One optimizer, and what its last step that was looked at did to each of its parameters, by name."""

    def __init__(self, optimizer: Optimizer, model: nn.Module, every: int) -> None:
        self._optimizer, self._model, self._every = optimizer, model, every
        self.looked_at = 0  # when, among all optimizers
        self._steps = self._counted = 0
        self._length: Tensor | None = None
        self._closed: Tensor | None = None
        self._before: dict[str, Tensor] = {}
        self._previous: dict[str, Tensor] = {}
        self.gradient_norms: dict[str, Tensor] = {}
        self.update_norms: dict[str, Tensor] = {}
        self.weight_norms: dict[str, Tensor] = {}
        self.update_products: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._before, self._previous = {}, {}

    def _looks_at(self, step: int) -> bool:
        """At the first two, at every so many, and at the one before each of these."""
        return step <= 2 or step % self._every == 0 or (step + 1) % self._every == 0

    def _parameters(self) -> dict[str, Tensor]:
        """Those of numbers that can move; looked up at each step, as layers may come and be replaced."""
        reshard(self._model)  # what a forward pass has left gathered is not what the optimizer has
        given = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        named = ((name, p) for name, p in self._model.named_parameters() if id(p) in given)
        return {name: p for name, p in named if p.is_floating_point() or p.is_complex()}

    @torch.no_grad()
    def _before_step(self, *_: Any) -> None:
        if not self._looks_at(self._steps + 1):
            return
        parameters = self._parameters()
        # Lazy layers have no weights before the first forward pass, which the step itself may run.
        if not any(isinstance(p, UninitializedParameter) for p in parameters.values()):
            self._before = {name: local_part(p).clone() for name, p in parameters.items()}

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        self._steps += 1
        if not self._before:
            return
        before, self._before = self._before, {}
        self.looked_at = next(_MOMENTS)
        parameters = self._parameters()
        self.weight_norms = _norms(before, parameters)
        updates = {n: _minus(local_part(parameters[n]), w) for n, w in before.items() if n in parameters}
        with_gradient = {name: local_part(p.grad) for name, p in parameters.items() if p.grad is not None}
        self.gradient_norms = _norms(with_gradient, parameters)
        norms = _norms(updates, parameters)
        if self._previous:
            found = {n: _product(u, self._previous[n]) for n, u in updates.items() if n in self._previous}
            products = _summed(found, parameters)
            self.update_products = {name: (p, self.update_norms[name], norms[name]) for name, p in products.items()}
        self.update_norms = norms
        self._length = torch.stack(list(norms.values())).norm().double() if norms else None
        self._previous = updates if self._looks_at(self._steps + 1) else {}
        if self._steps % self._every == 0 and self._length is not None:
            self._closed = self.path_length()
            self._counted = self._steps

    def state_dict(self) -> dict[str, Any]:
        """Counters, lengths and norms; the next angle is that of the first two steps of the run that goes on."""
        return {name: _elsewhere(getattr(self, name), "cpu") for name in _KEPT}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        device = next((p.device for p in self._parameters().values()), "cpu")
        for name in _KEPT:
            setattr(self, name, _elsewhere(state[name], device))

    def path_length(self) -> Tensor:
        closed = torch.zeros((), dtype=torch.float64) if self._closed is None else self._closed
        return closed if self._length is None else closed + (self._steps - self._counted) * self._length


def _norms(parts: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Norms of whole tensors, from this process's parts of them."""
    norms = {name: _norm(part) for name, part in parts.items()}
    if not _are_sharded(parameters):
        return norms
    of_all = norms_over_parts(torch.stack(list(norms.values())), [parameters[name] for name in norms])
    return dict(zip(norms, of_all, strict=True))


def _summed(parts: dict[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not _are_sharded(parameters):
        return parts
    sums = sums_over_parts(torch.stack(list(parts.values())), [parameters[name] for name in parts])
    return dict(zip(parts, sums, strict=True))


def _are_sharded(parameters: Mapping[str, Tensor]) -> bool:
    return any(hasattr(p, "full_tensor") for p in parameters.values())


def _elsewhere(data: Any, device: Any) -> Any:
    """The tensors in it on another device."""
    if isinstance(data, Tensor):
        return data.to(device)
    if isinstance(data, Mapping):
        return {name: _elsewhere(value, device) for name, value in data.items()}
    return tuple(_elsewhere(value, device) for value in data) if isinstance(data, tuple) else data


def _norm(tensor: Tensor) -> Tensor:
    dense = tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor
    return torch.linalg.vector_norm(dense if dense.element_size() >= 4 else dense.float())


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Sum over the products of entries, of real and imaginary parts each."""
    return (torch.view_as_real(a) * torch.view_as_real(b)).sum() if a.is_complex() else (a * b).sum()


def _minus(after: Tensor, before: Tensor) -> Tensor:
    """In the place of what was before, where that has the precision."""
    if before.element_size() < 4:
        return after.float() - before.float()
    return before.neg_().add_(after)


class StepLosses:
    """The losses of a training's optimizer steps, as they come, kept as sums and new lowest values.

    Example:
        >>> losses = StepLosses()
        >>> for value in (2.0, 1.0, 1.5):
        ...     losses.add(torch.tensor(value))
        >>> losses.settle()
        >>> losses.total, losses.first_below(1.2), losses.first_below(0.5)
        (4.5, 2, None)
    """

    def __init__(self) -> None:
        self.steps, self.total = 0, 0.0
        self._lowest: list[tuple[int, float]] = []
        self._pending: list[Tensor] = []
        self._blocks: list[Tensor] = []
        self._waiting = 0
        self._without: list[int] = []  # which of the waiting steps have no loss

    def add(self, loss: Tensor | None) -> None:
        """Take the loss of the next step, if it has one, without waiting for the device."""
        self._waiting += 1
        if loss is None:
            self._without.append(self._waiting - 1)
            return
        self._pending.append(loss.detach().double().reshape(1))
        if len(self._pending) == _PENDING:
            self._blocks.append(torch.cat(self._pending))
            self._pending = []

    def _values(self) -> Tensor:
        """Those that wait, on the CPU, where those of a checkpoint are."""
        pending = [torch.cat(self._pending)] if self._pending else []
        nothing = torch.zeros(0, dtype=torch.float64)
        return torch.cat([nothing, *(block.cpu() for block in (*self._blocks, *pending))])

    def taken(self) -> list[float | None]:
        """Those that are not counted yet, to be passed to :meth:`settle`, perhaps as means over processes."""
        found: list[float | None] = self._values().tolist()
        for place in self._without:
            found.insert(place, None)
        self._blocks, self._pending, self._waiting, self._without = [], [], 0, []
        return found

    def settle(self, losses: Iterable[float | None] | None = None) -> None:
        """Count losses, by default those that were taken since the last time; ``None`` is a step without one."""
        for loss in self.taken() if losses is None else losses:
            self.steps += 1
            if loss is None:
                continue
            self.total += loss
            if loss < (self._lowest[-1][1] if self._lowest else math.inf):
                self._lowest.append((self.steps, loss))

    def first_below(self, level: float) -> int | None:
        """After how many steps the loss of one was first below a level; ``None`` if it was not."""
        return next((step for step, loss in self._lowest if loss < level), None)

    def state_dict(self) -> dict[str, Any]:
        """The counted ones, and those that are not."""
        return {
            "steps": self.steps,
            "total": self.total,
            "lowest": self._lowest,
            "waiting": self._values(),
            "steps_waiting": self._waiting,
            "without": list(self._without),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.steps, self.total = state["steps"], state["total"]
        self._lowest = [(int(step), float(loss)) for step, loss in state["lowest"]]
        self._blocks, self._pending = [state["waiting"]], []
        self._waiting, self._without = state["steps_waiting"], list(state["without"])
