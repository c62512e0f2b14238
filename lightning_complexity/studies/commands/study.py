"""The commands of studies."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lightning_complexity.studies.commands import sweeps as sweep_commands
from lightning_complexity.studies.commands.more import add_capacity, add_early, run_capacity, run_early

_EXTRAS = ("matplotlib", "optuna", "pandas", "sklearn", "tqdm")
_SUMMARIES = {
    "labels": "true against random labels, over several numbers of samples",
    "width": "networks with more and more hidden units; the gap against weights and Jacobian norm",
    "optimizers": "solutions of SGD, momentum, Adam, RMSProp, L-BFGS and path-normalised SGD",
    "confusion": "more and more wrongly labelled samples beside those with right labels",
    "depth": "deep against shallow networks of as many parameters: is it easier to train them?",
}


def add_study(commands: Any) -> None:
    """Add ``study`` with its own commands to those of a parser."""
    study = ArgumentParser(
        description="Train many networks, and ask what measures of complexity say about them. "
        'For example: "lightning-complexity study labels --quick" or, to see what it takes, '
        '"lightning-complexity study labels --help".'
    )
    commands.add_subcommand("study", study, help="does a measure explain generalization? train many networks and see")
    studies = study.add_subcommands(required=True)
    for name, summary in _SUMMARIES.items():
        studies.add_subcommand(name, _criterion_parser(name, summary), help=summary)
    for name, parser in sweep_commands.PARSERS.items():
        studies.add_subcommand(name, parser(), help=sweep_commands.SUMMARIES[name])
    add_early(studies)
    add_capacity(studies)


def _criterion_parser(name: str, summary: str) -> ArgumentParser:
    parser = ArgumentParser(
        description=f"Train networks to a stated criterion and judge measures: {summary}. Finished networks are not "
        "trained again: call it once more to go on, or with more seeds."
    )
    parser.add_argument(
        "--data", default="digits", help='"digits", or a folder with the IDX files of MNIST or of data in its format'
    )
    parser.add_argument(
        "--metrics", nargs="+", default=["standard"], help='suites ("fast", "standard", "full") and names of metrics'
    )
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind; intervals need at least two")
    parser.add_argument("--output", type=Path, help=f"folder for all that is written (complexity_study/{name})")
    parser.add_argument("--quick", action="store_true", help="few, small networks: a check that everything works")
    parser.add_argument("--loss", type=float, help="train until this training loss and no training error (0.01)")
    parser.add_argument("--max-steps", type=int, help="or for so many optimizer steps, then not compared (20000)")
    if name in ("labels", "optimizers"):
        parser.add_argument("--module", help="package.module:Class of a LightningModule of yours, instead of an MLP")
        parser.add_argument("--datamodule", help="package.module:Class of the LightningDataModule with its data")
    parser.add_argument("--batch-size", type=int, default=32, help="samples of an optimizer step of an MLP")
    parser.add_argument(
        "--learning-rates", nargs="+", default=[], help="such as adam=0.01; study depth takes adam, others momentum"
    )
    if name == "width":
        parser.add_argument("--widths", type=int, nargs="+", help="numbers of hidden units")
        parser.add_argument("--published", type=Path, help="JSON with curves of a paper, to be drawn beside these")
    return parser


def run_study(options: dict[str, Any]) -> None:
    """Run the study that was asked for; end with a message where that is not possible."""
    name = options["subcommand"]
    try:
        _RUNNERS.get(name, _run_criterion)(name, options[name])
    except (ValueError, OSError, ImportError) as error:
        missing = isinstance(error, ImportError) and error.name in _EXTRAS
        hint = ": pip install lightning-complexity[studies]" if missing else ""
        sys.exit(f"study {name}: {error}{hint}")


def _run_criterion(name: Any, options: dict[str, Any]) -> None:
    from dataclasses import replace

    import torch

    from lightning_complexity.studies import criteria
    from lightning_complexity.studies.training.data import load_data
    from lightning_complexity.studies.training.user import Problem

    if options["seeds"] < 1:
        raise ValueError(f"--seeds must be at least 1, got {options['seeds']}.")
    rates = _learning_rates(options["learning_rates"])
    problem = _problem(options, Problem)
    data = None if problem is not None else load_data(options["data"])
    found = (
        criteria.user_experiment(name, rates, quick=options["quick"])
        if data is None
        else criteria.experiment(
            name,
            data,
            quick=options["quick"],
            rates=rates,
            widths=options.get("widths"),
            batch_size=options["batch_size"],
        )
    )
    changed = {"loss": options["loss"], "max_steps": options["max_steps"]}
    found = replace(found, stop=replace(found.stop, **{k: v for k, v in changed.items() if v is not None}))
    metrics = criteria.metrics_of(found, options["metrics"])
    if problem is not None:
        problem.make_module()  # what is wrong with its path is said before anything starts
        train_one = criteria.trainer_of_user(found, problem, metrics)
    else:
        assert data is not None
        if options["data"] == "digits":
            torch.set_num_threads(1)  # so small networks gain nothing from more
        train_one = criteria.trainer_of_data(found, data, metrics)
    output = options["output"] or Path("complexity_study") / name
    report = criteria.run(
        found, train_one, metrics, output, num_seeds=options["seeds"], published=options.get("published")
    )
    print(f"\n{report.text}\n\nWritten: {', '.join(map(str, report.files))}")


def _problem(options: dict[str, Any], problem: Callable[[str, str], Any]) -> Any:
    module, datamodule = options.get("module"), options.get("datamodule")
    if (module is None) != (datamodule is None):
        given, missing = ("--module", "--datamodule") if datamodule is None else ("--datamodule", "--module")
        raise ValueError(f"{given} needs {missing} beside it.")
    if module is not None and options["data"] != "digits":
        raise ValueError("--data is for networks of the study's own; with --module, data come from --datamodule.")
    return None if module is None or datamodule is None else problem(module, datamodule)


def _learning_rates(given: list[str]) -> Any:
    from lightning_complexity.studies.criteria.experiments import LEARNING_RATES

    rates = {str(name): rate for name, rate in LEARNING_RATES.items()}
    for item in given:
        name, _, value = item.partition("=")
        try:
            rate = float(value)
        except ValueError:
            rate = 0.0
        if name not in rates or not 0 < rate < float("inf"):
            raise ValueError(f"--learning-rates must be such as adam=0.01, of {', '.join(rates)}, got {item!r}.")
        rates[name] = rate
    return rates


_RUNNERS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "early": lambda _, options: run_early(options),
    "capacity": lambda _, options: run_capacity(options),
    **sweep_commands.RUNNERS,
}
