"""Several processes: what they tell one another, so that none waits for one that has failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from lightning_complexity.network.errors import MeasureError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes that compute something together.

    Attributes:
        rank: Number of this one.
        count: How many there are.
        group: Their process group; ``None`` for all.
    """

    rank: int = 0
    count: int = 1
    group: Any = None

    @classmethod
    def of(cls, group: Any = None) -> Ranks:
        """Those of a process group of ``torch.distributed``; this process alone where there is none."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return cls()
        return cls(torch.distributed.get_rank(group), torch.distributed.get_world_size(group), group)

    def gathered(self, own: T) -> list[T]:
        """What each process has, by rank. All must come here; what they have must be small, and on no accelerator."""
        if self.count == 1:
            return [own]
        everyone: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(everyone, own, group=self.group)
        return everyone

    def from_first(self, own: T) -> T:
        """What rank zero has. All must come here."""
        if self.count == 1:
            return own
        answer = [own if self.rank == 0 else None]
        first = 0 if self.group is None else torch.distributed.get_global_rank(self.group, 0)
        torch.distributed.broadcast_object_list(answer, src=first, group=self.group)
        return answer[0]  # type: ignore[return-value]

    def agreed(self, compute: Callable[[], T]) -> T:
        """What ``compute`` gives here, if it fails on no process. All must come here.

        Args:
            compute: Needs no other process.

        Raises:
            Exception: What it raised here.
            MeasureError: If it raised an error on another process, with the reason.
        """
        result: Any = None
        failure: Exception | None = None
        try:
            result = compute()
        except Exception as error:
            failure = error
        reasons = self.gathered(None if failure is None else in_words(failure))
        if failure is not None:
            raise failure
        reason = self.reason(reasons)
        if reason is not None:
            raise MeasureError(reason)
        return result

    def reason(self, reasons: list[str | None]) -> str | None:
        """The first reason of those that failed, and where, unless it is that of all; ``None`` if none failed."""
        failed = [rank for rank, reason in enumerate(reasons) if reason is not None]
        if not failed:
            return None
        where = "" if len(set(reasons)) == 1 else f" (on rank {failed[0]} of {self.count})"
        return f"{reasons[failed[0]]}{where}"


def in_words(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
