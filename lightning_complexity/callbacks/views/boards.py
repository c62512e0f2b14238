"""Which loggers of a ``Trainer`` are TensorBoard's, and how to write to a logger that may refuse."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from lightning_complexity.callbacks.base import Trainer

_WRITERS = "torch.utils.tensorboard", "tensorboardX"


@dataclass
class Known:
    """What a run has found out about a logger: the form of values that it takes, and what was said about it."""

    form: int = 0
    said: set[str] = field(default_factory=set)


_known: WeakKeyDictionary[Trainer, dict[int, Known]] = WeakKeyDictionary()


def about(trainer: Trainer, logger: Any) -> Known:
    """What is known of a logger."""
    # Loggers need not be hashable; a trainer holds its loggers, so that their numbers stay theirs.
    return _known.setdefault(trainer, {}).setdefault(id(logger), Known())


def say(known: Known, logger: Any, what: str) -> None:
    """Warn of a logger, once."""
    if what.split(".")[0] not in known.said:
        known.said.add(what.split(".")[0])
        warnings.warn(f"{type(logger).__name__} {what} Training goes on.", stacklevel=2)


def one_line(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}."


def attempt(trainer: Trainer, logger: Any, what: str, write: Callable[[], Any]) -> None:
    """Write something; a logger that does not take it is named in one warning."""
    try:
        write()
    except Exception as error:
        say(about(trainer, logger), logger, f"does not take {what} of complexity. {one_line(error)}")


class Board(NamedTuple):
    """A logger of TensorBoard, with its writer: torch's, or that of tensorboardX where only that is installed."""

    logger: Any
    writer: Any

    def tag(self, tag: str) -> str:
        """A tag as the logger writes scalars."""
        prefix = getattr(self.logger, "_prefix", "")
        return f"{prefix}-{tag}" if isinstance(prefix, str) and prefix else tag

    def times_written(self, mark: bytes) -> int:
        """How often the event files of the run hold some bytes, such as a tag; not looked for at an address."""
        self.writer.flush()
        folder = Path(str(getattr(self.writer, "log_dir", None) or self.writer.logdir))
        return sum(_count(path, mark) for path in sorted(folder.glob("*tfevents*")))


def _count(path: Path, mark: bytes, size: int = 1 << 22) -> int:
    found, rest = 0, b""
    with path.open("rb") as file:
        while block := file.read(size):
            found += (rest + block).count(mark)
            rest = (rest + block)[-len(mark) + 1 :]
    return found


def experiment(trainer: Trainer, logger: Any) -> Any:
    """What a logger writes to; ``None`` for a logger without an ``experiment``, or whose experiment does not open."""
    try:
        return getattr(logger, "experiment", None)
    except Exception as error:
        say(about(trainer, logger), logger, f"has an experiment that does not open. {one_line(error)}")
        return None


def board_of(trainer: Trainer, logger: Any) -> Board | None:
    """A logger as a board, if it is one."""
    loaded = [sys.modules[name].SummaryWriter for name in _WRITERS if name in sys.modules]
    if not loaded:  # no writer can exist, and to import them takes half a second
        return None
    writer = experiment(trainer, logger)
    return Board(logger, writer) if isinstance(writer, tuple(loaded)) else None


def boards(trainer: Trainer) -> list[Board]:
    """The loggers that are TensorBoard's."""
    found = [board_of(trainer, logger) for logger in trainer.loggers]
    return [board for board in found if board is not None]
