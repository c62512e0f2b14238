"""Measure untrained networks, and write the page: ``python -m benchmarks.at_initialisation``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.at_initialisation import measuring, report

TABLE = Path(__file__).parents[1] / "at_initialisation.csv"
PAGE = Path(__file__).parents[2] / "docs" / "at-initialisation.md"
ANSWER = Path(__file__).with_name("answer.md")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.at_initialisation", description=__doc__)
    parser.add_argument("--report", action="store_true", help="write the page from the table, and measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.report:
        measuring.measure_all(TABLE)
    frame = report.table(TABLE)
    numbers = " and ".join(str(count) for count in frame["draw"].value_counts().sort_index())
    PAGE.write_text(
        ANSWER.read_text(encoding="utf-8").format(
            networks=len(frame),
            draws=numbers,
            disconnected=int((~frame["connected"]).sum()),
            images=measuring.NUM_IMAGES,
            images_of_statistics=measuring.NUM_IMAGES_OF_STATISTICS,
            left_out=", ".join(f"`{name}`" for name in measuring.TOO_LARGE),
            of_tables=report.of_tables(),
            predictions=report.predictions(frame),
            beside=report.beside_flops(frame),
            by_part=report.by_part(frame),
            functions=frame["cellstr"].map(report.function_of).nunique(),
            rankings=report.rankings(frame),
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
