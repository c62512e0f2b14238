"""The command ``spaces``: which of two design spaces has the better networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

_SPACES = "compare two spaces of networks by what their random networks do"
_EXTRAS = ("pandas", "matplotlib", "optuna")
_SIZES: dict[str, Any] = {"max_layers": 3, "units": [8, 16, 32, 64, 128]}
TRAINED = {"relu": {**_SIZES, "activations": ["relu"]}, "sigmoid": {**_SIZES, "activations": ["sigmoid"]}}


def add_spaces(commands: Any) -> None:
    """Add ``spaces``."""
    parser = ArgumentParser(
        description="Compare two spaces by the errors of random networks, as they are and at equal complexity: "
        "distributions, efficiency of random search, and whether there are networks enough. Without tables, networks "
        "of two spaces, fully connected ones with ReLU and with sigmoids, are drawn and trained on digits. For "
        'example: "lightning-complexity spaces a.csv b.csv --complexity parameters".'
    )
    parser.add_argument("first", type=Path, nargs="?", help="CSV with a row a network, or a folder of records")
    parser.add_argument("second", type=Path, nargs="?", help="likewise, of the other space")
    parser.add_argument("--networks", type=int, default=60, help="without tables: how many to train of each space")
    parser.add_argument("--error", default="error", help="column of what should be small")
    parser.add_argument("--complexity", help="column of parameters, FLOPs, latency or any measure")
    parser.add_argument(
        "--bins", type=int, help="of complexity; by default up to 10, as many as have 5 networks of both spaces each"
    )
    parser.add_argument("--log", action="store_true", help="bins of equal ratios, not of equal differences")
    parser.add_argument("--range", type=float, nargs=2, help="of complexity; by default that which both spaces have")
    parser.add_argument("--names", nargs=2, help="of the spaces; by default those of the files")
    parser.add_argument(
        "--tolerance", type=float, default=0.1, help="of distributions, for how many networks are enough"
    )
    parser.add_argument("--draws", type=int, default=1000, help="permutations, and bootstrap samples")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--output", type=Path, default=Path("complexity_spaces"), help="folder of what is written")
    commands.add_subcommand("spaces", parser, help=_SPACES)


def run_spaces(options: dict[str, Any]) -> None:
    """Compare, draw and write; end with a message where that is not possible."""
    try:
        _compare(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        missing = isinstance(error, ImportError) and error.name in _EXTRAS
        hint = ": pip install lightning-complexity[selection]" if missing else ""
        sys.exit(f"spaces: {error}{hint}")


def _compare(options: dict[str, Any]) -> None:
    if options["second"] is None:
        options = {**options, **_trained(options)}
    from lightning_complexity.selection.design_spaces import pictures
    from lightning_complexity.selection.design_spaces.comparing import compare_spaces
    from lightning_complexity.selection.design_spaces.sizes import sample_size

    found = compare_spaces(
        options["first"],
        options["second"],
        bins=options["bins"],
        logarithmic=options["log"],
        within=None if options["range"] is None else tuple(options["range"]),
        names=None if options["names"] is None else tuple(options["names"]),
        **{k: options[k] for k in ("error", "complexity", "draws", "seed")},
    )
    sizes = [
        sample_size(sample.errors, weights=found.weights(which), tolerance=options["tolerance"], seed=options["seed"])
        for which, sample in enumerate(found.samples)
    ]
    lines = [str(found), *(f"{sample.name}: {size}" for sample, size in zip(found.samples, sizes, strict=True))]
    output: Path = options["output"]
    output.mkdir(parents=True, exist_ok=True)
    figures = {
        "distributions": pictures.picture_of_distributions(found),
        "efficiency": pictures.picture_of_efficiency(found),
        **{f"sample_size_{i + 1}": pictures.picture_of_sample_size(size) for i, size in enumerate(sizes)},
    }
    for file, figure in figures.items():
        figure.savefig(output / f"{file}.png", dpi=150)
    found.efficiency().to_csv(output / "efficiency.csv", index=False)
    text = "\n\n".join(lines)
    (output / "verdict.txt").write_text(f"{text}\n", encoding="utf-8")
    written = ["verdict.txt", "efficiency.csv", *(f"{file}.png" for file in figures)]
    print(f"{text}\n\nWritten: {', '.join(str(output / file) for file in written)}")


def _trained(options: dict[str, Any]) -> dict[str, Any]:
    """What to compare where no tables were given: random networks of two spaces, trained here."""
    if options["first"] is not None:
        raise ValueError("a table of the second space is needed beside the first; without any, networks are trained.")
    output: Path = options["output"]
    tables = [_table(name, space, options["networks"], output / name) for name, space in TRAINED.items()]
    found = {"first": tables[0], "second": tables[1], "names": options["names"] or list(TRAINED)}
    return found | {"error": "error", "complexity": options["complexity"] or "parameters", "log": True}


def _table(name: str, space: dict[str, Any], count: int, output: Path) -> Path:
    """The table of random networks of a space; those that an interrupted command trained are not trained again."""
    import os

    from lightning_complexity.selection.searching.report import trials_table
    from lightning_complexity.selection.searching.running import prepare, search_of
    from lightning_complexity.studies.sweeping import local
    from lightning_complexity.studies.sweeping.storage import open_storage, quiet_optuna
    from lightning_complexity.studies.sweeping.worker import last_attempts

    url = str(output / "journal.log")
    asked = {"space_options": space, "strategy": "random", "max_epochs": 5, "num_samples": 500, "repeats": 1}
    with quiet_optuna():
        study, _ = prepare(asked, open_storage(url, create=True), name, url, count, count)
        local.finish(study, local.worker_command(url, name, output), os.cpu_count() or 1, output, unit="network")
        frame = trials_table(search_of(study), last_attempts(study))
    frame = frame[frame["state"] == "complete"]
    frame.to_csv(output / "networks.csv", index=False)
    return output / "networks.csv"
