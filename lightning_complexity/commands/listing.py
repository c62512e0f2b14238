"""The command ``list``: the catalogue of metrics."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import Any

from jsonargparse import ArgumentParser

from lightning_complexity.commands.formulas import plain_text
from lightning_complexity.metrics import SUITES, CatalogueEntry, catalogue


def list_parser() -> ArgumentParser:
    """Of ``list``."""
    parser = ArgumentParser(
        description="List every metric: its log key, which direction is more complex, its units, what it costs and "
        "needs, from which suite on it is measured, whether it can be penalised, and what it is. For example: "
        '"lightning-complexity list --family norms".'
    )
    parser.add_argument("--family", help="only those of a family, such as norms")
    parser.add_argument("--json", action="store_true", help="all that is known of each, as JSON")
    return parser


def run_list(options: dict[str, Any]) -> None:
    """Print the catalogue.

    Raises:
        ValueError: If there is no such family.
    """
    entries = _of_family(options["family"])
    if options["json"]:
        print(json.dumps([_described(entry) for entry in entries], indent=1))
        return
    header = ("metric", "logged as complexity/", "complex is", "units", "cost", "needs", "suite", "penalty")
    rows = [_row(entry) for entry in entries]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    print(_line(header, widths))
    for entry, row in zip(entries, rows, strict=True):
        print(f"{_line(row, widths)}\n    {_plain_summary(entry)}\n    {plain_text(entry.formula)}")


def _of_family(family: str | None) -> list[CatalogueEntry]:
    entries = catalogue()
    families = list(dict.fromkeys(entry.family for entry in entries))
    if family is not None and family not in families:
        close = get_close_matches(family, families, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"there is no family {family!r}.{hint} There are {', '.join(families)}.")
    return [entry for entry in entries if family in (None, entry.family)]


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _row(entry: CatalogueEntry) -> tuple[str, ...]:
    return (
        entry.metric.__name__,
        entry.name,
        entry.more_complex or "-",
        entry.units.replace("²", "^2"),
        entry.cost,
        ", ".join(sorted(entry.needs)) or "-",
        _suite(entry) or "-",
        "yes" if entry.metric.no_penalty_reason is None else "no",
    )


def _plain_summary(entry: CatalogueEntry) -> str:
    """Without the marks of its docstring."""
    text = re.sub(r":math:`(.*?)`", lambda found: plain_text(found[1]), entry.summary)
    return text.replace("`", "").rstrip(".")


def _suite(entry: CatalogueEntry) -> str | None:
    return next((suite for suite, names in SUITES.items() if entry.metric.__name__ in names), None)


def _described(entry: CatalogueEntry) -> dict[str, Any]:
    metric = entry.metric
    return {
        "metric": metric.__name__,
        "name": entry.name,
        "family": entry.family,
        "summary": _plain_summary(entry),
        "formula": plain_text(entry.formula),
        "latex": entry.formula,
        "increases_with_complexity": entry.increases_with_complexity,
        "more_complex": entry.more_complex,
        "units": entry.units,
        "cost": entry.cost,
        "needs": sorted(entry.needs),
        "suite": _suite(entry),
        "penalty": metric.no_penalty_reason is None,
        "no_penalty_reason": metric.no_penalty_reason,
        "misleads_when": metric.misleads_when,
        "reference": entry.reference,
    }
