"""Read TensorBoard's event files, which may be cut off, out of order, or of a run that was resumed."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lightning_complexity.dashboard.runs import Histogram, Picture
from lightning_complexity.recording import Measurement
from lightning_complexity.recording.tags import PARTS, key_of

PATTERN = "*tfevents*"
MEASURED, PENALISED = ("complexity/", "probe/"), ("penalty/", "constraint/", "loss/")
_EPOCH = "epoch"
_OURS = (*MEASURED, *PENALISED)
_MARKS = re.compile("|".join((*_OURS, PARTS, _EPOCH)).encode())
_PLAIN_SCALAR = re.compile(rb"(?:%s)[ -~]*\x15.{4}\Z" % "|".join((*MEASURED, PARTS)).encode(), re.DOTALL)
"""An event with one measured number, which comes last, right behind its tag: known without parsing it."""
_HEADER = struct.Struct("<Q4x")
_CHECKSUM = 4


@dataclass
class Events:
    """What the event files of a folder hold of ours, by tag and step.

    Attributes:
        scalars: Time and value.
        histograms: As they were written.
        pictures: PNG files.
        notes: What could not be read, a line each.
    """

    scalars: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)
    histograms: dict[str, dict[int, Histogram]] = field(default_factory=dict)
    pictures: dict[str, dict[int, Picture]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def history(self, of: tuple[str, ...] = MEASURED) -> list[Measurement]:
        """The scalars, in the order of steps.

        Args:
            of: How their tags begin.
        """
        epochs = sorted((step, value) for step, (_, value) in self.scalars.get(_EPOCH, {}).items())
        values: dict[int, dict[str, float]] = {}
        times: dict[int, float] = {}
        for tag, points in self.scalars.items():
            if tag.startswith(of):
                for step, (time, value) in points.items():
                    values.setdefault(step, {})[tag] = value
                    times[step] = min(time, times.get(step, time))
        place, epoch, history = 0, 0, []
        for step in sorted(values):
            while place < len(epochs) and epochs[place][0] <= step:
                epoch = int(epochs[place][1])
                place += 1
            history.append(Measurement(step, epoch, times[step], values[step]))
        return history


def read_events(folder: Path, opened: dict[Path, EventFile] | None = None, *, measured: bool = True) -> Events:
    """Read all event files of a folder, in the order in which they were begun.

    Where a later file has a tag from a step on, it replaces what earlier files have from there on: a run that was
    resumed repeats these steps. A file is read up to where it is cut off or damaged.

    Args:
        folder: That has the files.
        opened: Files that were read before: they are read on from where they ended, and others are put there.
        measured: Whether numbers ``complexity/...`` and ``probe/...`` are wanted, which a record beside them has.
    """
    found, opened = Events(), {} if opened is None else opened
    for path in sorted(folder.glob(PATTERN)):
        if path not in opened or opened[path].measured != measured:
            opened[path] = EventFile(path, measured)
        new = opened[path].read()
        found.notes += new.notes
        for mine, theirs in (
            (found.scalars, new.scalars),
            (found.histograms, new.histograms),
            (found.pictures, new.pictures),
        ):
            _continue(mine, theirs)
    return found


def _continue(mine: dict[str, dict[int, Any]], theirs: dict[str, dict[int, Any]]) -> None:
    for tag, points in theirs.items():
        first = min(points)
        kept = {step: point for step, point in mine.get(tag, {}).items() if step < first}
        mine[tag] = kept | points


class EventFile:
    """An event file that grows.

    Args:
        path: The file.
        measured: Whether numbers ``complexity/...`` and ``probe/...`` are wanted.
    """

    def __init__(self, path: Path, measured: bool = True) -> None:
        self.path, self.measured = path, measured
        self._file, self._end, self._found = -1, 0, Events()

    def read(self) -> Events:
        """All that is in it; only what was added since the last time is read."""
        from google.protobuf.message import DecodeError

        try:
            about = self.path.stat()
            if about.st_ino != self._file or about.st_size < self._end:  # another file of the same name
                self._file, self._end, self._found = about.st_ino, 0, Events()
            self._found.notes = []
            self._read_on(about.st_size)
        except (DecodeError, EOFError, OSError):
            self._found.notes = [f"{self.path} is damaged or cut off: read up to there"]
        return self._found

    def _read_on(self, size: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        with self.path.open("rb") as file:
            file.seek(self._end)
            for data in _records(file, size - self._end):
                if (found := _MARKS.search(data)) and (self.measured or not _PLAIN_SCALAR.match(data, found.start())):
                    event = Event.FromString(data)
                    for value in event.summary.value:
                        _take(self._found, value, event.step, event.wall_time)
                self._end += _HEADER.size + len(data) + _CHECKSUM


def _records(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Raw records; checksums are not looked at."""
    while size:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise EOFError
        (length,) = _HEADER.unpack(header)
        size -= _HEADER.size + length + _CHECKSUM
        if size < 0:
            raise EOFError
        yield file.read(length + _CHECKSUM)[:length]


def _take(found: Events, value: Any, step: int, time: float) -> None:
    tag = key_of(value.tag)
    if not (tag.startswith(_OURS) or tag == _EPOCH):
        return
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        found.scalars.setdefault(tag, {})[step] = time, value.simple_value
        return
    plugin = value.metadata.plugin_data.plugin_name
    if kind == "histo":
        _put(found.histograms, tag, step, _histogram(step, value.histo))
    elif kind == "image":
        found.pictures.setdefault(tag, {})[step] = Picture(step, value.image.encoded_image_string)
    elif kind == "tensor" and plugin in ("scalars", "histograms", "images"):
        _take_tensor(found, tag, step, time, plugin, value.tensor)


def _take_tensor(found: Events, tag: str, step: int, time: float, plugin: str, tensor: Any) -> None:
    from tensorboard.util.tensor_util import make_ndarray

    array = make_ndarray(tensor)
    if plugin == "scalars" and array.size == 1:
        found.scalars.setdefault(tag, {})[step] = time, float(array.reshape(-1)[0])
    elif plugin == "histograms" and array.ndim == 2 and array.shape[1] == 3 and len(array):
        edges = (*array[:, 0].tolist(), float(array[-1, 1]))
        _put(found.histograms, tag, step, Histogram(step, edges, tuple(array[:, 2].tolist())))
    elif plugin == "images" and len(array) > 2:  # width and height come first
        found.pictures.setdefault(tag, {})[step] = Picture(step, bytes(array[2]))


def _histogram(step: int, proto: Any) -> Histogram | None:
    """The first and the last bin end where the values do, and not at the writer's greatest number."""
    counts, limits = list(proto.bucket), list(proto.bucket_limit)
    if not counts or len(counts) != len(limits):
        return None
    edges = [max(min(limit, proto.max), proto.min) for limit in (proto.min, *limits)]
    kept = [i for i, count in enumerate(counts) if count]
    if not kept:
        return None
    first, last = kept[0], kept[-1] + 1
    return Histogram(step, tuple(edges[first : last + 1]), tuple(counts[first:last]))


def _put(into: dict[str, dict[int, Histogram]], tag: str, step: int, histogram: Histogram | None) -> None:
    if histogram is not None:
        into.setdefault(tag, {})[step] = histogram
