"""``docs/clients.md``, as text and as rows."""

from __future__ import annotations

from pathlib import Path

from tests.clients.judging import COLUMNS

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
TEXT = """# On modules that others wrote

Trainings of published packages and of tutorials, for a few steps on tiny data, with `ComplexityMonitor()` and
`GradientNorm`, `HessianTrace` beside its default measures. `make test-clients` trains them and holds this table to what
it sees; `make clients-table` writes it.

Bit-identical: weights, buffers, gradients, optimizers, schedulers, random states and logged values, after every batch,
are the same with the monitor as without. A kind of measure counts if it has a finite value at every measurement. The
measures of the function are those of Jacobians, margins and features. Warning lines are those that training without
the monitor does not show. The line is what a user adds, as in `ComplexityMonitor(forward=...)`, for measures of the
function that are not there without it. "training": there is no validation, so one loss and no gap.
"""


def page(rows: list[str]) -> str:
    """The whole page."""
    head = "| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS)
    return "\n".join([TEXT, head, *rows, ""])


def committed() -> list[str]:
    """The rows of the page as it is."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return lines[2:]  # the first are the table's head


def cells(row: str) -> dict[str, str]:
    """A row's cells by column."""
    return dict(zip(COLUMNS, (cell.strip() for cell in row.strip("| ").split(" | ")), strict=False))
