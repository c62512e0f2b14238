"""The command ``measure``: what a trained module, or a sequence of its checkpoints, measures."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import ArgumentParser

if TYPE_CHECKING:
    from lightning_complexity.metrics import ComplexityMetric

FORMATS = ("table", "csv", "json")
_EXAMPLES = """\
Measure a trained LightningModule, or a sequence of its checkpoints, on samples of its training and validation data.
For example: "lightning-complexity measure last.ckpt --model net:Net --data net:Data" or, for the path norm along a
training, "lightning-complexity measure checkpoints/ --model net:Net --data net:Data --metrics PathNorm --format csv".
"""


class Row(NamedTuple):
    """What one checkpoint measures.

    Attributes:
        checkpoint: Its file.
        step: Completed optimizer steps; -1 where the file does not say.
        epoch: Index of the epoch; -1 where the file does not say.
        values: By log key.
    """

    checkpoint: str
    step: int
    epoch: int
    values: dict[str, float]


def measure_parser() -> ArgumentParser:
    """Of ``measure``."""
    parser = ArgumentParser(description=_EXAMPLES)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="files, or folders with files *.ckpt")
    parser.add_argument("--model", required=True, help="package.module:Class of the LightningModule")
    parser.add_argument(
        "--data",
        help="package.module:Name of its LightningDataModule, of a DataLoader, or of a function that gives one; the "
        "module's own loaders if not given. Without any, only what needs no samples is measured",
    )
    parser.add_argument("--metrics", nargs="+", default=["standard"], help="suites and names of metrics")
    parser.add_argument("--initial", type=Path, help="checkpoint that distances are from, if not the first one given")
    parser.add_argument("--probe", type=int, default=256, help="samples to measure on, of training and of validation")
    parser.add_argument("--format", default="table", choices=FORMATS, help="of what is printed")
    parser.add_argument("--output", type=Path, help="file to write to instead")
    parser.add_argument(
        "--trust", action="store_true", help="load all that checkpoints hold, which can run code of them"
    )
    return parser


def run_measure(options: dict[str, Any]) -> None:
    """Measure, and print or write.

    Raises:
        ValueError: At options that cannot be.
        OSError: If a file is not there.
    """
    from lightning_complexity.metrics import resolve
    from lightning_complexity.studies.importing import load_object

    if options["probe"] < 1:
        raise ValueError(f"--probe must be at least 1, got {options['probe']}.")
    metrics = resolve(options["metrics"])
    make = load_object(options["model"], "--model")
    if not callable(make):
        raise ValueError(f"--model must be a class or a function, got {options['model']}, a {type(make).__name__}.")
    data = None if options["data"] is None else load_object(options["data"], "--data")
    if not (data is None or callable(data) or hasattr(data, "__iter__") or hasattr(data, "train_dataloader")):
        raise ValueError(
            "--data must be a LightningDataModule, a DataLoader, or a function that gives one, got "
            f"{options['data']}, a {type(data).__name__}."
        )
    if options["output"] is not None and options["output"].is_dir():
        raise ValueError(f"--output must be a file, got the folder {options['output']}.")
    rows, left_out = measure_checkpoints(
        options["checkpoints"],
        make,
        data,
        metrics,
        probe=options["probe"],
        initial=options["initial"],
        trust=options["trust"],
    )
    text = _WRITERS[options["format"]](rows)
    if options["output"] is None:
        print(text)
    else:
        options["output"].parent.mkdir(parents=True, exist_ok=True)
        options["output"].write_text(text + "\n")
        print(f"Written: {options['output']}", file=sys.stderr)
    for name, reason in left_out.items():
        print(f"not measured: {name}: {reason}", file=sys.stderr)


def measure_checkpoints(
    paths: list[Path],
    make: Callable[..., Any],
    data: Any,
    metrics: list[ComplexityMetric],
    *,
    probe: int = 256,
    initial: Path | None = None,
    trust: bool = False,
) -> tuple[list[Row], dict[str, str]]:
    """Measure checkpoints on the same samples, with a progress bar.

    Args:
        paths: Of files and folders.
        make: Class of the module, or a function that makes one.
        data: A data module, a loader or a batch; or a function that gives one.
        metrics: What to measure.
        probe: Samples of training, and of validation.
        initial: Checkpoint that distances are from; the first of several if not given.
        trust: Whether to load all that checkpoints hold.

    Returns:
        A row for each checkpoint; and why, by name, what could not be measured.

    Raises:
        ValueError: If a checkpoint cannot be loaded, or there are no samples.
        FileNotFoundError: If there is no such file.
    """
    from tqdm import tqdm

    from lightning_complexity.commands.checkpoints import checkpoint_files, load_checkpoint
    from lightning_complexity.commands.samples import Samples
    from lightning_complexity.network.running.tensors import initial_state
    from lightning_complexity.recording.measuring import FailureReport

    files = checkpoint_files(paths)
    start = checkpoint_files([initial])[0] if initial else (files[0] if len(files) > 1 else None)
    weights = None if start is None else initial_state(load_checkpoint(start, make, trust=trust).module)
    failures = FailureReport(speaker="measure")
    if weights is None:
        needing = [metric.name for metric in metrics if "initial" in metric.needs]
        failures.left_out |= dict.fromkeys(needing, "one checkpoint has no beginning: give --initial")
    rows: list[Row] = []
    samples = None
    for file in tqdm(files, unit="checkpoint", disable=None if len(files) > 1 else True):
        checkpoint = load_checkpoint(file, make, trust=trust)
        if samples is None:
            samples = Samples.of(data, checkpoint.module, probe)
            if samples.train is None:
                needing = [metric.name for metric in metrics if metric.needs & {"inputs", "targets"}]
                failures.left_out |= dict.fromkeys(needing, "there are no samples: give --data")
        values = samples.measured(checkpoint, metrics, weights, failures)
        rows.append(Row(str(file), checkpoint.step, checkpoint.epoch, values))
    return rows, failures.left_out


def _table(rows: list[Row]) -> str:
    """A line for each quantity, a column for each checkpoint."""
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    heads = [Path(row.checkpoint).stem if row.step < 0 else f"step {row.step}" for row in rows]
    lines = [["", *heads]]
    lines += [[key, *(f"{row.values[key]:.6g}" if key in row.values else "-" for row in rows)] for key in keys]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads) + 1)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def _csv(rows: list[Row]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["checkpoint", "step", "epoch", *keys])
    writer.writerows([row.checkpoint, row.step, row.epoch, *(row.values.get(key, "") for key in keys)] for row in rows)
    return file.getvalue().rstrip("\n")


def _json(rows: list[Row]) -> str:
    from lightning_complexity.recording.record import to_json

    found = [{**row._asdict(), "values": {key: to_json(value) for key, value in row.values.items()}} for row in rows]
    return json.dumps(found, indent=1, allow_nan=False)


_WRITERS: dict[str, Callable[[list[Row]], str]] = {"table": _table, "csv": _csv, "json": _json}
