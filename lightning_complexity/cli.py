"""The command ``lightning-complexity``."""

from __future__ import annotations

import sys
from pathlib import Path

try:
    from jsonargparse import ArgumentParser
except ImportError:
    sys.exit("the command line needs jsonargparse: pip install lightning-complexity[cli]")

from lightning_complexity.metrics import catalogue
from lightning_complexity.selection.commands.spaces import add_spaces, run_spaces
from lightning_complexity.selection.commands.search import add_search, run_search
from lightning_complexity.studies.commands.study import add_study, run_study
from lightning_complexity.studies.commands.sweeps import add_worker, run_worker


def list_metrics() -> None:
    """List every metric with what it needs and what it costs."""
    rows = [
        (entry.metric.__name__, entry.name, entry.cost, ", ".join(sorted(entry.needs)) or "-", entry.summary)
        for entry in catalogue()
    ]
    header = ("metric", "logged as complexity/", "cost", "needs", "")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(4)]
    for row in (header, *rows):
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip())


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lightning-complexity", description="Watch how complex a neural network becomes while it trains."
    )
    commands = parser.add_subcommands(required=True)
    demo = ArgumentParser(
        description="Train one network on true and on random labels of handwritten digits, and compare its "
        "complexity. Takes a minute or two; downloads nothing."
    )
    demo.add_argument("--quick", action="store_true", help="a smaller run, under 20 seconds")
    demo.add_argument(
        "--seed", type=int, default=0, help="of data split, random labels, initialization and order of samples"
    )
    demo.add_argument(
        "--output", type=Path, default=Path("complexity_demo"), help="folder for TensorBoard logs, records and curves"
    )
    demo.add_argument("--open", action="store_true", help="start TensorBoard at the end and open it in a browser")
    commands.add_subcommand("demo", demo, help="train two networks and compare their complexity")
    listing = ArgumentParser(description="List every metric with its log key, what it needs and what it costs.")
    commands.add_subcommand("list", listing, help="list every metric")
    add_study(commands)
    add_worker(commands)
    add_spaces(commands)
    add_search(commands)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    if options.subcommand == "list":
        list_metrics()
        return
    if options.subcommand == "study":
        run_study(options.study.as_dict())
        return
    if options.subcommand == "worker":
        run_worker(options.worker.as_dict())
        return
    if options.subcommand == "spaces":
        run_spaces(options.spaces.as_dict())
        return
    if options.subcommand == "search":
        run_search(options.search.as_dict())
        return
    from lightning_complexity.demo import run_demo

    try:
        run_demo(**options.demo.as_dict())
    except ImportError as error:
        sys.exit(str(error))
