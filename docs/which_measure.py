"""Write docs/which-measure.md from studies: ``python docs/which_measure.py FOLDER``; ``--train`` runs them first.

The folder has one of studies for each data set: ``digits/labels``, ``digits/sweep``, ``mnist/labels`` and so on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

from lightning_complexity.metrics import SUITES, catalogue
from lightning_complexity.studies.sweeping.sweep import ranked

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "which-measure.md"
COSTS = ROOT / "benchmarks" / "results.md"
CRITERIA = ("labels", "width", "optimizers", "confusion", "depth")
# Minutes a network, or of random places whose number would have to be chosen for each width; and the share of curvature
# that is negative, which says how far training has come.
LEFT_OUT = (
    "NegativeCurvature",
    "RegionBoundaryDistance",
    "LinearRegions",
    "LocalComplexity",
    "SmoothLocalComplexity",
    "Transitions",
    "TrajectoryLength",
)
METRICS = [name for name in SUITES["full"] if name not in LEFT_OUT]
# Of a hundred passes and more: measured on the grid of digits alone, once for each network.
DEAR = ("EffectiveDimension", "PACBayesBound", "PerformanceCorrelation", "SmallestHessianEigenvalue")
QUICKER = [name for name in METRICS if name not in DEAR]
FACTORS = ["width", "depth", "learning_rate", "batch_size", "weight_decay", "dropout", "num_samples", "label_noise"]
MARKS = {"pass": "pass", "fail": "fail", "inconclusive": "?"}


def commands(data: str, path: str) -> dict[str, list[str]]:
    """What is run for a data set, by the folder of its results."""
    common = ["--data", path, "--metrics", *QUICKER]
    knobs = "--width 32,128 --depth 1,2 --learning_rate 0.05 --batch_size 16,64 --weight_decay 0 --label_noise 0,0.2"
    sizes = "500,2000" if data == "mnist" else "200,800"
    of_grid = QUICKER if data == "mnist" else METRICS
    grid = [
        "study",
        "sweep",
        "--data",
        path,
        "--metrics",
        *of_grid,
        *knobs.split(),
        "--num_samples",
        sizes,
        "--seeds",
        "2",
    ]
    widths = "--widths 64 128 512 --batch-size 64 --max-steps 60000"
    of_mnist = {"labels": ["--seeds", "2"], "width": ["--seeds", "2", *widths.split()]}
    if data == "mnist":
        return {name: ["study", name, *common, *of] for name, of in of_mnist.items()} | {"sweep_full": grid}
    found = {name: ["study", name, *common, "--seeds", "3"] for name in CRITERIA}
    found["audit"] = ["study", "audit", *common, "--seeds", "3"]
    found["sweep"] = ["study", "sweep", "--data", path]  # of 256 networks, the standard measures alone
    found["sweep_full"] = grid
    return found


def shown(command: list[str], data: str) -> str:
    """A command as a reader types it."""
    path, name = command[command.index("--data") + 1], {"digits": "digits", "mnist": "MNIST"}[data]
    text = "lightning-complexity " + " ".join(command).replace(path, name)
    return text.replace(" ".join(METRICS), "$METRICS").replace(" ".join(QUICKER), "$QUICKER")


def train(folder: Path, mnist: str | None) -> None:
    """Run all studies; what is finished is not run again."""
    for data, path in (("digits", "digits"), ("mnist", mnist)):
        for name, command in commands(data, path).items() if path else ():
            output = ["--output", str(folder / data / name)]
            subprocess.run([sys.executable, "-m", "lightning_complexity", *command, *output], check=True)


def costs() -> dict[str, str]:
    """Training steps that a metric takes on the MLP of the benchmarks."""
    lines = COSTS.read_text(encoding="utf-8").split("## MLP")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1].split()[0] for row in reversed(cells) if len(row) == 4 and "penalty" not in row[0]}


def verdicts(folder: Path, data: str) -> dict[str, pd.DataFrame]:
    """By criterion, a row for each measure and point."""
    paths = {name: folder / data / name / "verdicts.csv" for name in CRITERIA}
    return {name: pd.read_csv(path) for name, path in paths.items() if path.exists()}


def outcomes(found: pd.DataFrame, measure: str) -> str:
    """The verdicts at the end, at equal steps and at equal loss."""
    rows = found[found["measure"] == measure]
    if rows.empty:
        return "-"
    return " / ".join(MARKS[row] for row in rows["verdict"])


def criteria_table(folder: Path, data: str) -> list[str]:
    """A row for each measure: which criteria it passes."""
    found, cost = verdicts(folder, data), costs()
    lines = [
        f"| measure | cost | {' | '.join(found)} |",
        f"|---|---:|{'---|' * len(found)}",
    ]
    for entry in {entry.name: entry for entry in catalogue()}.values():
        cells = [outcomes(table, entry.name) for table in found.values()]
        if set(cells) != {"-"}:
            lines.append(f"| `{entry.name}` | {cost.get(entry.metric.__name__, '')} | {' | '.join(cells)} |")
    return lines


def passing(folder: Path, data: str, names: list[str]) -> list[str]:
    """Measures that pass all of some criteria at the end, and fail none of them at equal loss."""
    found = verdicts(folder, data)
    if not set(names) <= found.keys():
        return []
    measures = [entry.name for entry in catalogue()]
    return [m for m in measures if all(_passes(found[name], m) for name in names)]


def _passes(found: pd.DataFrame, measure: str) -> bool:
    rows = found[found["measure"] == measure]
    by_point = dict(zip(rows["point"], rows["verdict"], strict=True))
    return by_point.get("end") == "pass" and by_point.get("equal loss", "pass") != "fail"


def ranking_text(folder: Path, data: str, sweep: str) -> str:
    """The command of a sweep, and the ranking of its networks as printed."""
    networks = folder / data / sweep / "networks.csv"
    if not networks.exists():
        return "Not run."
    command = shown(commands(data, data)[sweep], data)
    return f"`{command}`\n\n```\n{ranked(pd.read_csv(networks), FACTORS, 'generalization_gap')}\n```"


def first_ranked(text: str, count: int = 6) -> str:
    """The measures that a printed ranking begins with."""
    lines = [line.split()[0] for line in text.splitlines() if line.startswith("complexity/")]
    return ", ".join(f"`{line.removeprefix('complexity/')}`" for line in lines[:count])


def audit_text(folder: Path) -> str:
    """The grades of the audit."""
    path = folder / "digits" / "audit" / "summary.csv"
    if not path.exists():
        return "Not run."
    frame = pd.read_csv(path).drop(columns=["reason", "with", "against", "unclear"]).fillna("")
    frame["measure"] = "`" + frame["measure"].str.removeprefix("complexity/") + "`"
    rows = [frame.columns, ["---"] * len(frame.columns), *frame.itertuples(index=False)]
    return "\n".join([LEGEND, "", *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def short_answer(folder: Path) -> str:
    """What a reader in a hurry needs."""
    lines = []
    for names in (["labels"], ["labels", "optimizers"], ["labels", "width", "optimizers"]):
        found = passing(folder, "digits", names)
        lines.append(f"- {' and '.join(names)}, on digits: {', '.join(f'`{m}`' for m in found) or 'none'}.")
    both = [m for m in passing(folder, "digits", ["labels"]) if m in passing(folder, "mnist", ["labels"])]
    if verdicts(folder, "mnist"):
        lines.append(f"- labels, on digits and MNIST: {', '.join(f'`{m}`' for m in both) or 'none'}.")
    lines += ["", "First by Psi on designed grids, where 1 is a perfect order and 0 chance:", ""]
    for data, sweep, title in RANKINGS:
        found = first_ranked(ranking_text(folder, data, sweep))
        lines += [f"- {title}: {found}."] if found else []
    return "\n".join(lines)


RANKINGS = (
    ("digits", "sweep", "256 networks on digits, standard measures"),
    ("digits", "sweep_full", "64 networks on digits"),
    ("mnist", "sweep_full", "64 networks on MNIST"),
)
MNIST_WIDTH = """\
![Test error and measures over hidden units, here and as published](images/mnist-width.png)

Beside the digitised curves of Neyshabur et al. 2017, each shifted and scaled so that it agrees at 128 and 512 units, as
theirs are normalised: at no training error, test error falls from 64 to 512 units, the l2-path and the spectral norm
over the margin fall, the l2 and the l1-path norm rise from 128 units on. Differences: test errors are 0.4 to 0.5 points
lower here; only three widths and two seeds were trained, so that the shape at 32 and beyond 512 units was not seen.
"""
LEGEND = """\
How each knob moves a measure, other knobs held fixed: `+` as the gap, `-` against it, `!` where the gap has no stable
trend, `~` in both directions, `0` not, `?` not decided with three seeds. A measure turns if one knob moves it with the
gap and another one against it: its verdict then depends on which networks are compared. Raw, and divided by the root
of the number of samples as in a bound."""
INTRODUCTION = """\
# Which measure explains generalization?

Written by `python docs/which_measure.py FOLDER` from what the commands below gave; `--train` runs them. Networks are
multilayer perceptrons with ReLU, trained to no training error and a mean cross-entropy of 0.01; those that did not
reach it are not compared. All measures of the suite `full` but those of random places in the input space
({left_out}), whose number would have to be chosen for each width, and the share of curvature that is negative.
{dear}, of a hundred passes and more, were measured on the grid of digits alone.

A measure **passes** a criterion if it is lower where it should be, at a confidence of 95 % over seeds; it **fails**
if it is not, or never differs; else `?`. Three verdicts stand side by side: at the end of training, at equal steps,
at equal training loss. At the end alone random labels have had more steps, which norms grow with.

## Short answer

Measures that pass at the end of training and do not fail at equal training loss:

{answer}

At equal steps nearly every measure that grows in training fails the first criterion: true labels are fitted sooner,
and a network that has fitted has larger weights. Compare networks at equal loss, not at equal steps. No measure of
this page is one to rely on alone: each one turns with some knob, most with the number of samples, in which norms rise
and the gap falls. With few seeds `?` means that more would be needed, not that there is no effect. What misleads each
measure stands in the [catalogue](catalogue.md).

## The suite `standard`

Of the measures of curvature, flatness, gradients, collapse, topology and information, `gradient_norm` alone is in it,
for what it says of a training that goes wrong ([findings](findings.md)), not for what it says of generalization. Of
the others `loss_slice`, `layer_rotation` and `weight_variance` pass labels, width and optimizers. The first takes 20
forward passes along a few random directions, and a dozen cheaper measures come before it on both grids; the others
come behind `distance_from_initialization` on each grid. `relative_flatness`, for one forward pass, passes labels and
optimizers, but moves against the gap with depth. Traces and eigenvalues of the Hessian, Fisher traces, sharpness and
the noise of gradients come behind the standard measures on the grids.

## Two that were measured later

`compression_bound` and `marchenko_pastur_soft_rank` were measured by the same commands on digits, on networks trained
anew, and are not in the tables below; commands with today's suite `full` measure them too. Verdicts are at the end /
equal steps / equal loss; those of `distance_from_initialization` came out as below.

| | `compression_bound` | `marchenko_pastur_soft_rank` |
|---|---|---|
| labels | ? / ? / ? | ? / pass / ? |
| width | ? / fail / fail | pass / ? / ? |
| optimizers | ? / ? / ? | ? / ? / ? |
| confusion | ? / ? / ? | pass / pass / pass |
| depth | fail / fail / fail | fail / ? / fail |
| Psi, 64 networks | 0.25 [-0.98, 1.00] | 0.14 [-0.32, 0.60] |

The bound is 1 but for a rest for nearly all networks here: a thousand samples are too few for a code of thousands of
bits. The soft rank has no direction, and is judged as if a higher one were more complex. Neither is in `standard`.
"""


def page(folder: Path) -> str:
    """The page."""
    left_out = ", ".join(name for name in LEFT_OUT if name != "NegativeCurvature")
    parts = [INTRODUCTION.format(answer=short_answer(folder), left_out=left_out, dear=", ".join(DEAR))]
    for data, title in (("digits", "Digits"), ("mnist", "MNIST")):
        if not verdicts(folder, data):
            continue
        parts.append(f"## Criteria: {title}\n")
        parts.append(
            "Cost is in training steps of the benchmarks' MLP ([results](../benchmarks/results.md)). Verdicts: "
            "end / equal steps / equal loss.\n"
        )
        parts += ["\n".join(criteria_table(folder, data)), "\nCommands:\n"]
        ran = {name: c for name, c in commands(data, data).items() if name in verdicts(folder, data)}
        parts += ["```", *(shown(command, data) for command in ran.values()), "```\n"]
        if data == "mnist" and "width" in verdicts(folder, data):
            parts.append(MNIST_WIDTH)
    for data, sweep, title in RANKINGS:
        parts += [f"## Ranking: {title}\n", ranking_text(folder, data, sweep), ""]
    audit = commands("digits", "digits")["audit"]
    parts += ["## Fragility on digits\n", f"`{shown(audit, 'digits')}`\n", audit_text(folder), ""]
    parts.append(f'`METRICS="{" ".join(METRICS)}"`; `QUICKER` are all of them but {", ".join(DEAR)}.\n')
    return "\n".join(parts)


def main() -> None:
    """Run the studies if asked to, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", action="store_true", help="run the studies, or go on with them")
    parser.add_argument("--mnist", help="folder with the IDX files of MNIST; left out without")
    options = parser.parse_args()
    if options.train:
        train(options.folder, options.mnist)
    PAGE.write_text(page(options.folder), encoding="utf-8")


if __name__ == "__main__":
    main()
