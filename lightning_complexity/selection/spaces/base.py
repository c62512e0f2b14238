"""What a space has to say of its structures, for each kind of search."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial
    from torch import nn

Structure: TypeAlias = tuple[Hashable, ...]
"""Equal for networks that are the same, so that none is trained twice."""


class Space(ABC):
    """Structures that a trial of Optuna can be asked for, parameter by parameter, so that any sampler can be used."""

    @abstractmethod
    def suggest(self, trial: BaseTrial) -> Structure:
        """The structure of a trial.

        Args:
            trial: Is asked for the parameters of the structure.
        """

    @abstractmethod
    def parameters(self, structure: Structure) -> dict[str, Any]:
        """The parameters that :meth:`suggest` asks for where it gives this structure.

        Args:
            structure: Of this space.
        """

    def read(self, parameters: Mapping[str, Any]) -> Structure:
        """The structure of a trial's parameters.

        Args:
            parameters: ``trial.params``.

        Raises:
            ValueError: If one is missing, or is out of the space.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # by which Optuna says that a value is out of range
            try:
                return self.suggest(_fixed(parameters))
            except UserWarning as warning:
                raise ValueError(f"these are no parameters of the space: {warning}") from warning

    def distributions(self, structure: Structure) -> dict[str, BaseDistribution]:
        """What each parameter of a structure is chosen from.

        Args:
            structure: Of this space.
        """
        trial = _fixed(self.parameters(structure))
        self.suggest(trial)
        return trial.distributions

    def describe(self, structure: Structure) -> str:
        """A short name of a structure, for tables and pictures.

        Args:
            structure: Of this space.
        """
        return ", ".join(f"{name}={value}" for name, value in self.parameters(structure).items())


def _fixed(parameters: Mapping[str, Any]) -> Any:
    from optuna.trial import FixedTrial

    return FixedTrial(dict(parameters))


class NetworkSpace(Space):
    """A space whose structures are networks."""

    @abstractmethod
    def build(self, structure: Structure, input_shape: Sequence[int], num_outputs: int) -> nn.Module:
        """The network of a structure, with weights as torch draws them.

        Args:
            structure: Of this space.
            input_shape: Of a sample, such as ``(64,)`` or ``(1, 8, 8)``.
            num_outputs: Classes, or numbers to predict.

        Raises:
            ValueError: If no such network takes inputs of that shape.
        """


class TableSpace(Space):
    """A space of networks that others have trained, with what became of them."""

    @abstractmethod
    def outcome(self, structure: Structure, seed: int | None = None) -> dict[str, float]:
        """What is known of a network, such as ``error`` and ``parameters``.

        Args:
            structure: Of this space.
            seed: Of one of its trainings; their mean with ``None``.
        """


class ProgressiveSpace(Space):
    """A space in levels of complexity, each of which is made out of the one below."""

    @abstractmethod
    def first(self) -> list[Structure]:
        """All structures of the lowest level, each once."""

    @abstractmethod
    def expand(self, structure: Structure) -> list[Structure]:
        """The structures one level up that a structure can become, each once; none at the highest level.

        Args:
            structure: Of this space.
        """

    @abstractmethod
    def level(self, structure: Structure) -> int:
        """The level of a structure; those of :meth:`first` have the least.

        Args:
            structure: Of this space.
        """

    @abstractmethod
    def features(self, structure: Structure) -> NDArray[np.float64]:
        """What a linear surrogate predicts from: as many numbers for all structures.

        Args:
            structure: Of this space.
        """

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """How many different tokens there are."""

    @property
    def tokens_of_a_block(self) -> int:
        """How many tokens in a row belong together; 1 if each is for itself."""
        return 1

    @abstractmethod
    def tokens(self, structure: Structure) -> list[int]:
        """What a neural surrogate predicts from: numbers below :attr:`num_tokens`; more for larger structures.

        Args:
            structure: Of this space.
        """


class EvolvableSpace(Space):
    """A space whose structures can be drawn at random, and changed a little."""

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> Structure:
        """A random structure.

        Args:
            generator: That it is drawn from.
        """

    @abstractmethod
    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure:
        """Another structure that differs in one place.

        Args:
            structure: Of this space.
            generator: That the change is drawn from.
        """


class CrossableSpace(EvolvableSpace):
    """A space whose structures can be put together out of two others."""

    @abstractmethod
    def cross(self, first: Structure, second: Structure, generator: np.random.Generator) -> tuple[Structure, Structure]:
        """Two structures that exchanged a part.

        Args:
            first: Of this space.
            second: Of this space.
            generator: That the part is drawn from.
        """

    @abstractmethod
    def are_similar(self, first: Structure, second: Structure) -> bool:
        """Whether a population of such two has little left to exchange.

        Args:
            first: Of this space.
            second: Of this space.
        """
