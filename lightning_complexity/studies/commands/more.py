"""The commands of studies that judge no criterion: early verdict and capacity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

_EARLY = "from a tenth of a training, what will become of it, and whether measures help to say so"
_CAPACITY = "how many samples networks fit, and how well they fit random signs"
_DATA = '"digits", or a folder with the IDX files of MNIST or of data in its format'


def add_early(studies: Any) -> None:
    """Add ``study early``."""
    parser = ArgumentParser(
        description=f"Train a grid of networks, and ask {_EARLY}. Finished networks are not trained again."
    )
    parser.add_argument("--data", default="digits", help=_DATA)
    parser.add_argument(
        "--records", type=Path, help="judge these, a folder of trainings or a CSV of theirs, and train nothing"
    )
    parser.add_argument(
        "--metrics", nargs="+", default=["standard"], help='suites ("fast", "standard", "full") and names of metrics'
    )
    parser.add_argument("--seeds", type=int, default=3, help="networks of each of 36 configurations")
    parser.add_argument("--epochs", type=int, default=30, help="of each training")
    parser.add_argument("--hold_out", help="hold out each value of this setting, such as width, not random ones")
    parser.add_argument("--losses", nargs="+", help="such as train_loss train_accuracy: no others are known early")
    parser.add_argument("--output", type=Path, default=Path("complexity_study/early"), help="folder of what is written")
    parser.add_argument(
        "--quick", action="store_true", help="12 configurations of small networks: does everything work?"
    )
    studies.add_subcommand("early", parser, help=_EARLY)


def run_early(options: dict[str, Any]) -> None:
    """Train a grid of networks if there are none, judge and write."""
    import pandas as pd

    from lightning_complexity.studies.early import design, early_table, early_verdict, train_networks
    from lightning_complexity.studies.early.reading import EARLY, SETTING

    output: Path = options["output"]
    records: Path = options["records"] or output / "networks"
    if options["records"] is None:
        _one_thread()
        data = _loaded(options["data"])
        settings = design(data, options["seeds"], quick=options["quick"])
        train_networks(settings, data, records, options["metrics"], epochs=options["epochs"])
    table = early_table(records) if records.is_dir() else records
    losses = options["losses"]
    hold_out = options["hold_out"]
    verdict = early_verdict(
        table,
        losses=None if losses is None else [_named(EARLY, loss) for loss in losses],
        hold_out_by=None if hold_out is None else _named(SETTING, hold_out),
    )
    output.mkdir(parents=True, exist_ok=True)
    files = {"scores": verdict.scores, "gains": verdict.gains, "predictions": verdict.predictions}
    for file, frame in files.items():
        frame.to_csv(output / f"{file}.csv", index=file != "predictions")
    if isinstance(table, pd.DataFrame):
        table.to_csv(output / "networks.csv", index=False)
        files = {"networks": verdict.scores, **files}
    print(f"{verdict}\n\nWritten: {', '.join(str(output / f'{file}.csv') for file in files)}")


def _named(prefix: str, name: str) -> str:
    return name if name.startswith(prefix) else prefix + name


def add_capacity(studies: Any) -> None:
    """Add ``study capacity``."""
    parser = ArgumentParser(
        description=f"Train networks of several widths to find {_CAPACITY}: effective model complexity, by bisection, "
        "and empirical Rademacher complexity. Finished networks are not trained again."
    )
    parser.add_argument("--data", default="digits", help=_DATA)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16], help="numbers of hidden units")
    parser.add_argument("--depth", type=int, default=1, help="hidden layers")
    parser.add_argument("--optimizer", default="adam", help="sgd, momentum, adam, rmsprop, lbfgs or path_sgd")
    parser.add_argument("--learning_rate", type=float, default=0.01)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--label_noise", type=float, default=0.0, help="share of labels drawn at random; 1 for all")
    parser.add_argument(
        "--error", type=float, default=0.01, help="share of wrong classes, up to which samples are fitted"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings that are averaged for a number of samples")
    parser.add_argument("--resolution", type=float, default=0.05, help="up to which share that number is found")
    parser.add_argument("--samples", type=int, default=256, help="how many get random signs")
    parser.add_argument("--draws", type=int, default=5, help="sets of random signs")
    parser.add_argument("--restarts", type=int, default=1, help="trainings for each set, of which the best counts")
    parser.add_argument("--loss", type=float, default=0.01, help="train until this training loss and no training error")
    parser.add_argument("--max_steps", type=int, default=2000, help="or for so many optimizer steps")
    parser.add_argument(
        "--output", type=Path, default=Path("complexity_study/capacity"), help="folder of what is written"
    )
    studies.add_subcommand("capacity", parser, help=_CAPACITY)


def run_capacity(options: dict[str, Any]) -> None:
    """Find capacities, and write them."""
    from lightning_complexity.studies.capacity.study import Plan, study_capacity
    from lightning_complexity.studies.training.settings import Setting, Stop

    of_settings = ("depth", "optimizer", "learning_rate", "batch_size", "label_noise")
    settings = [Setting(width=width, **{k: options[k] for k in of_settings}) for width in options["widths"]]
    plan = Plan(
        Stop(loss=options["loss"], max_steps=options["max_steps"]),
        **{k: options[k] for k in ("error", "seeds", "resolution", "samples", "draws", "restarts")},
    )
    _one_thread()
    output: Path = options["output"]
    _, text = study_capacity(settings, _loaded(options["data"]), plan, output)
    print(f"{text}\n\nWritten: {output / 'capacity.csv'}, {output / 'errors.csv'}")


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # so small networks gain nothing from more


def _loaded(source: str) -> Any:
    from lightning_complexity.studies.training.data import load_data

    return load_data(source)
