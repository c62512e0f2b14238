"""Which linear pieces the units of a network are on, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.functional.regions import activation_codes, piece_counts
from lightning_complexity.network.errors import MeasureError, UnsupportedOperationError
from lightning_complexity.network.running.batches import chunks, num_samples
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.activations import Activation, capture_activations


def checked_activations(activations: list[Activation], measure: str) -> list[Activation]:
    """The activations, if each is linear between kinks and there are any.

    Raises:
        UnsupportedOperationError: At a smooth one.
        MeasureError: If there are none.
    """
    for activation in activations:
        if not activation.piecewise_linear:
            raise UnsupportedOperationError(activation.function, activation.name, measure)
    if not activations:
        raise MeasureError(
            f"{measure} needs a network with nonlinearities such as ReLU; this one has none that are known."
        )
    return activations


def unit_codes(activations: list[Activation], measure: str) -> Tensor:
    """Codes of all units, shape ``(n, units)``."""
    activations = checked_activations(activations, measure)
    return torch.cat([activation_codes(a.inputs.flatten(1), a.kinks) for a in activations], 1)


def has_nan(activations: list[Activation]) -> bool:
    """Whether a preactivation is not a number."""
    return any(a.inputs.isnan().any() for a in activations)


def activations_on(snapshot: Snapshot, inputs: Any) -> Iterator[list[Activation]]:
    """The nonlinearities that inputs go through, chunk by chunk; see :func:`capture_activations`."""
    for chunk in chunks(inputs, snapshot.chunk_size):
        yield snapshot.run(partial(activations_by_sample, inputs=chunk))


def activations_by_sample(model: nn.Module, inputs: Any) -> list[Activation]:
    """The nonlinearities that inputs go through; see :func:`capture_activations`.

    Raises:
        MeasureError: If what goes into one has no sample in each row, or is not made of floating-point numbers.
    """
    found, count = capture_activations(model, inputs, between_layers=True), num_samples(inputs)
    for a in found:
        if len(a.inputs) != count or not (a.inputs.is_floating_point() and a.outputs.is_floating_point()):
            raise MeasureError(
                f"needs floating-point numbers with samples in the first dimension at every activation, but "
                f"{a.name!r} is given {a.inputs.dtype} of shape {tuple(a.inputs.shape)} for {count} samples. Measure "
                "a part of the network without it."
            )
    return found


@dataclass
class LayerPatterns:
    """What the samples do to the units of one nonlinearity.

    Attributes:
        counts: How many samples, and positions, have each unit on each of its pieces, shape ``(units, pieces)``;
            ``nan`` for a unit with a preactivation that is not a number.
        hashes: A number for each sample's pattern, equal for equal patterns, shape ``(n,)``.
        flat: Which pieces have slope zero.
    """

    counts: Tensor
    hashes: list[Tensor]
    flat: tuple[int, ...]


@shared
def patterns(snapshot: Snapshot) -> dict[str, LayerPatterns]:
    """What the samples do to the units of each nonlinearity, by its name. Needs inputs.

    Raises:
        UnsupportedOperationError: At a smooth nonlinearity.
        MeasureError: If there is no nonlinearity.
    """
    found: dict[str, LayerPatterns] = {}
    for activations in activations_on(snapshot, snapshot.inputs):
        for a in checked_activations(activations, "a pattern of units"):
            layer = found.setdefault(a.name, LayerPatterns(torch.zeros((), device=a.inputs.device), [], a.flat))
            codes = activation_codes(a.inputs, a.kinks)
            layer.counts = layer.counts + _counts(a, codes)
            layer.hashes.append(_hash(codes.flatten(1)))
    return found


def _counts(activation: Activation, codes: Tensor) -> Tensor:
    preactivations, codes = (t.movedim(activation.unit_dim, -1).flatten(0, -2) for t in (activation.inputs, codes))
    counts = piece_counts(codes, len(activation.kinks) + 1)
    return torch.where(preactivations.amax(0).isnan()[:, None], torch.nan, counts)


def _hash(codes: Tensor) -> Tensor:
    """Equal numbers for equal rows, and with overwhelming probability only for those."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, codes.shape[1:], generator=generator)
    return (codes * factors.to(codes.device)).sum(1)
