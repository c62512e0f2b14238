"""What the samples do to single units: which are dead, which never switch, how varied the patterns are."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_complexity.functional.function.regions import dead_units, linear_units, pattern_entropy, unit_entropy
from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.network import Context, Snapshot
from lightning_complexity.network.regions.patterns import LayerPatterns, patterns

__all__ = ["ActivationEntropy", "DeadUnits", "PatternEntropy"]


class UnitMetric(ComplexityMetric):
    """A mean over units of a number that depends on how often the unit is on each of its linear pieces.

    A unit is a channel of a convolution, a feature of a linear layer; positions of an image or a sequence are
    counted like further samples.
    """

    has_layers = True
    needs = frozenset({"inputs"})
    cost = "forward"

    counts: Tensor
    shapes: dict[str, tuple[int, int]]
    flat_pieces: dict[str, tuple[int, ...]]

    @abstractmethod
    def of_units(self, counts: Tensor, flat: tuple[int, ...]) -> Tensor:
        """The number of each unit of a layer, from counts of shape ``(units, pieces)``; the pieces in ``flat`` are."""

    def _prepare_state(self) -> None:
        self.add_note("shapes", {})
        self.add_note("flat_pieces", {})
        self.add_state("counts", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The mean over all units."""
        return torch.cat([self.of_units(layer.counts, layer.flat) for layer in patterns(snapshot).values()]).mean()

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the counts."""
        found = patterns(snapshot)
        self.shapes = {name: (layer.counts.shape[0], layer.counts.shape[1]) for name, layer in found.items()}
        self.flat_pieces = {name: layer.flat for name, layer in found.items()}
        self.counts = self.counts + torch.cat([layer.counts.flatten() for layer in found.values()])

    def _values(self) -> dict[str, Tensor]:
        sizes = [units * pieces for units, pieces in self.shapes.values()]
        unknown = 0 * self.counts.sum()
        return {
            name: self.of_units(part.reshape(self.shapes[name]), self.flat_pieces[name]) + unknown
            for name, part in zip(self.shapes, self.counts.split(sizes), strict=True)
        }

    def total(self) -> Tensor:
        """The mean over all units."""
        return torch.cat(list(self._values().values())).mean()

    def parts(self) -> dict[str, Tensor]:
        """The mean over the units of each layer."""
        return {name: values.mean() for name, values in self._values().items()}


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
    no_penalty_reason = "a share of units has no gradient"
    increases_with_complexity = False
    formula = r"\frac{1}{N} \#\{ j : \phi'(z_j(x_i)) = 0 \text{ for all } i \}"
    reference = "Lu et al., Dying ReLU and initialization, 2020"
    units = "share of units"
    misleads_when = "few samples are taken: a unit that is on for none of them may be on for others"

    def __init__(self, count: Behaviour = "dead", *, per_layer: bool = False, **kwargs: Any) -> None:
        if count not in get_args(Behaviour):
            raise ValueError(f'count must be "dead" or "always_on", got {count!r}.')
        super().__init__(per_layer=per_layer, **kwargs)
        self.count = count
        if count == "always_on":
            self.name = "always_on_units"

    def of_units(self, counts: Tensor, flat: tuple[int, ...]) -> Tensor:
        """1 for each unit that is dead, or always on."""
        return (dead_units if self.count == "dead" else linear_units)(counts, flat).double()


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
    no_penalty_reason = "counts of samples have no gradient"
    formula = r"\frac{1}{N} \sum_j H(c_j)"
    reference = "Novak et al., ICLR 2018, for the codes; Shannon, 1948"
    increases_with_complexity = True
    units = "nats / unit"
    misleads_when = "units switch for reasons that do not reach the output: every unit counts alike"

    def of_units(self, counts: Tensor, flat: tuple[int, ...]) -> Tensor:
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
    no_penalty_reason = "counts of samples have no gradient"
    has_layers = True
    needs = frozenset({"inputs"})
    cost = "forward"
    formula = r"-\sum_p \hat P(p) \ln \hat P(p)"
    reference = "Hanin and Rolnick, NeurIPS 2019, for the patterns; Shannon, 1948"
    increases_with_complexity = True
    units = "nats"
    misleads_when = (
        "there are fewer samples than patterns: it is at most the logarithm of the number of samples, and reaches "
        "it at initialization"
    )

    patterns: list[Tensor] | Tensor
    invalid: Tensor
    layer_names: list[str]

    def _prepare_state(self) -> None:
        self.add_note("layer_names", [])
        self.add_state("patterns", [], dist_reduce_fx="cat")
        self.add_state("invalid", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Entropy of the patterns of the snapshot's samples."""
        return self._entropy(*self._hashed(patterns(snapshot)))

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the samples' patterns."""
        found = patterns(snapshot)
        hashes, invalid = self._hashed(found)
        self.layer_names = list(found)
        self.patterns, self.invalid = [*self.patterns, hashes], self.invalid + invalid

    @staticmethod
    def _hashed(found: dict[str, LayerPatterns]) -> tuple[Tensor, Tensor]:
        """One number for the pattern of each layer, shape ``(n, layers)``; a second result, ``nan`` if there is any."""
        hashes = torch.stack([torch.cat(layer.hashes) for layer in found.values()], 1)
        return hashes, torch.stack([0 * layer.counts.double().sum() for layer in found.values()]).sum()

    @staticmethod
    def _entropy(hashes: Tensor, invalid: Tensor) -> Tensor:
        return pattern_entropy(hashes) + invalid.to(hashes.device)

    def total(self) -> Tensor:
        """The entropy of all samples so far."""
        return self._entropy(dim_zero_cat(self.patterns), self.invalid)

    def parts(self) -> dict[str, Tensor]:
        """The entropy of each layer's pattern."""
        columns = dim_zero_cat(self.patterns).unbind(1)
        return {n: self._entropy(c[:, None], self.invalid) for n, c in zip(self.layer_names, columns, strict=True)}
