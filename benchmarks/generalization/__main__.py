"""Run the study, or only write its page: ``python -m benchmarks.generalization``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.generalization.data import MNIST, missing_files
from benchmarks.generalization.report import page
from benchmarks.generalization.study import QUICK, Plan, Study

TABLE = Path(__file__).parents[1] / "generalization.csv"
PAGE = Path(__file__).parents[2] / "docs" / "generalization.md"


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generalization", description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="digits, two methods, short; print but write nothing")
    how.add_argument("--report", action="store_true", help="write the page from the table, and train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other on shared cores make times jump
    study = Study(QUICK) if options.quick else Study(Plan(), TABLE)
    if not options.report:
        missing = missing_files() if "MNIST" in study.plan.data else []
        if missing:
            sys.exit(
                f"The study needs MNIST in {MNIST}; missing there: {', '.join(missing)}. --quick needs only digits."
            )
        study.complete()
    if options.quick:
        print(page(study))
    else:
        PAGE.write_text(page(study), encoding="utf-8")


if __name__ == "__main__":
    main()
