"""Bring docs/catalogue.md up to date with the code: what every measure says of itself, as a page for GitHub."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from lightning_complexity.metrics import SUITES, CatalogueEntry, catalogue
from lightning_complexity.metrics.generalization import MEASURES
from lightning_complexity.metrics.generalization_by_boxes import SHARPNESS_MEASURES

PAGE = Path(__file__).parent / "catalogue.md"

INTRODUCTION = """\
# Catalogue of measures

Written by `python docs/catalogue.py` from the attributes of the classes; `lightning-complexity list` prints the same.

- **logged as**: `complexity/<name>`; in code `metrics.<Metric>()`, with options that its docstring has.
- **more complex**: whether a network is more complex where the value is higher or lower; - where neither is so.
- **units**: what the value counts or is measured in. output, input, weight and loss stand for the units that the
  network's outputs, inputs, parameters and loss have; ln is the natural logarithm.
- **cost**: the dearest thing that it takes: `weights` alone, `forward` or `backward` passes on the probe, `hessian`
  products, or `sampling` around samples. [benchmarks/results.md](../benchmarks/results.md) has the times.
- **penalty**: whether `regularizers.<Metric>(strength)` is there to train with.
- **suite**: the smallest suite that has it: `fast`, `standard` (the default) or `full`, each with everything of the one
  before.
"""

STUDY_INTRODUCTION = """\
### The study's measures

`GeneralizationMeasure(of)` for each name; equation numbers are those of Jiang et al., ICLR 2020, which the study keeps.
Adjusted for `m` training samples: half of a logarithm minus ln m, the root of other values divided by `m`. `_fft`
variants have the norm of the circular convolution at the size of the input image. The `sigma` of the six PAC-Bayes
measures is searched for (`NoiseTolerance`); `compat="rgm"` has the noise of the study's code.

| of | equation | raw value |
|---|---|---|"""

SHARPNESS_INTRODUCTION = """\
### Measures of the largest box

`SharpnessMeasure(of)` for each name, after the equations of Jiang et al., ICLR 2020, that the study leaves out. `alpha`
is searched for (`WorstCaseTolerance`), in the box in proportion to the weights for `sharpness_mag_*`; `sigma` is
`alpha sqrt(c / ln(2 omega / delta)) / 2`.

| of | equation | raw value |
|---|---|---|"""


def latex(formula: str) -> str:
    r"""A formula as GitHub takes it, which refuses ``\operatorname`` and ends a table's cell at ``|``."""
    return re.sub(r"(?<!\\)\|", r"\\vert ", formula.replace(r"\operatorname", r"\mathrm"))


def markdown(text: str) -> str:
    """A docstring's line as Markdown: its formulas between dollars, its code between single backquotes."""
    text = re.sub(r":math:`(.*?)`", lambda found: f"$`{latex(found[1])}`$", text)
    return re.sub(r"(:\w+:)?``?([^`$]+?)``?(?!\$)", lambda found: f"`{found[2]}`", text)


def _suite(entry: CatalogueEntry) -> str:
    return next((suite for suite in SUITES if entry.metric.__name__ in SUITES[suite]), "-")


def _row(entry: CatalogueEntry) -> str:
    name = entry.metric.__name__
    cells = (
        f"[{name}](#{name.lower()})",
        f"`{entry.name}`",
        markdown(entry.summary).rstrip("."),
        entry.more_complex or "-",
        entry.units,
        entry.cost,
        "yes" if entry.metric.no_penalty_reason is None else "-",
        _suite(entry),
    )
    return f"| {' | '.join(cells)} |"


def _table(entries: list[CatalogueEntry]) -> str:
    columns = ("metric", "logged as", "what it is", "more complex", "units", "cost", "penalty", "suite")
    return "\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *map(_row, entries), ""])


def _section(entry: CatalogueEntry) -> str:
    name, reason = entry.metric.__name__, entry.metric.no_penalty_reason
    needs = ", ".join(sorted(entry.needs)) or "nothing but the network"
    direction = f"{entry.more_complex} is more complex" if entry.more_complex else "no direction is more complex"
    penalty = f"`regularizers.{name}`" if reason is None else f"none: {markdown(reason)}"
    return (
        f"### {name}\n\n{markdown(entry.summary)}\n\n```math\n{latex(entry.formula)}\n```\n\n"
        f"- Log key: `complexity/{entry.name}`\n- Direction: {direction}\n- Units: {entry.units}\n"
        f"- Misleads when {markdown(entry.metric.misleads_when)}.\n"
        f"- Needs: {needs}\n- Cost: {entry.cost}\n- Penalty: {penalty}\n"
        f"- Source: {markdown(entry.reference)}\n"
    )


def _study() -> str:
    """The measures of the robust-measures study and of its source, by name and equation number."""
    parts: list[str] = []
    for introduction, measures in ((STUDY_INTRODUCTION, MEASURES), (SHARPNESS_INTRODUCTION, SHARPNESS_MEASURES)):
        rows = [f"| `{name}` | {m.equation} | $`{latex(m.formula)}`$ |" for name, m in measures.items()]
        parts += [introduction, *rows, ""]
    return "\n".join(parts)


def page() -> str:
    """The page: a table of all measures, then formula and source of each, by family."""
    entries = catalogue()
    parts = [INTRODUCTION, _table(entries)]
    for family in dict.fromkeys(entry.family for entry in entries):
        parts.append(f"## {family.replace('_', ' ').capitalize()}\n")
        parts += [_section(entry) for entry in entries if entry.family == family]
        if family == "generalization":
            parts.append(_study())
    return "\n".join(parts)


def main() -> int:
    """Write the page; return 1 with ``--check`` if that would change it."""
    is_stale = not PAGE.exists() or PAGE.read_text() != page()
    if is_stale:
        print(f"docs/{PAGE.name} {'is out of date' if '--check' in sys.argv else 'updated'}")
        if "--check" not in sys.argv:
            PAGE.write_text(page())
    return int(is_stale and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
