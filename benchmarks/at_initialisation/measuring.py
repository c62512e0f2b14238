"""Untrained networks of NAS-Bench-201, and every measure that is defined of them."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.generalization.data import MNIST
from lightning_complexity.metrics import ComplexityMetric, catalogue
from lightning_complexity.network import Snapshot
from lightning_complexity.recording import FailureReport, measure_metrics
from lightning_complexity.studies.training.data import load_data
from tests.nas_bench_201 import NASBench201

NETWORKS = Path(__file__).parents[3] / "shared" / "data" / "nas" / "nasbench201_mini.csv"
CELLS_OF_A_DRAW, DRAWS = 150, 2
NUM_IMAGES, NUM_IMAGES_OF_STATISTICS = 8, 32
AS_DRAWN, NORMALIZED = "drawn", "normalized"

# What they would take for such networks is beyond the budget: units, random places or products with the Hessian.
TOO_LARGE = (
    "hessian_trace",
    "linear_regions",
    "local_complexity",
    "region_boundary_distance",
    "smooth_local_complexity",
    "trajectory_length",
    "transitions",
)
# The same whatever the statistics of BatchNorm are.
OF_STRUCTURE = (
    "activation_count",
    "flop_count",
    "lann_complexity",
    "log_region_bound",
    "log_vc_generalization_bound",
    "parameter_count",
    "peak_activation_memory",
    "vc_dimension_bound",
)


def networks() -> pd.DataFrame:
    """The table, with a column that says whether a cell's output depends on its input."""
    frame = pd.read_csv(NETWORKS)
    frame["connected"] = [is_connected(cell) for cell in frame["cellstr"]]
    return frame


def is_connected(cell: str) -> bool:
    """Whether anything but ``none`` leads from the first node of a cell to its last.

    >>> is_connected("|none~0|+|nor_conv_1x1~0|none~1|+|none~0|none~1|skip_connect~2|")
    True
    >>> is_connected("|skip_connect~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|")
    False
    """
    reached = [True]
    for node in cell.split("+"):
        sources = [edge.split("~") for edge in node.strip("|").split("|")]
        reached.append(any(name != "none" and reached[int(source)] for name, source in sources))
    return reached[-1]


def drawn_cells(count: int) -> list[list[int]]:
    """Rows of the table: draws of different cells."""
    order = np.random.default_rng(0).permutation(count)
    return [order[d * CELLS_OF_A_DRAW : (d + 1) * CELLS_OF_A_DRAW].tolist() for d in range(DRAWS)]


def images() -> tuple[Tensor, Tensor]:
    """Handwritten digits at the size and with the channels of CIFAR-10, standardized, and their classes."""
    data = load_data(MNIST)
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:NUM_IMAGES_OF_STATISTICS]
    pixels = data.x_train[chosen].reshape(-1, 1, 28, 28)
    padded = nn.functional.pad(pixels, (2, 2, 2, 2)).expand(-1, 3, -1, -1)
    return ((padded - padded.mean()) / padded.std()).contiguous(), data.y_train[chosen]


def untrained(cell: str, seed: int) -> NASBench201:
    """The network with weights as torch draws them."""
    torch.manual_seed(seed)
    return NASBench201(cell)


def take_statistics(network: nn.Module, inputs: Tensor) -> None:
    """Let each BatchNorm have the mean and variance of these inputs, where they were 0 and 1."""
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        network.train()(inputs)
    network.eval()


def measures(state: str) -> list[ComplexityMetric]:
    """Those that need no training and are within the budget; of a normalized network, those that are not as before."""
    chosen = [e for e in catalogue() if "initial" not in e.needs and e.name not in TOO_LARGE]
    if state == NORMALIZED:
        chosen = [e for e in chosen if e.cost != "weights" and e.name not in OF_STRUCTURE]
    return [entry.metric() for entry in chosen]


def measured(network: nn.Module, inputs: Tensor, targets: Tensor, state: str) -> dict[str, float]:
    """A number for each measure; none where it has no value."""
    snapshot = Snapshot(network, inputs[:NUM_IMAGES], targets[:NUM_IMAGES])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a measure that has no value on a cell that leads nowhere
        found = measure_metrics(measures(state), snapshot, FailureReport()).floats()
    return {f"{state}/{key.split('/', 1)[1]}": value for key, value in found.items() if key.count("/") == 1}


def measure_all(table: Path) -> None:
    """Measure the drawn cells and write a row for each; those in the table already are not measured again."""
    frame = networks()
    inputs, targets = images()
    done = set(pd.read_csv(table)["row"]) if table.exists() else set()
    for draw, rows in enumerate(drawn_cells(len(frame))):
        for row in (row for row in rows if row not in done):
            network = untrained(frame["cellstr"][row], seed=row)
            values: dict[str, float] = measured(network, inputs, targets, AS_DRAWN)
            take_statistics(network, inputs)
            values |= measured(network, inputs, targets, NORMALIZED)
            _append(table, {"draw": draw, "row": row, **{k: f"{v:.7g}" for k, v in values.items()}})


def _columns() -> list[str]:
    return ["draw", "row", *(f"{state}/{m.name}" for state in (AS_DRAWN, NORMALIZED) for m in measures(state))]


def _append(table: Path, values: dict[str, object]) -> None:
    is_new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, _columns(), restval="nan", extrasaction="ignore", lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(values)
