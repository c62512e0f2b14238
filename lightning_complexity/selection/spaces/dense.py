"""Fully connected networks, layer by layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_complexity.selection.spaces.base import NetworkSpace, ProgressiveSpace, Structure

if TYPE_CHECKING:
    from optuna.trial import BaseTrial
    from torch import nn

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


class DenseSpace(NetworkSpace, ProgressiveSpace):
    """Fully connected networks; a structure is a tuple of :class:`Layer`, and a level is a number of layers.

    Args:
        max_layers: Most hidden layers.
        units: Of a layer: a ``range``, whose numbers are near each other to a sampler, or single ones.
        activations: To choose from: ``"relu"``, ``"tanh"``, ``"sigmoid"``, ``"gelu"``.
        dropouts: To choose from.

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
        self.max_layers, self.units = max_layers, units
        self.activations, self.dropouts = tuple(activations), tuple(dropouts)

    def suggest(self, trial: BaseTrial) -> Structure:
        """The layers of a trial."""
        count = trial.suggest_int("layers", 1, self.max_layers)
        return tuple(self._suggest_layer(trial, index) for index in range(count))

    def _suggest_layer(self, trial: BaseTrial, index: int) -> Layer:
        name = f"units_{index}"
        if isinstance(self.units, range):
            units = trial.suggest_int(name, self.units[0], self.units[-1], step=self.units.step)
        else:
            units = trial.suggest_categorical(name, list(self.units))
        activation, dropout = self.activations[0], self.dropouts[0]
        if len(self.activations) > 1:
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
            if len(self.activations) > 1:
                found[f"activation_{index}"] = layer.activation
            if len(self.dropouts) > 1:
                found[f"dropout_{index}"] = layer.dropout
        return found

    def describe(self, structure: Structure) -> str:
        """Units of the layers, with what else can be chosen."""
        words = []
        for layer in structure:
            assert isinstance(layer, Layer)
            word = str(layer.units)
            word += f" {layer.activation}" if len(self.activations) > 1 else ""
            words.append(word + (f" {layer.dropout:g}" if len(self.dropouts) > 1 else ""))
        return "-".join(words)

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
        return [(*structure, layer) for layer in self._layers()]

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
