"""Names and log keys of callbacks of which a ``Trainer`` may have several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_complexity.callbacks.base import Callback, LightningModule, Trainer

_NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z_-][A-Za-z0-9_.-]*")


def check_name(name: str | None) -> None:
    """Raise an error if a name cannot be part of log keys and file names."""
    if name is None:
        return
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, such as 'shifted', got {name!r}.")
    if not _NAME.fullmatch(name):
        raise ValueError(f"name must consist of letters, digits, '_', '-' and '.', such as 'shifted', got {name!r}.")


def named_key(key: str, name: str | None) -> str:
    """A log key with the name of the callback after its first part.

    Example:
        >>> named_key("complexity/jacobian_norm", "shifted"), named_key("probe/val_loss", None)
        ('complexity/shifted/jacobian_norm', 'probe/val_loss')
    """
    if name is None:
        return key
    first, _, rest = key.partition("/")
    return f"{first}/{name}/{rest}"


def plain_key(key: str, name: str | None) -> str | None:
    """The log key without the callback's name; ``None`` if it is not one of a callback of this name.

    Example:
        >>> plain_key("complexity/shifted/jacobian_norm", "shifted"), plain_key("probe/val_loss", "shifted")
        ('complexity/jacobian_norm', None)
    """
    if name is None:
        return key
    first, _, rest = key.partition("/")
    return f"{first}/{rest.removeprefix(name + '/')}" if rest.startswith(f"{name}/") else None


def check_that_keys_differ(metrics: Iterable[str], others: Iterable[str], name: str | None) -> None:
    """Raise an error if two monitors of the same name have a metric in common."""
    shared = sorted(set(metrics) & set(others))
    if shared:
        key = f"complexity/{shared[0]}"
        raise ValueError(
            f"two monitors would log {named_key(key, name)}: give one of them a name, "
            f"ComplexityMonitor(..., name='shifted'), which then logs {named_key(key, 'shifted')}."
        )


class KeyedCallback(Callback):
    """A callback whose state in checkpoints is found again.

    Alone of its kind and name in a ``Trainer``, its state is filed under these, so that it can be changed between the
    parts of a run; several are told apart by what :meth:`identity` gives.
    """

    name: str | None = None
    _state_key: str | None = None

    def identity(self) -> dict[str, Any]:
        """What tells callbacks of the same kind and name apart."""
        raise NotImplementedError

    @property
    def state_key(self) -> str:
        """Where the state is in checkpoints; for a ``Trainer`` that is being made, one of its own."""
        return self._state_key or self._generate_state_key(name=self.name, instance=id(self))

    def siblings(self, trainer: Trainer) -> list[Any]:
        """Other callbacks of the same kind and name."""
        same_kind = [c for c in trainer.callbacks if type(c).__name__ == type(self).__name__ and c is not self]
        return [c for c in same_kind if c.name == self.name]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose where the state is filed."""
        which = {} if self.name is None else {"name": self.name}
        if self.siblings(trainer):
            which |= self.identity()
        self._state_key = self._generate_state_key(**which) if which else type(self).__qualname__

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Find the state where there were more, or fewer, of this kind when it was saved."""
        states: Mapping[Any, Any] = checkpoint.get("callbacks") or {}
        if self.state_key in states:
            return
        kind, taken = type(self).__qualname__, {c.state_key for c in trainer.callbacks}
        free = [s for key, s in states.items() if str(key).partition("{")[0] == kind and key not in taken]
        mine = [s for s in free if isinstance(s, Mapping) and s.get("name") == self.name]
        same = [s for s in mine if s.get("identity") == self.identity()]
        found = same or (mine if len(mine) == 1 and not self.siblings(trainer) else [])
        if found:
            self.load_state_dict(dict(found[0]))

    def state_dict(self) -> dict[str, Any]:
        """Whose state this is."""
        return {"name": self.name, "identity": self.identity()}
