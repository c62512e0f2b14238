"""Numbers as Markdown tables that can also be read in a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from benchmarks.timing import Spread

INTRODUCTION = """\
# What measuring and penalising cost

Written by `python -m benchmarks` on a machine with {cores} cores, torch {torch}, threads used: {threads}.

All figures are ratios. Absolute times on shared machines mean nothing; here every time is divided by that of a
training step (forward, backward, SGD) of the same network and batch, run right before it.

- **Time**: median over rounds, and quartiles in brackets.
- **Memory**: peak of what torch allocates meanwhile, divided by the peak of a step. What was there before,
  parameters and the optimizer's state, counts on neither side; gradients count in a step, which makes and frees them.
- A metric is measured on a snapshot of its own. A penalty's figure is that of the whole step with it: 1 is free.
- A suite is measured with a snapshot for each metric, and with one snapshot that all its metrics share.
- Growth: each time at the largest width or depth divided by that at the smallest, and the exponent of a power of it.
"""


def introduction() -> str:
    """What was measured on what kind of machine."""
    return INTRODUCTION.format(cores=os.cpu_count(), torch=torch.__version__, threads=torch.get_num_threads()).rstrip()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns, numbers (all columns but the first) to the right.

    Args:
        header: One title a column.
        rows: One cell a column.

    Example:
        >>> print(table(["metric", "time"], [["PathNorm", "0.1"]]))
        | metric   | time |
        | :------- | ---: |
        | PathNorm |  0.1 |
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, [header, rule, *rows]))


def number(value: float) -> str:
    """A ratio with two or three significant digits.

    Example:
        >>> number(0.00001), number(0.01234), number(1.0), number(123.4)
        ('<0.001', '0.012', '1.00', '123')
    """
    if value < 0.001:
        return "<0.001"
    if value < 1:
        return f"{value:#.2g}"
    return f"{value:#.3g}" if value < 100 else f"{value:.0f}"


def spread(value: Spread) -> str:
    """Median and quartiles."""
    return f"{number(value.median)} ({number(value.low)} - {number(value.high)})"
