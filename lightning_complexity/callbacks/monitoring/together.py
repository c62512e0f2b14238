"""What several processes measure together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.callbacks.monitoring.budgeting import Moment
from lightning_complexity.callbacks.monitoring.probes import Probes
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import Batches, Snapshot, Task
from lightning_complexity.network.running.ranks import Ranks
from lightning_complexity.recording.measuring import FailureReport, Measured, gaps, log_key, unsynchronized, with_probes
from lightning_complexity.recording.together import Job, Together, Views, job_of_loss, job_of_metric, jobs_of_fit

_TRAIN_LOSS_AS_VALIDATED = "train loss as validated"


def measured_together(
    metrics: list[ComplexityMetric],
    network: Snapshot,
    probes: Probes,
    together: Together,
    moment: Moment,
    *,
    figures: bool,
) -> Measured:
    """Measure metrics, losses and accuracies on the probes, of which each process takes a part.

    Args:
        metrics: The same on all processes, like the rest.
        network: See :func:`lightning_complexity.callbacks.ranks.snapshot_of_all`.
        probes: Those of rank zero, on all processes.
        together: The processes.
        moment: Says what is measured now.
        figures: Whether this process draws pictures.

    Returns:
        On rank zero the values; on the others nothing that counts.
    """
    measured, ranks = Measured(), together.ranks
    train = _views(network, probes.train, ranks)
    chosen: list[ComplexityMetric] = []
    jobs: list[Job] = []
    for metric in moment.ordered(metrics, train.whole()):
        part = moment.promised(metric.name, train.whole())
        if part:
            chosen.append(metric)
            job = job_of_metric(metric, train, ranks, measured)
            jobs.append(_timed(job, partial(with_probes, metric, part, moment)))
    if moment.promised("probe/train", train.whole()):
        jobs += [_timed(job, partial(moment.timed, "probe/train")) for job in jobs_of_fit(train, "train")]
    if probes.validation is not None:
        jobs += _jobs_of_validation(network, probes, ranks, moment)
    together.measure(jobs, measured)
    as_trained = measured.values.get("probe/train_loss") if probes.train_as_validated is None else None
    measured.values |= gaps(measured.values, measured.values.pop(_TRAIN_LOSS_AS_VALIDATED, as_trained))
    if figures:
        _draw(chosen, train, together.failures, measured)
    return measured


def _jobs_of_validation(network: Snapshot, probes: Probes, ranks: Ranks, moment: Moment) -> list[Job]:
    views = _views(network, probes.validation, ranks)
    if not moment.promised("probe/val", views.whole()):
        return []
    jobs = jobs_of_fit(views, "val")
    if probes.train_as_validated is not None:
        as_validated = _views(network, probes.train_as_validated, ranks)
        jobs.append(job_of_loss("probe/generalization_gap", as_validated, _TRAIN_LOSS_AS_VALIDATED))
    return [_timed(job, partial(moment.timed, "probe/val")) for job in jobs]


def _timed(job: Job, timer: Callable[[], AbstractContextManager[None]]) -> Job:
    """The job, while a timer runs."""

    def run(snapshot: Snapshot, is_part: bool) -> Any:
        with timer():
            return job.run(snapshot, is_part)

    return replace(job, run=run)


def _views(network: Snapshot, probe: tuple[Batches, Task] | None, ranks: Ranks) -> Views:
    batches, task = probe or (None, None)
    return Views(network, batches, task, ranks)


def _draw(metrics: list[ComplexityMetric], views: Views, failures: FailureReport, measured: Measured) -> None:
    for metric in metrics:
        if metric.name not in failures.left_out and metric.has_measured:
            failures.attempt(f"the figures of {metric.name}", lambda metric=metric: _figures(metric, views, measured))  # type: ignore[misc]


def _figures(metric: ComplexityMetric, views: Views, measured: Measured) -> dict[str, Tensor]:
    snapshot = views.whole()
    with snapshot.opened(), unsynchronized(metric), torch.no_grad():
        measured.figures |= {log_key(key): figure for key, figure in metric.figures(snapshot).items()}
    return {}
