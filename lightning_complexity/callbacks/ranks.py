"""What the processes of a ``Trainer`` do together when something is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.callbacks.base import Trainer
from lightning_complexity.callbacks.budgeting import Moment
from lightning_complexity.callbacks.changes import hashes_of
from lightning_complexity.callbacks.probes import Probes
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import Batches, Snapshot, Task
from lightning_complexity.network.running.ranks import Ranks
from lightning_complexity.recording.measuring import FailureReport, Measured, gaps, log_key, unsynchronized, with_probes
from lightning_complexity.recording.together import Job, Together, Views, job_of_loss, job_of_metric, jobs_of_fit

_TRAIN_LOSS_AS_VALIDATED = "train loss as validated"


def ranks_of(trainer: Trainer) -> Ranks:
    """The processes that train together; this one alone where it cannot ask the others."""
    everyone = Ranks.of()
    return everyone if everyone.count == trainer.world_size else Ranks()


def epochs_end_together(trainer: Trainer) -> bool:
    """Whether an epoch surely has as many batches on all processes, which must all come here."""
    if trainer.world_size == 1:
        return True
    lengths = ranks_of(trainer).gathered(float(trainer.num_training_batches))
    return math.isfinite(lengths[0]) and len(set(lengths)) == 1


def snapshot_of_all(module: nn.Module, initial: Mapping[str, Tensor] | None, ranks: Ranks) -> Snapshot:
    """The network as rank zero has it, without data; what follows needs no other process.

    Parameters are the same on all or sharded over them. Buffers such as running statistics can be each process's own:
    those of rank zero count, which are also those that checkpoints have.

    Args:
        module: What is trained.
        initial: Its parameters at the start of training.
        ranks: The processes, which must all come here.
    """
    network = Snapshot(module, initial=initial, buffers=_differing_buffers(module, ranks))
    network.gather()
    return network


def _differing_buffers(module: nn.Module, ranks: Ranks) -> dict[str, Tensor]:
    """Rank zero's of those buffers that are not the same everywhere."""
    buffers = {name: b for name, b in module.named_buffers() if not hasattr(b, "full_tensor")}
    hashes = ranks.gathered(hashes_of(buffers))
    names = [name for name, value in hashes[0].items() if any(other.get(name) != value for other in hashes)]
    if not names:
        return {}
    first = ranks.from_first({name: buffers[name].detach().cpu() for name in names if name in buffers})
    return {name: value for name, value in first.items() if name in buffers and buffers[name].shape == value.shape}


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
        network: See :func:`snapshot_of_all`.
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
