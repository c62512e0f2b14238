"""NAS-Bench-Macro, all of whose networks have been trained."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_complexity.selection.spaces.base import EvolvableSpace, ProgressiveSpace, Structure, TableSpace

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

LAYERS, CHOICES = 8, 3
# The first layer of a stage halves the image. The others are cells of one shape, among which an identity does nothing.
STAGES = ((0, 2), (2, 5), (5, 8))


class MacroSpace(TableSpace, ProgressiveSpace, EvolvableSpace):
    """NAS-Bench-Macro: networks of eight layers in three stages, trained on CIFAR-10 three times each.

    A structure has a number for each layer: 0 for the identity, 1 and 2 for inverted residuals of kernel 3 and
    expansion 3, and of kernel 5 and expansion 6. An identity that is not the first layer of its stage does nothing, so
    that several of the 3^8 = 6,561 strings are one network; identities are put at the end of their stage, which leaves
    3,969 structures. A level is a number of layers that are no identity, from 0 to 8.

    Args:
        path: ``nas-bench-macro_cifar10.json`` of https://github.com/xiusu/NAS-Bench-Macro.

    Raises:
        ValueError: If there is no such file, or it is another one.

    References:
        Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021, arXiv 2103.11922.
    """

    def __init__(self, path: str | Path) -> None:
        self._table = _read(Path(path))
        self.structures = sorted({_canonical(layers) for layers in itertools.product(range(CHOICES), repeat=LAYERS)})
        self._names = [f"layer_{index}" for index in range(LAYERS)]

    def suggest(self, trial: BaseTrial) -> Structure:
        """The layers of a trial, with identities at the end of their stage."""
        return _canonical(tuple(trial.suggest_categorical(name, list(range(CHOICES))) for name in self._names))

    def parameters(self, structure: Structure) -> dict[str, Any]:
        """The number of each layer."""
        return dict(zip(self._names, structure, strict=True))

    def describe(self, structure: Structure) -> str:
        """The string by which the table has a network."""
        return "".join(map(str, structure))

    def outcome(self, structure: Structure, seed: int | None = None) -> dict[str, float]:
        """Test error and accuracy in percent, trainable parameters, and floating point operations of one image.

        Args:
            structure: Of this space.
            seed: 0, 1 or 2, one of its trainings; their mean with ``None``.

        Raises:
            ValueError: If there is no such network, or no such training.
        """
        row = self._table.get(self.describe(structure))
        if row is None:
            raise ValueError(f"NAS-Bench-Macro has no network {structure!r}: it needs {LAYERS} numbers from 0 to 2.")
        accuracies = row["test_acc"]
        if seed is not None and not 0 <= seed < len(accuracies):
            raise ValueError(f"seed must be from 0 to {len(accuracies) - 1}, or None for the mean, got {seed}.")
        accuracy = float(np.mean(accuracies) if seed is None else accuracies[seed])
        sizes = {"parameters": float(row["params"]), "flops": float(row["flops"])}
        return {"error": 100 - accuracy, "accuracy": accuracy, **sizes}

    def first(self) -> list[Structure]:
        """The network of identities alone."""
        return [(0,) * LAYERS]

    def expand(self, structure: Structure) -> list[Structure]:
        """A layer in the place of one identity."""
        return sorted({other for other in _changed(structure) if self.level(other) > self.level(structure)})

    def level(self, structure: Structure) -> int:
        """Number of layers that are no identity."""
        return LAYERS - structure.count(0)

    def features(self, structure: Structure) -> NDArray[np.float64]:
        """For each place and each of the two layers, whether it is there: 16 numbers."""
        return np.array([float(layer == kind) for layer in structure for kind in (1, 2)])

    @property
    def num_tokens(self) -> int:
        """One for each place and each of the two layers."""
        return LAYERS * 2

    def tokens(self, structure: Structure) -> list[int]:
        """Which layer is where, for those that are no identity."""
        return [int(place) for place in np.flatnonzero(self.features(structure))]

    def draw(self, generator: np.random.Generator) -> Structure:
        """Any of the 3,969 networks, all equally likely."""
        return self.structures[generator.integers(len(self.structures))]

    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure:
        """Another choice in one place, all equally likely."""
        changes = [other for other in _changed(structure) if other != structure]
        return changes[generator.integers(len(changes))]


def _canonical(layers: tuple[Any, ...]) -> Structure:
    stages = [(layers[begin], sorted(layers[begin + 1 : end], key=lambda layer: layer == 0)) for begin, end in STAGES]
    return tuple(itertools.chain.from_iterable((first, *rest) for first, rest in stages))


def _changed(structure: Structure) -> Iterator[Structure]:
    for index, layer in enumerate(structure):
        for other in range(CHOICES):
            if other != layer:
                yield _canonical((*structure[:index], other, *structure[index + 1 :]))


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        for layers in itertools.product("012", repeat=LAYERS):
            row = table["".join(layers)]
            found = np.array([*row["test_acc"], row["params"], row["flops"]], dtype=float)
            if len(found) < 3 or not np.isfinite(found).all():
                raise ValueError
    except OSError as error:
        raise ValueError(f"the table of NAS-Bench-Macro cannot be read: {path}: {error.strerror}.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not the table of NAS-Bench-Macro: it needs test_acc, params and flops of all 6,561 networks, "
            "as in nas-bench-macro_cifar10.json of github.com/xiusu/NAS-Bench-Macro."
        ) from error
    return table
