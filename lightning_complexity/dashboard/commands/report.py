"""The command ``report``: a page to look at, and a report for programs."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

if TYPE_CHECKING:
    from lightning_complexity.dashboard.findings import Finding

_EXAMPLES = """\
Draw runs that were measured, in one file that needs no network: complexity against the generalization gap, accuracy
against cost, curves, which measures go with the gap, and what happened. For example: "lightning-complexity report
lightning_logs/version_0" or, for a sweep, "lightning-complexity report complexity_study/sweep -o sweep.html --open".
"""
_TOP = 5


def report_parser() -> ArgumentParser:
    """Of ``report``."""
    parser = ArgumentParser(description=_EXAMPLES)
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN_DIR", help="folders with complexity.jsonl or event files, any depth"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="the page")
    parser.add_argument("--json", type=Path, help="the report for programs; beside the page, as .json, if not given")
    parser.add_argument("--png", type=Path, help="folder for the same figures as PNG files")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    return parser


def run_report(options: dict[str, Any]) -> None:
    """Read, write and say what was written.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing was measured in it.
        ValueError: If both files are to be one.
        OSError: If a file cannot be written.
        ImportError: If pictures are wanted and matplotlib is not there.
    """
    from lightning_complexity.dashboard.findings import findings
    from lightning_complexity.dashboard.page import html_page
    from lightning_complexity.dashboard.payload import page_data
    from lightning_complexity.dashboard.program import report_data, written
    from lightning_complexity.dashboard.reading import read_runs

    found = read_runs(options["runs"])
    ranked: Sequence[Finding] = findings(found.runs)
    data = page_data(found.runs, ranked, found.notes)
    page, report = _files(options["output"], options["json"])
    title = f"Complexity of {', '.join(path.resolve().name for path in options['runs'])}"
    _write(page, html_page(data, title))
    _write(report, written(report_data(data)) + "\n")
    files = [str(page), str(report)]
    if options["png"] is not None:
        from lightning_complexity.dashboard.png import write_pictures

        pictures = write_pictures(found.runs, data, options["png"])
        files.append(f"{len(pictures)} pictures in {options['png']}")
    for note in found.notes[:_TOP]:
        print(f"note: {note}", file=sys.stderr)
    if len(found.notes) > _TOP:
        print(f"note: {len(found.notes) - _TOP} more, in the page", file=sys.stderr)
    for alike in _kinds(ranked)[:_TOP]:
        first, others = alike[0], len(alike) - 1
        more = f" and {others} more like this" if others else ""
        print(f"{first.severity}: {first.headline}{f' ({first.run}{more})' if first.run else ''}")
    runs = "one run" if len(found.runs) == 1 else f"{len(found.runs)} runs"
    print(f"Written of {runs}: {', '.join(files)}")
    if options["open"]:
        webbrowser.open(page.resolve().as_uri())


def _kinds(ranked: Sequence[Finding]) -> list[list[Finding]]:
    """Findings of one name and severity together, so that what many runs have hides nothing else."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in ranked:
        kinds.setdefault((finding.severity, finding.name), []).append(finding)
    return list(kinds.values())


def _files(page: Path, report: Path | None) -> tuple[Path, Path]:
    """In a folder the page is ``report.html``."""
    page = page / "report.html" if page.is_dir() else page
    report = page.with_suffix(".json") if report is None else report
    if page == report:
        raise ValueError(f"--output is the page, and {page} would be the report for programs: name it .html.")
    return page, report


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace")  # of names that are no text
