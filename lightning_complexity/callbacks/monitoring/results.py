"""What a run leaves: history, record and curves, also of a run of a copy of the callback."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakValueDictionary

from lightning_complexity.callbacks.base import Trainer
from lightning_complexity.callbacks.keys import named_key, plain_key
from lightning_complexity.callbacks.monitoring.places import RecordFile
from lightning_complexity.metrics.base.notebook import in_html
from lightning_complexity.recording.frames import to_frame
from lightning_complexity.recording.measuring import OnError
from lightning_complexity.recording.record import Measurement, curve

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_LOG = logging.getLogger(__name__)
_ROWS, _PANELS = 40, 12  # of what a notebook shows
_ERROR = "/standard_error"


class LatestRun:
    """History and record of the run that a callback, or a copy of it, started last.

    A copy of it is itself, and so is what is unpickled in the same process.
    """

    def __init__(self, token: str | None = None) -> None:
        self.token = token or uuid4().hex
        self.history: list[Measurement] = []
        self.record_path: Path | None = None
        _RUNS[self.token] = self

    def __copy__(self) -> LatestRun:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LatestRun:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _run_of, (self.token,)


_RUNS: WeakValueDictionary[str, LatestRun] = WeakValueDictionary()


def _run_of(token: str) -> LatestRun:
    return _RUNS.get(token) or LatestRun(token)


class RunResults:
    """The results of a monitor. Libraries copy the callbacks they are given and run the copy: its results count too."""

    name: str | None
    on_error: OnError

    def __init__(self) -> None:
        super().__init__()
        self._latest_run, self._has_run = LatestRun(), False
        self.forget_results()

    def forget_results(self) -> None:
        """Start afresh."""
        self._history: list[Measurement] = []
        self._record: RecordFile | None = None
        self._record_failed = False

    def share_results(self) -> None:
        """Let the callback that this one was copied from have what will be measured."""
        self._has_run, self._record = True, None
        self._latest_run.history, self._latest_run.record_path = self._history, None

    @property
    def history(self) -> list[Measurement]:
        """What was measured so far; of a monitor that did not run itself, what the copy of it that ran last did."""
        return self._history if self._has_run else self._latest_run.history

    @property
    def record_path(self) -> Path | None:
        """The file of the run's record; ``None`` where nothing is written."""
        return self._latest_run.record_path if self._record is None else self._record.path

    # Keeping what was measured ---------------------------------------------------------------------

    def open_record(self, trainer: Trainer) -> None:
        """Find the place of the record, and say where it is."""
        if not trainer.is_global_zero:
            return
        self._record = RecordFile(trainer, self.name)
        self._latest_run.record_path = self._record.path
        if self._record.path is not None:
            _LOG.info("ComplexityMonitor writes its record to %s", self._record.path)

    def keep(self, trainer: Trainer, measurement: Measurement) -> None:
        """Add a measurement to history and record, or put it in the place of an earlier one of the same step."""
        is_again = bool(self._history) and self._history[-1].step == measurement.step
        replaced = self._history.pop() if is_again else None
        self._history.append(measurement)
        if self._record is None:
            return
        try:
            self._record.write(trainer, self._history, replaced)
        except OSError as error:
            if self.on_error == "raise":
                raise
            if not self._record_failed:
                warnings.warn(
                    f"ComplexityMonitor could not write its record, and tries again each time. {error}. Training goes "
                    "on, and monitor.history and checkpoints have everything.",
                    stacklevel=2,
                )
            self._record_failed = True

    # Looking at the result -----------------------------------------------------------------------

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one quantity.

        Args:
            name: A metric's name, such as ``"stable_rank"``, or a full log key, such as ``"probe/val_loss"``.

        Raises:
            KeyError: If it was never measured.
        """
        candidates = [named_key(f"complexity/{name}", self.name), named_key(name, self.name)]
        measured = {key for m in self.history for key in m.values}
        return curve(self.history, next((key for key in candidates if key in measured), name))

    def to_frame(self) -> pd.DataFrame:
        """What was measured, as :func:`lightning_complexity.recording.to_frame` has it.

        Raises:
            ImportError: Without pandas: ``pip install lightning-complexity[studies]``.
        """
        return to_frame([self._without_name(m) for m in self.history])

    def plot(self, names: list[str] | None = None) -> Figure:
        """Draw the curves.

        Args:
            names: Metrics' names or classes, or log keys; default losses, accuracies and gaps on the probes, and every
                metric.

        Returns:
            A matplotlib figure, which belongs to no window.

        Raises:
            ImportError: Without matplotlib: ``pip install lightning-complexity[plot]``.
            ValueError: If there is nothing to draw, or nothing was measured under a name; with the closest one.
        """
        from lightning_complexity.plots.curves import plot_histories

        return plot_histories({"": [self._without_name(m) for m in self.history]}, names)

    def _repr_html_(self) -> str:
        """In a notebook: how it is written, the last values, and the curves if matplotlib is there."""
        history = [self._without_name(m) for m in self.history]
        if not history:
            return in_html(repr(self))
        return in_html(repr(self), _table(history[-1]), _pictures(history))

    def _without_name(self, measurement: Measurement) -> Measurement:
        values = {plain_key(key, self.name) or key: value for key, value in measurement.values.items()}
        return replace(measurement, values=values)


def _table(last: Measurement) -> list[tuple[str, str]]:
    """The values after so many steps, with their standard errors."""
    names = sorted(key for key in last.values if not key.endswith(_ERROR))  # they come in the order of their cost
    rows = [("completed optimizer steps", f"{last.step}")]
    for name in names[:_ROWS]:
        error = last.values.get(f"{name}{_ERROR}")
        rows.append((name, f"{last.values[name]:.4g}{'' if error is None else f' ± {error:.2g}'}"))
    if len(names) > _ROWS:
        rows.append((f"{len(names) - _ROWS} more", "in monitor.history[-1].values"))
    return rows


def _pictures(history: list[Measurement]) -> Figure | None:
    from lightning_complexity.plots.curves import plot_histories

    try:
        return plot_histories({"": history}, at_most=_PANELS)
    except ImportError:
        return None
