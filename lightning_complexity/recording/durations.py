"""What measuring takes, with what several quantities share counted once."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lightning_complexity.network import Snapshot

_NEW = 0.5  # weight of the newest time in the mean of all, which follows a machine that becomes faster or slower


@dataclass
class Duration:
    """What one quantity takes by itself, without what it shares with others.

    Attributes:
        seconds: On the whole probe, measured or forecast from pieces.
        measured: How often it was measured on the whole probe.
        parts: The shared quantities that it asked for.
        pieces: Seconds by number of samples, on small pieces of the probe.
    """

    seconds: float
    measured: int
    parts: list[str] = field(default_factory=list)
    pieces: dict[int, float] = field(default_factory=dict)


class Durations:
    """A table of what quantities take, filled by watching them being computed.

    A quantity's own time is kept apart from that of the shared quantities that it asks for, and theirs from that of
    those that they ask for. What a set of quantities takes together is then the sum over all that any of them
    needs.
    """

    def __init__(self) -> None:
        self._table: dict[str, Duration] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def __getitem__(self, name: str) -> Duration:
        return self._table[name]

    def get(self, name: str) -> Duration | None:
        """What is known of a quantity."""
        return self._table.get(name)

    def needed(self, name: str) -> set[str]:
        """All shared quantities that a quantity needs, directly or not."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            known = self._table.get(waiting.pop())
            new = set(known.parts) - found if known else set()
            found |= new
            waiting += new
        return found

    def own(self, name: str) -> float:
        """Seconds of one quantity by itself; 0 if it was never seen."""
        return self._table[name].seconds if name in self._table else 0.0

    def learn(self, name: str, seconds: float, parts: Iterable[str] = ()) -> None:
        """Take in a time on the whole probe.

        The first replaces forecasts, and is often slower than those that follow; the second replaces it. Later ones are
        averaged with what was there before.
        """
        old = self._table.get(name)
        if old is not None and old.measured > 1:
            seconds = _NEW * seconds + (1 - _NEW) * old.seconds
        times = 1 + (old.measured if old else 0)
        self._table[name] = Duration(seconds, times, _union(parts, old))

    def learn_from_piece(self, name: str, size: int, whole: int, seconds: float, parts: Iterable[str] = ()) -> None:
        """Take in a time on ``size`` samples, and forecast that on ``whole``, unless that is known already."""
        old = self._table.get(name)
        if old is not None and old.measured:
            return
        pieces = {**(old.pieces if old else {}), size: seconds}
        self._table[name] = Duration(extrapolated(pieces, whole), 0, _union(parts, old), pieces)

    def state(self) -> dict[str, Any]:
        """Plain numbers and lists, for a checkpoint."""
        return {name: [d.seconds, d.measured, list(d.parts), dict(d.pieces)] for name, d in self._table.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self._table = {name: Duration(*values) for name, values in state.items()}


def _union(parts: Iterable[str], old: Duration | None) -> list[str]:
    return sorted({*parts, *(old.parts if old else [])})


def extrapolated(pieces: dict[int, float], whole: int) -> float:
    """Seconds on ``whole`` samples from those on fewer, by number of samples.

    From one size in proportion, from more along a line through the two largest that neither falls nor lies below 0 at
    no samples; at most in proportion to any size, since a disturbance makes times only longer.

    Example:
        >>> extrapolated({2: 1.0}, 8), extrapolated({2: 2.0, 4: 3.0}, 8), extrapolated({2: 2.0, 4: 1.0}, 8)
        (4.0, 5.0, 1.0)
    """
    largest, *others = sorted(pieces, reverse=True)
    if not others:
        return pieces[largest] * whole / largest
    slope = (pieces[largest] - pieces[others[0]]) / (largest - others[0])
    slope = min(max(slope, 0.0), pieces[largest] / largest)
    line = pieces[largest] + slope * (whole - largest)
    return min([line, *(seconds * whole / size for size, seconds in pieces.items())])


class Watch:
    """Times quantities and the shared ones inside them, each without the others.

    Args:
        durations: Where the times go.
        piece: Of a piece, how many samples it has, and the whole probe.
    """

    def __init__(self, durations: Durations, piece: tuple[int, int] | None = None) -> None:
        self.durations, self.piece = durations, piece
        self._inside: list[float] = []
        self._asked: list[set[str]] = []

    @contextmanager
    def timed(
        self, name: str, *, scale: float = 1.0, piece: tuple[int, int] | None = None, parts: Iterable[str] = ()
    ) -> Iterator[None]:
        """Take the time of the block as that of ``name``, unless it fails.

        Args:
            name: Of the quantity.
            scale: How much more an estimate with all its random probes takes than the block.
            piece: As that of the watch, for a quantity that does not look at all samples.
            parts: Further things that the quantity needs.
        """
        started = time.perf_counter()
        self._inside.append(0.0)
        self._asked.append(set(parts))
        succeeds = False
        try:
            yield
            succeeds = True
        finally:
            seconds = time.perf_counter() - started
            own, asked = scale * max(seconds - self._inside.pop(), 0.0), self._asked.pop()
            if self._inside:
                self._inside[-1] += seconds
            if succeeds:
                self._learn(name, own, piece or self.piece, asked)

    def _learn(self, name: str, own: float, piece: tuple[int, int] | None, asked: set[str]) -> None:
        if piece is None:
            self.durations.learn(name, own, asked)
        else:
            self.durations.learn_from_piece(name, *piece, own, asked)

    @contextmanager
    def on(self, snapshot: Snapshot, of: str = "") -> Iterator[None]:
        """Watch the shared quantities of a snapshot inside the block.

        Args:
            snapshot: Whose quantities.
            of: Told apart from equal ones of other snapshots by this.
        """

        def asked(key: Hashable, compute: Callable[[], Any]) -> Callable[[], Any]:
            name = of + label(key)
            if self._asked:
                self._asked[-1].add(name)

            def timed() -> Any:
                with self.timed(name):
                    return compute()

            return timed

        snapshot.on_asked = asked
        try:
            yield
        finally:
            snapshot.on_asked = None


def label(key: Hashable) -> str:
    """The name of a shared quantity, equal for equal arguments."""
    if isinstance(key, tuple) and key and callable(key[0]):
        arguments = ", ".join(f"{name}={value!r}" for name, value in key[1:])
        return f"{getattr(key[0], '__qualname__', 'function')}({arguments})"
    return repr(key)
