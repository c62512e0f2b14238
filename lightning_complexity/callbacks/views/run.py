"""What a monitor shows of a run, and when: distributions and pictures as they come, charts and words once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from lightning_complexity.callbacks.base import LightningModule, Trainer
from lightning_complexity.callbacks.finding import explained, summary
from lightning_complexity.callbacks.keys import named_key
from lightning_complexity.callbacks.monitoring.probes import Probes
from lightning_complexity.callbacks.views import hyperparameters, layout
from lightning_complexity.callbacks.views.boards import Board, attempt, boards
from lightning_complexity.callbacks.views.pictures import log_figures, log_histograms, log_text
from lightning_complexity.callbacks.views.text import Summary, in_markdown
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.recording.measuring import Measured
from lightning_complexity.recording.record import Measurement

SUMMARY = "complexity/summary"


# Layouts that were written in a trainer's run, by writer.
_layouts: WeakKeyDictionary[Trainer, dict[int, list[dict[str, layout.Charts]]]] = WeakKeyDictionary()


class Shown(Protocol):
    """A monitor, as far as it is shown."""

    name: str | None
    metrics: list[ComplexityMetric]
    views: Views

    @property
    def history(self) -> list[Measurement]:
        """What was measured."""

    def summary(self, trainer: Trainer, pl_module: LightningModule) -> Summary:
        """What is said of it in words."""


@dataclass
class Views:
    """What was shown of a monitor in one fit.

    Attributes:
        parts: Log keys of values that belong to a layer, a class or an output.
        histograms: Log keys of distributions.
        is_begun: Whether something was shown.
    """

    parts: set[str] = field(default_factory=set)
    histograms: dict[str, None] = field(default_factory=dict)
    is_begun: bool = False
    _task: str = ""

    def show(self, trainer: Trainer, measured: Measured, step: int, named: Callable[[dict[str, Any]], Any]) -> None:
        """Give distributions and pictures to the loggers that have a place for them.

        Args:
            trainer: Whose loggers these are.
            measured: What was measured.
            step: Completed optimizer steps.
            named: Puts the monitor's name into keys.
        """
        self.parts |= set(named(dict.fromkeys(measured.parts)))
        self.histograms |= dict.fromkeys(named(measured.histograms))
        log_histograms(trainer, named(measured.histograms), step)
        log_figures(trainer, named(measured.figures), step)

    def task(self, trainer: Trainer, module: LightningModule, probes: Probes) -> str:
        """How the module is run and judged; found out once."""
        if not self._task and probes.train is not None:
            task, batch = probes.train.task, probes.train.batches.batches[0]
            self._task = summary(task).replace("; ", "\n")
            if trainer.world_size == 1:  # else parameters may be spread over processes
                with suppress(Exception):  # whatever a module raises that has just been run
                    self._task = explained(module, batch, task)
        return self._task


def probes_in_words(probes: Probes) -> str:
    """Which samples are measured."""
    if probes.train is None:
        return "no samples"
    words = f"{probes.train.batches.num_samples} training samples"
    return words if probes.validation is None else f"{words} and {probes.validation.batches.num_samples} for validation"


def write_views(trainer: Trainer, module: LightningModule, monitors: Sequence[Shown]) -> None:
    """Write what is measured, in words, and which curves share a chart.

    Monitors of one name share a summary. The layout is written again only if there are more charts than before; one of
    the user's stays.
    """
    for name in dict.fromkeys(monitor.name for monitor in monitors):
        said = [monitor.summary(trainer, module) for monitor in monitors if monitor.name == name]
        log_text(trainer, named_key(SUMMARY, name), in_markdown(module, said, name), max(s.step for s in said))
    sources = [
        layout.Source(m.name, m.metrics, {k for r in m.history for k in r.values}, m.views.parts, [*m.views.histograms])
        for m in monitors
    ]
    for board in boards(trainer):
        attempt(trainer, board.writer, "a layout", partial(_add_layout, trainer, board, sources))


def _add_layout(trainer: Trainer, board: Board, sources: list[layout.Source]) -> None:
    ours = _layouts.setdefault(trainer, {}).setdefault(id(board.writer), [])
    charts = layout.layout(sources, board.tag(""))
    # TensorBoard takes the last one of a run; this one comes last only if all that are there are ours.
    if charts not in ours and board.times_written(layout.MARK.encode()) == len(ours):
        board.writer.add_custom_scalars(charts)
        ours.append(charts)


def announce_columns(trainer: Trainer, module: LightningModule, monitors: Sequence[Shown]) -> None:
    """Say which columns of complexity the table of hyper-parameters has, before Lightning writes it."""
    hyperparameters.announce(trainer, module, _metrics(monitors))


def conclude_columns(trainer: Trainer, module: LightningModule, monitors: Sequence[Shown]) -> None:
    """See that the table of hyper-parameters has columns of complexity, where nobody has written it."""
    measured = {key for monitor in monitors for row in monitor.history for key in row.values}
    hyperparameters.conclude(trainer, module, _metrics(monitors), measured)


def _metrics(monitors: Sequence[Shown]) -> hyperparameters.Metrics:
    return [(monitor.name, metric) for monitor in monitors for metric in monitor.metrics]
