"""Where the record of a run lies."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from lightning_complexity.callbacks.base import Trainer
from lightning_complexity.recording.record import RECORD_NAME, Measurement, append, continue_record

# What monitors of a trainer's run write to.
_in_use: WeakKeyDictionary[Trainer, set[Path]] = WeakKeyDictionary()


def run_directory(trainer: Trainer) -> Path | None:
    """The folder of this run alone: that of its logger's files, else where its checkpoints would lie.

    That is the ``log_dir`` of a logger, such as TensorBoard's and CSV's; for loggers without one, such as W&B's and
    MLflow's, ``save_dir/name/version``, with ``trainer.default_root_dir`` where a logger has no ``save_dir``. Without
    a logger, and in a fast run, nothing is written.

    Returns:
        The folder, which may not exist yet; ``None`` if there is none.
    """
    if trainer.fast_dev_run or not trainer.loggers:
        return None
    for logger in trainer.loggers:
        directory = _local(_attribute(logger, "log_dir"))
        if directory is not None:
            return directory
    logger = next((logger for logger in trainer.loggers if _local(_attribute(logger, "save_dir"))), trainer.loggers[0])
    root = _local(_attribute(logger, "save_dir")) or _local(trainer.default_root_dir)
    version = _attribute(logger, "version")
    if version is None:  # that of some loggers is only known once their run is open
        _attribute(logger, "experiment")
        version = _attribute(logger, "version")
    name = str(_attribute(logger, "name") or type(logger).__name__)
    return None if root is None else root / name / (version if isinstance(version, str) else f"version_{version}")


def _attribute(logger: Any, name: str) -> Any:
    with suppress(Exception):
        return getattr(logger, name, None)
    return None


def _local(directory: Any) -> Path | None:
    """The folder if it is one on this machine and not at some address."""
    if not isinstance(directory, (str, os.PathLike)) or "://" in os.fspath(directory):
        return None
    return Path(directory)


class RecordFile:
    """The record of one monitor in one run.

    Args:
        trainer: Of the run.
        name: The monitor's, for which the file is named; monitors without a name share one.

    Attributes:
        path: The file; ``None`` where nothing is written.
    """

    def __init__(self, trainer: Trainer, name: str | None) -> None:
        directory = run_directory(trainer)
        stem, suffix = os.path.splitext(RECORD_NAME)
        self.path = (
            None if directory is None else directory / (RECORD_NAME if name is None else f"{stem}.{name}{suffix}")
        )
        self._is_whole = False

    def write(self, trainer: Trainer, history: list[Measurement], replaced: Measurement | None = None) -> None:
        """Add the last measurement of a run; first, and where an earlier one was not written, all of them.

        Args:
            trainer: Of the run.
            history: All measurements of the run, of which the last is new.
            replaced: A measurement of the same step in whose place it is.

        Raises:
            OSError: If the file cannot be written.
        """
        if self.path is None:
            return
        can_append, self._is_whole = self._is_whole and replaced is None, False
        if can_append:
            append(self.path, history[-1])
        else:
            in_use = _in_use.setdefault(trainer, set())
            continue_record(self.path, history, replaced, shared=self.path in in_use)
            in_use.add(self.path)
        self._is_whole = True
