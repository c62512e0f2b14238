"""Measure one network on several processes, each on a part of the probe, as one process would on all of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.metrics.base.shares import Share, combine, share_of
from lightning_complexity.network import Batches, Snapshot, Task, accuracy, mean_loss
from lightning_complexity.network.outputs import classified
from lightning_complexity.network.running.ranks import Ranks
from lightning_complexity.recording.measuring import (
    FailureReport,
    Measured,
    Reason,
    can_be_judged,
    has_classes,
    log_key,
    unsynchronized,
)
from lightning_complexity.recording.shards import is_mean_over_samples, shard_of_pieces, shard_of_samples

Kind = Literal["samples", "loss"]


class Views:
    """One probe: all of it, and this process's part.

    Args:
        network: A snapshot of the network that has gathered its parameters.
        batches: The whole probe, the same on all processes; ``None`` where there is none.
        task: How the network is run and judged on it.
        ranks: The processes.
    """

    def __init__(self, network: Snapshot, batches: Batches | None, task: Task | None, ranks: Ranks) -> None:
        self._network, self._batches, self._task, self._ranks = network, batches, task, ranks
        self._made: dict[str, Snapshot | None] = {}

    def whole(self) -> Snapshot:
        """All samples."""
        found = self._view("whole", lambda: self._batches)
        assert found is not None
        return found

    def part(self, kind: Kind) -> Snapshot | None:
        """Some samples, such that means over samples, or of the loss, are those of all parts; ``None`` for none."""
        if self._batches is None or not self.whole().samples_are_apart:
            return None
        batches, ranks = self._batches, self._ranks
        if kind == "loss" and self.whole().task.judges_batches:
            return self._view("pieces", lambda: shard_of_pieces(batches, ranks), optional=True)
        if kind == "loss" and not self._loss_is_mean:
            return None
        return self._view("samples", lambda: shard_of_samples(batches, ranks), optional=True)

    @cached_property
    def _loss_is_mean(self) -> bool:
        return is_mean_over_samples(self.whole())

    def _view(self, name: str, batches: Callable[[], Batches | None], *, optional: bool = False) -> Snapshot | None:
        if name not in self._made:
            chosen = batches()
            missing = optional and chosen is None
            self._made[name] = None if missing else self._network.on(chosen, self._task)
        return self._made[name]


@dataclass
class Job:
    """A quantity that is measured.

    Attributes:
        name: Under which its failure is known.
        views: Of the probe that it is measured on.
        kind: Which part of it will do; ``None`` if it takes the whole.
        run: Measures it on a snapshot; gives what the other processes must know, given whether it was a part.
        finish: Gives its values from what all have told, or from this process's own if each has measured all.
    """

    name: str
    views: Views
    kind: Kind | None
    run: Callable[[Snapshot, bool], Any]
    finish: Callable[[list[Any], bool], dict[str, Tensor]]


class _Told(NamedTuple):
    """What a process tells of a quantity that it has measured."""

    reason: Reason | None
    is_part: bool
    result: Any
    seconds: float


@dataclass
class Together:
    """Measures quantities on several processes; all must ask for the same ones, in the same order.

    Each process measures without waiting for another. Then all tell one another what came out, so that what failed on
    one fails on all, and only then are the parts put together. What fails on a part is tried on the whole.

    Attributes:
        ranks: The processes.
        failures: Remembers what cannot be computed; the same on all.
        whole_only: Names of what failed on a part, and not on the whole.
    """

    ranks: Ranks
    failures: FailureReport
    whole_only: set[str] = field(default_factory=set)

    def measure(self, jobs: list[Job], measured: Measured) -> None:
        """Measure quantities and add their values to those of rank zero."""
        jobs = [job for job in jobs if job.name not in self.failures.left_out]
        told = self._told(jobs, whole=False)
        again = [job for job in jobs if not _is_settled(told[job.name])]
        if again:
            told |= self._told(again, whole=True)
            self.whole_only |= {job.name for job in again if not any(t.reason for t in told[job.name])}
        for job in jobs:
            of_all = told[job.name]
            started = time.perf_counter()
            failure = next((rank for rank, t in enumerate(of_all) if t.reason is not None), None)
            if failure is not None:
                self._note(job.name, [t.reason for t in of_all], failure)
            else:
                results, is_part = [t.result for t in of_all], of_all[0].is_part
                found = self.failures.attempt(job.name, partial(job.finish, results, is_part))
                measured.values |= found if self.ranks.rank == 0 else {}
            measured.seconds[job.name] = max(t.seconds for t in of_all) + time.perf_counter() - started

    def _told(self, jobs: list[Job], *, whole: bool) -> dict[str, list[_Told]]:
        own = {job.name: self._run(job, whole=whole) for job in jobs}
        everyone = self.ranks.gathered(own)
        return {job.name: [told[job.name] for told in everyone] for job in jobs}

    def _run(self, job: Job, *, whole: bool) -> _Told:
        started = time.perf_counter()
        is_part, result, reason = not whole and job.kind is not None and job.name not in self.whole_only, None, None
        try:
            view = job.views.part(job.kind) if is_part and job.kind is not None else None
            is_part = view is not None
            snapshot = job.views.whole() if view is None else view
            with snapshot.opened():
                result = job.run(snapshot, is_part)
        except Exception as error:
            reason = Reason.of(error)
        return _Told(reason, is_part, result, time.perf_counter() - started)

    def _note(self, name: str, reasons: list[Reason | None], failed: int) -> None:
        reason = reasons[failed]
        assert reason is not None
        where = "" if all(r == reason for r in reasons) else f" (on rank {failed} of {self.ranks.count})"
        self.failures.note(name, Reason(reason.text + where, reason.of_several + where))


def _is_settled(told: list[_Told]) -> bool:
    """Whether all have measured a part, or all the whole as far as they could."""
    parts = [t.is_part for t in told]
    return not any(parts) or (all(parts) and not any(t.reason for t in told))


# What is measured --------------------------------------------------------------------------------


def job_of_metric(metric: ComplexityMetric, views: Views, ranks: Ranks, measured: Measured) -> Job:
    """A metric; its distributions are added to the measurement of rank zero."""

    def run(snapshot: Snapshot, is_part: bool) -> tuple[Share | None, dict[str, Tensor]]:
        metric.reset()
        with unsynchronized(metric):
            metric.update(snapshot)
            is_summed = is_part and metric.reads_samples
            distributions = metric.histograms(snapshot) if is_summed or ranks.rank == 0 else {}
        if not is_summed:
            measured.histograms |= {log_key(key): values for key, values in distributions.items()}
            return None, {}
        return share_of(metric), {key: values.detach().cpu() for key, values in distributions.items()}

    def finish(results: list[tuple[Share | None, dict[str, Tensor]]], is_part: bool) -> dict[str, Tensor]:
        shares = [share for share, _ in results if share is not None]
        if is_part and shares:
            combine(metric, shares, ranks)
            for key in results[0][1]:
                measured.histograms[log_key(key)] = torch.cat([distributions[key] for _, distributions in results])
        if ranks.rank != 0:
            return {}
        with unsynchronized(metric):
            return measured.reported(metric)

    return Job(metric.name, views, _kind(metric), run, finish)


def _kind(metric: ComplexityMetric) -> Kind | None:
    if metric.single_update_reason is not None:
        return None
    return "loss" if "loss" in metric.needs else "samples"


def jobs_of_fit(views: Views, part: Literal["train", "val"]) -> list[Job]:
    """Loss on a probe, and accuracy where targets are classes, as ``probe/<part>_loss`` and so on."""
    return [job_of_loss(f"probe/{part}_loss", views), _job_of_mean(f"probe/{part}_accuracy", views, "samples", _hits)]


def job_of_loss(name: str, views: Views, key: str | None = None) -> Job:
    """The loss on a probe, under a log key if not its name."""
    return _job_of_mean(name, views, "loss", _loss, key)


class _Mean(NamedTuple):
    """A mean over some samples, and how many they are; or nothing to take one of."""

    value: Tensor
    samples: int


def _job_of_mean(
    name: str, views: Views, kind: Kind, mean: Callable[[Snapshot], _Mean | None], key: str | None = None
) -> Job:
    def finish(results: list[_Mean | None], is_part: bool) -> dict[str, Tensor]:
        found = [result for result in (results if is_part else results[:1]) if result is not None]
        if not found:
            return {}
        counted = [result for result in found if result.samples] or found[:1]
        total = max(sum(result.samples for result in counted), 1)
        shares = [result.value * (max(result.samples, 1) / total) for result in counted]
        return {key or name: torch.stack(shares).sum()}

    return Job(name, views, kind, lambda snapshot, _: mean(snapshot), finish)


def _loss(snapshot: Snapshot) -> _Mean | None:
    if not can_be_judged(snapshot):
        return None
    return _Mean(mean_loss(snapshot).detach().cpu().double(), snapshot.num_samples)


def _hits(snapshot: Snapshot) -> _Mean | None:
    if not can_be_judged(snapshot) or not has_classes(snapshot):
        return None
    has_threshold = snapshot.task.threshold is not None
    count = snapshot.num_samples if has_threshold else len(classified(snapshot).targets)
    return _Mean(accuracy(snapshot).cpu(), count)
