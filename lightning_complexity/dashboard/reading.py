"""Find the runs below folders, and read them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from lightning_complexity.dashboard.events import PATTERN, PENALISED, EventFile, Events, read_events
from lightning_complexity.dashboard.hyperparameters import read_settings
from lightning_complexity.dashboard.runs import Run
from lightning_complexity.recording import Measurement
from lightning_complexity.recording.record import NewerRecordError, merged, read_lines

RECORDS = "complexity*.jsonl"
T = TypeVar("T")
_SET_ASIDE = re.compile(r"\.before-\d+\.jsonl$")


@dataclass(frozen=True)
class Found:
    """Runs, and what could not be read.

    Attributes:
        runs: In the order of their names.
        notes: A line each.
    """

    runs: list[Run]
    notes: list[str]


Reader: TypeAlias = "Callable[[Path, Path], tuple[Run | None, list[str]]]"


def read_run(folder: Path, root: Path, opened: dict[Path, EventFile] | None = None) -> tuple[Run | None, list[str]]:
    """Read what was measured in one folder.

    Args:
        folder: That has a record or event files.
        root: The folder that was asked for.
        opened: Event files that were read before, of which only what was added is read.

    Returns:
        The run, if anything was measured; and what could not be read, a line each.
    """
    history, notes = _history(folder)
    events = read_events(folder, opened, measured=not history) if any(folder.glob(PATTERN)) else Events()
    source = "record"
    if not history:
        history, source = events.history(), "events"
    if not history:
        return None, notes
    history = merged([*events.history(PENALISED), *history])  # which no record has
    settings, unread = read_settings(folder, root)
    name = str(folder.relative_to(root))
    run = Run(
        root.resolve().name if name == "." else name,
        folder,
        history,
        settings,
        source,
        {tag: _in_order(steps) for tag, steps in events.histograms.items()},
        {tag: _in_order(steps) for tag, steps in events.pictures.items()},
    )
    return run, [*notes, *unread, *events.notes]


def read_runs(folders: Sequence[str | Path], read: Reader = read_run) -> Found:
    """Read every run in folders and below them.

    A run is a folder with a record ``complexity.jsonl``; several monitors of a run have a file each, whose
    measurements are put together. Folders that have none, but TensorBoard event files with tags ``complexity/...`` or
    ``probe/...``, are runs too, whose numbers are then rounded to single precision.

    Args:
        folders: Of runs, or that have such below them.
        read: How one of them is read, given the folder that was asked for as well.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing was measured in any of them.
    """
    runs: dict[Path, Run] = {}
    notes: list[str] = []
    for root in map(Path, folders):
        if not root.is_dir():
            what = "it is a file" if root.exists() else "there is none"
            raise FileNotFoundError(f"a folder with runs is needed, got {root}: {what}.")
        for folder in run_folders(root):
            if folder.resolve() not in runs:
                run, more = read(folder, root)
                notes += more
                if run is not None:
                    runs[folder.resolve()] = run
    if not runs:
        listed = ", ".join(str(folder) for folder in folders)
        why = f" {notes[0]}." if notes else ""
        raise FileNotFoundError(
            f"nothing was measured in {listed}: there is no complexity.jsonl with a measurement, and no event file "
            f"with complexity/ or probe/ in it. ComplexityMonitor writes them.{why}"
        )
    return Found(sorted(_named(list(runs.values())), key=lambda run: _natural(run.name)), notes)


def run_folders(root: Path) -> Iterator[Path]:
    """Folders with records or event files; links to folders are followed, each folder is looked at once."""
    seen = set()
    for name, below, files in os.walk(root, followlinks=True):
        folder = Path(name)
        real = folder.resolve()
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        if any(Path(file).match(RECORDS) or "tfevents" in file for file in files):
            yield folder


def _history(folder: Path) -> tuple[list[Measurement], list[str]]:
    """What all monitors of a run measured, and what could not be read."""
    found: list[Measurement] = []
    notes: list[str] = []
    for path in sorted(folder.glob(RECORDS)):
        if _SET_ASIDE.search(path.name):
            notes.append(f"{path} is of an earlier run in the same folder: not read")
            continue
        try:
            measurements, broken = read_lines(path)
        except NewerRecordError as error:
            notes.append(str(error).rstrip("."))
            continue
        except OSError as error:
            notes.append(f"{path} is not read: {error.strerror}")
            continue
        found += measurements
        if broken:
            lines = "1 line that is" if broken == 1 else f"{broken} lines that are"
            notes.append(f"{path} has {lines} no measurement: passed over")
    return merged(found), notes


def _in_order(steps: dict[int, T]) -> list[T]:
    return [steps[step] for step in sorted(steps)]


def _named(runs: list[Run]) -> Iterable[Run]:
    """Runs of several folders that have one name get as much of their paths as tells them apart."""
    names = [run.name for run in runs]
    for run in runs:
        yield run if names.count(run.name) == 1 else replace(run, name=str(run.path))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers in names by their size."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
