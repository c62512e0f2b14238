"""Bring the tables of measures in README.md and docs/catalogue.md up to date with the code."""

from __future__ import annotations

import sys
from pathlib import Path

from lightning_complexity.metrics import SUITES, CatalogueEntry, catalogue
from lightning_complexity.metrics.generalization import MEASURES

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- catalogue: begin (python docs/catalogue.py) -->", "<!-- catalogue: end -->"

STUDY_INTRODUCTION = """\
### The study's measures

`GeneralizationMeasure(of)` for each name; equation numbers are those of Jiang et al., ICLR 2020, which the study keeps.
Adjusted for `m` training samples: half of a logarithm minus ln m, the root of other values divided by `m`. `_fft`
variants have the norm of the circular convolution at the size of the input image. The study's six PAC-Bayes measures
(48, 49, 53, 56, 57, 61) are measures of flatness.

| of | equation | raw value |
|---|---|---|"""


def _suites(entry: CatalogueEntry) -> str:
    return next((suite for suite in SUITES if entry.metric.__name__ in SUITES[suite]), "")


def _row(entry: CatalogueEntry) -> str:
    name = entry.metric.__name__
    cells = (
        f"`{name}`",
        f"`{entry.name}`",
        entry.summary.rstrip("."),
        entry.cost,
        "yes" if entry.metric.no_penalty_reason is None else "",
        _suites(entry),
    )
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """The table of all measures for the README."""
    head = "| metric | logged as `complexity/` | what it is | cost | penalty | from suite |\n|---|---|---|---|---|---|"
    return "\n".join([head, *(_row(entry) for entry in catalogue())])


def _section(entry: CatalogueEntry) -> str:
    direction = {True: "higher is more complex", False: "lower is more complex", None: "no such direction"}
    needs = ", ".join(sorted(entry.needs)) or "nothing but the network"
    reason = entry.metric.no_penalty_reason
    penalty = f"`regularizers.{entry.metric.__name__}`" if reason is None else f"none: {reason}"
    return (
        f"### {entry.metric.__name__}\n\n{entry.summary}\n\n$${entry.formula}$$\n\n"
        f"- Log key: `complexity/{entry.name}`\n- Needs: {needs}\n- Cost: {entry.cost}\n"
        f"- Direction: {direction[entry.increases_with_complexity]}\n- Penalty: {penalty}\n"
        f"- Misleads when {entry.metric.misleads_when}\n"
        f"- Source: {entry.reference}\n"
    )


def _study() -> str:
    """The measures of the robust-measures study, by its names and equation numbers."""
    rows = [f"| `{name}` | {measure.equation} | $${measure.formula}$$ |" for name, measure in MEASURES.items()]
    return "\n".join([STUDY_INTRODUCTION, *rows, ""])


def page() -> str:
    """The catalogue page: formula and source of every measure, by family."""
    parts = ["# Catalogue of measures\n\nWritten by `python docs/catalogue.py` from the classes' attributes.\n"]
    for family in dict.fromkeys(entry.family for entry in catalogue()):
        parts.append(f"## {family.capitalize()}\n")
        parts += [_section(entry) for entry in catalogue() if entry.family == family]
        if family == "generalization":
            parts.append(_study())
    return "\n".join(parts)


def updated_readme(text: str) -> str:
    """The README with the table between its two marks replaced."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Write both files; return 1 with ``--check`` if that changed something."""
    readme, catalogue_page = ROOT / "README.md", ROOT / "docs" / "catalogue.md"
    wanted = {readme: updated_readme(readme.read_text()), catalogue_page: page()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is out of date' if '--check' in sys.argv else 'updated'}")
        if "--check" not in sys.argv:
            path.write_text(wanted[path])
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
