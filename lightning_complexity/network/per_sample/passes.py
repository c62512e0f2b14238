"""One backward pass of a batch, in which what belongs to each sample is read at every use of a parameter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_complexity.functional.optimization.sample_gradients import Part, inner_products, squared_norms
from lightning_complexity.network.derivatives import differentiated, gradients, trainable
from lightning_complexity.network.per_sample.graphs import Graph, graphs, single_graphs
from lightning_complexity.network.per_sample.kinds import KINDS, Rows, UnknownUseError
from lightning_complexity.network.per_sample.orders import Orders
from lightning_complexity.network.per_sample.uses import Use, Uses, watched
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot

_LOGGER = logging.getLogger(__name__)


class BySample(NamedTuple):
    """A number of each sample, by the name of the parameter.

    Attributes:
        values: Shape ``(n,)`` each.
        one_by_one: Names of parameters for which the network was run on each sample alone, as it is not known what an
            operation that takes them makes of a sample.
    """

    values: dict[str, Tensor]
    one_by_one: frozenset[str]


Read = Callable[[str, list[tuple[Use, Part]]], Tensor]


def squared_sample_gradients(snapshot: Snapshot) -> BySample:
    r"""Squared norm of each sample's gradient :math:`\|g_i\|^2`, by parameter. Needs targets, or a loss of batches.

    The gradient of the loss is the mean of the :math:`g_i`. One forward and one backward pass, whose factors
    (what enters a layer, and the gradient for what leaves it) give the norms; no gradient of a sample is kept. Linear
    layers, convolutions, embeddings, attention, normalizations, biases and scales are read so, also where a parameter
    is used several times. For other operations the network is run on each sample alone.

    Raises:
        MeasureError: If samples are not apart: batches that cannot be cut, normalization over the batch, a loss that
            is no mean and no sum over samples.
    """
    with_mean = _squares.is_known(snapshot, True)
    return _squares(snapshot, with_mean)


@shared
def _squares(snapshot: Snapshot, with_mean: bool) -> BySample:
    """The squared norms, and with them the gradient of the loss."""

    def read(_: str, parts: list[tuple[Use, Part]]) -> Tensor:
        return _squares_of(parts)

    def read_alone(_: str, gradient: Tensor) -> Tensor:
        return gradient.double().square().sum()

    return _read(snapshot, read, read_alone, power=2, with_mean=with_mean)


@shared
def sample_gradient_products(snapshot: Snapshot) -> BySample:
    r"""Inner product of each sample's gradient with their mean, :math:`\langle g_i, \bar g \rangle`, by parameter.

    As for :func:`squared_sample_gradients`, by a second pass, as the mean must be known.
    """
    if not gradients.is_known(snapshot):
        _squares(snapshot, True)
    mean = gradients(snapshot)

    def read(name: str, parts: list[tuple[Use, Part]]) -> Tensor:
        return torch.stack([inner_products(part, _as_used(mean[name], use)) for use, part in parts]).sum(0)

    def read_alone(name: str, gradient: Tensor) -> Tensor:
        return (gradient.double() * mean[name].double()).sum()

    return _read(snapshot, read, read_alone, power=1, with_mean=False)


def _squares_of(parts: list[tuple[Use, Part]]) -> Tensor:
    """Of a parameter that is used whole each time, or in pieces that do not overlap."""
    pieces: dict[tuple[object, ...], list[Part]] = {}
    for use, part in parts:
        pieces.setdefault(use.steps, []).append(part)
    if len(pieces) > 1 and not _are_apart(list(pieces)):
        raise UnknownUseError
    found = [squared_norms(of_piece) for of_piece in pieces.values()]
    if any(squares is None for squares in found):
        raise UnknownUseError
    return torch.stack([squares for squares in found if squares is not None]).sum(0)


def _are_apart(paths: list[tuple[object, ...]]) -> bool:
    """Whether paths lead to different parts of one split."""
    firsts = [path[0] if path else None for path in paths]
    splits = {getattr(first, "split", ()) for first in firsts}
    whiches = [getattr(first, "which", None) for first in firsts]
    return len(splits) == 1 and splits != {()} and len(set(whiches)) == len(whiches)


def _as_used(mean: Tensor, use: Use) -> Tensor:
    for step in use.steps:
        mean = step.on(mean)
    return mean


# A pass ----------------------------------------------------------------------------------------------


def _read(
    snapshot: Snapshot, read: Read, read_alone: Callable[[str, Tensor], Tensor], *, power: int, with_mean: bool
) -> BySample:
    parameters, total = trainable(snapshot), snapshot.num_samples
    with snapshot.opened(), snapshot.keeping(), torch.enable_grad():
        orders: Orders | None = None
        found: dict[str, list[Tensor]] = {name: [] for name in parameters}
        summed: list[Tensor] | None = None
        alone: set[str] = set()
        for graph in graphs(snapshot):
            recorded, is_first = Uses(graph.roots, parameters), orders is None
            if orders is None:
                orders = Orders(snapshot, graph, recorded, parameters)
            alone |= orders.unknown
            values, of_graph, failed = _through(graph, parameters, recorded, orders, read, with_mean=with_mean)
            if is_first:
                orders.keep()
            alone |= failed
            for name, of_samples in values.items():
                found[name].append(of_samples.double() * float(total) ** power)
            if with_mean:
                summed = of_graph if summed is None else [s + g for s, g in zip(summed, of_graph, strict=True)]
        if summed is not None:
            gradients.note(snapshot, dict(zip(parameters, summed, strict=True)))
        if alone:
            _LOGGER.info("The gradient of each sample is computed one by one for %s.", ", ".join(sorted(alone)))
            found |= _one_by_one(snapshot, {n: parameters[n] for n in parameters if n in alone}, read_alone, power)
    return BySample({name: torch.cat(parts) for name, parts in found.items()}, frozenset(alone))


def _through(
    graph: Graph, parameters: Mapping[str, Tensor], recorded: Uses, orders: Orders, read: Read, *, with_mean: bool
) -> tuple[dict[str, Tensor], list[Tensor], set[str]]:
    """What is read for each parameter, its gradient, and names of those of which something cannot be read."""
    uses = recorded.by_name
    waiting = {name: len(of_one) for name, of_one in uses.items()}
    parts: dict[str, list[tuple[Use, Part]]] = {name: [] for name in uses}
    like = next(iter(parameters.values()))
    values = {name: like.new_zeros(graph.samples) for name, of_one in uses.items() if not of_one}
    failed: set[str] = set()

    def finish(name: str) -> None:
        values[name] = read(name, parts[name]) if parts[name] else like.new_zeros(graph.samples)
        parts[name].clear()

    def take(name: str, number: int, use: Use, gradient: Tensor | None) -> None:
        if name in failed or name in orders.unknown:
            return
        try:
            if use.kind not in KINDS:  # a last chunk of one sample may have another graph
                raise UnknownUseError
            if gradient is not None:
                rows = Rows(graph.samples, orders.of(name, number, use, gradient, graph.samples))
                parts[name].append((use, KINDS[use.kind].read(use, gradient, rows)))
            waiting[name] -= 1
            if not waiting[name]:
                finish(name)
        except (UnknownUseError, AttributeError):  # a torch that keeps other things has no such attributes
            failed.add(name)
            parts[name].clear()

    wanted = list(parameters) if with_mean else recorded.anchors()
    with torch.no_grad(), watched(uses, take):
        found = differentiated(graph.roots, [parameters[name] for name in wanted], graph.vectors)
    for name in uses:
        if waiting[name] and name not in failed and name not in orders.unknown:
            finish(name)  # some of its uses do not reach the loss
    return {name: value for name, value in values.items() if name not in failed}, found, failed


def _one_by_one(
    snapshot: Snapshot, parameters: dict[str, Tensor], read: Callable[[str, Tensor], Tensor], power: int
) -> dict[str, list[Tensor]]:
    total = float(snapshot.num_samples) ** power
    rows: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for graph in single_graphs(snapshot):
        of_sample = differentiated(graph.roots, list(parameters.values()), graph.vectors)
        for name, gradient in zip(parameters, of_sample, strict=True):
            rows[name].append(read(name, gradient) * total)
    return {name: [torch.stack(values)] for name, values in rows.items()}
