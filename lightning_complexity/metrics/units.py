"""What the samples do to single units: which are dead, which never switch, how varied the patterns are."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.regions import (
    activation_codes,
    dead_units,
    linear_units,
    pattern_entropy,
    piece_counts,
    unit_entropy,
)
from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.network import Activation, Snapshot
from lightning_complexity.network.regions.patterns import checked_activations

__all__ = ["ActivationEntropy", "DeadUnits", "PatternEntropy"]


def _by_unit(activation: Activation) -> Tensor:
    """Preactivations of shape ``(samples and positions, units)``."""
    return activation.inputs.movedim(activation.unit_dim, -1).flatten(0, -2)


class UnitMetric(ComplexityMetric):
    """A mean over units of a number that depends on how often the unit is on each of its linear pieces.

    A unit is a channel of a convolution, a feature of a linear layer; positions of an image or a sequence are
    counted like further samples.
    """

    has_layers = True
    needs = frozenset({"inputs"})
    cost = "forward"

    counts: Tensor

    @abstractmethod
    def of_units(self, counts: Tensor, flat: tuple[int, ...]) -> Tensor:
        """The number of each unit of a layer, from counts of shape ``(units, pieces)``; the pieces in ``flat`` are."""

    def _prepare_state(self) -> None:
        self._layers: list[tuple[str, int, int, tuple[int, ...]]] = []
        self.add_state("counts", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def measure(self, snapshot: Snapshot) -> Tensor:
        """The mean over all units."""
        return torch.cat([self.of_units(*layer) for layer in self._split(self._count(snapshot)).values()]).mean()

    def _accumulate(self, snapshot: Snapshot) -> None:
        self.counts = self.counts + self._count(snapshot)

    def _count(self, snapshot: Snapshot) -> Tensor:
        total: Tensor | float = 0.0
        for activations in snapshot.activations(snapshot.inputs):
            checked_activations(activations, type(self).__name__)
            layers = [self._count_layer(a) for a in activations]
            self._layers = [(a.name, *layer.shape, a.flat) for a, layer in zip(activations, layers, strict=True)]
            total = total + torch.cat([layer.flatten() for layer in layers])
        return torch.as_tensor(total)

    @staticmethod
    def _count_layer(activation: Activation) -> Tensor:
        preactivations = _by_unit(activation)
        counts = piece_counts(activation_codes(preactivations, activation.kinks), len(activation.kinks) + 1)
        return torch.where(preactivations.isnan().any(0)[:, None], torch.nan, counts)

    def _split(self, counts: Tensor) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
        parts = counts.split([units * pieces for _, units, pieces, _ in self._layers])
        return {
            name: (part.reshape(units, pieces), flat)
            for part, (name, units, pieces, flat) in zip(parts, self._layers, strict=True)
        }

    def _values(self) -> dict[str, Tensor]:
        if self.counts.ndim == 0:
            return {}
        values = {name: self.of_units(*layer) for name, layer in self._split(self.counts).items()}
        return {name: v + 0 * self.counts.sum() for name, v in values.items()}

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The mean over all units; with ``per_layer=True`` over those of each layer, by name."""
        values = self._values()
        if self.per_layer:
            return {name: value.mean() for name, value in values.items()}
        return torch.cat(list(values.values())).mean() if values else torch.tensor(torch.nan)

    def report(self) -> dict[str, Tensor]:
        """The mean over all units, and with ``per_layer=True`` those of the layers."""
        values = self._values()
        report = {self.name: torch.cat(list(values.values())).mean()}
        if self.per_layer:
            report |= {f"{self.name}/{layer}": value.mean() for layer, value in values.items()}
        return report


Behaviour = Literal["dead", "always_on"]


class DeadUnits(UnitMetric):
    r"""Share of units that pass no gradient on for any sample: a ReLU that is never positive, say.

    .. math:: \frac{1}{N} \#\{ j : \phi'(z_j(x_i)) = 0 \text{ for all } i \}

    Depends on the samples: more of them can only wake units. With ``count="always_on"`` it is the share, logged as
    ``always_on_units``, of units that are on the same piece with a slope for all samples, so that they are
    linear there. Leaky units are never dead. A channel of a convolution is one unit, dead if it is at every position.

    Args:
        count: ``"dead"`` or ``"always_on"``.
        per_layer: Whether ``compute`` returns the share of each layer by name.

    Raises:
        UnsupportedOperationError: In ``update``, at a smooth activation, which has no flat piece.
        ValueError: In ``update``, if the network has no activation.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU())
        >>> for p, v in zip(net.parameters(), ([[1.0], [1.0]], [-9.0, 0.5])):
        ...     _ = p.data.copy_(torch.tensor(v))
        >>> metric = DeadUnits()
        >>> metric.update(net, torch.tensor([[-1.0], [1.0]]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    name = "dead_units"
    increases_with_complexity = False
    formula = r"\frac{1}{N} \#\{ j : \phi'(z_j(x_i)) = 0 \text{ for all } i \}"
    reference = "Lu et al., Dying ReLU and initialization, 2020"

    def __init__(self, count: Behaviour = "dead", *, per_layer: bool = False, **kwargs: Any) -> None:
        if count not in get_args(Behaviour):
            raise ValueError(f'count must be "dead" or "always_on", got {count!r}.')
        super().__init__(per_layer=per_layer, **kwargs)
        self.behaviour = count
        if count == "always_on":
            self.name = "always_on_units"

    def of_units(self, counts: Tensor, flat: tuple[int, ...]) -> Tensor:
        """1 for each unit that is dead, or always on."""
        return (dead_units if self.behaviour == "dead" else linear_units)(counts, flat).double()


class ActivationEntropy(UnitMetric):
    r"""Mean entropy, in nats, of which linear piece a unit is on for a random sample.

    .. math:: \frac{1}{N} \sum_j H(c_j), \quad H(c) = -\sum_p \hat P(c = p) \ln \hat P(c = p)

    0 if no unit ever switches, ``ln 2`` if every ReLU is on for half of the samples. Says nothing of how
    units switch together; :class:`PatternEntropy` does, as long as it is not saturated. A single sample has 0.

    Args:
        per_layer: Whether ``compute`` returns the entropy of each layer by name.

    Raises:
        UnsupportedOperationError: In ``update``, at a smooth activation.
        ValueError: In ``update``, if the network has no activation.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.ReLU())
        >>> metric = ActivationEntropy()
        >>> metric.update(net, torch.tensor([[-1.0], [1.0]]))
        >>> metric.compute()  # ln 2
        tensor(0.6931, dtype=torch.float64)
    """

    name = "activation_entropy"
    formula = r"\frac{1}{N} \sum_j H(c_j)"
    reference = "Novak et al., ICLR 2018, for the codes; Shannon, 1948"

    def of_units(self, counts: Tensor, flat: tuple[int, ...]) -> Tensor:  # noqa: ARG002
        """Entropy of each unit."""
        return unit_entropy(counts)


class PatternEntropy(ComplexityMetric):
    r"""Entropy, in nats, of the activation pattern of all units for a random sample.

    .. math:: -\sum_p \hat P(p) \ln \hat P(p), \quad p = (c_1(x), \dots, c_N(x))

    At most ``ln n`` for ``n`` samples, and there as soon as no two samples share a linear region, which on all but tiny
    networks they never do: compare it with ``ln n`` before reading it. A single sample has 0. Keeps one
    number for every sample and layer; max pooling does not count.

    Args:
        per_layer: Whether ``compute`` returns the entropy of each layer's pattern by name.

    Raises:
        UnsupportedOperationError: In ``update``, at a smooth activation.
        ValueError: In ``update``, if the network has no activation.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.ReLU())
        >>> metric = PatternEntropy()
        >>> metric.update(net, torch.tensor([[-1.0], [1.0], [2.0], [-3.0]]))
        >>> metric.compute()  # ln 2
        tensor(0.6931, dtype=torch.float64)
    """

    name = "pattern_entropy"
    has_layers = True
    needs = frozenset({"inputs"})
    cost = "forward"
    formula = r"-\sum_p \hat P(p) \ln \hat P(p)"
    reference = "Hanin and Rolnick, NeurIPS 2019, for the patterns; Shannon, 1948"

    patterns: list[Tensor] | Tensor
    invalid: Tensor

    def _prepare_state(self) -> None:
        self.layer_names: list[str] = []
        self.add_state("patterns", [], dist_reduce_fx="cat")
        self.add_state("invalid", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def measure(self, snapshot: Snapshot) -> Tensor:
        """Entropy of the patterns of the snapshot's samples."""
        return self._entropy(*self._hashed(snapshot))

    def _accumulate(self, snapshot: Snapshot) -> None:
        patterns, invalid = self._hashed(snapshot)
        self.patterns, self.invalid = [*self.patterns, patterns], self.invalid + invalid

    def _hashed(self, snapshot: Snapshot) -> tuple[Tensor, Tensor]:
        """One number for the pattern of each layer, shape ``(n, layers)``; a second result, ``nan`` if there is any."""
        found, invalid = [], torch.zeros((), dtype=torch.float64)
        for activations in snapshot.activations(snapshot.inputs):
            checked_activations(activations, type(self).__name__)
            self.layer_names = [a.name for a in activations]
            found.append(torch.stack([_hash(activation_codes(a.inputs.flatten(1), a.kinks)) for a in activations], 1))
            if any(a.inputs.isnan().any() for a in activations):
                invalid = torch.full_like(invalid, torch.nan)
        return torch.cat(found), invalid

    @staticmethod
    def _entropy(patterns: Tensor, invalid: Tensor) -> Tensor:
        return pattern_entropy(patterns) + invalid.to(patterns.device)

    def _all(self) -> Tensor:
        return torch.cat(self.patterns) if isinstance(self.patterns, list) else self.patterns

    def _by_layer(self) -> dict[str, Tensor]:
        columns = self._all().unbind(1)
        return {n: self._entropy(c[:, None], self.invalid) for n, c in zip(self.layer_names, columns, strict=True)}

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The entropy of all samples so far, or with ``per_layer=True`` that of each layer's pattern."""
        return self._by_layer() if self.per_layer else self._entropy(self._all(), self.invalid)

    def report(self) -> dict[str, Tensor]:
        """The entropy, and with ``per_layer=True`` those of the layers."""
        layers = self._by_layer() if self.per_layer else {}
        total = self._entropy(self._all(), self.invalid)
        return {self.name: total, **{f"{self.name}/{layer}": value for layer, value in layers.items()}}


def _hash(codes: Tensor) -> Tensor:
    """Equal numbers for equal rows, and with overwhelming probability only for those."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, codes.shape[1:], generator=generator)
    return (codes * factors.to(codes.device)).sum(1)
