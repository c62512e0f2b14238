"""What trials say of themselves on their way, kept in the study so that all workers and a resumed study know it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

REPORT, EXACT, REASON = "early:report:", "early:exact", "early:reason"
_ROUNDING = 1e-9  # of a share of training that was computed as steps by steps


@dataclass(frozen=True)
class Report:
    """What was known after a share of a training.

    Attributes:
        progress: The share, above 0 and up to 1.
        losses: Losses and errors; one that is not finite means that training diverged.
        measures: All else; what is not finite counts as not known.
    """

    progress: float
    losses: dict[str, float]
    measures: dict[str, float]

    @property
    def diverged(self) -> str | None:
        """Which loss is not finite, and what it is."""
        for name, value in self.losses.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
        return None


def write_report(trial: Trial, progress: float, losses: Mapping[str, Any], measures: Mapping[str, Any]) -> None:
    """Keep a report in a trial.

    Raises:
        ValueError: If ``progress`` is no share.
        TypeError: If a loss or a measure is no number.
    """
    if not 0 < progress <= 1 + _ROUNDING:
        raise ValueError(f"progress must be a share of the training above 0 and up to 1, got {progress!r}.")
    kept = {"losses": _numbers(losses), "measures": _numbers(measures)}
    # Databases hold JSON, which has no infinities: as words all storages keep them.
    words = {part: {name: repr(value) for name, value in values.items()} for part, values in kept.items()}
    trial.set_user_attr(f"{REPORT}{progress:.9g}", words)


def write_exact(trial: Trial, values: Mapping[int, float]) -> None:
    """Keep in a trial what objectives are known to be, by their place."""
    trial.set_user_attr(EXACT, {str(place): float(value) for place, value in values.items()})


def reports_of(trial: FrozenTrial, num_reports: int | None) -> list[Report]:
    """The reports of a trial in the order of progress.

    Args:
        trial: With reports of :func:`write_report`, or else with intermediate values of ``trial.report``.
        num_reports: How many intermediate values a whole training gives; with ``None`` they are passed over.
    """
    found = [
        Report(float(name.removeprefix(REPORT)), *({k: float(v) for k, v in part.items()} for part in words.values()))
        for name, words in trial.user_attrs.items()
        if name.startswith(REPORT)
    ]
    if not found and num_reports:
        values = [value for _, value in sorted(trial.intermediate_values.items())]
        found = [Report((k + 1) / num_reports, {"value": value}, {}) for k, value in enumerate(values)]
    return sorted(found, key=lambda report: report.progress)


def exact_values(trial: FrozenTrial) -> dict[int, float]:
    """What objectives of a trial are known to be, by their place."""
    return {int(place): value for place, value in trial.user_attrs.get(EXACT, {}).items()}


def due(reports: list[Report], shares: tuple[float, ...]) -> float | None:
    """The last share that the last report is the first to reach, if there is one."""
    last = reports[-1].progress
    before = reports[-2].progress if len(reports) > 1 else 0.0
    found = [share for share in shares if before < share - _ROUNDING <= last]
    return found[-1] if found else None


def report_at(reports: list[Report], share: float) -> Report | None:
    """The first report that reaches a share."""
    return next((report for report in reports if report.progress >= share - _ROUNDING), None)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in values.items():
        try:
            found[name] = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"{name!r} must be a number, got {value!r:.100}.") from None
    return found
