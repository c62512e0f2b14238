"""Which linear pieces the units of a network are on, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.functional.function.regions import activation_codes, piece_counts
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
    """The nonlinearities that inputs go through, chunk by chunk; see :func:`capture_activations`.

    Raises:
        MeasureError: If they are others for some chunks than for the first.
    """
    first: list[Activation] = []
    for chunk in chunks(inputs, snapshot.chunk_size):
        found = snapshot.run(partial(activations_by_sample, inputs=chunk))
        first = first or found
        check_same_units(first, found)
        yield found


def check_same_units(first: list[Activation], second: list[Activation]) -> None:
    """Raise an error unless two chunks of samples went through the same units.

    Raises:
        MeasureError: Naming a nonlinearity that only one of them has.
    """
    one, other = ({(a.name, a.inputs.shape[1:]) for a in found} for found in (first, second))
    if one != other:
        name = min(name for name, _ in one ^ other)
        raise MeasureError(
            f"needs a network in which all samples go through the same units, but what goes into {name!r} depends on "
            "the data. Measure a part of the network without it."
        )


def activations_by_sample(model: nn.Module, inputs: Any) -> list[Activation]:
    """The nonlinearities that inputs go through, see :func:`capture_activations` and :func:`with_rows`."""
    return with_rows(capture_activations(model, inputs, between_layers=True), num_samples(inputs))


def with_rows(activations: list[Activation], count: int) -> list[Activation]:
    """Those activations that have units, each with a row of them for every sample.

    One that is given a single number for each sample has one unit.

    Raises:
        MeasureError: If what goes into one has no sample in each row, or is not made of floating-point numbers.
    """
    for a in activations:
        has_rows = a.inputs.shape[:1] == a.outputs.shape[:1] == (count,)
        if not (has_rows and a.inputs.is_floating_point() and a.outputs.is_floating_point()):
            raise MeasureError(
                f"needs floating-point numbers with samples in the first dimension at every activation, but "
                f"{a.name!r} is given {a.inputs.dtype} of shape {tuple(a.inputs.shape)} for {count} samples. Measure "
                "a part of the network without it."
            )
    return [_with_units(a) for a in activations if a.inputs.numel() and a.outputs.numel()]


def _with_units(activation: Activation) -> Activation:
    if activation.inputs.ndim > 1 and activation.outputs.ndim > 1:
        return activation
    inputs, outputs = (t.reshape(len(t), -1) for t in (activation.inputs, activation.outputs))
    return replace(activation, inputs=inputs, outputs=outputs, unit_dim=-1)


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
