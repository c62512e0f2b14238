"""Choose layers by the pattern of their names or by their type."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn


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

    def __call__(self, name: str, module: nn.Module) -> bool:
        """Whether a parameter of a module is chosen."""
        owner = name.rpartition(".")[0]
        by_name = any(fnmatchcase(name, pattern) or fnmatchcase(owner, pattern) for pattern in self.patterns)
        return by_name or isinstance(module, self.types)

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
