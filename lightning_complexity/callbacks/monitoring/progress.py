"""A note while a measurement takes long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

from lightning_complexity.callbacks.base import Trainer

_LOG = logging.getLogger(__name__)
_AFTER = 10.0  # seconds


@contextmanager
def noted(trainer: Trainer, doing: Callable[[], str]) -> Iterator[None]:
    """Say, on rank zero, after 10, 20, 40, ... seconds in the block that it still runs.

    It is said by the trainer's own progress bar, above its lines, where a bar of tqdm or Rich is open; else by the log
    at info level. A thread says it, which does nothing else: the block, its random numbers and its errors stay as they
    are.

    Args:
        trainer: Whose training waits.
        doing: What is being done, in words.
    """
    if not trainer.is_global_zero:
        yield
        return
    done = Event()
    thread = Thread(target=_note, args=(trainer, doing, done), name="ComplexityMonitor's progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _note(trainer: Trainer, doing: Callable[[], str], done: Event) -> None:
    began, wait = time.monotonic(), _AFTER
    while not done.wait(wait):
        waited = time.monotonic() - began
        _say(trainer, f"ComplexityMonitor has been measuring for {waited:.0f} s: {doing()}. Training goes on after it.")
        wait = waited


def _say(trainer: Trainer, text: str) -> None:
    bar = trainer.progress_bar_callback
    with suppress(Exception):  # a bar of the user's may fail in any way, and the log is there
        if _is_open(bar):
            bar.print(text)
            return
    _LOG.info(text)


def _is_open(bar: Any) -> bool:
    """Whether a progress bar of tqdm or Rich can print above its lines now."""
    if hasattr(bar, "progress"):
        return bar.progress is not None and bool(bar.progress.live.is_started)
    try:
        return not bar.train_progress_bar.disable
    except (AttributeError, TypeError):  # no bar of tqdm, or none yet
        return False
