"""Measure many quantities of one network, and keep a record of them. No Lightning needed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_complexity.recording.frames import to_frame
from lightning_complexity.recording.record import RECORD_NAME, Measurement, append, curve, read_record

if TYPE_CHECKING:
    from lightning_complexity.recording.drawing import draw_samples
    from lightning_complexity.recording.measuring import FailureReport, measure_fit, measure_metrics
    from lightning_complexity.recording.recorder import Recorder

# Reading a record needs no torch.
_MODULES = {
    "FailureReport": "measuring",
    "Recorder": "recorder",
    "draw_samples": "drawing",
    "measure_fit": "measuring",
    "measure_metrics": "measuring",
}

__all__ = [
    "RECORD_NAME",
    "FailureReport",
    "Measurement",
    "Recorder",
    "append",
    "curve",
    "draw_samples",
    "measure_fit",
    "measure_metrics",
    "read_record",
    "to_frame",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
