"""The commands of sweeps, audits and workers."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

if TYPE_CHECKING:
    import pandas as pd

    from lightning_complexity.studies.audit.grading import Audit
    from lightning_complexity.studies.sweeping.sweep import Design

SUMMARIES = {
    "sweep": "a table of trained networks over a grid of hyper-parameters, and which measures explain their gap",
    "audit": "does a measure keep the sign and slope of its trends when a knob is turned that should not matter?",
}
_AXES: dict[str, tuple[Callable[[str], Any], str]] = {
    "width": (int, "units of each hidden layer"),
    "depth": (int, "hidden layers"),
    "optimizer": (str, "such as momentum,adam; learning rates are those given, for each"),
    "learning_rate": (float, ""),
    "batch_size": (int, ""),
    "weight_decay": (float, ""),
    "dropout": (float, ""),
    "num_samples": (lambda word: None if word == "all" else int(word), 'training-set size; "all" for all'),
    "label_noise": (float, "share of samples with a random class"),
}


def _add_common(parser: ArgumentParser, name: str, seeds: int) -> None:
    parser.add_argument("--data", default="digits", help='"digits", or a folder with IDX files such as those of MNIST')
    parser.add_argument("--metrics", nargs="+", help="suites and names of metrics")
    parser.add_argument("--seeds", type=int, default=seeds, help="networks of each kind; intervals need at least two")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes here; 0 to wait for those of other machines"
    )
    parser.add_argument("--storage", help="journal file or database URL that workers share (journal.log in the output)")
    parser.add_argument("--study", default=name, help="its name in the storage; the same one goes on where it was")
    parser.add_argument("--output", type=Path, help=f"folder for all that is written (complexity_study/{name})")
    parser.add_argument("--loss", type=float, help="train until this training loss")
    parser.add_argument("--max_steps", type=int, help="or for so many optimizer steps, then not compared")
    parser.add_argument("--heartbeat", type=float, help="seconds between signs of life of workers (60)")
    parser.add_argument("--quick", action="store_true", help="few, small networks: a check that everything works")


def sweep_parser() -> ArgumentParser:
    """Of ``study sweep``."""
    parser = ArgumentParser(
        description="Train a grid of networks by workers that share a queue, and rank measures by how well they "
        "explain the generalization gap. Finished networks are not trained again: the same command goes on."
    )
    for name, (_, summary) in _AXES.items():
        parser.add_argument(f"--{name}", nargs="+", help=f"values, such as 32,64: {summary}".removesuffix(": "))
    parser.add_argument("--gap", default="generalization_gap", help="what to explain: or accuracy_gap")
    _add_common(parser, "sweep", 2)
    return parser


def audit_parser() -> ArgumentParser:
    """Of ``study audit``."""
    parser = ArgumentParser(
        description="Grade measures by how stable the sign and slope of their trends are over optimizer, learning "
        "rate, batch size, "
        "training-set size, width, depth, label noise and seed: on networks trained for that, or in a table."
    )
    parser.add_argument("--table", type=Path, help="CSV of trained networks to audit; nothing is trained")
    parser.add_argument("--factors", nargs="+", help="with --table: columns that were varied, without the seed")
    parser.add_argument("--measures", nargs="+", help="with --table: columns of measures (all complexity/...)")
    parser.add_argument("--gap", default="generalization_gap", help="column of the gap")
    parser.add_argument("--seed_column", default="seed", help="with --table: column of the seed")
    parser.add_argument("--size", default="num_samples", help="with --table: column of the training-set size")
    _add_common(parser, "audit", 5)
    return parser


def add_worker(commands: Any) -> None:
    """Add ``worker`` to the commands of a parser."""
    parser = ArgumentParser(
        description="Take trials of a study out of a storage that others share, until none is left. Start as many as "
        "you like, anywhere the storage can be reached from. Trials of one that was killed are given to others. For "
        'example: "lightning-complexity worker --storage complexity_study/sweep/journal.log --study sweep".'
    )
    parser.add_argument("--storage", required=True, help="journal file, or URL such as postgresql://user@host/name")
    parser.add_argument("--study", required=True, help="name of the study in the storage")
    parser.add_argument("--output", type=Path, default=Path("complexity_study"), help="folder for what trials write")
    parser.add_argument("--heartbeat", type=float, help="seconds between signs of life (60); the same for all workers")
    commands.add_subcommand("worker", parser, help="work on a study that others share")


def run_worker(options: dict[str, Any]) -> None:
    """Work until nothing is left; end with a message where that is not possible."""
    from lightning_complexity.studies.sweeping.storage import HEARTBEAT, first_line, is_journal, of_database
    from lightning_complexity.studies.sweeping.worker import work

    before = signal.signal(signal.SIGTERM, _interrupt)  # of a queueing system, or of the command that started it
    try:
        heartbeat = HEARTBEAT if options["heartbeat"] is None else options["heartbeat"]
        count = work(options["storage"], options["study"], options["output"], heartbeat=heartbeat)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"worker: {error}")
    except KeyboardInterrupt:
        sys.exit("worker: interrupted; its trial was queued again.")
    except Exception as error:
        reason = of_database(error)
        if is_journal(options["storage"]) or reason is None:
            raise
        sys.exit(f"worker: the storage failed: {first_line(reason)}")
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"Ran {count} trials; none is left.")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def run_sweep(name: str, options: dict[str, Any]) -> None:
    """Train the grid and rank."""
    from lightning_complexity.studies.sweeping import sweep
    from lightning_complexity.studies.training.data import load_data

    quick = options["quick"]
    values = dict(sweep.QUICK_GRID if quick else sweep.DEFAULT_GRID)
    values |= {axis: _values(axis, options[axis]) for axis in _AXES if options[axis] is not None}
    values["seed"] = _seeds(options)
    if options["gap"] not in ("generalization_gap", "accuracy_gap"):
        raise ValueError(f"--gap must be generalization_gap or accuracy_gap, got {options['gap']!r}.")
    output = options["output"] or Path("complexity_study") / name
    design = _design(sweep.Design(sweep.grid(values)), options)
    frame, path, failed = train_all(design, options, output)
    samples = len(load_data(design.data).y_test) if options["gap"] == "accuracy_gap" else None
    text = sweep.ranked(frame, design.hyperparameters, options["gap"], samples) if len(frame) else "No network."
    print(f"\n{text}")
    print(f"\nWritten: {path}{_named(failed)}")


def _seeds(options: dict[str, Any]) -> list[int]:
    if options["seeds"] < 1:
        raise ValueError(f"--seeds must be at least 1, got {options['seeds']}.")
    return list(range(options["seeds"]))


def _values(axis: str, words: list[str]) -> list[Any]:
    convert, _ = _AXES[axis]
    found = []
    for word in ",".join(map(str, words)).split(","):
        try:
            found.append(convert(word.strip()))
        except ValueError:
            raise ValueError(f"--{axis} must be values such as 32,64, got {word!r}.") from None
    return found


def _design(design: Design, options: dict[str, Any]) -> Design:
    """A design with what the options change about it."""
    from lightning_complexity.studies.training.settings import Stop, as_dict

    stop = replace(design.stop, loss=1.5, max_steps=500) if options["quick"] else design.stop
    changed = {n: options[n] for n in ("loss", "max_steps") if options[n] is not None}
    data = options["data"] if options["data"] == "digits" else str(Path(options["data"]).resolve())
    metrics = options["metrics"] or (["ParameterNorm", "PathNorm"] if options["quick"] else list(design.metrics))
    design = replace(design, stop=Stop(**{**as_dict(stop), **changed}), data=data, metrics=tuple(metrics))
    design.check()
    return design


def train_all(design: Design, options: dict[str, Any], output: Path) -> tuple[pd.DataFrame, Path, dict[str, str]]:
    """Train the networks of a design by workers.

    Args:
        design: What to train.
        options: Of the command.
        output: Folder for all that is written.

    Returns:
        The table, the CSV with it, and why networks are missing.
    """
    from lightning_complexity.studies.sweeping import local, sweep
    from lightning_complexity.studies.sweeping.storage import (
        HEARTBEAT,
        first_line,
        of_database,
        open_storage,
        quiet_optuna,
        without_password,
    )

    if options["workers"] < 0:
        raise ValueError(f"--workers must be at least 0, got {options['workers']}.")
    url = options["storage"] or str(output / "journal.log")
    heartbeat = HEARTBEAT if options["heartbeat"] is None else options["heartbeat"]
    storage = open_storage(url, create=True, heartbeat=heartbeat)
    import optuna  # which is there, as the storage is open

    with quiet_optuna():
        study = sweep.prepare(design, storage, options["study"], url)
        command = local.worker_command(url, options["study"], output, options["heartbeat"])
        if not options["workers"]:
            shown = [without_password(word) if "://" in word else word for word in command[3:]]
            print(f"Start workers with: {shlex.join(['lightning-complexity', *shown])}")
        try:
            local.finish(study, command, options["workers"], output)
        except KeyboardInterrupt:
            sys.exit("\nInterrupted. The same command goes on.")
        except optuna.exceptions.StorageInternalError as error:
            reason = first_line(of_database(error) or error)
            raise OSError(f"the storage failed, and the same command goes on: {reason}") from error
        frame, failed = sweep.networks(study), sweep.failures(study)
    path = output / "networks.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)
    return frame, path, failed


def _named(failed: dict[str, str]) -> str:
    if not failed:
        return ""
    lines = [f"  {name}: {reason}" for name, reason in failed.items()]
    return "\n".join([f"\nNot trained, {len(failed)} networks (the same command tries again):", *lines])


def run_audit(name: str, options: dict[str, Any]) -> None:
    """Train what an audit needs, or read a table, and grade measures."""
    from lightning_complexity.studies.audit import design as audit_design

    output = options["output"] or Path("complexity_study") / name
    if options["table"] is None:
        found, path, failed = _trained_audit(options, output)
        figures = audit_design.first_figures(found)
    else:
        found, path, failed, figures = _audit_of_table(options), options["table"], {}, []
    output.mkdir(parents=True, exist_ok=True)
    files = [path]
    for table in ("summary", "slopes", "levels"):
        files.append(output / f"{table}.csv")
        getattr(found, table).to_csv(files[-1], index=False)
    print(f"\n{found}")
    if figures:
        print("\nFirst figures, of one network on digits:")
        print("\n".join(f"  {f.found}: {f.claim}" + (f" ({f.why})" if f.why else "") for f in figures))
    print(f"\nWritten: {', '.join(map(str, files))}{_named(failed)}")


def _trained_audit(options: dict[str, Any], output: Path) -> tuple[Audit, Path, dict[str, str]]:
    from lightning_complexity.studies.audit import design as audit_design
    from lightning_complexity.studies.audit.grading import audit
    from lightning_complexity.studies.sweeping import sweep
    from lightning_complexity.studies.training.data import load_data

    if given := [option for option in ("factors", "measures") if options[option] is not None]:
        raise ValueError(f"--{given[0]} is for --table; networks that are trained have their own.")
    points = audit_design.designed(len(_seeds(options)), len(load_data(options["data"])), quick=options["quick"])
    design = _design(sweep.Design(points, metrics=audit_design.audited_metrics(), stop=audit_design.STOP), options)
    frame, path, failed = train_all(design, options, output)
    reached = frame[frame["reached"].astype(bool)] if len(frame) else frame
    if reached.empty:
        raise ValueError(
            f"no network reached the criterion, {design.stop}: raise --loss or --max_steps.{_named(failed)}"
        )
    frame = audit_design.with_relative_rates(frame)
    compared = frame.loc[reached.index]
    measures = [c for c in frame.columns if c.startswith("complexity/") and c.count("/") == 1]
    measures = [c for c in measures if compared[c].notna().any()]
    found = audit(
        frame,
        factors=[factor for factor in audit_design.FACTORS if compared[factor].nunique() > 1],
        gap=options["gap"],
        seed="seed",
        measures=measures,
        size="num_samples" if compared["num_samples"].nunique() > 1 else None,
        filters=["reached"],
        lower=audit_design.directions(measures),
    )
    return found, path, failed


def _audit_of_table(options: dict[str, Any]) -> Audit:
    import pandas as pd

    from lightning_complexity.studies.audit import design as audit_design
    from lightning_complexity.studies.audit.grading import audit

    if not options["factors"]:
        raise ValueError("--table needs --factors: the columns that were varied.")
    columns = [str(name) for name in pd.read_csv(options["table"], nrows=0).columns]
    return audit(
        options["table"],
        factors=options["factors"],
        gap=options["gap"],
        seed=options["seed_column"],
        measures=options["measures"],
        size=options["size"] if options["size"] in options["factors"] else None,
        filters=["reached"] if "reached" in columns else [],
        lower=audit_design.directions(options["measures"] or columns),
    )


RUNNERS: dict[str, Callable[[Any, dict[str, Any]], None]] = {"sweep": run_sweep, "audit": run_audit}
PARSERS = {"sweep": sweep_parser, "audit": audit_parser}
