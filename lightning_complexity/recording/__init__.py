"""Measure many quantities of one network, and keep a record of them. No Lightning needed."""

from lightning_complexity.recording.record import RECORD_NAME, Measurement, append, curve, read_record

__all__ = ["RECORD_NAME", "Measurement", "append", "curve", "read_record"]
