"""The command ``search``."""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

_SUMMARY = "choose the model with the appropriate complexity: search a space, and say which and why"
_EXTRAS = ("optuna", "pandas", "matplotlib", "tqdm", "sklearn", "yaml")
_TRIALS, _QUICK_TRIALS = 40, 6
_QUICK = {"max_epochs": 3, "repeats": 2, "num_samples": 300}
_EXAMPLES = """
examples:
  lightning-complexity search                                # networks of any depth and width, on digits
  lightning-complexity search --study mlp-tpe --trials 80    # the same search goes on
  lightning-complexity search --objectives error log_path_norm --constraint "parameters<=5000" --strategy nsga2
  lightning-complexity search --data ./mnist --space_options max_layers=2 "units=[32, 64, 128]" --num_samples 5000
  lightning-complexity search --model net:Net --datamodule net:Data --space space.yaml --monitor val_loss --repeats 3
  lightning-complexity search --storage postgresql://user@host/name --study big --workers 0     # workers are elsewhere
"""
_ASKED = (
    *("strategy", "data", "num_samples", "max_epochs", "batch_size", "learning_rate", "optimizer", "weight_decay"),
    *("repeats", "model", "datamodule", "monitor", "pruner", "probe", "seed", "space"),
)


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves lines of the examples as they are, and has defaults in words."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("\n"):
            return text
        return super()._fill_text(textwrap.fill(text, width), width, indent)

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help or ""


def add_search(commands: Any) -> None:
    """Add ``search`` to the commands of a parser."""
    parser = ArgumentParser(
        description="Search a space of networks, or of arguments of your own module, for models that are good and "
        "simple; end with a table, the front, and the simplest model within one standard error of the best. What is "
        "finished stays: the same command goes on.",
        epilog=_EXAMPLES + _named(),
    )
    parser.add_argument(
        "--space", help="name of a space, package.module:Class of your own, or a YAML file for --model (mlp)"
    )
    parser.add_argument("--space_options", nargs="+", help="of the space, such as max_layers=2 'units=[16, 64]'")
    parser.add_argument("--strategy", help="how models are proposed (tpe)")
    parser.add_argument("--strategy_options", nargs="+", help="of the strategy, such as population_size=20")
    parser.add_argument(
        "--objectives",
        nargs="+",
        help="error, accuracy, val_loss, parameters, flops, latency, any metric by name, or what --model logs; with "
        ":minimize or :maximize where that is not clear; the first is the score, the second the cost "
        "(error parameters)",
    )
    parser.add_argument("--constraint", nargs="+", help="such as 'parameters<=5000' 'log_path_norm<=10'")
    parser.add_argument("--trials", type=int, help=f"how many models in all; more than before extends ({_TRIALS})")
    parser.add_argument(
        "--repeats", type=int, help="trainings of a model, for standard errors: folds, or seeds (5; 1 of --model)"
    )
    parser.add_argument("--data", help='"digits", or a folder with IDX files such as those of MNIST (digits)')
    parser.add_argument("--num_samples", type=int, help="of the data, for training and validation (all)")
    parser.add_argument("--max_epochs", type=int, help="of each training (20)")
    parser.add_argument("--batch_size", type=int, help="(64)")
    parser.add_argument("--learning_rate", type=float, help="(0.01)")
    parser.add_argument("--optimizer", help="adam, sgd, momentum or rmsprop (adam)")
    parser.add_argument("--weight_decay", type=float, help="(0)")
    parser.add_argument("--model", help="your LightningModule, package.module:Class; --space has its arguments")
    parser.add_argument("--datamodule", help="your LightningDataModule, package.module:Class")
    parser.add_argument("--monitor", help="what your module logs and is judged by (its validation loss)")
    parser.add_argument("--pruner", help="what ends trainings that lead nowhere (none)")
    parser.add_argument("--pruner_options", nargs="+", help="of the pruner")
    parser.add_argument("--probe", type=int, help="samples that metrics are measured on (256)")
    parser.add_argument("--seed", type=int, help="of all that is drawn (0)")
    parser.add_argument("--workers", type=int, help="processes here; 0 to wait for those elsewhere (one a core)")
    parser.add_argument("--storage", help="journal file or database URL that workers share (journal.log in the output)")
    parser.add_argument("--study", help="its name in the storage; the same one goes on where it was (SPACE-STRATEGY)")
    parser.add_argument("--output", type=Path, help="folder for all that is written (complexity_search/STUDY)")
    parser.add_argument("--heartbeat", type=float, help="seconds between signs of life of workers (60)")
    parser.add_argument("--quick", action="store_true", help="a few short trainings: does everything work?")
    commands.add_subcommand("search", parser, help=_SUMMARY)
    parser.formatter_class = _Formatter  # that of the subcommands is set by the line before


def _named() -> str:
    """The tables, in words."""
    try:
        from lightning_complexity.selection.searching import tables
    except ImportError:
        return ""
    parts: dict[str, Mapping[str, Any]] = {
        "spaces": tables.SPACES,
        "strategies": tables.STRATEGIES,
        "pruners": tables.PRUNERS,
    }
    lines = []
    for kind, table in parts.items():
        lines.append(f"\n{kind}:")
        lines += [f"  {name:12} {entry.summary}" for name, entry in table.items()]
    return "\n".join(lines)


def run_search(options: dict[str, Any]) -> None:
    """Search; end with a message where that is not possible, or gives no model."""
    try:
        has_model = _search(options)
    except (ValueError, OSError, ImportError) as error:
        missing = isinstance(error, ImportError) and error.name in _EXTRAS
        hint = ": pip install lightning-complexity[selection]" if missing else ""
        sys.exit(f"search: {error}{hint}")
    if not has_model:
        sys.exit(1)


def _search(options: dict[str, Any]) -> bool:
    from lightning_complexity.selection.searching.report import report
    from lightning_complexity.selection.searching.running import prepare
    from lightning_complexity.studies.sweeping import local
    from lightning_complexity.studies.sweeping.storage import (
        HEARTBEAT,
        first_line,
        of_database,
        open_storage,
        quiet_optuna,
    )
    from lightning_complexity.studies.sweeping.worker import equip, progress

    workers = _workers(options["workers"])
    asked, default = _asked(options)
    name = options["study"] or _default_name(asked, options)
    output = options["output"] or Path("complexity_search") / name
    url = options["storage"] or str(output / "journal.log")
    heartbeat = HEARTBEAT if options["heartbeat"] is None else options["heartbeat"]
    storage = open_storage(url, create=True, heartbeat=heartbeat)
    import optuna  # which is there, as the storage is open

    with quiet_optuna():
        try:
            study, notes = prepare(asked, storage, name, url, options["trials"], default)
            equip(study)
            print(_introduction(study, notes), flush=True)
            command = local.worker_command(url, name, output, options["heartbeat"])
            if not workers:
                print(f"Start workers with: {_shown(command)}", flush=True)
            local.finish(study, command, workers, output, unit="trial")
            found = report(study, output)
        except KeyboardInterrupt:
            sys.exit(_interrupted(name, options, *progress(study)) if "study" in locals() else "Interrupted.")
        except optuna.exceptions.StorageInternalError as error:
            reason = first_line(of_database(error) or error)
            raise OSError(f"the storage failed, and the same command goes on: {reason}") from error
    print(f"\n{found.text}")
    return found.has_model


def _workers(given: int | None) -> int:
    import os

    if given is not None and given < 0:
        raise ValueError(f"--workers must be at least 0, got {given}.")
    return (os.cpu_count() or 1) if given is None else given


def _asked(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Attributes of the search that were given, and how many trials there are if nothing is said."""
    asked = {name: options[name] for name in _ASKED if options[name] is not None}
    for name in ("space_options", "strategy_options", "pruner_options"):
        if options[name] is not None:
            asked[name] = parsed_options(options[name], f"--{name}")
    for name, option in (("objectives", "objectives"), ("constraints", "constraint")):
        if options[option] is not None:
            asked[name] = tuple(str(word) for word in options[option])
    if "constraints" in asked:
        from lightning_complexity.selection.searching.quantities import parsed_constraint

        asked["constraints"] = tuple(parsed_constraint(text).text for text in asked["constraints"])
    if asked.get("data", "digits") != "digits":
        asked["data"] = str(Path(asked["data"]).resolve())
    if options["quick"]:
        quick = {k: v for k, v in _QUICK.items() if not (asked.get("model") and k == "num_samples")}
        asked = {**quick, **asked}
    return asked, _QUICK_TRIALS if options["quick"] else _TRIALS


def parsed_options(words: list[str], option: str) -> dict[str, Any]:
    """Options by name, with values in YAML.

    Args:
        words: Such as ``max_layers=2``.
        option: Where they come from, for the error.

    Raises:
        ValueError: At another form.

    Example:
        >>> parsed_options(["max_layers=2", "units=[8, 16]"], "--space_options")
        {'max_layers': 2, 'units': [8, 16]}
    """
    import yaml

    found = {}
    for word in words:
        name, separator, value = str(word).partition("=")
        if not separator or not name.isidentifier():
            raise ValueError(f"{option} must be such as max_layers=2 'units=[8, 16]', got {word!r}.")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"{option} {name}: {value!r} cannot be read as a value.") from error
    return found


def _default_name(asked: dict[str, Any], options: dict[str, Any]) -> str:
    from lightning_complexity.selection.searching.description import Search

    space = Path(asked.get("space", Search.space)).stem.rpartition(":")[2]
    return f"{space}-{asked.get('strategy', Search.strategy)}{'-quick' if options['quick'] else ''}"


def _introduction(study: Any, notes: list[str]) -> str:
    from lightning_complexity.selection.searching.running import search_of

    search = search_of(study)
    goals = ", ".join(f"{name} ({direction})" for name, direction in search.goals.items())
    limits = f", with {', '.join(search.constraints)}" if search.constraints else ""
    return "\n".join([*notes, f"Searching {search.space} by {search.strategy} for {goals}{limits}."])


def _shown(command: list[str]) -> str:
    """A worker's command as it may be printed."""
    from lightning_complexity.studies.sweeping.storage import without_password

    words = [without_password(word) if "://" in word else word for word in command[3:]]
    return shlex.join(["lightning-complexity", *words])


def _interrupted(name: str, options: dict[str, Any], total: int, done: int) -> str:
    from lightning_complexity.studies.sweeping.storage import without_password

    words = ["lightning-complexity", "search", "--study", name]
    words += ["--storage", without_password(options["storage"])] if options["storage"] else []
    words += ["--output", str(options["output"])] if options["output"] else []
    return f"\nInterrupted with {done} of {total} trials finished. Go on with: {shlex.join(words)}"
