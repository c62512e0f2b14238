"""The loss on the straight way between two networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lightning_complexity.functional.loss_surface.landscape import loss_barrier, match_units
from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.losses import mean_loss
from lightning_complexity.network.running.batches import Batches
from lightning_complexity.network.running.task import ForwardFunction, LossFunction, Task
from lightning_complexity.network.running.tensors import plain_name
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.units import unit_axes

Statistics = Literal["interpolated", "reset"]


class ModeConnectivity(NamedTuple):
    """The straight way from one network to another.

    Attributes:
        positions: From 0, the first, to 1, the second, shape ``(points,)``.
        losses: There, shape ``(points,)``.
        barrier: How far the loss rises above the chord, 0-d.
        second: State of the second network, its units in the order in which they were matched.
    """

    positions: Tensor
    losses: Tensor
    barrier: Tensor
    second: dict[str, Tensor]


def linear_mode_connectivity(
    model: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    inputs: Any,
    targets: Any = None,
    *,
    num_points: int = 11,
    matching: bool = True,
    statistics: Statistics = "interpolated",
    task: Task | None = None,
    loss: LossFunction | None = None,
    forward: ForwardFunction | None = None,
) -> ModeConnectivity:
    r"""Loss on the straight way between two states of a network, and its barrier.

    .. math:: \max_\alpha L((1 - \alpha) A + \alpha B) - (1 - \alpha) L(A) - \alpha L(B)

    Units of a hidden layer can be in any order, so that two trainings find networks that may be the same up to that:
    ``matching`` puts those of the second in the order in which its weights are nearest to the first's. The model is
    left as it is, and runs in evaluation mode.

    Args:
        model: The network; its own weights do not matter.
        first: State ``A`` by name, such as ``state_dict()`` of a trained copy; buffers too, where there are any.
        second: State ``B``.
        inputs: A batch, or several as :class:`lightning_complexity.network.Batches`.
        targets: Its targets.
        num_points: Number of networks on the way, both ends included.
        matching: Whether to match units. See :func:`lightning_complexity.functional.match_units`.
        statistics: What BatchNorm normalizes with: ``"interpolated"`` running statistics, or those of the batch,
            ``"reset"``, which are computed for each network on the way, both ends included.
        task: How a batch becomes outputs and a loss.
        loss: Loss of a batch; default cross-entropy.
        forward: How the network is run.

    Raises:
        MeasureError: If a state does not fit the model.
        UnsupportedOperationError: If units cannot be matched: behind grouped convolutions, attention and others.
        ValueError: For fewer than three points, or other statistics.

    References:
        Frankle et al., ICML 2020; Ainsworth, Hayase and Srinivasa, ICLR 2023; statistics: Jordan et al., ICLR 2023.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> one = {"0.weight": torch.tensor([[1.0], [-1.0]]), "2.weight": torch.tensor([[1.0, 1.0]])}
        >>> two = {"0.weight": torch.tensor([[-1.0], [1.0]]), "2.weight": torch.tensor([[1.0, 1.0]])}
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> [linear_mode_connectivity(net, one, two, x, x.abs(), matching=matching,
        ...                           loss=nn.functional.mse_loss).barrier.item() for matching in (False, True)]
        [1.0, 0.0]
    """
    check_way(num_points, statistics)
    snapshot = Snapshot(model, inputs, targets, task=task, loss=loss, forward=forward)
    with snapshot.opened():
        return connected(snapshot, first, second, num_points, matching, statistics)


def check_way(num_points: int, statistics: str) -> None:
    """Raise an error unless there is a way of so many points with such statistics."""
    if num_points < 3:
        raise ValueError(f"num_points must be at least 3, got {num_points!r}.")
    if statistics not in get_args(Statistics):
        raise ValueError(f'statistics must be "interpolated" or "reset", got {statistics!r}.')


def connected(
    snapshot: Snapshot,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    num_points: int,
    matching: bool,
    statistics: Statistics,
) -> ModeConnectivity:
    """The straight way between two states on the data of a snapshot."""
    start, end = (_fitting(snapshot, state) for state in (first, second))
    if matching:
        end = matched(snapshot, start, end)
    positions = torch.linspace(0, 1, num_points, dtype=torch.float64)
    losses = []
    for position in positions.tolist():
        between = {n: torch.lerp(t, end[n], position) if t.is_floating_point() else t for n, t in start.items()}
        there = snapshot.at(between)
        losses.append(mean_loss(_with_own_statistics(there) if statistics == "reset" else there).detach())
    found = torch.stack(losses)
    return ModeConnectivity(positions, found, loss_barrier(found, positions), end)


def matched(snapshot: Snapshot, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The second state with its units in the order in which it is nearest to the first."""
    layers = snapshot.run_one(lambda model, x: unit_axes(model, x, measure="matching of units"))
    return match_units(first, second, layers)


def _fitting(snapshot: Snapshot, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What there is of a state for the parameters and buffers of a network, where these are."""
    given = {plain_name(name): tensor for name, tensor in state.items()}
    parameters = {plain_name(name): p for name, p in snapshot.parameters.items()}
    unlike = [name for name, p in parameters.items() if name not in given or given[name].shape != p.shape]
    if unlike:
        raise MeasureError(
            f"a state does not fit the network: it has no {unlike[0]!r} of the same shape. Take it with "
            "state_dict() or network.initial_state(model) from a network of the same class and sizes."
        )
    buffers = {plain_name(name): b for name, b in snapshot.model.named_buffers() if b.is_floating_point()}
    wanted = {**parameters, **{name: b for name, b in buffers.items() if name in given}}
    return {name: given[name].detach().to(like.device, like.dtype) for name, like in wanted.items()}


def _with_own_statistics(snapshot: Snapshot) -> Snapshot:
    """The network with the running statistics that its data have in it, chunk by chunk with equal weight."""
    normalizing = [
        (name, m)
        for name, m in snapshot.model.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]

    def collected(model: nn.Module) -> dict[str, Tensor]:
        for _, module in normalizing:  # a run puts back what its modules are
            module.reset_running_stats()
            module.training, module.momentum = True, None
        for batch in _batches(snapshot):
            model(batch)
        buffers = ((name, module.named_buffers(recurse=False)) for name, module in normalizing)
        return {f"{name}.{b}".lstrip("."): t.detach().clone() for name, named in buffers for b, t in named}

    return snapshot.at(snapshot.run(collected))


def _batches(snapshot: Snapshot) -> Iterator[Any]:
    inputs = snapshot.inputs
    if isinstance(inputs, Batches):
        yield from inputs.batches
    else:
        yield from (x for (x,) in snapshot.chunks(inputs))
