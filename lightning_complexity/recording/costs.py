"""What measuring takes, with what several quantities share counted once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lightning_complexity.network import Snapshot

MOMENT = "moment"
"""What every measurement takes beside its quantities: logging, writing."""


@dataclass
class Cost:
    """What one quantity takes by itself, without what it shares with others.

    Attributes:
        seconds: On the whole probe.
        needs: The shared quantities that it asked for, themselves in the table.
        measured: How often it was measured; 0 for a forecast from pieces.
    """

    seconds: float
    needs: list[str] = field(default_factory=list)
    measured: int = 0


class Costs:
    """A table of costs, of metrics, losses and shared quantities.

    Attributes:
        table: By name.
    """

    def __init__(self) -> None:
        self.table: dict[str, Cost] = {}

    def learn(self, name: str, seconds: float, needs: Collection[str] = ()) -> None:
        """Take in one more time; the first one is often slower than those that follow."""
        known = self.table.get(name)
        if known is not None and known.measured > 1:
            seconds = (known.seconds + seconds) / 2
        # What was there already asked for nothing more.
        needs = sorted({*needs, *(known.needs if known else ())})
        self.table[name] = Cost(seconds, needs, known.measured + 1 if known else 1)

    def needed(self, name: str) -> set[str]:
        """All shared quantities that a quantity needs, directly or not."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            cost = self.table.get(waiting.pop())
            new = set(cost.needs) - found if cost else set()
            found |= new
            waiting += new
        return found

    def own(self, name: str) -> float:
        """Seconds without what is shared."""
        return self.table[name].seconds if name in self.table else 0.0

    def shared(self, name: str, there: Collection[str] = ()) -> float:
        """Seconds of what a quantity shares with others, where some of that is there already."""
        moment = 0.0 if MOMENT in there else self.own(MOMENT)
        return moment + sum(self.own(item) for item in self.needed(name) if item not in there)

    def forecast(self, on_piece: Costs, scale: float) -> None:
        """Take what was measured on a piece of the probe for what the whole will take."""
        for item, cost in on_piece.table.items():
            known = self.table.get(item)
            if known is None or not known.measured:
                self.table[item] = Cost(cost.seconds * scale, cost.needs)

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {name: [cost.seconds, cost.needs, cost.measured] for name, cost in self.table.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.table = {name: Cost(*entry) for name, entry in state.items()}


class Watch:
    """Times quantities of a snapshot, and keeps apart what they share.

    Args:
        costs: Learn from it.

    Attributes:
        there: What was computed on the snapshot that is watched.
    """

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.there: set[str] = set()
        self._inside: list[float] = []
        self._asked: list[set[str]] = []

    @contextmanager
    def timed(self, name: str, *, scale: float = 1.0) -> Iterator[None]:
        """Take the time of the block as that of ``name``, unless it fails.

        Args:
            name: Of the quantity.
            scale: How much more an estimate with all its random probes takes than the block.
        """
        started = time.perf_counter()
        self._inside.append(0.0)
        self._asked.append(set())
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
                self.costs.learn(name, own, asked)

    @contextmanager
    def on(self, snapshot: Snapshot, of: str = "") -> Iterator[None]:
        """Watch the shared quantities of a snapshot inside the block.

        Args:
            snapshot: Whose quantities.
            of: Told apart from equal ones of other snapshots by this.
        """

        def asked(key: Hashable, compute: Callable[[], Any]) -> Callable[[], Any]:
            name = of + _label(key)
            if self._asked:
                self._asked[-1].add(name)

            def timed() -> Any:
                with self.timed(name):
                    result = compute()
                self.there.add(name)
                return result

            return timed

        snapshot.on_asked = asked
        try:
            yield
        finally:
            snapshot.on_asked = None


def _label(key: Hashable) -> str:
    """The name of a shared quantity, equal for equal arguments."""
    if isinstance(key, tuple) and key and callable(key[0]):
        arguments = ", ".join(f"{name}={value!r}" for name, value in key[1:])
        return f"{getattr(key[0], '__qualname__', 'function')}({arguments})"
    return repr(key)
