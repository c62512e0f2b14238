"""Fully connected networks, layer by layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lightning_complexity.selection.spaces.base import CrossableSpace, NetworkSpace, ProgressiveSpace, Structure

if TYPE_CHECKING:
    from optuna.trial import BaseTrial
    from torch import nn

T = TypeVar("T")
ACTIVATIONS = {"relu": "ReLU", "tanh": "Tanh", "sigmoid": "Sigmoid", "gelu": "GELU"}


class Layer(NamedTuple):
    """A hidden layer.

    Attributes:
        units: How many.
        activation: After them.
        dropout: Share of activations that is dropped in training.
    """

    units: int
    activation: str = "relu"
    dropout: float = 0.0


class DenseSpace(NetworkSpace, ProgressiveSpace, CrossableSpace):
    """Fully connected networks; a structure is a tuple of :class:`Layer`, and a level is a number of layers.

    Args:
        max_layers: Most hidden layers.
        units: Of a layer: a ``range``, whose numbers are near each other to a sampler, or single ones.
        activations: To choose from: ``"relu"``, ``"tanh"``, ``"sigmoid"``, ``"gelu"``.
        dropouts: To choose from.
        same_activation: Whether all layers of a network have one activation.
        more_layers: Chance that a random structure gets one more layer, after each one.
        similar_distance: How far apart similar structures are at most, see :meth:`distance`.

    Raises:
        ValueError: If there is nothing to choose from, or a value is out of range.

    Example:
        >>> space = DenseSpace(max_layers=2, units=(8, 16))
        >>> len(space.first()), space.expand((Layer(8),))
        (2, [(Layer(units=8, ...), Layer(units=8, ...)), (Layer(units=8, ...), Layer(units=16, ...))])
        >>> space.parameters((Layer(8), Layer(16)))
        {'layers': 2, 'units_0': 8, 'units_1': 16}
    """

    def __init__(
        self,
        max_layers: int = 3,
        units: Sequence[int] = (16, 32, 64, 128, 256),
        activations: Sequence[str] = ("relu",),
        dropouts: Sequence[float] = (0.0,),
        *,
        same_activation: bool = False,
        more_layers: float = 0.4,
        similar_distance: float = 0.0,
    ) -> None:
        if max_layers < 1:
            raise ValueError(f"max_layers must be at least 1, got {max_layers}.")
        if not units or min(units) < 1 or len(set(units)) < len(units):
            raise ValueError(f"units must be different positive numbers, got {list(units)}.")
        unknown = [name for name in activations if name not in ACTIVATIONS]
        if unknown or not activations:
            raise ValueError(f"activations must be of {', '.join(ACTIVATIONS)}, got {', '.join(unknown) or 'none'}.")
        if not dropouts or not all(0 <= share < 1 for share in dropouts):
            raise ValueError(f"dropouts must be at least 0 and less than 1, got {list(dropouts)}.")
        if not 0 <= more_layers <= 1:
            raise ValueError(f"more_layers must be between 0 and 1, got {more_layers}.")
        if not similar_distance >= 0:
            raise ValueError(f"similar_distance must not be negative, got {similar_distance}.")
        self.max_layers, self.units = max_layers, units
        self.activations, self.dropouts = tuple(activations), tuple(dropouts)
        self.same_activation = same_activation
        self.more_layers, self.similar_distance = more_layers, similar_distance

    def suggest(self, trial: BaseTrial) -> Structure:
        """The layers of a trial."""
        count = trial.suggest_int("layers", 1, self.max_layers)
        activation = self.activations[0]
        if self.same_activation and len(self.activations) > 1:
            activation = trial.suggest_categorical("activation", list(self.activations))
        return tuple(self._suggest_layer(trial, index, activation) for index in range(count))

    def _suggest_layer(self, trial: BaseTrial, index: int, activation: str) -> Layer:
        name = f"units_{index}"
        if isinstance(self.units, range):
            units = trial.suggest_int(name, self.units[0], self.units[-1], step=self.units.step)
        else:
            units = trial.suggest_categorical(name, list(self.units))
        dropout = self.dropouts[0]
        if len(self.activations) > 1 and not self.same_activation:
            activation = trial.suggest_categorical(f"activation_{index}", list(self.activations))
        if len(self.dropouts) > 1:
            dropout = trial.suggest_categorical(f"dropout_{index}", list(self.dropouts))
        return Layer(units, activation, dropout)

    def parameters(self, structure: Structure) -> dict[str, Any]:
        """Number of layers, and of each its units and what else can be chosen."""
        found: dict[str, Any] = {"layers": len(structure)}
        for index, layer in enumerate(structure):
            assert isinstance(layer, Layer)
            found[f"units_{index}"] = layer.units
            if len(self.activations) > 1 and self.same_activation:
                found["activation"] = layer.activation
            elif len(self.activations) > 1:
                found[f"activation_{index}"] = layer.activation
            if len(self.dropouts) > 1:
                found[f"dropout_{index}"] = layer.dropout
        return found

    def describe(self, structure: Structure) -> str:
        """Units of the layers with their activation, if there is a choice, and dropout, if there is any.

        Such as ``64-32/0.2 relu`` where all layers have one activation.
        """
        words = []
        for layer in structure:
            assert isinstance(layer, Layer)
            activation = f" {layer.activation}" if len(self.activations) > 1 else ""
            word = f"{layer.units}/{layer.dropout:g}" if layer.dropout else f"{layer.units}"
            words.append(word if self.same_activation else word + activation)
        return "-".join(words) + (activation if self.same_activation else "")

    def build(self, structure: Structure, input_shape: Sequence[int], num_outputs: int) -> nn.Module:
        """Linear layers with activations between them; inputs are flattened."""
        from torch import nn

        inputs = math.prod(input_shape)
        modules: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
        for layer in structure:
            assert isinstance(layer, Layer)
            modules += [nn.Linear(inputs, layer.units), getattr(nn, ACTIVATIONS[layer.activation])()]
            modules += [nn.Dropout(layer.dropout)] if layer.dropout else []
            inputs = layer.units
        return nn.Sequential(*modules, nn.Linear(inputs, num_outputs))

    def _layers(self) -> list[Layer]:
        return [Layer(*choice) for choice in itertools.product(self.units, self.activations, self.dropouts)]

    def first(self) -> list[Structure]:
        """One layer, of each kind."""
        return [(layer,) for layer in self._layers()]

    def expand(self, structure: Structure) -> list[Structure]:
        """One more layer at the end, of each kind."""
        if len(structure) >= self.max_layers:
            return []
        return [(*structure, layer) for layer in self._layers() if self._fits(layer, structure)]

    def _fits(self, layer: Layer, structure: Structure) -> bool:
        return not self.same_activation or all(
            isinstance(s, Layer) and s.activation == layer.activation for s in structure
        )

    def level(self, structure: Structure) -> int:
        """Number of layers."""
        return len(structure)

    def features(self, structure: Structure) -> NDArray[np.float64]:
        """For each place, log units (0 where there is no layer), and which activation and dropout there is."""
        found = np.zeros((self.max_layers, 1 + len(self.activations) + len(self.dropouts)))
        for row, layer in zip(found, structure, strict=False):
            assert isinstance(layer, Layer)
            row[0] = math.log(layer.units) + 1
            row[1 + self.activations.index(layer.activation)] = 1
            row[1 + len(self.activations) + self.dropouts.index(layer.dropout)] = 1
        return found.ravel()

    @property
    def num_tokens(self) -> int:
        """One for each kind of layer."""
        return len(self.units) * len(self.activations) * len(self.dropouts)

    def tokens(self, structure: Structure) -> list[int]:
        """The kind of each layer."""
        found = []
        for layer in structure:
            assert isinstance(layer, Layer)
            place = self.units.index(layer.units) * len(self.activations) + self.activations.index(layer.activation)
            found.append(place * len(self.dropouts) + self.dropouts.index(layer.dropout))
        return found

    def draw(self, generator: np.random.Generator) -> Structure:
        """One layer, and more by chance; what each is, any with equal chances."""
        layers = [self._draw_layer(generator)]
        while len(layers) < self.max_layers and generator.random() < self.more_layers:
            layers.append(self._draw_layer(generator))
        return self._with_one_activation(layers, layers[0].activation)

    def _draw_layer(self, generator: np.random.Generator) -> Layer:
        units, activation = _any(self.units, generator), _any(self.activations, generator)
        return Layer(units, activation, _any(self.dropouts, generator))

    def _with_one_activation(self, layers: Sequence[Layer], activation: str) -> Structure:
        if not self.same_activation:
            return tuple(layers)
        return tuple(layer._replace(activation=activation) for layer in layers)

    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure:
        """One layer gets other units, another activation or dropout, comes in or goes, each with equal chances.

        With ``same_activation`` all layers get the other activation. The only structure of a space stays as it is.
        """
        layers = _hidden(structure)
        choices: dict[str, Sequence[Any]]
        choices = {"units": self.units, "activation": self.activations, "dropout": self.dropouts}
        kinds = [name for name, values in choices.items() if len(values) > 1]
        kinds += ["add"] * (len(layers) < self.max_layers) + ["remove"] * (len(layers) > 1)
        if not kinds:
            return structure
        kind = _any(kinds, generator)
        if kind == "add":
            layers.insert(int(generator.integers(len(layers) + 1)), self._draw_layer(generator))
            return self._with_one_activation(layers, _hidden(structure)[0].activation)
        place = int(generator.integers(len(layers)))
        if kind == "remove":
            del layers[place]
            return tuple(layers)
        old = getattr(layers[place], kind)
        new = _any([value for value in choices[kind] if value != old], generator)
        layers[place] = layers[place]._replace(**{kind: new})
        return self._with_one_activation(layers, layers[place].activation)

    def cross(self, first: Structure, second: Structure, generator: np.random.Generator) -> tuple[Structure, Structure]:
        """Exchange a run of layers of the one for a run of the other that leaves both within ``max_layers``.

        The first run lies between two random points, or from one to the end where they are the same; of all runs of the
        second structure that fit, any has equal chances. With ``same_activation`` what comes in gets the
        activation of the structure that it comes into.
        """
        one, other = _hidden(first), _hidden(second)
        start, end = sorted(int(point) for point in generator.integers(len(one), size=2))
        end = len(one) - 1 if start == end else end
        least, most = len(one) + len(other) - self.max_layers, self.max_layers
        kept = len(one) - (end - start + 1)
        runs = [
            (i, j)
            for i, j in itertools.combinations_with_replacement(range(len(other)), 2)
            if least <= kept + j - i + 1 <= most
        ]
        i, j = _any(runs, generator)
        children = (
            [*one[:start], *other[i : j + 1], *one[end + 1 :]],
            [*other[:i], *one[start : end + 1], *other[j + 1 :]],
        )
        return (
            self._with_one_activation(children[0], one[0].activation),
            self._with_one_activation(children[1], other[0].activation),
        )

    def distance(self, first: Structure, second: Structure) -> float:
        r"""How different two structures are, layer by layer.

        .. math:: d(S, T) = \sum_i \lVert s_i - t_i \rVert_2

        where a layer is :math:`(1, \text{units}, \text{place of its activation}, \text{dropout})`, and zero where there
        is none.

        Args:
            first: Of this space.
            second: Of this space.

        References:
            Laredo et al., arXiv 1905.06010, section on nominal convergence.
        """
        rows = [
            [(1, layer.units, self.activations.index(layer.activation), layer.dropout) for layer in _hidden(structure)]
            for structure in (first, second)
        ]
        return math.fsum(itertools.starmap(math.dist, itertools.zip_longest(*rows, fillvalue=(0, 0, 0, 0))))

    def are_similar(self, first: Structure, second: Structure) -> bool:
        """Whether their distance is at most ``similar_distance``."""
        return self.distance(first, second) <= self.similar_distance


def _hidden(structure: Structure) -> list[Layer]:
    return [layer for layer in structure if isinstance(layer, Layer)]


def _any(choices: Sequence[T], generator: np.random.Generator) -> T:
    return choices[int(generator.integers(len(choices)))]
