"""Where the tab's runs come from: files below the log directory, or what TensorBoard itself has read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from lightning_complexity.dashboard.events import MEASURED, PATTERN, PENALISED, EventFile, Events
from lightning_complexity.dashboard.hyperparameters import settings_files
from lightning_complexity.dashboard.reading import RECORDS, Found, read_run, read_runs, run_folders
from lightning_complexity.dashboard.runs import Run
from lightning_complexity.recording.record import merged
from lightning_complexity.recording.tags import PARTS, key_of

_POINTS = 1000
_OURS = (*MEASURED, *PENALISED, PARTS)


class Source(Protocol):
    """Runs that grow.

    Attributes:
        remark: What the reader should know of it, a line, or ``""``.
    """

    remark: str

    def has_data(self) -> bool:
        """Whether something was measured; quick."""

    def stamp(self) -> object:
        """Something that is equal as long as there is nothing new."""

    def read(self) -> Found:
        """All runs.

        Raises:
            OSError: If there is nothing to read, or it cannot be read.
            ValueError: If a record was written by a later version.
        """


def source_of(logdir: str | None, provider: Any) -> Source:
    """Files where the log directory is one of this machine; else what TensorBoard's data provider has.

    Raises:
        ValueError: If there is neither.
    """
    if logdir and "://" not in logdir:
        return LogDirectory(Path(logdir).expanduser())
    if provider is None:
        raise ValueError("a log directory or a data provider is needed, got neither.")
    return Provided(provider)


class LogDirectory:
    """Runs below a folder. Only what has changed is read again, and of event files only what was added.

    Args:
        root: The folder; need not exist yet.
    """

    remark = ""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kept: dict[Path, tuple[object, tuple[Run | None, list[str]]]] = {}
        self._opened: dict[Path, EventFile] = {}

    def has_data(self) -> bool:
        """Whether there is a record."""
        return any(any(folder.glob(RECORDS)) for folder in run_folders(self._root))

    def stamp(self) -> object:
        """Sizes and times of all files of ours."""
        return [self._stamp(folder) for folder in run_folders(self._root)]

    def read(self) -> Found:
        """All runs, as :func:`~lightning_complexity.dashboard.reading.read_runs` reads them."""
        before, self._kept = self._kept, {}

        def read(folder: Path, root: Path) -> tuple[Run | None, list[str]]:
            stamp = self._stamp(folder)  # before it is read: what is added meanwhile is read the next time
            kept = before.get(folder)
            self._kept[folder] = (
                kept if kept is not None and kept[0] == stamp else (stamp, read_run(folder, root, self._opened))
            )
            return self._kept[folder][1]

        return read_runs([self._root], read)

    def _stamp(self, folder: Path) -> list[tuple[str, int, int]]:
        own = sorted({*folder.glob(RECORDS), *folder.glob(PATTERN)})
        found = [(path, path.stat()) for path in (*own, *settings_files(folder, self._root)) if path.exists()]
        return [(str(path), about.st_size, about.st_mtime_ns) for path, about in found]


class Provided:
    """Scalars that TensorBoard itself has read, from wherever that is.

    Args:
        provider: TensorBoard's data provider.
    """

    remark = (
        "The log directory is not one folder of this machine, so that only scalars are drawn, as TensorBoard has read "
        f"them: at most {_POINTS} points a curve, in single precision, without hyper-parameters, spectra and pictures."
    )

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def has_data(self) -> bool:
        """Whether a scalar was measured."""
        return any(tag.startswith(MEASURED) for tags in self._listed().values() for tag in tags)

    def stamp(self) -> object:
        """Of each curve of ours, its last step and time."""
        return [
            (run, tag, series.max_step, series.max_wall_time)
            for run, tags in sorted(self._listed().items())
            for tag, series in sorted(tags.items())
            if tag.startswith(_OURS)
        ]

    def read(self) -> Found:
        """All runs with scalars of ours."""
        from tensorboard.data.provider import RunTagFilter

        wanted = {
            run: ours
            for run, tags in self._listed().items()
            if any(tag.startswith(MEASURED) for tag in tags)
            and (ours := [tag for tag in tags if tag == "epoch" or tag.startswith(_OURS)])
        }
        if not wanted:
            raise FileNotFoundError("TensorBoard has read no scalar complexity/... or probe/... so far.")
        found = self._provider.read_scalars(
            _context(),
            experiment_id="",
            plugin_name="scalars",
            downsample=_POINTS,
            run_tag_filter=RunTagFilter(
                runs=list(wanted), tags=sorted({tag for tags in wanted.values() for tag in tags})
            ),
        )
        return Found([run for name in sorted(found) if (run := _run(name, found[name])) is not None], [])

    def _listed(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self._provider.list_scalars(
            _context(), experiment_id="", plugin_name="scalars"
        )
        return found


def _context() -> Any:
    from tensorboard.context import RequestContext

    return RequestContext()


def _run(name: str, tags: dict[str, Any]) -> Run | None:
    events = Events({key_of(tag): _last_life(points) for tag, points in tags.items()})
    history = events.history()
    if not history:
        return None
    return Run(name, Path(name), merged([*events.history(PENALISED), *history]), source="events")


def _last_life(points: list[Any]) -> dict[int, tuple[float, float]]:
    """By step. A run that was resumed repeats steps: what was written before, from there on, is not of it any more."""
    kept: dict[int, tuple[float, float]] = {}
    lowest = float("inf")
    for point in sorted(points, key=lambda point: (point.wall_time, point.step), reverse=True):
        if point.step < lowest:
            lowest = point.step
            kept[point.step] = point.wall_time, point.value
    return kept
