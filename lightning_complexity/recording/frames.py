"""Measurements as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lightning_complexity.recording.record import Measurement

if TYPE_CHECKING:
    import pandas as pd


def to_frame(history: Iterable[Measurement]) -> pd.DataFrame:
    """A row for each moment, with the steps as its index.

    Args:
        history: Of a monitor, or what :func:`~lightning_complexity.recording.read_record` gives.

    Returns:
        Columns ``epoch`` and ``time`` (a UTC time), and one for each log key, with NaN where it was not measured.

    Raises:
        ImportError: Without pandas.

    Example:
        >>> to_frame([Measurement(0, 0, 0.0, {"probe/train_loss": 2.0}), Measurement(9, 1, 5.0, {})])
              epoch                      time  probe/train_loss
        step
        0         0 1970-01-01 00:00:00+00:00               2.0
        9         1 1970-01-01 00:00:05+00:00               NaN
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("a table needs pandas: pip install lightning-complexity[studies]") from error
    rows = [{"step": m.step, "epoch": m.epoch, "time": m.time, **m.values} for m in history]
    frame = pd.DataFrame(rows, columns=None if rows else ["step", "epoch", "time"])
    frame["time"] = pd.to_datetime(frame["time"], unit="s", utc=True)
    return frame.set_index("step")
