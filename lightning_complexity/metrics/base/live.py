"""Metrics of what a training does, and not of the network alone."""

from __future__ import annotations

from typing import Any

from lightning_complexity.metrics.base.metric import ComplexityMetric
from lightning_complexity.network import LiveSteps, Snapshot


def live_steps(snapshot: Snapshot) -> LiveSteps:
    """The steps of the training that the snapshot is of.

    Raises:
        MeasureError: If they cannot be read.
    """
    snapshot.live.check()
    return snapshot.live


class LiveMetric(ComplexityMetric):
    """A number that a training gives by itself; of the network alone there is none.

    Args:
        every: How many optimizer steps one that is looked at stands for; a monitor takes the least of its metrics.
    """

    needs = frozenset({"live"})
    reads_samples = False
    suite = None
    no_penalty_reason = "it is about steps that have been taken"

    def __init__(self, *, every: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number of at least 1, got {every!r}.")
        self.every = every
