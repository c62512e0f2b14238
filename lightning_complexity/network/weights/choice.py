"""Choose layers by the pattern of their names or by their type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

from lightning_complexity.network.errors import MeasureError

Value = TypeVar("Value")


@dataclass(frozen=True)
class LayerChoice:
    """Which layers count.

    Args:
        patterns: Name patterns with ``*`` and ``?``, of a parameter (``"encoder.*.weight"``) or of the module that
            owns it (``"encoder.*"``).
        types: Module types.

    Example:
        >>> choice = LayerChoice(("head*",), (nn.Conv2d,))
        >>> choice("head.weight", nn.Linear(1, 1)), choice("body.weight", nn.Linear(1, 1))
        (True, False)
    """

    patterns: tuple[str, ...] = ()
    types: tuple[type[nn.Module], ...] = ()

    @classmethod
    def of(cls, layers: Iterable[str | type[nn.Module]]) -> LayerChoice:
        """The choice of layers that fit any of the patterns or module types.

        Raises:
            ValueError: Without layers.
            TypeError: If a layer is given as something else.
        """
        layers = tuple(layers)
        if not layers:
            raise ValueError('needs layers, such as "encoder.*" or torch.nn.Conv2d.')
        for layer in layers:
            if not isinstance(layer, str) and not (isinstance(layer, type) and issubclass(layer, nn.Module)):
                raise TypeError(f"a layer is chosen by a name pattern or a module type, got {layer!r}.")
        patterns = tuple(layer for layer in layers if isinstance(layer, str))
        return cls(patterns, tuple(layer for layer in layers if not isinstance(layer, str)))

    def __call__(self, name: str, module: nn.Module) -> bool:
        """Whether a parameter of a module is chosen."""
        owner = name.rpartition(".")[0]
        by_name = any(fnmatchcase(name, pattern) or fnmatchcase(owner, pattern) for pattern in self.patterns)
        return by_name or isinstance(module, self.types)

    def __repr__(self) -> str:
        """The arguments of :meth:`of`."""
        return ", ".join([*map(repr, self.patterns), *(kind.__name__ for kind in self.types)])

    def __str__(self) -> str:
        """The patterns and types as they were given."""
        return ", ".join([*map(repr, self.patterns), *(t.__name__ for t in self.types)])


def owners(model: nn.Module) -> dict[str, nn.Module]:
    """The module of each parameter, by the parameter's name; and of weights that are parametrized."""
    return {
        f"{path}.{name}".removeprefix("."): module
        for path, module in model.named_modules()
        for name in ("weight", *(name for name, _ in module.named_parameters(recurse=False)))
    }


def chosen(named: Mapping[str, Value], layers: LayerChoice | None, model: nn.Module) -> dict[str, Value]:
    """Those of the values by parameter name whose layers are chosen; all where there is no choice.

    Raises:
        MeasureError: If none is chosen.
    """
    if layers is None:
        return dict(named)
    modules = owners(model)
    found = {name: value for name, value in named.items() if layers(name, modules[name])}
    if not found:
        raise MeasureError(f"no layer is chosen by {layers}; there are {', '.join(named) or 'none'}.")
    return found
