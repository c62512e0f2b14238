"""Figures of what was measured, with matplotlib. No Lightning needed."""

from lightning_complexity.plots.curves import plot_histories

__all__ = ["plot_histories"]
