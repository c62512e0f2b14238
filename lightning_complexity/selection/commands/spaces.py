"""The command ``spaces``: which of two design spaces has the better networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

_SPACES = "compare two spaces of networks by what their random networks do"
_EXTRAS = ("pandas", "matplotlib")


def add_spaces(commands: Any) -> None:
    """Add ``spaces``."""
    parser = ArgumentParser(
        description="Compare two spaces by the errors of random networks, as they are and at equal complexity: "
        "distributions, efficiency of random search, and whether there are networks enough."
    )
    parser.add_argument("first", type=Path, help="CSV with a row a network, or a folder of records")
    parser.add_argument("second", type=Path, help="likewise, of the other space")
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
